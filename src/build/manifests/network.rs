//! Network policies of controller and webhook, in a file of their own, which is applied where the cluster's network enforces
//! them and its ports are those below.
//!
//! It must not know what is spoken on a port.
//!
//! They are no part of `install.yaml`: the address of the API server is not known here, and a policy that kept the webhook
//! from it would keep pods with a restore step from starting.

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

/// The webhook is called by the API server, whose address is not known, and calls nothing but DNS, the API server and, to
/// see whether it is reachable, itself.
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

/// Nothing calls the controller but the node, for its health, and what collects metrics.
pub(super) fn controller_policy(namespace: &str) -> NetworkPolicy {
    policy(CONTROLLER, "controller", namespace, vec![metrics()], None)
}

/// Nothing calls what writes the bundles but the node, and what collects metrics.
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

/// Metrics name namespaces and Repositories, so only pods of labelled namespaces get them. A label of a pod would not do:
/// the author of a pod chooses it.
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
