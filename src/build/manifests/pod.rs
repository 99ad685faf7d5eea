//! What the pods of controller and webhook have in common: Pod Security `restricted`, and nothing that they do not need.
//!
//! It must not know what runs in them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
        PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::IMAGE_VARIABLE;
use crate::build::pod_defaults;

/// Name of the port with health and metrics, by which a `PodMonitor` finds both pods.
const HEALTH: &str = "health";
/// Where health and metrics are.
pub(super) const HEALTH_PORT: i32 = 8080;

/// A pod of one container, for that `ServiceAccount`.
pub(super) fn pod(account: &str, container: Container) -> PodSpec {
    PodSpec {
        service_account_name: Some(account.to_owned()),
        enable_service_links: Some(false),
        node_selector: Some(pod_defaults::node_selector()),
        // The image names its user as a number. OpenShift assigns another one, and refuses a pod that names one.
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        ..PodSpec::default()
    }
}

/// A container that runs this verb of our image, which it is told of, as of its own pod.
pub(super) fn container(verb: &str, image: &str) -> Container {
    Container {
        name: verb.to_owned(),
        image: Some(image.to_owned()),
        args: Some(vec![verb.to_owned()]),
        env: Some(vec![
            EnvVar { name: IMAGE_VARIABLE.into(), value: Some(image.to_owned()), value_from: None },
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
        ]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// The port of health and metrics.
pub(super) fn health_port() -> ContainerPort {
    port(HEALTH, HEALTH_PORT)
}

/// A port by its name.
pub(super) fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number, ..ContainerPort::default() }
}

/// Whether the process lives. It heals what it can by itself; whoever does not even answer for a minute is stuck.
pub(super) fn liveness() -> Probe {
    probe("/healthz", 10, 6)
}

/// A question to the port of health, every so many seconds; so many failures in a row count.
pub(super) fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(HEALTH.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), api_version: None }),
            ..EnvVarSource::default()
        }),
        value: None,
    }
}

/// Requests of CPU and memory, and a limit of memory. CPU has none: a throttled webhook would be a slow one.
pub(super) fn resources(cpu: &str, memory: &str, memory_limit: &str) -> ResourceRequirements {
    let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([quantity("cpu", cpu), quantity("memory", memory)])),
        limits: Some(BTreeMap::from([quantity("memory", memory_limit)])),
        ..ResourceRequirements::default()
    }
}
