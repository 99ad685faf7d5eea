//! The controller's Deployment.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy},
        core::v1::{Container, PodTemplateSpec, ResourceRequirements},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use super::{CONTROLLER, Installation, amounts, labels, metadata, pod};

/// The default amounts.
pub(super) fn resources() -> ResourceRequirements {
    pod::resources("50m", "64Mi", "256Mi")
}

pub(super) fn deployment(installation: &Installation<'_>) -> Deployment {
    let labels = labels("controller");
    let container = Container {
        ports: Some(vec![pod::health_port()]),
        resources: Some(amounts::applied(resources(), installation.controller)),
        // No client sends requests to it, so a rollout only waits until it is alive.
        readiness_probe: Some(pod::probe("/healthz", 2, 2)),
        liveness_probe: Some(pod::liveness()),
        ..pod::container("controller", installation)
    };
    Deployment {
        metadata: metadata(CONTROLLER, "controller", Some(installation.namespace)),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            // Never two at the same time. If it happens nevertheless, nothing is created twice, because names are
            // derived from facts.
            strategy: Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None }),
            selector: LabelSelector { match_labels: Some(labels.clone()), match_expressions: None },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod::pod(CONTROLLER, container, installation)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}
