# Shared by both forms: which processes are the command's, by builtins and /proc alone (sh has no waitid, and a container
# may lack ps). Runs in a subshell of the main shell ($$) that knows its own pid as $me.

# t: one word "pid:parent:group:session:start" for each living process. A name may hold blanks, ")" and newlines.
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

# z: who was there before the command, as "pid:start": never ours, whatever it holds (a container runtime, seen by hostPID).
before() {
  table
  for e in $t; do z="$z ${e%%:*}:${e##*:} "; done
}

# The process of the entry $1 is neither of the family, nor we, nor older than the command; leaves its pid in p.
newcomer() {
  p=${1%%:*}
  case "$d$me $z" in *" $p "* | *" $p:${1##*:} "*) return 1 ;; esac
}

# Whether process $1 holds the pipe that our descriptor $2 is an end of; u=1 when some descriptor could not be looked at.
holds() {
  u=
  for f in /proc/"$1"/fd/*; do
    [ "$f" -ef "/proc/self/fd/$2" ] && return 0
    [ -e "$f" ] || u=1
  done
  [ "$f" = "/proc/$1/fd/*" ] && [ -r "/proc/$1/fd" ] && u=
  return 1
}

# d: all that descend from the main shell, or are in a group or session of one that does, or were found before and live:
# parents that died leave children to process 1. v: those of them that are to end, parents before children; b: parents.
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

# TERM, and KILL after five seconds, always to those without children, whom their parents then reap. A process that dies of
# a signal when its parent is dead already is reaped by process 1, and a PostgreSQL in that place takes it for a crashed
# backend and restarts. At last all of them.
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
# The main shell's other child says the trailer. Where a broken connection leaves our stdout full and unread, it never ends.
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
