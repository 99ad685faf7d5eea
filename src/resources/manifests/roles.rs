//! The rights of the controller, the webhook and a run. Each verb is granted because a call needs it.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};

use super::{AUTHORITY, CONTROLLER, CONTROLLER_LEASE, LEASE, TRUST, WEBHOOK, metadata};
use crate::{
    api,
    resources::rbac::{LOCKS_ROLE, RUNNER_ROLE},
};

/// The controller's rights in every namespace. It reads no Secrets and opens no store.
pub(super) fn controller(name: &str) -> ClusterRole {
    let group = api::GROUP;
    ClusterRole {
        metadata: metadata(name, "controller", None),
        rules: Some(vec![
            rule(group, &["repositories", "backups", "restores"], &["get", "list", "watch"]),
            rule(group, &["repositories/status", "backups/status", "restores/status"], &["patch"]),
            // Required by clusters with the admission plugin OwnerReferencesPermissionEnforcement, to set owner
            // references.
            rule(group, &["repositories/finalizers", "backups/finalizers", "restores/finalizers"], &["update"]),
            rule("batch", &["jobs"], &["get", "list", "watch", "create", "patch", "delete"]),
            rule("batch", &["jobs/finalizers"], &["update"]),
            rule("", &["pods"], &["get", "list", "watch"]),
            // To find the volumes to back up.
            rule("", &["persistentvolumeclaims"], &["list"]),
            // VolumeSnapshots of claims that request it, and the claims created from them. A policy guards those of
            // other clients.
            rule("snapshot.storage.k8s.io", &["volumesnapshots"], &["get", "list", "create", "delete"]),
            rule("", &["persistentvolumeclaims"], &["delete"]),
            // To check whether a VolumeSnapshot can be created, and would leave no content behind when it is deleted.
            rule("snapshot.storage.k8s.io", &["volumesnapshotclasses"], &["list"]),
            rule("storage.k8s.io", &["storageclasses"], &["list"]),
            rule("", &["persistentvolumes"], &["get"]),
            // To find the Deployment of a pod.
            rule("apps", &["replicasets"], &["get"]),
            // Annotated workloads without pods, which a Backup names.
            rule("apps", &["deployments", "statefulsets", "daemonsets"], &["list"]),
            rule("batch", &["cronjobs"], &["list"]),
            // The target of a restore; create it if requested.
            rule("", &["persistentvolumeclaims"], &["get", "create"]),
            // Remove the annotation of a created claim when it is filled. A policy forbids all other changes.
            rule("", &["persistentvolumeclaims"], &["patch"]),
            // Scale down before a restore, and up again. Other fields of a workload are not changed.
            rule("apps", &["deployments/scale", "statefulsets/scale"], &["get", "patch"]),
            // The finalizer of a Restore that has scaled a workload down.
            rule(group, &["restores"], &["patch"]),
            // To report why a pod does not start.
            rule("", &["events"], &["list"]),
            rule("events.k8s.io", &["events"], &["create", "patch"]),
            // An existing object with a planned name is compared, and used only if it is as planned.
            rule("", &["serviceaccounts"], &["get", "create"]),
            rule("rbac.authorization.k8s.io", &["rolebindings"], &["get", "create", "delete"]),
            named(rule("rbac.authorization.k8s.io", &["clusterroles"], &["bind"]), RUNNER_ROLE),
            named(rule("rbac.authorization.k8s.io", &["clusterroles"], &["bind"]), LOCKS_ROLE),
            // A new repository's password. It can be written, but never read.
            rule("", &["secrets"], &["create"]),
            // To find the namespaces that request an injection, opt out of backups, or enforce a Pod Security level.
            rule("", &["namespaces"], &["list", "watch"]),
            // Pods are replaced only while the webhook is Ready.
            named(rule("apps", &["deployments"], &["get"]), "stowaway-webhook"),
            // The cluster's id is this namespace's UID.
            named(rule("", &["namespaces"], &["get"]), "kube-system"),
        ]),
        aggregation_rule: None,
    }
}

/// The controller's rights in its own namespace, to show that it is alive. See [`webhook_own`] about the verb create.
pub(super) fn controller_own(namespace: &str) -> Role {
    Role {
        metadata: metadata(CONTROLLER, "controller", Some(namespace)),
        rules: Some(vec![named(
            rule("coordination.k8s.io", &["leases"], &["get", "create", "patch", "update"]),
            CONTROLLER_LEASE,
        )]),
    }
}

