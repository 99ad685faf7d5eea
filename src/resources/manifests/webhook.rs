//! The webhook's Deployment and Service, and the settings that keep it reachable during rollouts and drains.
//!
//! It has no priority class. Clusters that limit the system's priority classes with a quota refuse them outside of
//! `kube-system`, and a webhook that cannot be scheduled is worse than one that waits. Without the webhook pods still
//! start, and the controller finds those that were not injected.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Container, PodSpec, PodTemplateSpec, ResourceRequirements, SecretVolumeSource, Service, ServicePort,
            ServiceSpec, TopologySpreadConstraint, Volume, VolumeMount,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{Installation, WEBHOOK, amounts, cert_manager, labels, metadata, pod};

/// Port of the webhook. In private clusters the API server can reach only the ports 443 and 10250 of nodes.
pub(super) const PORT: i32 = 10250;
/// Port of the Service.
const SERVICE_PORT: i32 = 443;
/// Grace period. A replica that gets SIGTERM serves until every API server has removed it from the endpoints, and then
/// finishes.
const GRACE: i64 = 60;
/// Mount path of cert-manager's certificate.
const CERTIFICATES_FOLDER: &str = "/run/stowaway/certificates";

fn selector() -> LabelSelector {
    LabelSelector { match_labels: Some(labels("webhook")), match_expressions: None }
}

pub(super) fn service(namespace: &str) -> Service {
    Service {
        metadata: metadata(WEBHOOK, "webhook", Some(namespace)),
        spec: Some(ServiceSpec {
            selector: Some(labels("webhook")),
            ports: Some(vec![ServicePort {
                name: Some("https".into()),
                port: SERVICE_PORT,
                target_port: Some(IntOrString::String("https".into())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// One replica always remains. A broken replica never blocks the drain of a node.
pub(super) fn disruption_budget(namespace: &str) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(WEBHOOK, "webhook", Some(namespace)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector()),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

pub(super) fn deployment(installation: &Installation<'_>) -> Deployment {
    Deployment {
        metadata: metadata(WEBHOOK, "webhook", Some(installation.namespace)),
        spec: Some(DeploymentSpec {
            replicas: Some(2),
            // A new replica is ready before an old one is stopped.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            selector: selector(),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels("webhook")), ..ObjectMeta::default() }),
                spec: Some(webhook_pod(installation)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The default amounts.
pub(super) fn resources() -> ResourceRequirements {
    pod::resources("20m", "24Mi", "128Mi")
}

fn webhook_pod(installation: &Installation<'_>) -> PodSpec {
    let mut container = Container {
        ports: Some(vec![pod::port("https", PORT), pod::health_port()]),
        resources: Some(amounts::applied(resources(), installation.webhook)),
        readiness_probe: Some(pod::probe("/readyz", 2, 2)),
        liveness_probe: Some(pod::liveness()),
        ..pod::container(WEBHOOK_COMMAND, installation)
    };
    let mut volumes = None;
    if installation.cert_manager {
        let argument = format!("--certificates-folder={CERTIFICATES_FOLDER}");
        container.args.get_or_insert_default().push(argument);
        container.volume_mounts = Some(vec![VolumeMount {
            name: "certificates".into(),
            mount_path: CERTIFICATES_FOLDER.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]);
        volumes = Some(vec![Volume {
            name: "certificates".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(cert_manager::SECRET.into()),
                // The cluster assigns the user of the pod, and only this container is in the pod.
                default_mode: Some(0o444),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }]);
    }
    let spec = pod::pod(WEBHOOK, container, installation);
    PodSpec {
        volumes,
        termination_grace_period_seconds: Some(GRACE),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            // In a cluster with a single node, both replicas run there.
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(selector()),
            // Each rollout is spread by itself, so that old replicas do not push the new ones onto one node.
            match_label_keys: Some(vec!["pod-template-hash".into()]),
            ..TopologySpreadConstraint::default()
        }]),
        ..spec
    }
}

/// The command of the CLI, and the name of the container.
const WEBHOOK_COMMAND: &str = "webhook";
