//! The roles for users: the rights on Stowaway's kinds that are aggregated into Kubernetes' own roles `view`, `edit`
//! and `admin`, and the Role which the CLI needs in the namespace of the installation.

use k8s_openapi::api::rbac::v1::{ClusterRole, Role, RoleBinding, Subject};

use super::{
    CONTROLLER, CONTROLLER_LEASE, metadata, role_reference,
    roles::{named, rule},
};
use crate::api;

/// Name of the CLI's Role in the namespace of the installation.
pub const CLI_ROLE: &str = "stowaway-cli";

/// Reads Repositories and Backups, and a Restore by its name. Restores are not listed, because the command of a Restore
/// may contain a password. Aggregated into `view`, `edit` and `admin`.
pub(super) fn view() -> ClusterRole {
    let reads = ["get", "list", "watch"];
    aggregated(
        "stowaway-view",
        &["view", "edit", "admin"],
        vec![
            rule(api::GROUP, &["repositories", "backups"], &reads),
            rule(api::GROUP, &["restores", "repositories/status", "backups/status", "restores/status"], &["get"]),
        ],
    )
}

/// Writes all kinds, but no status. Policies guard the effects: they require the rights to do the same without
/// Stowaway, which `edit` has. Aggregated into `edit` and `admin`.
pub(super) fn edit() -> ClusterRole {
    let all = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    aggregated(
        "stowaway-edit",
        &["edit", "admin"],
        vec![rule(api::GROUP, &["repositories", "backups", "restores"], &all)],
    )
}

fn aggregated(name: &str, to: &[&str], rules: Vec<k8s_openapi::api::rbac::v1::PolicyRule>) -> ClusterRole {
    let mut metadata = metadata(name, "people", None);
    let labels = metadata.labels.get_or_insert_default();
    for role in to {
        labels.insert(format!("rbac.authorization.k8s.io/aggregate-to-{role}"), "true".to_owned());
    }
    ClusterRole { metadata, rules: Some(rules), aggregation_rule: None }
}

/// The CLI reads the image of runs from the controller's Deployment, which no tenant can write. From the controller's
/// Lease it reads whether the controller is alive.
pub(super) fn cli(namespace: &str) -> Role {
    Role {
        metadata: metadata(CLI_ROLE, "people", Some(namespace)),
        rules: Some(vec![
            named(rule("apps", &["deployments"], &["get"]), CONTROLLER),
            named(rule("coordination.k8s.io", &["leases"], &["get"]), CONTROLLER_LEASE),
        ]),
    }
}

/// Neither object contains a secret, so every user of the cluster may read them.
pub(super) fn cli_binding(namespace: &str) -> RoleBinding {
    RoleBinding {
        metadata: metadata(CLI_ROLE, "people", Some(namespace)),
        role_ref: role_reference("Role", CLI_ROLE),
        subjects: Some(vec![Subject {
            kind: "Group".into(),
            name: "system:authenticated".into(),
            api_group: Some("rbac.authorization.k8s.io".into()),
            namespace: None,
        }]),
    }
}
