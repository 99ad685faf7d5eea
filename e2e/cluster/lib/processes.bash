# shellcheck shell=bash disable=SC2034,SC2154
# Starts and stops the cluster's processes. A pid file holds the pid and the time the process
# started, so that a pid which now belongs to another program is never signalled.

process_names=(registry etcd kube-apiserver kube-controller-manager kube-scheduler containerd kubelet kube-proxy
	csi-disk csi-provisioner csi-snapshotter snapshot-controller)

started_at() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# The program's name, in parentheses, may hold blanks: count the fields after it.
	read -ra stat <<<"${stat##*) }"
	[ "${stat[0]}" != Z ] && echo "${stat[19]}"
}

# pid_of NAME: the pid, if it still is the process that was started.
pid_of() {
	local pid start
	read -r pid start 2>/dev/null <"$runtime/pids/$1" && [ "$(started_at "$pid")" = "$start" ] && echo "$pid"
}

# start NAME COMMAND...: inside the node's network, in a session of its own, so that it outlives
# the shell. nsenter and not "ip netns exec": the latter gives a mount namespace without the
# control groups and hides the kubelet's mounts from containerd.
start() {
	local name=$1 pid
	shift
	setsid nsenter --net="$namespace_file" -- "$@" </dev/null >>"$logs/cluster/$name.log" 2>&1 {cluster_lock}>&- &
	pid=$!
	echo "$pid $(started_at "$pid")" >"$runtime/pids/$name"
}

# stop NAME: at once; nothing of the cluster's state is kept that a kill could spoil.
stop() {
	local pid tries=100
	pid=$(pid_of "$1") || return 0
	kill -KILL "$pid" 2>/dev/null || true
	while { pid_of "$1" >/dev/null || has_threads "$pid"; } && [ $((tries -= 1)) -gt 0 ]; do sleep 0.05; done
}

# has_threads PID: a process whose first thread has ended is a zombie, and keeps its sockets until all others have, too.
has_threads() {
	local threads=("/proc/$1/task/"*)
	[ "${#threads[@]}" -gt 1 ]
}

# One up, down or restart at a time. The daemons must not inherit the lock: see start.
lock_cluster() {
	[ "$(id -u)" = 0 ] || fail 2 "This needs root: a node has mounts and a network of its own." \
		"To use a cluster that you have, set KUBECONFIG; see $here/README.md"
	exec {cluster_lock}>/run/lock/stowaway-e2e
	flock --wait 900 "$cluster_lock" || fail 1 "Another run is working on the cluster."
}