/// Lets the controller replace pods that run without a requested injection. It is not bound by default: an
/// administrator binds it to the controller, for one namespace or for all. The API server then respects the
/// `PodDisruptionBudget`s.
pub(super) fn repair() -> ClusterRole {
    ClusterRole {
        metadata: metadata("stowaway-repair", "controller", None),
        rules: Some(vec![rule("", &["pods/eviction"], &["create"])]),
        aggregation_rule: None,
    }
}

/// The rights of a run in its own namespace, while it lasts.
pub(super) fn runner() -> ClusterRole {
    ClusterRole {
        metadata: metadata(RUNNER_ROLE, "controller", None),
        rules: Some(vec![
            rule("", &["pods"], &["get"]),
            rule("", &["pods/exec"], &["get", "create"]),
            // A restore's own command is in the Restore, not in the Job.
            rule(api::GROUP, &["restores"], &["get"]),
            progress(),
        ]),
        aggregation_rule: None,
    }
}

/// The rights of a run that does not exec, in its own namespace and while it lasts: check whether the holders of locks
/// are alive, and report its progress.
pub(super) fn locks() -> ClusterRole {
    ClusterRole {
        metadata: metadata(LOCKS_ROLE, "controller", None),
        rules: Some(vec![rule("", &["pods"], &["get"]), progress()]),
        aggregation_rule: None,
    }
}

/// A run reports its progress in an Event. No decision depends on it.
fn progress() -> PolicyRule {
    rule("", &["events"], &["create", "patch"])
}

/// The webhook's rights in the whole cluster: read the bundles in its own configurations, and read the Repositories,
/// which a pod's warning may name. It reads no pods and no Secrets, and cannot exec; each admission request contains
/// the object. It does not write webhook configurations, not even its own. The right to write one lets its holder have
/// every object of the cluster sent to a webhook, and no policy can limit that, because the API server calls none for
/// these objects.
pub(super) fn webhook() -> ClusterRole {
    ClusterRole {
        metadata: metadata(WEBHOOK, "webhook", None),
        rules: Some(vec![
            named(rule("admissionregistration.k8s.io", &CONFIGURATIONS, &["get", "list", "watch"]), WEBHOOK),
            rule(api::GROUP, &["repositories"], &["get", "list", "watch"]),
        ]),
        aggregation_rule: None,
    }
}

const CONFIGURATIONS: [&str; 2] = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];

/// The webhook's rights in its own namespace: maintain its authority, compete for the Lease, and propose the bundle for
/// the API server. A server-side apply names the object, so even the verb create can be restricted to one name.
pub(super) fn webhook_own(namespace: &str) -> Role {
    Role {
        metadata: metadata(WEBHOOK, "webhook", Some(namespace)),
        rules: Some(vec![
            named(rule("", &["secrets"], &["get", "list", "watch", "create", "patch", "update"]), AUTHORITY),
            named(rule("coordination.k8s.io", &["leases"], &["get", "create", "patch", "update"]), LEASE),
            named(rule("", &["configmaps"], &["get", "create", "patch", "update"]), TRUST),
        ]),
    }
}

/// The bundle writer's rights in the whole cluster: write the two webhook configurations.
pub(super) fn trust() -> ClusterRole {
    ClusterRole {
        metadata: metadata(TRUST, "trust", None),
        rules: Some(vec![named(
            rule("admissionregistration.k8s.io", &CONFIGURATIONS, &["get", "list", "watch", "patch"]),
            WEBHOOK,
        )]),
        aggregation_rule: None,
    }
}

/// The bundle writer's rights in its own namespace: read the proposal.
pub(super) fn trust_own(namespace: &str) -> Role {
    Role {
        metadata: metadata(TRUST, "trust", Some(namespace)),
        rules: Some(vec![named(rule("", &["configmaps"], &["get", "list", "watch"]), TRUST)]),
    }
}

pub(super) fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

pub(super) fn named(rule: PolicyRule, name: &str) -> PolicyRule {
    PolicyRule { resource_names: Some(vec![name.to_owned()]), ..rule }
}
