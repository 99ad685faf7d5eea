# shellcheck shell=bash
# Prints a line for each step with the time since the start, and failures with the end of their log.

# Nested scripts count from the start of the outermost one.
export STOWAWAY_STARTED_AT=${STOWAWAY_STARTED_AT:-${EPOCHREALTIME/[.,]/}}

report() {
	local tenths=$(((${EPOCHREALTIME/[.,]/} - STOWAWAY_STARTED_AT) / 100000))
	printf '[%4d.%d s] %s\n' $((tenths / 10)) $((tenths % 10)) "$*"
}

# fail EXIT_CODE MESSAGE...: prints each message as a line, and exits.
fail() {
	local code=$1
	shift
	printf '%s\n' "$@" >&2
	exit "$code"
}

# fail_with_log LOG MESSAGE
fail_with_log() {
	printf '%s\nThe end of %s:\n' "$2" "$1" >&2
	tail -n 30 "$1" >&2 || true
	exit 1
}

# wait_for SECONDS WHAT LOG COMMAND...: repeats the command until it succeeds.
wait_for() {
	local seconds=$1 what=$2 log=$3
	shift 3
	local deadline=$((SECONDS + seconds))
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$deadline" ] || fail_with_log "$log" "$what is not ready after $seconds seconds."
		sleep 0.1
	done
}
