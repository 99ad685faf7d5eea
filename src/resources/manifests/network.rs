//! Network policies of the controller and the webhook, in their own file. Apply them if the cluster's network enforces
//! policies and its API server uses one of the ports below.
//!
//! They are not part of `install.yaml`, because the address of the API server is not known here. A policy that blocked
//! the webhook's connection to it would keep pods with a restore step from starting.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
        NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{CONTROLLER, METRICS_NAMESPACE, TRUST, WEBHOOK, labels, metadata, pod, webhook};

/// The ports of API servers: kubeadm, kind and k3s 6443, managed clusters 443, minikube 8443, `MicroK8s` 16443.
const API_SERVER_PORTS: [i32; 4] = [443, 6443, 8443, 16443];
/// The port of DNS, over UDP and TCP.
const DNS_PORT: i32 = 53;

/// The policy of the webhook. The API server, whose address is not known, connects to the webhook. The webhook connects
/// only to DNS, to the API server, and to itself as a check of its readiness.
pub(super) fn webhook_policy(namespace: &str) -> NetworkPolicy {
    let own = NetworkPolicyPeer { pod_selector: Some(of_component("webhook")), ..NetworkPolicyPeer::default() };
    let egress = vec![
        NetworkPolicyEgressRule { ports: Some(vec![port("UDP", DNS_PORT), port("TCP", DNS_PORT)]), to: None },
        NetworkPolicyEgressRule { ports: Some(API_SERVER_PORTS.map(|number| port("TCP", number)).into()), to: None },
        NetworkPolicyEgressRule { ports: Some(vec![port("TCP", webhook::PORT)]), to: Some(vec![own]) },
    ];
    let called = NetworkPolicyIngressRule { ports: Some(vec![port("TCP", webhook::PORT)]), from: None };
    policy(WEBHOOK, "webhook", namespace, vec![called, metrics()], Some(egress))
}

/// The policy of the controller. Only the kubelet, for health checks, and collectors of metrics connect to it.
pub(super) fn controller_policy(namespace: &str) -> NetworkPolicy {
    policy(CONTROLLER, "controller", namespace, vec![metrics()], None)
}

/// The policy of the bundle writer. Only the kubelet and collectors of metrics connect to it.
pub(super) fn trust_policy(namespace: &str) -> NetworkPolicy {
    policy(TRUST, "trust", namespace, vec![metrics()], None)
}

fn policy(
    name: &str,
    component: &str,
    namespace: &str,
    ingress: Vec<NetworkPolicyIngressRule>,
    egress: Option<Vec<NetworkPolicyEgressRule>>,
) -> NetworkPolicy {
    let types =
        if egress.is_some() { vec!["Ingress".to_owned(), "Egress".to_owned()] } else { vec!["Ingress".to_owned()] };
    NetworkPolicy {
        metadata: metadata(name, component, Some(namespace)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(of_component(component)),
            policy_types: Some(types),
            ingress: Some(ingress),
            egress,
        }),
    }
}

/// Metrics contain the names of namespaces and Repositories, so only pods of labelled namespaces may read them. A label
/// of a pod would not suffice, because the author of the pod chooses it.
fn metrics() -> NetworkPolicyIngressRule {
    let labelled = LabelSelector {
        match_labels: Some([(METRICS_NAMESPACE.to_owned(), "true".to_owned())].into()),
        match_expressions: None,
    };
    let from = NetworkPolicyPeer { namespace_selector: Some(labelled), ..NetworkPolicyPeer::default() };
    NetworkPolicyIngressRule { ports: Some(vec![port("TCP", pod::HEALTH_PORT)]), from: Some(vec![from]) }
}

fn of_component(component: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(component)), match_expressions: None }
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.to_owned()), port: Some(IntOrString::Int(number)), end_port: None }
}
