# The dump form. Reads the nonce on stdin, says ready, runs the command without our stdin, says how it ended behind its
# last byte, and stays until that is acknowledged. End of file on stdin means cancel.
IFS= read -r n || exit 125
read -r _ _ _ _ g _ <"/proc/$$/stat" && [ "$g" = "$$" ] || exit 125
before 2>/dev/null
# Handlers, not "ignore": the command starts with the default again, and a "kill 0" of its own does not end us.
trap : TERM HUP PIPE
exec 3<&0 </dev/null
{
  # Whoever left the family holds our stdout still.
  outsiders() {
    for e in $t; do newcomer "$e" && holds "$p" 4 && d="$d$p " v="$v $p"; done
    :
  }
  trap '' TERM HUP PIPE
  while IFS= read -r a; do [ "$a" = "$n" ] && exit; done
  read -r me _ </proc/self/stat
  end
  # Descriptor 9 says that the trailer is out. Where a broken connection leaves our stdout full and unread, it never is.
  c=0
  until [ -e "/proc/$$/fd/9" ]; do
    [ "$c" -lt 5 ] || kill -9 "$$"
    # The command may have begun after all others had ended: the end of input can come before it.
    [ "$c" -lt 6 ] || { end; exit; }
    sleep 1
    c=$((c + 1))
  done
} <&3 3<&- 4>&1 >/dev/null 2>&1 &
w=$!
exec 3<&-
printf '%s ready\n' "$n"
# Whether a process that the command left behind holds our stdout. One of our group or session that cannot be looked into
# may hold it, too.
held() {
  me=$$ d=" $w "
  table
  for e in $t; do
    newcomer "$e" || continue
    holds "$p" 1 && return
    case $u$e in 1*:*:$$:*:* | 1*:*:*:$$:*) return ;; esac
  done
  return 1
}
# exec, so that no builtin runs: echo and printf of some shells change bytes.
(exec "$@")
s=$?
# The end of a stream is that of its last writer. Others that still hold our stdout after two seconds may write more, and
# nobody will know how they end: status 257.
c=0
while [ "$s" = 0 ] && held 2>/dev/null; do
  [ "$c" -lt 2 ] || { s=257 && break; }
  sleep 1
  c=$((c + 1))
done
printf '%s%d\n' "$n" "$s"
exec 9</dev/null
# A signal interrupts the first wait.
wait "$w" || wait "$w"
[ "$s" -le 255 ] || s=125
exit "$s"
