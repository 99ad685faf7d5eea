# shellcheck shell=bash disable=SC2154
# Builds a part once and keeps it in the cache, in a folder named by what it was made from.

# hash_of FILE...: one short hash for the names and the content of files.
hash_of() { sha256sum -- "$@" | sed "s|  .*/|  |" | sha256sum | cut -c1-12; }

# build_part NAME KEY LASTS NEEDS COMMAND...: NEEDS checks for the toolchain; the command fills the
# folder that is given as its last argument.
# The folder gets its name only when it is whole, so a killed build leaves nothing that counts.
build_part() {
	local name=$1 key=$2 lasts=$3 needs=$4
	shift 4
	local folder=$parts/$name-$key log=$logs/build-$name.log file
	mkdir -p "$parts" "$programs" "$logs"
	if [ ! -d "$folder" ]; then
		# One builder at a time: who comes second finds the part there.
		exec {lock}>"$parts/.lock-$name"
		flock "$lock"
	fi
	if [ ! -d "$folder" ]; then
		"$needs"
		say "building $name $key (about $lasts, once)"
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
		say "built $name $key"
	fi
	[ -z "${lock:-}" ] || exec {lock}>&-
	unset lock
	for file in "$folder"/*; do
		[ "$(readlink "$programs/${file##*/}")" = "$file" ] || ln -sfn "$file" "$programs/${file##*/}"
	done
}

tell_every_minute() {
	# Asleep in the background, so that the signal that ends this is taken at once.
	trap 'kill "$sleeper"; exit' TERM
	while true; do
		sleep 60 >/dev/null 2>&1 &
		sleeper=$!
		wait "$sleeper"
		say "$1"
	done
}
