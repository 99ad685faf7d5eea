//! What is installed in a cluster: the definitions of our objects, controller and webhook, the rights of all, and the
//! policies that guard them.
//!
//! It must not know how the files get to a disk or a cluster. The output depends on nothing but the arguments, and holds no
//! secret: certificates are made in the cluster.

mod admission;
mod cert_manager;
mod conditions;
mod controller;
mod network;
mod people;
mod pod;
mod policies;
mod roles;
#[cfg(test)]
mod tests;
mod trust;
mod webhook;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Namespace, ServiceAccount},
        rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use serde::Serialize;

use crate::api;

pub use people::CLI_ROLE;

/// The namespace of controller and webhook, unless told otherwise.
pub const NAMESPACE: &str = "stowaway-system";
/// The image of this version, unless told otherwise.
pub const IMAGE: &str = concat!("stowaway:", env!("CARGO_PKG_VERSION"));
/// The environment variable that tells controller and webhook which image the runs use, and which one is injected.
pub const IMAGE_VARIABLE: &str = "STOWAWAY_IMAGE";
/// Name of the webhook's objects: its Deployment, its Service, and its webhook configurations.
pub const WEBHOOK: &str = "stowaway-webhook";
/// Name of the Secret that holds the webhook's authority. The webhook makes it itself.
pub const AUTHORITY: &str = "stowaway-webhook-authority";
/// Name of the Lease whose holder leads the authority. The webhook makes it itself.
pub const LEASE: &str = "stowaway-webhook";
/// Name of the objects of what writes the webhook's bundle into its configurations, and of the `ConfigMap` with the bundle, which
/// the webhook makes itself.
pub const TRUST: &str = "stowaway-trust";
/// Name of the Lease by which the controller shows that it lives. The controller makes it itself.
pub const CONTROLLER_LEASE: &str = "stowaway-controller";
/// The label of namespaces whose pods may collect metrics, where the network policies are applied.
const METRICS_NAMESPACE: &str = "stowaway.dev/metrics";
/// Name of the controller's objects.
pub const CONTROLLER: &str = "stowaway-controller";
/// What each file begins with.
const HEADER: &str = "# Generated from the Rust types by `make manifests`; do not edit.\n";

/// What is to be installed.
#[derive(Clone, Copy, Debug)]
pub struct Installation<'a> {
    /// Image reference of controller, webhook, runs, and of what is injected.
    pub image: &'a str,
    /// Where controller and webhook run.
    pub namespace: &'a str,
    /// Whether cert-manager issues the webhook's certificate, rather than the webhook itself.
    pub cert_manager: bool,
}

impl Default for Installation<'_> {
    fn default() -> Self {
        Self { image: IMAGE, namespace: NAMESPACE, cert_manager: false }
    }
}

