//! The common parts of the controller's and the webhook's pods: Pod Security `restricted`, and nothing that they do not
//! need.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, LocalObjectReference,
        ObjectFieldSelector, PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::{IMAGE_VARIABLE, Installation, LOG_FORMAT_VARIABLE};
use crate::resources::pod_defaults;

/// Name of the port for health and metrics, by which a `PodMonitor` selects it.
const HEALTH: &str = "health";
/// Port of health and metrics.
pub(super) const HEALTH_PORT: i32 = 8080;

/// A pod with one container, which runs as this `ServiceAccount`.
pub(super) fn pod(account: &str, container: Container, installation: &Installation<'_>) -> PodSpec {
    let pull_secrets = installation.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    PodSpec {
        image_pull_secrets: (!installation.pull_secrets.is_empty()).then(|| pull_secrets.collect()),
        service_account_name: Some(account.to_owned()),
        enable_service_links: Some(false),
        node_selector: Some(pod_defaults::node_selector()),
        // The image sets its user as a number. OpenShift assigns another user, and refuses a pod that sets one.
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        ..PodSpec::default()
    }
}

/// A container that runs this command of the image. The image and the pod are in its environment.
pub(super) fn container(command: &str, installation: &Installation<'_>) -> Container {
    let mut variables = vec![
        variable(IMAGE_VARIABLE, installation.image),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
    ];
    if installation.json_logs {
        variables.push(variable(LOG_FORMAT_VARIABLE, "json"));
    }
    Container {
        name: command.to_owned(),
        image: Some(installation.image.to_owned()),
        args: Some(vec![command.to_owned()]),
        env: Some(variables),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// The port for health and metrics.
pub(super) fn health_port() -> ContainerPort {
    port(HEALTH, HEALTH_PORT)
}

/// A named port.
pub(super) fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number, ..ContainerPort::default() }
}

/// Restarts a process that has not responded for a minute. The process recovers from all other failures by itself.
pub(super) fn liveness() -> Probe {
    probe("/healthz", 10, 6)
}

/// A request to the health port every `period` seconds; `failures` consecutive failures count.
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

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.to_owned()), value_from: None }
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

/// Requests of CPU and memory, and a limit of memory. There is no limit of CPU, because it would slow down the webhook.
pub(super) fn resources(cpu: &str, memory: &str, memory_limit: &str) -> ResourceRequirements {
    let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([quantity("cpu", cpu), quantity("memory", memory)])),
        limits: Some(BTreeMap::from([quantity("memory", memory_limit)])),
        ..ResourceRequirements::default()
    }
}
