# shellcheck shell=bash disable=SC2154
# Pushes the layouts of images to the registry of the tests.

# Without the cluster, its addresses do not exist on this machine, and a push would be sent elsewhere.
require_registry() {
	[ "$registry" != "$own_registry" ] || [ -e "/sys/class/net/$host_link" ] ||
		fail 2 "The registry $registry is not up: start the cluster with e2e/cluster/up, or set STOWAWAY_REGISTRY."
}

# push NAME LAYOUT: pushes the image unless the registry already has it.
push() {
	local reference=$registry/$1:latest log=$logs/push-$1.log
	mkdir -p "$logs"
	if [ "$("$programs/crane" digest "$reference" 2>/dev/null)" = "sha256:$manifest_digest" ]; then
		report "$reference is unchanged"
		return
	fi
	"$programs/crane" push "$2" "$reference" >"$log" 2>&1 || fail_with_log "$log" "Pushing $reference failed."
	report "pushed $reference@sha256:$manifest_digest"
}
