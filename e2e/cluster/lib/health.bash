# shellcheck shell=bash disable=SC2154
# Checks whether the running cluster is healthy, and whether this clone would start the same one.

# cluster_stamp: a hash of the settings of the cluster. A running cluster with another hash is restarted.
cluster_stamp() {
	cat "$here/up" "$here"/lib/{settings,network,control-plane,node,storage}.bash "$here"/manifests/* "$here"/storage/* |
		sha256sum | cut -c1-16
}

cluster_matches() {
	[ -s "$runtime/state" ] && [ "$(<"$runtime/state")" = "$state" ] &&
		[ "$(cat "$runtime/stamp" 2>/dev/null)" = "$(cluster_stamp)" ]
}

cluster_healthy() {
	local name
	[ -e "$namespace_file" ] || return 1
	for name in "${node_processes[@]}"; do pid_of "$name" >/dev/null || return 1; done
	{ ! storage_started || storage_healthy; } || return 1
	control get --raw /readyz --request-timeout 5s >/dev/null 2>&1 && node_ready && registry_answers >/dev/null 2>&1
}

storage_started() { [ -e "$runtime/pids/${storage_processes[0]}" ]; }

storage_healthy() {
	local name
	for name in "${storage_processes[@]}"; do pid_of "$name" >/dev/null || return 1; done
}

# True unless KUBECONFIG refers to a cluster of the user's.
own_cluster_wanted() { [ -z "${KUBECONFIG:-}" ] || [ "$KUBECONFIG" = "$kubeconfig" ]; }
