# shellcheck shell=bash disable=SC2034
# Versions, addresses and paths. The scripts here and in ../images source this file; it runs nothing.

kubernetes_version=v1.36.3
containerd_version=v2.4.2
coredns_version=v1.15.0
crane_version=v0.22.1
versitygw_version=v1.8.0
restic_old_version=v0.14.0
restic_middle_version=v0.18.1
restic_version=v0.19.1
rest_server_version=v0.14.0
fake_gcs_server_version=v1.56.1
gofakes3_version=v1.2.0
cargo_cyclonedx_version=0.5.9

# Built programs and the state of the cluster are outside of the clone, so that a new clone can reuse them.
cache=${STOWAWAY_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/stowaway}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac
programs=$cache/bin            # links to the built programs
parts=$cache/parts             # one folder for each built part, named by its version
logs=$cache/logs               # logs of builds; logs/cluster: those of the running cluster
registry_folder=$cache/registry # the blobs of the local registry, kept when the cluster is removed
state=$cache/cluster           # the running cluster: certificates, etcd, volumes, kubeconfig
kubeconfig=$state/kubeconfig

# A fixed folder for pids and sockets, because a machine runs one such cluster, whatever the cache.
runtime=/run/stowaway-e2e
containerd_socket=$runtime/containerd.sock
control_group=stowaway-e2e

# The node is a network namespace, which a pair of virtual links connects to the host.
namespace=stowaway-e2e
namespace_file=/run/netns/$namespace
host_link=stowaway0
host_address=10.111.0.1
node_address=10.111.0.2
node_name=stowaway-node
pod_network=10.112.0.0/16
service_network=10.113.0.0/16
dns_address=10.113.0.10

registry=${STOWAWAY_REGISTRY:-$node_address:5000}
own_registry=$node_address:5000