/// All files of the folder `manifests/`: path within it, and content.
///
/// # Errors
/// When an object cannot be written as YAML.
pub fn files(installation: &Installation<'_>) -> Result<Vec<(String, String)>, serde_norway::Error> {
    let mut files = crds_yaml()?;
    files.push(("install.yaml".to_owned(), install_yaml(installation)?));
    files.push(("network-policies.yaml".to_owned(), network_policies_yaml(installation)?));
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

/// What may speak with controller and webhook, for clusters whose network enforces it.
///
/// # Errors
/// When an object cannot be written as YAML.
pub fn network_policies_yaml(installation: &Installation<'_>) -> Result<String, serde_norway::Error> {
    let namespace = installation.namespace;
    let mut documents = vec![network::webhook_policy(namespace), network::controller_policy(namespace)];
    if !installation.cert_manager {
        documents.push(network::trust_policy(namespace));
    }
    let documents: Vec<String> = documents.iter().map(to_yaml).collect::<Result<_, _>>()?;
    Ok(format!("{HEADER}{}", documents.join("---\n")))
}

/// Everything else, in the order in which it is to be applied: a policy before what it guards, and the webhook's
/// configurations last, when there is something to be called.
///
/// # Errors
/// When an object cannot be written as YAML.
pub fn install_yaml(installation: &Installation<'_>) -> Result<String, serde_norway::Error> {
    let Installation { image: _, namespace, cert_manager } = *installation;
    let mut documents = vec![to_yaml(&namespace_object(namespace))?];
    for (policy, binding) in policies::all(installation) {
        documents.extend([to_yaml(&policy)?, to_yaml(&binding)?]);
    }
    documents.extend([
        to_yaml(&service_account(CONTROLLER, "controller", namespace))?,
        to_yaml(&roles::controller(CONTROLLER))?,
        to_yaml(&roles::runner())?,
        to_yaml(&roles::locks())?,
        to_yaml(&roles::repair())?,
        to_yaml(&people::view())?,
        to_yaml(&people::edit())?,
        to_yaml(&people::cli(namespace))?,
        to_yaml(&people::cli_binding(namespace))?,
        to_yaml(&cluster_binding(CONTROLLER, "controller", namespace))?,
        to_yaml(&roles::controller_own(namespace))?,
        to_yaml(&own_binding(CONTROLLER, "controller", namespace))?,
        to_yaml(&controller::deployment(installation))?,
        to_yaml(&service_account(WEBHOOK, "webhook", namespace))?,
        to_yaml(&roles::webhook())?,
        to_yaml(&cluster_binding(WEBHOOK, "webhook", namespace))?,
    ]);
    if cert_manager {
        for object in cert_manager::objects(namespace) {
            documents.push(to_yaml(&object)?);
        }
    } else {
        documents.extend([
            to_yaml(&roles::webhook_own(namespace))?,
            to_yaml(&own_binding(WEBHOOK, "webhook", namespace))?,
            to_yaml(&service_account(TRUST, "trust", namespace))?,
            to_yaml(&roles::trust())?,
            to_yaml(&cluster_binding(TRUST, "trust", namespace))?,
            to_yaml(&roles::trust_own(namespace))?,
            to_yaml(&own_binding(TRUST, "trust", namespace))?,
            to_yaml(&trust::deployment(installation))?,
        ]);
    }
    documents.extend([
        to_yaml(&webhook::service(namespace))?,
        to_yaml(&webhook::disruption_budget(namespace))?,
        to_yaml(&webhook::deployment(installation))?,
        to_yaml(&admission::mutating(installation))?,
        to_yaml(&admission::validating(installation))?,
    ]);
    Ok(format!("{HEADER}{}", documents.join("---\n")))
}

fn to_yaml(object: &impl Serialize) -> Result<String, serde_norway::Error> {
    // By way of a value, since the order of its keys is the same every time.
    serde_norway::to_string(&serde_norway::to_value(object)?)
}

/// The labels of what belongs to that component: `controller`, `webhook`, `trust`, or `policy`.
fn labels(component: &str) -> BTreeMap<String, String> {
    let label = |key: &str, value: &str| (format!("app.kubernetes.io/{key}"), value.to_owned());
    BTreeMap::from([label("name", "stowaway"), label("component", component)])
}

fn metadata(name: &str, component: &str, namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(labels(component)),
        ..ObjectMeta::default()
    }
}

fn namespace_object(namespace: &str) -> Namespace {
    let mut metadata = metadata(namespace, "controller", None);
    metadata
        .labels
        .get_or_insert_default()
        .insert("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
    Namespace { metadata, ..Namespace::default() }
}

fn service_account(name: &str, component: &str, namespace: &str) -> ServiceAccount {
    ServiceAccount { metadata: metadata(name, component, Some(namespace)), ..ServiceAccount::default() }
}

/// Binds the `ServiceAccount` to the `ClusterRole` of its name.
fn cluster_binding(name: &str, component: &str, namespace: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: metadata(name, component, None),
        role_ref: role_reference("ClusterRole", name),
        subjects: Some(vec![subject(name, namespace)]),
    }
}

/// Binds the `ServiceAccount` to the Role of its name in its own namespace.
fn own_binding(name: &str, component: &str, namespace: &str) -> RoleBinding {
    RoleBinding {
        metadata: metadata(name, component, Some(namespace)),
        role_ref: role_reference("Role", name),
        subjects: Some(vec![subject(name, namespace)]),
    }
}

fn role_reference(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: kind.into(), name: name.into() }
}

fn subject(name: &str, namespace: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".into(),
        name: name.into(),
        namespace: Some(namespace.to_owned()),
        ..Subject::default()
    }
}
