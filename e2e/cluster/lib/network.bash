# shellcheck shell=bash disable=SC2154
# The node's network: a network namespace, a pair of links to the host, and routes. The firewall rules
# of Kubernetes are inside of the namespace, and those of the host are not changed.

create_network() {
	ip netns add "$namespace"
	ip link add "$host_link" type veth peer name eth0 netns "$namespace"
	ip address add "$host_address/24" dev "$host_link"
	ip link set "$host_link" up
	ip -n "$namespace" link set lo up
	ip -n "$namespace" address add "$node_address/24" dev eth0
	ip -n "$namespace" link set eth0 up
	# There is no route to the outside, and connections to it fail at once. Services have no link of their
	# own, so a route lets the node's processes send packets to them, which kube-proxy's rules redirect.
	ip -n "$namespace" route add unreachable default
	ip -n "$namespace" route add "$service_network" via "$host_address"
	in_namespace sysctl -q -w net.ipv4.ip_forward=1
	# Pods and Services can be reached from the host, as on any node.
	ip route replace "$pod_network" via "$node_address" dev "$host_link"
	ip route replace "$service_network" via "$node_address" dev "$host_link"
}

remove_network() {
	# Deleting the link removes its routes and the other end of the pair.
	if ip link show "$host_link" >/dev/null 2>&1; then ip link delete "$host_link"; fi
	if [ -e "$namespace_file" ]; then ip netns delete "$namespace" 2>/dev/null || rm -f "$namespace_file"; fi
	# "ip netns" creates this mount for the first namespace, and leaves it after the last one.
	if mountpoint -q /run/netns && [ -z "$(ls /run/netns)" ]; then umount /run/netns 2>/dev/null || true; fi
}

in_namespace() { nsenter --net="$namespace_file" -- "$@"; }
