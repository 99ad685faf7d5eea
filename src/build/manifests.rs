//! What is installed in a cluster: the definitions of our objects, the controller, and the rights of both.
//!
//! It must not know how the files get to a disk or a cluster. The output depends on nothing but the arguments.

mod policy;
mod roles;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy},
        core::v1::{
            Capabilities, Container, EnvVar, Namespace, PodSecurityContext, PodSpec, PodTemplateSpec,
            ResourceRequirements, SeccompProfile, SecurityContext, ServiceAccount,
        },
        rbac::v1::{ClusterRoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
    },
};
use kube::ResourceExt;
use serde::Serialize;

use crate::api;

/// The namespace of the controller, unless told otherwise.
pub const NAMESPACE: &str = "stowaway-system";
/// The image of this version, unless told otherwise.
pub const IMAGE: &str = concat!("stowaway:", env!("CARGO_PKG_VERSION"));
/// Name of the controller's objects.
const CONTROLLER: &str = "stowaway-controller";
/// The environment variable that tells the controller which image the runs use.
pub const IMAGE_VARIABLE: &str = "STOWAWAY_IMAGE";
/// What each file begins with.
const HEADER: &str = "# Generated from the Rust types by `make manifests`; do not edit.\n";

/// All files of the folder `manifests/`: path within it, and content.
///
/// # Errors
/// When an object cannot be written as YAML.
pub fn files(image: &str, namespace: &str) -> Result<Vec<(String, String)>, serde_norway::Error> {
    let mut files = crds_yaml()?;
    files.push(("install.yaml".to_owned(), install_yaml(image, namespace)?));
    Ok(files)
}

/// The definitions of our objects, each in a file of its own: path and content.
///
/// # Errors
/// When one cannot be written as YAML.
pub fn crds_yaml() -> Result<Vec<(String, String)>, serde_norway::Error> {
    let definitions = api::crds();
    let yaml = |crd| Ok((format!("crds/{}.yaml", ResourceExt::name_any(crd)), format!("{HEADER}{}", to_yaml(crd)?)));
    definitions.iter().map(yaml).collect()
}

/// Everything else: namespace, identity, rights and the controller itself, which runs from `image`.
///
/// # Errors
/// When an object cannot be written as YAML.
pub fn install_yaml(image: &str, namespace: &str) -> Result<String, serde_norway::Error> {
    let documents = [
        to_yaml(&namespace_object(namespace))?,
        to_yaml(&ServiceAccount { metadata: metadata(CONTROLLER, Some(namespace)), ..ServiceAccount::default() })?,
        to_yaml(&roles::controller(CONTROLLER))?,
        to_yaml(&roles::runner())?,
        to_yaml(&roles::repair())?,
        to_yaml(&binding(namespace))?,
        to_yaml(&policy::policy())?,
        to_yaml(&policy::binding())?,
        to_yaml(&deployment(image, namespace))?,
    ];
    Ok(format!("{HEADER}{}", documents.join("---\n")))
}

fn to_yaml(object: &impl Serialize) -> Result<String, serde_norway::Error> {
    // By way of a value, since the order of its keys is the same every time.
    serde_norway::to_string(&serde_norway::to_value(object)?)
}

fn labels() -> BTreeMap<String, String> {
    let label = |key: &str, value: &str| (format!("app.kubernetes.io/{key}"), value.to_owned());
    BTreeMap::from([label("name", "stowaway"), label("component", "controller")])
}

fn metadata(name: &str, namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(labels()),
        ..ObjectMeta::default()
    }
}

fn namespace_object(namespace: &str) -> Namespace {
    let mut metadata = metadata(namespace, None);
    metadata
        .labels
        .get_or_insert_default()
        .insert("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
    Namespace { metadata, ..Namespace::default() }
}

fn binding(namespace: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: metadata(CONTROLLER, None),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "ClusterRole".into(),
            name: CONTROLLER.into(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: CONTROLLER.into(),
            namespace: Some(namespace.to_owned()),
            ..Subject::default()
        }]),
    }
}

fn deployment(image: &str, namespace: &str) -> Deployment {
    Deployment {
        metadata: metadata(CONTROLLER, Some(namespace)),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            // Never two at once. Should it happen all the same: names are derived from facts, so nothing is made twice.
            strategy: Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None }),
            selector: LabelSelector { match_labels: Some(labels()), match_expressions: None },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels()), ..ObjectMeta::default() }),
                spec: Some(controller_pod(image)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn controller_pod(image: &str) -> PodSpec {
    let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    PodSpec {
        service_account_name: Some(CONTROLLER.into()),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(65_532),
            run_as_group: Some(65_532),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![Container {
            name: "controller".into(),
            image: Some(image.to_owned()),
            args: Some(vec!["controller".into()]),
            env: Some(vec![EnvVar { name: IMAGE_VARIABLE.into(), value: Some(image.to_owned()), value_from: None }]),
            resources: Some(ResourceRequirements {
                requests: Some(BTreeMap::from([quantity("cpu", "50m"), quantity("memory", "64Mi")])),
                limits: Some(BTreeMap::from([quantity("memory", "256Mi")])),
                ..ResourceRequirements::default()
            }),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
                ..SecurityContext::default()
            }),
            ..Container::default()
        }],
        ..PodSpec::default()
    }
}
