//! The Deployment of the process that writes the webhook's bundle into the webhook configurations. It does not exist if
//! cert-manager does that.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{Container, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use super::{Installation, TRUST, labels, metadata, pod};

pub(super) fn deployment(installation: &Installation<'_>) -> Deployment {
    let labels = labels("trust");
    let container = Container {
        ports: Some(vec![pod::health_port()]),
        resources: Some(pod::resources("5m", "16Mi", "64Mi")),
        readiness_probe: Some(pod::probe("/healthz", 2, 2)),
        liveness_probe: Some(pod::liveness()),
        ..pod::container("trust", installation)
    };
    Deployment {
        metadata: metadata(TRUST, "trust", Some(installation.namespace)),
        spec: Some(DeploymentSpec {
            // A bundle is published long before it is needed, and two writers of the same bundle do no harm.
            replicas: Some(1),
            selector: LabelSelector { match_labels: Some(labels.clone()), match_expressions: None },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod::pod(TRUST, container, installation)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}
