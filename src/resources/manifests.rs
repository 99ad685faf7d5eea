//! The manifests of an installation: the CRDs, the controller and the webhook, all roles, and the admission policies.
//!
//! The output depends only on the arguments, and contains no secret, because certificates are issued in the cluster.

mod admission;
mod amounts;
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

pub use amounts::{AmountList, Amounts, AmountsError};
pub use people::CLI_ROLE;

/// Default namespace of the controller and the webhook.
pub const NAMESPACE: &str = "stowaway-system";
/// Default image, which is that of this version.
pub const IMAGE: &str = concat!("stowaway:", env!("CARGO_PKG_VERSION"));
/// The environment variable with the image for runs (in the controller) and for injected containers (in the webhook).
pub const IMAGE_VARIABLE: &str = "STOWAWAY_IMAGE";
/// The environment variable with the format of the log lines.
pub const LOG_FORMAT_VARIABLE: &str = "STOWAWAY_LOG_FORMAT";
/// Name of the webhook's objects: its Deployment, its Service, and its webhook configurations.
pub const WEBHOOK: &str = "stowaway-webhook";
/// Name of the Secret with the webhook's authority. The webhook creates it.
pub const AUTHORITY: &str = "stowaway-webhook-authority";
/// Name of the Lease whose holder maintains the authority. The webhook creates it.
pub const LEASE: &str = "stowaway-webhook";
/// Name of the objects of the process that writes the bundle into the webhook configurations, and of the `ConfigMap`
/// with the bundle. The webhook creates the `ConfigMap`.
pub const TRUST: &str = "stowaway-trust";
/// Name of the Lease by which the controller shows that it is alive. The controller creates it.
pub const CONTROLLER_LEASE: &str = "stowaway-controller";
/// The label of namespaces whose pods may collect metrics, if the network policies are applied.
const METRICS_NAMESPACE: &str = "stowaway.dev/metrics";
/// Name of the controller's objects.
pub const CONTROLLER: &str = "stowaway-controller";
/// The first line of each file.
const HEADER: &str = "# Generated from the Rust types by `make manifests`; do not edit.\n";

/// The parameters of an installation.
#[derive(Clone, Copy, Debug)]
pub struct Installation<'a> {
    /// Image reference of the controller, the webhook, the runs and the injected containers.
    pub image: &'a str,
    /// Namespace of the controller and the webhook.
    pub namespace: &'a str,
    /// Whether cert-manager issues the webhook's certificate. Otherwise the webhook issues it.
    pub cert_manager: bool,
    /// Names of the Secrets with which the images of the installation's own pods are pulled.
    pub pull_secrets: &'a [String],
    /// Whether the installation's own pods log JSON.
    pub json_logs: bool,
    /// Requests and limits of the controller, where they differ from the default amounts.
    pub controller: Option<&'a Amounts>,
    /// Requests and limits of the webhook, where they differ from the default amounts.
    pub webhook: Option<&'a Amounts>,
}

impl Default for Installation<'_> {
    fn default() -> Self {
        Self {
            image: IMAGE,
            namespace: NAMESPACE,
            cert_manager: false,
            pull_secrets: &[],
            json_logs: false,
            controller: None,
            webhook: None,
        }
    }
}

/// All files of the directory `manifests/`: relative path, and content.
///
/// # Errors
/// When an object cannot be serialized as YAML.
pub fn files(installation: &Installation<'_>) -> Result<Vec<(String, String)>, yaml_serde::Error> {
    let mut files = crds_yaml()?;
    files.push(("install.yaml".to_owned(), install_yaml(installation)?));
    files.push(("network-policies.yaml".to_owned(), network_policies_yaml(installation)?));
    Ok(files)
}

/// The CRDs, one per file: path and content.
///
/// # Errors
/// When a CRD cannot be serialized as YAML.
pub fn crds_yaml() -> Result<Vec<(String, String)>, yaml_serde::Error> {
    let mut definitions = api::crds();
    for definition in &mut definitions {
        definition.metadata.labels = Some(labels("api"));
    }
    let yaml = |crd| Ok((format!("crds/{}.yaml", ResourceExt::name_any(crd)), format!("{HEADER}{}", to_yaml(crd)?)));
    definitions.iter().map(yaml).collect()
}

/// The network policies of the controller and the webhook, for clusters whose network enforces them.
///
/// # Errors
/// When an object cannot be serialized as YAML.
pub fn network_policies_yaml(installation: &Installation<'_>) -> Result<String, yaml_serde::Error> {
    let namespace = installation.namespace;
    let mut documents = vec![network::webhook_policy(namespace), network::controller_policy(namespace)];
    if !installation.cert_manager {
        documents.push(network::trust_policy(namespace));
    }
    let documents: Vec<String> = documents.iter().map(to_yaml).collect::<Result<_, _>>()?;
    Ok(format!("{HEADER}{}", documents.join("---\n")))
}

/// All other objects, in the order in which they must be applied: a policy before the objects that it guards, and the
/// webhook configurations last, after the webhook itself.
///
/// # Errors
/// When an object cannot be serialized as YAML.
pub fn install_yaml(installation: &Installation<'_>) -> Result<String, yaml_serde::Error> {
    let Installation { namespace, cert_manager, .. } = *installation;
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

fn to_yaml(object: &impl Serialize) -> Result<String, yaml_serde::Error> {
    // Serialized from a value, because the order of its keys is always the same.
    yaml_serde::to_string(&yaml_serde::to_value(object)?)
}

/// The labels of the objects of a component: `api`, `controller`, `webhook`, `trust`, `policy`, or `people`.
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

/// Binds the `ServiceAccount` to the `ClusterRole` of the same name.
fn cluster_binding(name: &str, component: &str, namespace: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: metadata(name, component, None),
        role_ref: role_reference("ClusterRole", name),
        subjects: Some(vec![subject(name, namespace)]),
    }
}

/// Binds the `ServiceAccount` to the Role of the same name in its own namespace.
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
