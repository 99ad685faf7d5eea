# shellcheck shell=bash disable=SC2154
# Certificates, etcd and the control plane.

keys=$state/keys

# control KUBECTL_ARGUMENT...: runs kubectl as cluster-admin, with a discovery cache that is removed with the cluster.
control() { "$programs/kubectl" --kubeconfig "$kubeconfig" --cache-dir "$state/kubectl" "$@"; }

make_certificates() {
	local log=$logs/cluster/kubeadm.log phase
	mkdir -p "$keys"
	# 127.0.0.1 and localhost are in the certificate for tests that connect through a proxy.
	cat >"$state/kubeadm.yaml" <<-END
		apiVersion: kubeadm.k8s.io/v1beta4
		kind: InitConfiguration
		localAPIEndpoint: {advertiseAddress: $node_address, bindPort: 6443}
		nodeRegistration: {name: $node_name, criSocket: "unix://$containerd_socket"}
		---
		apiVersion: kubeadm.k8s.io/v1beta4
		kind: ClusterConfiguration
		kubernetesVersion: $kubernetes_version
		certificatesDir: $keys
		controlPlaneEndpoint: $node_address:6443
		networking: {serviceSubnet: $service_network, podSubnet: $pod_network}
		apiServer:
		  certSANs: [127.0.0.1, localhost, kubernetes.default.svc, $node_address]
	END
	in_namespace "$programs/kubeadm" init phase certs all --config "$state/kubeadm.yaml" >>"$log" 2>&1 ||
		fail_with_log "$log" "Creating the certificates failed."
	for phase in super-admin kubelet controller-manager scheduler; do
		in_namespace "$programs/kubeadm" init phase kubeconfig "$phase" --config "$state/kubeadm.yaml" \
			--kubeconfig-dir "$keys" >>"$log" 2>&1 || fail_with_log "$log" "Creating a kubeconfig failed."
	done
	in_namespace "$programs/kubeadm" kubeconfig user --config "$state/kubeadm.yaml" \
		--client-name system:kube-proxy >"$keys/kube-proxy.conf" 2>>"$log" ||
		fail_with_log "$log" "Creating a kubeconfig failed."
	install -m 0600 "$keys/super-admin.conf" "$kubeconfig"
}

start_etcd() {
	# Without fsync, because a test cluster may be lost in a crash of the machine.
	start etcd "$programs/etcd" --data-dir "$state/etcd" --unsafe-no-fsync --name "$node_name" \
		--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
		--listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
		--initial-cluster "$node_name=http://127.0.0.1:2380" --log-level warn
}

start_apiserver() {
	start kube-apiserver "$programs/kube-apiserver" \
		--advertise-address "$node_address" --secure-port 6443 \
		--etcd-servers http://127.0.0.1:2379 \
		--service-cluster-ip-range "$service_network" \
		--allow-privileged=true \
		--authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
		--client-ca-file "$keys/ca.crt" \
		--tls-cert-file "$keys/apiserver.crt" --tls-private-key-file "$keys/apiserver.key" \
		--kubelet-client-certificate "$keys/apiserver-kubelet-client.crt" \
		--kubelet-client-key "$keys/apiserver-kubelet-client.key" \
		--kubelet-preferred-address-types InternalIP \
		--service-account-issuer https://kubernetes.default.svc.cluster.local \
		--service-account-key-file "$keys/sa.pub" --service-account-signing-key-file "$keys/sa.key" \
		--proxy-client-cert-file "$keys/front-proxy-client.crt" \
		--proxy-client-key-file "$keys/front-proxy-client.key" \
		--requestheader-client-ca-file "$keys/front-proxy-ca.crt" \
		--requestheader-allowed-names front-proxy-client \
		--requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
		--requestheader-extra-headers-prefix X-Remote-Extra-
}

wait_for_apiserver() {
	wait_for 90 'The API server' "$logs/cluster/kube-apiserver.log" \
		control get --raw /readyz --request-timeout 2s
}

start_controllers() {
	start kube-controller-manager "$programs/kube-controller-manager" \
		--kubeconfig "$keys/controller-manager.conf" \
		--authentication-kubeconfig "$keys/controller-manager.conf" \
		--authorization-kubeconfig "$keys/controller-manager.conf" \
		--leader-elect=false --use-service-account-credentials \
		--service-cluster-ip-range "$service_network" --cluster-cidr "$pod_network" --allocate-node-cidrs=false \
		--root-ca-file "$keys/ca.crt" --client-ca-file "$keys/ca.crt" \
		--requestheader-client-ca-file "$keys/front-proxy-ca.crt" \
		--service-account-private-key-file "$keys/sa.key" \
		--cluster-signing-cert-file "$keys/ca.crt" --cluster-signing-key-file "$keys/ca.key" \
		--pvclaimbinder-sync-period 1s --kube-api-qps 200 --kube-api-burst 400
	start kube-scheduler "$programs/kube-scheduler" \
		--kubeconfig "$keys/scheduler.conf" \
		--authentication-kubeconfig "$keys/scheduler.conf" \
		--authorization-kubeconfig "$keys/scheduler.conf" \
		--leader-elect=false
}

apply_manifest() { sed "s|REGISTRY|$own_registry|; s|DNS_ADDRESS|$dns_address|" "$here/manifests/$1" | control apply -f -; }
