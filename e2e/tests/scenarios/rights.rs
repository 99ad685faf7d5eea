//! What the webhook's account may do, as the API server itself says.

use anyhow::{Result, ensure};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::{Api, api::PostParams};
use serde_json::json;
use stowaway::build::manifests::{AUTHORITY, LEASE, NAMESPACE, WEBHOOK};
use stowaway_e2e::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn webhook_writes_its_own_objects_by_name_and_sees_nobody_elses() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client.clone());
    let own = Some(NAMESPACE);
    let (secrets, leases) = (("", "secrets"), ("coordination.k8s.io", "leases"));
    let [mutating, validating] = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"]
        .map(|resource| ("admissionregistration.k8s.io", resource));
    let allowed = [
        ("get", secrets, own, AUTHORITY),
        ("watch", secrets, own, AUTHORITY),
        // By server-side apply, which names what it makes.
        ("create", secrets, own, AUTHORITY),
        ("update", secrets, own, AUTHORITY),
        ("create", leases, own, LEASE),
        ("update", leases, own, LEASE),
        ("watch", mutating, None, WEBHOOK),
        ("patch", mutating, None, WEBHOOK),
        ("patch", validating, None, WEBHOOK),
        ("list", ("stowaway.dev", "repositories"), None, ""),
    ];
    let refused = [
        ("get", secrets, own, "another"),
        ("list", secrets, own, ""),
        ("create", secrets, own, ""),
        ("delete", secrets, own, AUTHORITY),
        ("get", secrets, Some("default"), AUTHORITY),
        ("list", secrets, None, ""),
        ("update", leases, own, "another"),
        ("patch", mutating, None, "another"),
        ("create", mutating, None, WEBHOOK),
        ("delete", validating, None, WEBHOOK),
        ("list", mutating, None, ""),
        ("patch", ("stowaway.dev", "repositories"), Some("default"), "main"),
        ("list", ("", "pods"), None, ""),
        ("create", ("", "pods/exec"), own, ""),
        ("create", ("", "serviceaccounts/token"), own, WEBHOOK),
        ("create", ("events.k8s.io", "events"), own, ""),
        ("get", ("", "namespaces"), None, "default"),
        ("impersonate", ("", "serviceaccounts"), own, "stowaway-controller"),
        ("bind", ("rbac.authorization.k8s.io", "clusterroles"), None, "stowaway-runner"),
    ];
    for (is_expected, questions) in [(true, &allowed[..]), (false, &refused[..])] {
        for (verb, (group, resource), namespace, name) in questions {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let review = serde_json::from_value(json!({ "spec": {
                "user": format!("system:serviceaccount:{NAMESPACE}:{WEBHOOK}"),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"],
                "resourceAttributes": {
                    "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                    "namespace": namespace.unwrap_or_default(), "name": name,
                },
            } }))?;
            let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
            ensure!(status.allowed == is_expected, "{verb} {resource} {name} in {namespace:?}: {}", status.allowed);
        }
    }
    Ok(())
}
