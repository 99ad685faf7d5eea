# shellcheck shell=bash disable=SC2154
# Removes everything of the cluster, in any state: also after a crash, or if it was started from another
# clone or with another cache. It finds the cluster's processes and files by their pid files, network
# namespace, control group, containerd socket and two folders.

remove_cluster() {
	local running_state=$state name
	if [ -s "$runtime/state" ]; then running_state=$(<"$runtime/state"); fi
	for name in kubelet kube-proxy kube-controller-manager kube-scheduler "${process_names[@]}"; do stop "$name"; done
	end_processes || fail 1 "Processes of the cluster do not end: $(our_processes | tr '\n' ' ')"
	remove_shim_sockets
	unmount_under "$runtime"
	unmount_under "$running_state"
	detach_disks "$running_state"
	remove_control_group
	remove_network
	# The kubelet and the network plugins have three fixed folders, which cannot be configured.
	rm -f "/var/lib/cni/results/$namespace-"*
	rmdir --ignore-fail-on-non-empty -p /var/lib/cni/results 2>/dev/null || true
	remove_log_links "$running_state"
	# The folder of another kubelet contains more than this.
	if [ "$(ls -A /var/lib/kubelet 2>/dev/null)" = device-plugins ]; then rm -rf --one-file-system /var/lib/kubelet; fi
	rm -rf --one-file-system "$running_state" "$runtime"
}

# Ends everything but the registry and the network namespace, and keeps the files on the disk.
take_power() {
	local registry table
	registry=$(pid_of registry) || fail 1 "The registry does not run."
	end_processes "$registry" || fail 1 "Processes of the node do not end: $(our_processes | tr '\n' ' ')"
	remove_shim_sockets
	unmount_under "$runtime"
	unmount_under "$state"
	detach_disks "$state"
	remove_control_group
	rm -rf --one-file-system "$runtime/containerd" "$runtime/runc" "$containerd_socket" "$containerd_socket.ttrpc"
	for table in filter nat mangle; do printf '*%s\nCOMMIT\n' "$table"; done | in_namespace iptables-restore
}

# Lists all processes in the cluster's network namespace (daemons, shims, pods on the node's network)
# and in its control group (all other pods), and shims that still run when the namespace has no name.
our_processes() {
	local folder
	{
		if [ -e "$namespace_file" ]; then ip netns pids "$namespace" 2>/dev/null || true; fi
		pgrep -f "^[^ ]*/containerd-shim-runc-v2 .*-address $containerd_socket" || true
		while read -r folder; do
			if [ -d "$folder" ]; then find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null || true; fi
		done < <(control_group_folders)
	} | sort -un
}

# end_processes [PID]: kills all processes of the cluster, except for that one.
end_processes() {
	local tries pids
	for ((tries = 0; tries < 200; tries++)); do
		mapfile -t pids < <(our_processes | grep -vx "${1:-none}")
		[ ${#pids[@]} -gt 0 ] || return 0
		kill -KILL "${pids[@]}" 2>/dev/null || true
		sleep 0.05
	done
	return 1
}

# Removes the sockets of the shims. All containerds share the folder of these sockets, so the paths
# are read from the bundles of this containerd.
remove_shim_sockets() {
	local socket
	[ -d "$runtime/containerd" ] || return 0
	while read -r socket; do rm -f "$socket"; done < <(
		find "$runtime/containerd" -maxdepth 4 \( -name bootstrap.json -o -name address \) \
			-exec grep -ho '/run/containerd/s/[0-9a-f]*' {} + | sort -u
	)
	rmdir -p --ignore-fail-on-non-empty /run/containerd/s 2>/dev/null || true
}

unmount_under() {
	local mount
	# The newest first, because a mount may be inside an older one.
	while read -r mount; do
		umount "$mount" 2>/dev/null || umount --lazy "$mount" 2>/dev/null || true
	done < <(awk '{print $5}' /proc/self/mountinfo | grep -F "$1/" | tac | sed 's/\\040/ /g')
}

# Detaches the loop devices of files in the state folder, first those that the kubelet made over them.
detach_disks() {
	local device
	while read -r device; do losetup --detach "$device" 2>/dev/null || true; done < <(
		losetup --list --noheadings --output NAME,BACK-FILE | tac | awk -v folder="$1/" 'index($2, folder) == 1 {print $1}'
	)
}

remove_control_group() {
	local folder tries
	while read -r folder; do
		# A control group can be busy for a moment after its last process has ended.
		for ((tries = 0; tries < 50; tries++)); do
			[ -d "$folder" ] || break
			find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
		done
	done < <(control_group_folders)
}

remove_log_links() {
	[ -d /var/log/containers ] || return 0
	find /var/log/containers -type l -lname "$1/*" -delete
	rmdir --ignore-fail-on-non-empty /var/log/containers
}
