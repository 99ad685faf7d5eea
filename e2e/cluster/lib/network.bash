# shellcheck shell=bash disable=SC2154
# The node's network: one namespace, a pair of links to the host, and routes. The firewall rules
# that Kubernetes makes stay inside; the host's are not touched.

create_network() {
	ip netns add "$namespace"
	ip link add "$host_link" type veth peer name eth0 netns "$namespace"
	ip address add "$host_address/24" dev "$host_link"
	ip link set "$host_link" up
	ip -n "$namespace" link set lo up
	ip -n "$namespace" address add "$node_address/24" dev eth0
	ip -n "$namespace" link set eth0 up
	# Nothing leads outside, and who tries is told so at once. Services have no link of their own:
	# a route lets the node's processes send to them, until kube-proxy's rules turn the packets.
	ip -n "$namespace" route add unreachable default
	ip -n "$namespace" route add "$service_network" via "$host_address"
	in_namespace sysctl -q -w net.ipv4.ip_forward=1
	# Pods and Services can be reached from the host, as on any node.
	ip route replace "$pod_network" via "$node_address" dev "$host_link"
	ip route replace "$service_network" via "$node_address" dev "$host_link"
}

remove_network() {
	# The routes and the other end of the pair go with the link.
	if ip link show "$host_link" >/dev/null 2>&1; then ip link delete "$host_link"; fi
	if [ -e "$namespace_file" ]; then ip netns delete "$namespace" 2>/dev/null || rm -f "$namespace_file"; fi
	# The mount that "ip netns" makes for the first namespace is of no use after the last.
	if mountpoint -q /run/netns && [ -z "$(ls /run/netns)" ]; then umount /run/netns 2>/dev/null || true; fi
}

in_namespace() { nsenter --net="$namespace_file" -- "$@"; }
