# Shared by both forms. Finds the processes of the command by builtins and /proc alone, because sh has no waitid and a
# container may lack ps. Runs in a subshell of the main shell ($$) which knows its own pid as $me.

# t: one entry "pid:parent:group:session:start" for each living process. A process name may hold blanks, ")" and
# newlines.
table() {
  t=
  for f in /proc/[0-9]*/stat; do
    l=
    while IFS= read -r k; do l="$l $k"; done <"$f"
    set -- ${l##*) }
    case $1 in '' | Z | X) continue ;; esac
    f=${f#/proc/}
    t="$t ${f%/stat}:$2:$3:$4:${20}"
  done
}

# z: the processes which were there before the command, as "pid:start". They never count as the command's, whatever they
# hold (for example a container runtime which is visible with hostPID).
before() {
  table
  for e in $t; do z="$z ${e%%:*}:${e##*:} "; done
}

# Whether the process of the entry $1 is outside the family, not this shell, and younger than the command. Sets p to its
# pid.
newcomer() {
  p=${1%%:*}
  case "$d$me $z" in *" $p "* | *" $p:${1##*:} "*) return 1 ;; esac
}

# Whether process $1 holds the pipe which is behind descriptor $2 of this shell. Sets u=1 if a descriptor could not be
# read.
holds() {
  u=
  for f in /proc/"$1"/fd/*; do
    [ "$f" -ef "/proc/self/fd/$2" ] && return 0
    [ -e "$f" ] || u=1
  done
  [ "$f" = "/proc/$1/fd/*" ] && [ -r "/proc/$1/fd" ] && u=
  return 1
}

# Sets d to the command's family: all descendants of the main shell, all processes in the group or session of a
# descendant, and all living processes which were found before, because children of a dead parent become children of
# process 1. Sets v to the members which are to be ended, parents before children, and b to the parents.
family() {
  y=$d d=" $$ " v= b=" "
  for o in 1 2 3; do
    k=
    until [ "$d" = "$k" ]; do
      k=$d
      for e in $t; do
        IFS=:
        set -- $e
        IFS=$i
        [ "$1" = "$me" ] || [ "$2" = "$me" ] && continue
        case $d in
        *" $1 "*) continue ;;
        *" $2 "*) ;;
        *" $3 "* | *" $4 "*) [ "$o" -gt 1 ] || continue ;;
        *) case "$o$y" in 3*" $1 "*) ;; *) continue ;; esac ;;
        esac
        d="$d$1 " b="$b$2 "
        [ "$2" = "$x" ] || v="$v $1"
      done
    done
  done
}

# Sends TERM, and KILL after five seconds, to processes without children, so that their parents reap them. A process
# which dies of a signal after its parent has died is reaped by process 1, and a PostgreSQL which is process 1 takes it
# for a crashed backend and restarts. The last attempts signal all processes.
end() {
  c=0
  while table && family && outsiders && [ -n "$v" ] && [ "$c" -lt 12 ]; do
    for p in $v; do
      case $b in *" $p "*) [ "$c" -gt 6 ] || continue ;; esac
      if [ "$c" -lt 5 ]; then kill -15 "$p"; else kill -9 "$p"; fi
    done
    sleep 1
    c=$((c + 1))
  done
}
# Waits for the main shell's other child, which prints the trailer. If a broken connection leaves stdout full and
# unread, that child never ends, so that it is killed after five seconds.
leave() {
  c=0
  while [ "$c" -lt 6 ]; do
    table
    p=
    for e in $t; do
      IFS=:
      set -- $e
      IFS=$i
      [ "$2" = "$$" ] && [ "$1" != "$me" ] && p="$p $1"
    done
    [ -n "$p" ] || return
    [ "$c" -lt 5 ] || kill -9 $p
    sleep 1
    c=$((c + 1))
  done
}
i=$IFS d= x= z=
