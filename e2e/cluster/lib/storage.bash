# shellcheck shell=bash disable=SC2154
# Storage: a CSI driver of volumes that can be snapshot, the sidecars that serve it, and what they are asked by.

start_storage() {
	local folder=$state/kubelet socket=$runtime/csi.sock name
	apply_storage >/dev/null
	rm -f "$socket"
	start csi-disk "$programs/csi-disk" --endpoint "$socket" --registry "$folder/plugins_registry" \
		--folder "$state/disks" --node "$node_name"
	wait_for 10 'The CSI driver' "$logs/cluster/csi-disk.log" test -S "$socket"
	start csi-provisioner "$programs/csi-provisioner" --kubeconfig "$kubeconfig" --csi-address "$socket"
	# A snapshot that is deleted in the moment it is made is overlooked, until all are looked at again: by default after
	# 15 minutes.
	start csi-snapshotter "$programs/csi-snapshotter" --kubeconfig "$kubeconfig" --csi-address "$socket" --resync-period 20s
	start snapshot-controller "$programs/snapshot-controller" --kubeconfig "$kubeconfig" --resync-period 20s
	wait_for 30 'The CSI driver of the node' "$logs/cluster/csi-disk.log" driver_registered
}

# The definitions first: nothing of a kind can be made before it is known.
apply_storage() {
	local definitions
	definitions=$(dirname "$(readlink -f "$programs/csi-disk")")/.definitions
	control apply --server-side --filename "$definitions"
	control wait --for=condition=Established --timeout=30s --filename "$definitions"
	control apply --filename "$here/storage/classes.yaml"
}

driver_registered() { control get csinode "$node_name" --output 'jsonpath={.spec.drivers[*].name}' | grep -qw disk.csi.stowaway.dev; }
