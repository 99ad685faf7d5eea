# shellcheck shell=bash disable=SC2034,SC2154
# Starts and stops the cluster's processes. A pid file contains the pid and the start time of the
# process, so that a pid which another process reuses is never signalled.

node_processes=(registry etcd kube-apiserver kube-controller-manager kube-scheduler containerd kubelet kube-proxy)
storage_processes=(csi-disk csi-provisioner csi-snapshotter snapshot-controller)
process_names=("${node_processes[@]}" "${storage_processes[@]}")

started_at() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# Counts the fields after the name, which is in parentheses and may contain blanks.
	read -ra stat <<<"${stat##*) }"
	[ "${stat[0]}" != Z ] && echo "${stat[19]}"
}

# pid_of NAME: prints the pid if the process still runs.
pid_of() {
	local pid start
	read -r pid start 2>/dev/null <"$runtime/pids/$1" && [ "$(started_at "$pid")" = "$start" ] && echo "$pid"
}

# start NAME COMMAND...: starts a process in the node's network namespace, and in a session of its own,
# so that it outlives the shell. It uses nsenter, because "ip netns exec" creates a mount namespace
# without the control groups, which hides the kubelet's mounts from containerd.
start() {
	local name=$1 pid
	shift
	setsid nsenter --net="$namespace_file" -- "$@" </dev/null >>"$logs/cluster/$name.log" 2>&1 {cluster_lock}>&- &
	pid=$!
	echo "$pid $(started_at "$pid")" >"$runtime/pids/$name"
}

# stop NAME: kills the process at once, because no state of the cluster needs an orderly shutdown.
stop() {
	local pid tries=100
	pid=$(pid_of "$1") || return 0
	kill -KILL "$pid" 2>/dev/null || true
	while { pid_of "$1" >/dev/null || has_threads "$pid"; } && [ $((tries -= 1)) -gt 0 ]; do sleep 0.05; done
}

# has_threads PID: whether threads remain. A process whose first thread has ended is a zombie, but keeps its sockets until
# its other threads have ended, too.
has_threads() {
	local threads=("/proc/$1/task/"*)
	[ "${#threads[@]}" -gt 1 ]
}

# Serializes up, down and restarts. The daemons must not inherit the lock, so start closes it.
lock_cluster() {
	[ "$(id -u)" = 0 ] || fail 2 "This needs root: a node has mounts and a network of its own." \
		"To use a cluster of your own, set KUBECONFIG; see $here/README.md"
	exec {cluster_lock}>/run/lock/stowaway-e2e
	flock --wait 900 "$cluster_lock" || fail 1 "Another script is starting or stopping the cluster."
}
