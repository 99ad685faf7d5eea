# shellcheck shell=bash disable=SC2154
# The node: the local registry, containerd, the kubelet and kube-proxy.

start_registry() {
	# The blobs are kept when the cluster is removed, so that images are pushed quickly, up to this size.
	if [ -d "$registry_folder" ] && [ "$(du -sm "$registry_folder" | cut -f1)" -gt 6000 ]; then
		rm -rf "$registry_folder"
	fi
	mkdir -p "$registry_folder"
	start registry "$programs/crane" registry serve --address "$node_address:5000" --disk "$registry_folder"
	wait_for 10 'The registry' "$logs/cluster/registry.log" registry_answers
}

registry_answers() { "$programs/crane" catalog "$own_registry"; }

start_containerd() {
	local folder=$state/containerd
	mkdir -p "$folder/certs.d/$own_registry" "$state/cni" "$state/pod-addresses"
	cat >"$folder/certs.d/$own_registry/hosts.toml" <<-END
		server = "http://$own_registry"
	END
	# Each pod gets a pair of links and a route instead of a bridge. So traffic between pods passes the
	# node's firewall rules, which Services need, independently of the bridge settings of the kernel.
	cat >"$state/cni/10-stowaway.conflist" <<-END
		{"cniVersion": "1.0.0", "name": "$namespace", "plugins": [
		  {"type": "ptp", "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "$state/pod-addresses",
		    "ranges": [[{"subnet": "$pod_network"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	END
	# restrict_oom_score_adj: without it runc fails on a machine that denies lowering this score.
	# Network namespaces are mounted under the state folder, so that the cleanup finds them.
	cat >"$folder/config.toml" <<-END
		version = 3
		root = '$folder/root'
		state = '$runtime/containerd'
		disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.internal.v1.opt', 'io.containerd.tracing.processor.v1.otlp']
		[grpc]
		  address = '$containerd_socket'
		[ttrpc]
		  address = '$containerd_socket.ttrpc'
		[plugins.'io.containerd.cri.v1.images'.pinned_images]
		  sandbox = '$own_registry/pause:latest'
		[plugins.'io.containerd.cri.v1.images'.registry]
		  config_path = '$folder/certs.d'
		[plugins.'io.containerd.cri.v1.runtime']
		  restrict_oom_score_adj = true
		  netns_mounts_under_state_dir = true
		[plugins.'io.containerd.cri.v1.runtime'.cni]
		  bin_dirs = ['/usr/lib/cni']
		  conf_dir = '$state/cni'
		  use_internal_loopback = true
		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
		  runtime_type = 'io.containerd.runc.v2'
		  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
		    Root = '$runtime/runc'
		    SystemdCgroup = false
	END
	start containerd env PATH="$programs:$PATH" "$programs/containerd" --config "$folder/config.toml" --log-level warn
	wait_for 30 'containerd' "$logs/cluster/containerd.log" "$programs/ctr" --address "$containerd_socket" version
}

start_kubelet() {
	local folder=$state/kubelet
	mkdir -p "$folder" "$state/pod-logs"
	create_control_group
	# Mount propagation between pods needs a shared mount, which "/" may not be.
	mount --bind "$folder" "$folder"
	mount --make-rshared "$folder"
	# Without any name server but the cluster's own.
	: >"$state/resolv.conf"
	cat >"$state/kubelet.yaml" <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		containerRuntimeEndpoint: unix://$containerd_socket
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $keys/ca.crt}}
		authorization: {mode: Webhook}
		cgroupDriver: cgroupfs
		cgroupRoot: /$control_group
		failCgroupV1: false
		failSwapOn: false
		oomScoreAdj: 0
		clusterDNS: [$dns_address]
		clusterDomain: cluster.local
		resolvConf: $state/resolv.conf
		volumePluginDir: $state/volume-plugins
		podLogsDir: $state/pod-logs
		maxPods: 250
		evictionHard: {memory.available: 50Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%, imagefs.inodesFree: 1%}
		imageGCHighThresholdPercent: 100
		imageGCLowThresholdPercent: 99
		serializeImagePulls: false
		registryPullQPS: 0
		eventRecordQPS: 0
		kubeAPIQPS: 200
		kubeAPIBurst: 400
	END
	start kubelet "$programs/kubelet" --config "$state/kubelet.yaml" --root-dir "$folder" --cert-dir "$state/kubelet-certificates" \
		--kubeconfig "$keys/kubelet.conf" --hostname-override "$node_name" --node-ip "$node_address"
}

start_proxy() {
	cat >"$state/kube-proxy.yaml" <<-END
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		clientConnection: {kubeconfig: $keys/kube-proxy.conf}
		hostnameOverride: $node_name
		mode: iptables
		clusterCIDR: $pod_network
		conntrack: {maxPerCore: 0}
		oomScoreAdj: 0
	END
	start kube-proxy "$programs/kube-proxy" --config "$state/kube-proxy.yaml"
}

# Prints the folders of the control group of all pods, one for each hierarchy.
control_group_folders() {
	awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts | sed "s|\$|/$control_group|"
}

create_control_group() {
	local folder
	while read -r folder; do
		mkdir -p "$folder"
		# Version 2: enables the controllers that the root group delegates.
		if [ -s "$folder/../cgroup.controllers" ]; then
			sed 's/\([a-z_0-9]\+\)/+\1/g' "$folder/cgroup.controllers" >"$folder/cgroup.subtree_control" || true
		fi
		# Version 1: a new group has no processors until they are set, and cannot run a process.
		if [ -e "$folder/cpuset.cpus" ] && [ ! -e "$folder/cgroup.controllers" ]; then
			cat "$folder/../cpuset.cpus" >"$folder/cpuset.cpus"
			cat "$folder/../cpuset.mems" >"$folder/cpuset.mems"
		fi
	done < <(control_group_folders)
}

node_ready() {
	[ "$(control get node "$node_name" --request-timeout 2s \
		-o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
}
