# shellcheck shell=bash disable=SC2154
# Builds a part once and keeps it in the cache, in a folder that is named by the version of its sources.

# hash_of FILE...: prints a short hash of the names and the contents of files.
hash_of() { sha256sum -- "$@" | sed "s|  .*/|  |" | sha256sum | cut -c1-12; }

# build_part NAME KEY LASTS NEEDS COMMAND...: LASTS is the expected duration, and NEEDS a command that
# checks for the toolchain. The command fills the folder that it gets as its last argument.
# The folder gets its final name when it is complete, so that a killed build is not used.
build_part() {
	local name=$1 key=$2 lasts=$3 needs=$4
	shift 4
	local folder=$parts/$name-$key log=$logs/build-$name.log file
	mkdir -p "$parts" "$programs" "$logs"
	if [ ! -d "$folder" ]; then
		# Builds of one part are serialized; a second builder then finds the part.
		exec {lock}>"$parts/.lock-$name"
		flock "$lock"
	fi
	if [ ! -d "$folder" ]; then
		"$needs"
		report "building $name $key (about $lasts, once)"
		rm -rf "$parts/.building-$name"
		mkdir "$parts/.building-$name"
		tell_every_minute "still building $name, see $log" &
		local teller=$!
		"$@" "$parts/.building-$name" >"$log" 2>&1 </dev/null || {
			kill "$teller"
			fail_with_log "$log" "Building $name $key failed."
		}
		kill "$teller"
		wait "$teller" 2>/dev/null || true
		mv "$parts/.building-$name" "$folder"
		report "built $name $key"
	fi
	[ -z "${lock:-}" ] || exec {lock}>&-
	unset lock
	for file in "$folder"/*; do
		[ "$(readlink "$programs/${file##*/}")" = "$file" ] || ln -sfn "$file" "$programs/${file##*/}"
	done
}

tell_every_minute() {
	# The sleep runs in the background, so that the shell handles SIGTERM at once.
	trap 'kill "$sleeper"; exit' TERM
	while true; do
		sleep 60 >/dev/null 2>&1 &
		sleeper=$!
		wait "$sleeper"
		report "$1"
	done
}
