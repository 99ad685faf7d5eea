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
	for name in "${process_names[@]}"; do pid_of "$name" >/dev/null || return 1; done
	control get --raw /readyz --request-timeout 5s >/dev/null 2>&1 && node_ready && registry_answers >/dev/null 2>&1
}

# True unless KUBECONFIG refers to a cluster of the user's.
own_cluster_wanted() { [ -z "${KUBECONFIG:-}" ] || [ "$KUBECONFIG" = "$kubeconfig" ]; }
