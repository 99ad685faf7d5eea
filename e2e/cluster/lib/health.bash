# shellcheck shell=bash disable=SC2154
# Whether the cluster that runs is whole, and the one that this clone would start.

# What a running cluster was made from: another clone's cluster with other settings is started anew.
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

# With a KUBECONFIG that is not ours, the user's own cluster is meant.
own_cluster_wanted() { [ -z "${KUBECONFIG:-}" ] || [ "$KUBECONFIG" = "$kubeconfig" ]; }
