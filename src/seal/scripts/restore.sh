# The restore form. Reads nonce and size on stdin, prints ready, feeds exactly that many bytes to the command, prints
# got on stderr, and lets the command see end of file only after it has received the nonce again. If anything fails
# before that, the pipe stays open until no process is left which could hold it. Exits with 125 before ready if the
# container does not allow that.
IFS= read -r n && IFS= read -r size || exit 125
read -r _ _ _ _ g _ <"/proc/$$/stat" && [ "$g" = "$$" ] || exit 125
[ /proc/self/fd/0 -ef /proc/self/fd/0 ] && sleep 0 && [ "$(printf ab | head -c 1 | wc -c)" -eq 1 ] || exit 125
while read -r _ p _ o _; do
  case $p,$o in /proc,*hidepid=*) exit 125 ;; esac
done </proc/mounts
# The core dump filter serves as a mark: children of any user and session inherit it, and every process may read it
# (core(5)). A process without the mark is not a descendant of this shell. The changed bit affects only which DAX
# mappings a core dump holds.
read -r m </proc/self/coredump_filter
printf 0x1b3 >/proc/self/coredump_filter && read -r k </proc/self/coredump_filter && [ "$k" != "$m" ] && m=$k || m=
before 2>/dev/null
trap : TERM HUP PIPE
exec 3<&0 </dev/null
printf '%s ready\n' "$n"
{
  trap '' TERM HUP INT
  trap : PIPE
  read -r me _ </proc/self/stat
  x=$$
  # Processes outside the family which hold the pipe are ended, too. A process which started after this shell, bears the
  # mark, and whose descriptors cannot be read is not proven to hold the pipe. It is not killed, but h=1 keeps the pipe
  # open.
  outsiders() {
    h=
    for e in $t; do
      newcomer "$e" || continue
      [ -z "$m" ] || { read -r k <"/proc/$p/coredump_filter" && [ "$k" = "$m" ]; } || continue
      if holds "$p" 1; then d="$d$p " v="$v $p"; elif [ -n "$u" ] && [ -d "/proc/$p" ]; then h=1; fi
    done
    :
  }
  head -c "$size"
  case $? in
  0)
    printf '%s got\n' "$n" >&2
    if IFS= read -r a && [ "$a" = "$n" ]; then
      exec >/dev/null 2>&1
      while IFS= read -r a; do [ "$a" = "$n" ] && exit; done
      outsiders() { :; }
      end
      leave
      exit
    fi
    ;;
  141)
    # No process reads the pipe any more: the command has exited, and the other half prints its status. Stay until that
    # is acknowledged.
    head -c "$size" >/dev/null
    outsiders() { :; }
    exec >/dev/null 2>&1
    end
    leave
    exit
    ;;
  esac
  exec 2>/dev/null
  # All processes are stopped before the first is killed, and children are killed before parents. Else, in "gunzip |
  # psql", the death of gunzip would be an end of file for psql, and a shell would continue with its next command.
  c=0
  while :; do
    w=none
    while table && family && outsiders && [ "$v" != "$w" ]; do
      w=$v
      [ -z "$v" ] || kill -STOP $v
    done
    [ -n "$v$h" ] || break
    w= l=
    for p in $v; do w="$p $w"; done
    for p in $w; do
      read -r k <"/proc/$p/comm"
      # These programs only exit after their child. They may reap it, so that process 1 need not (see end).
      case $c$k in [0-2]su | [0-2]sudo | [0-2]runuser | [0-2]setsid | [0-2]timeout | [0-2]gosu | [0-2]doas)
        l="$l $p"
        continue
        ;;
      esac
      kill -9 "$p"
    done
    [ -z "$l" ] || kill -CONT $l
    # A process which dies of this has disappeared by the next iteration.
    [ "$c" -eq 0 ] || sleep "$c" >&2
    [ "$c" -lt 5 ] && c=$((c + 1))
  done
  exec >/dev/null
  leave
} <&3 3<&- | {
  trap : TERM HUP PIPE INT
  (exec "$@")
  s=$?
  # Exit status 0 counts only if no input is left unread. This half, too, sees the end of file only after the go
  # message.
  [ "$s" -ne 0 ] || [ "$(head -c 1 | wc -c)" -eq 0 ] || s=256
  printf '%s%d\n' "$n" "$s"
  exit "$s"
} 3<&-
