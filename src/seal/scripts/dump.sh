# The dump form. Reads the nonce on stdin, prints ready, runs the command with an empty stdin, prints the exit status
# after the last byte of data, and stays until that is acknowledged. End of file on stdin cancels.
IFS= read -r n || exit 125
read -r _ _ _ _ g _ <"/proc/$$/stat" && [ "$g" = "$$" ] || exit 125
before 2>/dev/null
# Handlers instead of "ignore", because the command then starts with the default actions, and a "kill 0" of the command
# does not end this shell.
trap : TERM HUP PIPE
exec 3<&0 </dev/null
{
  # Processes which left the command's family and still hold this stdout.
  outsiders() {
    for e in $t; do newcomer "$e" && holds "$p" 4 && d="$d$p " v="$v $p"; done
    :
  }
  trap '' TERM HUP PIPE
  while IFS= read -r a; do [ "$a" = "$n" ] && exit; done
  read -r me _ </proc/self/stat
  end
  # Descriptor 9 is open once the trailer was written. If a broken connection leaves stdout full and unread, the trailer
  # is never written.
  c=0
  until [ -e "/proc/$$/fd/9" ]; do
    [ "$c" -lt 5 ] || kill -9 "$$"
    # The command may have started after all other processes had ended, because the end of input can come before its
    # start.
    [ "$c" -lt 6 ] || { end; exit; }
    sleep 1
    c=$((c + 1))
  done
} <&3 3<&- 4>&1 >/dev/null 2>&1 &
w=$!
exec 3<&-
printf '%s ready\n' "$n"
# Whether a process which the command left behind holds this stdout. A process of this group or session whose
# descriptors cannot be read counts as a holder, too.
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
# exec ensures that no builtin runs, because echo and printf of some shells change bytes.
(exec "$@")
s=$?
# A stream ends when its last writer ends. Processes which still hold this stdout after two seconds may write more, and
# their exit status will not be known: status 257.
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
