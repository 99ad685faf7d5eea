# shellcheck shell=bash disable=SC2154
# Storage: a CSI driver whose volumes can be snapshot, its sidecars, and the CRDs and classes for them.

start_storage() {
	local folder=$state/kubelet socket=$runtime/csi.sock name
	apply_storage >/dev/null
	rm -f "$socket"
	start csi-disk "$programs/csi-disk" --endpoint "$socket" --registry "$folder/plugins_registry" \
		--folder "$state/disks" --node "$node_name"
	wait_for 10 'The CSI driver' "$logs/cluster/csi-disk.log" test -S "$socket"
	start csi-provisioner "$programs/csi-provisioner" --kubeconfig "$kubeconfig" --csi-address "$socket"
	# Short resync periods, because a snapshot that is deleted while it is created is handled only at the next resync,
	# which by default is after 15 minutes.
	start csi-snapshotter "$programs/csi-snapshotter" --kubeconfig "$kubeconfig" --csi-address "$socket" --resync-period 20s
	start snapshot-controller "$programs/snapshot-controller" --kubeconfig "$kubeconfig" --resync-period 20s
	wait_for 30 'The CSI driver of the node' "$logs/cluster/csi-disk.log" driver_registered
}

# Applies the CRDs, and waits until they are established, before the objects of their kinds.
apply_storage() {
	local definitions
	definitions=$(dirname "$(readlink -f "$programs/csi-disk")")/.definitions
	control apply --server-side --filename "$definitions"
	control wait --for=condition=Established --timeout=30s --filename "$definitions"
	control apply --filename "$here/storage/classes.yaml"
}

driver_registered() { control get csinode "$node_name" --output 'jsonpath={.spec.drivers[*].name}' | grep -qw disk.csi.stowaway.dev; }
