//! The rights of the accounts of the webhook and of the trust writer, as the API server evaluates them.

use anyhow::{Result, ensure};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::{Api, api::PostParams};
use serde_json::json;
use stowaway::resources::manifests::{AUTHORITY, LEASE, NAMESPACE, TRUST, WEBHOOK};
use stowaway_e2e::Cluster;

/// A verb, an API group with a resource, a namespace and a name.
type Access = (&'static str, (&'static str, &'static str), Option<&'static str>, &'static str);

const SECRETS: (&str, &str) = ("", "secrets");
const CONFIG_MAPS: (&str, &str) = ("", "configmaps");
const MUTATING: (&str, &str) = ("admissionregistration.k8s.io", "mutatingwebhookconfigurations");
const VALIDATING: (&str, &str) = ("admissionregistration.k8s.io", "validatingwebhookconfigurations");
const OWN: Option<&str> = Some(NAMESPACE);

#[tokio::test(flavor = "multi_thread")]
async fn webhook_writes_its_own_objects_by_name_and_reads_no_others() -> Result<()> {
    let leases = ("coordination.k8s.io", "leases");
    let allowed = [
        ("get", SECRETS, OWN, AUTHORITY),
        ("watch", SECRETS, OWN, AUTHORITY),
        // For server-side apply, which creates an object by its name.
        ("create", SECRETS, OWN, AUTHORITY),
        ("update", SECRETS, OWN, AUTHORITY),
        ("create", leases, OWN, LEASE),
        ("update", leases, OWN, LEASE),
        ("create", CONFIG_MAPS, OWN, TRUST),
        ("update", CONFIG_MAPS, OWN, TRUST),
        ("watch", MUTATING, None, WEBHOOK),
        ("list", ("stowaway.dev", "repositories"), None, ""),
    ];
    let refused = [
        ("get", SECRETS, OWN, "another"),
        ("list", SECRETS, OWN, ""),
        ("create", SECRETS, OWN, ""),
        ("delete", SECRETS, OWN, AUTHORITY),
        ("get", SECRETS, Some("default"), AUTHORITY),
        ("list", SECRETS, None, ""),
        ("update", leases, OWN, "another"),
        ("update", CONFIG_MAPS, OWN, "another"),
        ("get", CONFIG_MAPS, Some("default"), TRUST),
        // A client that may change these could have every object of the cluster sent to a webhook of its own.
        ("patch", MUTATING, None, WEBHOOK),
        ("patch", VALIDATING, None, WEBHOOK),
        ("update", MUTATING, None, WEBHOOK),
        ("patch", MUTATING, None, "another"),
        ("create", MUTATING, None, WEBHOOK),
        ("delete", VALIDATING, None, WEBHOOK),
        ("list", MUTATING, None, ""),
        ("patch", ("stowaway.dev", "repositories"), Some("default"), "main"),
        ("list", ("", "pods"), None, ""),
        ("create", ("", "pods/exec"), OWN, ""),
        ("create", ("", "serviceaccounts/token"), OWN, WEBHOOK),
        ("create", ("events.k8s.io", "events"), OWN, ""),
        ("get", ("", "namespaces"), None, "default"),
        ("impersonate", ("", "serviceaccounts"), OWN, "stowaway-controller"),
        ("bind", ("rbac.authorization.k8s.io", "clusterroles"), None, "stowaway-runner"),
    ];
    ensure_rights(WEBHOOK, &allowed, &refused).await
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_of_the_trust_writes_two_configurations_by_name_and_nothing_else() -> Result<()> {
    let allowed = [
        ("get", CONFIG_MAPS, OWN, TRUST),
        ("watch", CONFIG_MAPS, OWN, TRUST),
        ("patch", MUTATING, None, WEBHOOK),
        ("patch", VALIDATING, None, WEBHOOK),
    ];
    let refused = [
        ("update", CONFIG_MAPS, OWN, TRUST),
        ("get", CONFIG_MAPS, OWN, "another"),
        ("get", SECRETS, OWN, AUTHORITY),
        ("list", SECRETS, None, ""),
        ("patch", MUTATING, None, "another"),
        ("create", MUTATING, None, WEBHOOK),
        ("delete", VALIDATING, None, WEBHOOK),
        ("list", ("", "pods"), None, ""),
        ("list", ("stowaway.dev", "repositories"), None, ""),
    ];
    ensure_rights(TRUST, &allowed, &refused).await
}

/// Checks each right of that account with a `SubjectAccessReview`.
async fn ensure_rights(account: &str, allowed: &[Access], refused: &[Access]) -> Result<()> {
    let cluster = Cluster::connect().await?;
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client.clone());
    for (is_expected, all) in [(true, allowed), (false, refused)] {
        for (verb, (group, resource), namespace, name) in all {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let review = serde_json::from_value(json!({ "spec": {
                "user": format!("system:serviceaccount:{NAMESPACE}:{account}"),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"],
                "resourceAttributes": {
                    "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                    "namespace": namespace.unwrap_or_default(), "name": name,
                },
            } }))?;
            let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
            ensure!(
                status.allowed == is_expected,
                "{account}: {verb} {resource} {name} in {namespace:?}: {}",
                status.allowed
            );
        }
    }
    Ok(())
}
