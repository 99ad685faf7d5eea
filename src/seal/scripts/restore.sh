# The restore form. Reads nonce and size on stdin, says ready, feeds exactly that many bytes to the command, says got on
# stderr, and lets the command see end of file only when told so by the nonce. Whatever breaks before that: the pipe stays
# open until nobody who could hold it is left. Exits 125 before ready where that cannot be kept.
IFS= read -r n && IFS= read -r size || exit 125
read -r _ _ _ _ g _ <"/proc/$$/stat" && [ "$g" = "$$" ] || exit 125
[ /proc/self/fd/0 -ef /proc/self/fd/0 ] && sleep 0 && [ "$(printf ab | head -c 1 | wc -c)" -eq 1 ] || exit 125
while read -r _ p _ o _; do
  case $p,$o in /proc,*hidepid=*) exit 125 ;; esac
done </proc/mounts
# A mark that children of any user and session inherit and all may read (core(5)): who lacks it is not of us. It changes
# only which DAX mappings a core dump holds.
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
  # Holders of the pipe outside the family are ours to end. Whom we cannot look into, who started after us and bears the
  # mark, is not proven ours, so it is not killed, but h=1: the pipe stays open.
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
    # Nobody reads the pipe any more: the command quit, and its status is on the way. Stay until that is acknowledged.
    head -c "$size" >/dev/null
    outsiders() { :; }
    exec >/dev/null 2>&1
    end
    leave
    exit
    ;;
  esac
  exec 2>/dev/null
  # All are stopped before one is killed, and children before parents: in "gunzip | psql" the death of the first would be
  # end of file to the second, and a shell would go on to its next command.
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
      # These do nothing after their child but end: they may reap it, so that process 1 need not, see end.
      case $c$k in [0-2]su | [0-2]sudo | [0-2]runuser | [0-2]setsid | [0-2]timeout | [0-2]gosu | [0-2]doas)
        l="$l $p"
        continue
        ;;
      esac
      kill -9 "$p"
    done
    [ -z "$l" ] || kill -CONT $l
    # What dies of this is gone by the next look.
    [ "$c" -eq 0 ] || sleep "$c" >&2
    [ "$c" -lt 5 ] && c=$((c + 1))
  done
  exec >/dev/null
  leave
} <&3 3<&- | {
  trap : TERM HUP PIPE INT
  (exec "$@")
  s=$?
  # Exit 0 counts only with nothing left unread; end of file comes to us, too, only after the word to go.
  [ "$s" -ne 0 ] || [ "$(head -c 1 | wc -c)" -eq 0 ] || s=256
  printf '%s%d\n' "$n" "$s"
  exit "$s"
} 3<&-
