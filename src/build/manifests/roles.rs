//! The rights of controller, webhook and a run: each verb is there because a call needs it.
//!
//! It must not know who is bound to them.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};

use super::{AUTHORITY, CONTROLLER, CONTROLLER_LEASE, LEASE, TRUST, WEBHOOK, metadata};
use crate::{
    api,
    build::rbac::{LOCKS_ROLE, RUNNER_ROLE},
};

/// What the controller may do in every namespace. It reads no Secret and opens no store.
pub(super) fn controller(name: &str) -> ClusterRole {
    let group = api::GROUP;
    ClusterRole {
        metadata: metadata(name, "controller", None),
        rules: Some(vec![
            rule(group, &["repositories", "backups", "restores"], &["get", "list", "watch"]),
            rule(group, &["repositories/status", "backups/status", "restores/status"], &["patch"]),
            // Clusters that check who blocks an owner's deletion ask for this of whoever sets an owner reference.
            rule(group, &["repositories/finalizers", "backups/finalizers", "restores/finalizers"], &["update"]),
            rule("batch", &["jobs"], &["get", "list", "watch", "create", "patch", "delete"]),
            rule("batch", &["jobs/finalizers"], &["update"]),
            rule("", &["pods"], &["get", "list", "watch"]),
            // Which volumes there are to back up.
            rule("", &["persistentvolumeclaims"], &["list"]),
            // Snapshots of those that ask for it, and claims that are made of them. Those of others are guarded by a policy.
            rule("snapshot.storage.k8s.io", &["volumesnapshots"], &["get", "list", "create", "delete"]),
            rule("", &["persistentvolumeclaims"], &["delete"]),
            // Whether a snapshot can be made, and would leave nothing behind.
            rule("snapshot.storage.k8s.io", &["volumesnapshotclasses"], &["list"]),
            rule("storage.k8s.io", &["storageclasses"], &["list"]),
            rule("", &["persistentvolumes"], &["get"]),
            // To find the Deployment of a pod.
            rule("apps", &["replicasets"], &["get"]),
            // Annotated workloads without pods, which a Backup names.
            rule("apps", &["deployments", "statefulsets", "daemonsets"], &["list"]),
            rule("batch", &["cronjobs"], &["list"]),
            // What a restore writes into; a new one where that is asked for.
            rule("", &["persistentvolumeclaims"], &["get", "create"]),
            // Down before a restore and up again; the rest of a workload is not touched.
            rule("apps", &["deployments/scale", "statefulsets/scale"], &["get", "patch"]),
            // The finalizer of a Restore that has scaled something down.
            rule(group, &["restores"], &["patch"]),
            // Why a pod does not start.
            rule("", &["events"], &["list"]),
            rule("events.k8s.io", &["events"], &["create", "patch"]),
            // What is there under a planned name is looked at, and used only where it is as planned.
            rule("", &["serviceaccounts"], &["get", "create"]),
            rule("rbac.authorization.k8s.io", &["rolebindings"], &["get", "create", "delete"]),
            named(rule("rbac.authorization.k8s.io", &["clusterroles"], &["bind"]), RUNNER_ROLE),
            named(rule("rbac.authorization.k8s.io", &["clusterroles"], &["bind"]), LOCKS_ROLE),
            // A new repository's password; it can be written, never read.
            rule("", &["secrets"], &["create"]),
            // Which namespaces ask for an injection, opt out of backups, or enforce a Pod Security level.
            rule("", &["namespaces"], &["list", "watch"]),
            // Pods are only replaced while the webhook is Ready.
            named(rule("apps", &["deployments"], &["get"]), "stowaway-webhook"),
            // The cluster's id is this namespace's UID.
            named(rule("", &["namespaces"], &["get"]), "kube-system"),
        ]),
        aggregation_rule: None,
    }
}

/// What the controller may do in its own namespace: show that it lives. See [`webhook_own`] for the right to create.
pub(super) fn controller_own(namespace: &str) -> Role {
    Role {
        metadata: metadata(CONTROLLER, "controller", Some(namespace)),
        rules: Some(vec![named(
            rule("coordination.k8s.io", &["leases"], &["get", "create", "patch", "update"]),
            CONTROLLER_LEASE,
        )]),
    }
}

/// What allows the controller to replace pods that run without what they ask for: nobody has it unless somebody binds it to
/// the controller, for one namespace or for all. The API server then keeps to the `PodDisruptionBudget`s.
pub(super) fn repair() -> ClusterRole {
    ClusterRole {
        metadata: metadata("stowaway-repair", "controller", None),
        rules: Some(vec![rule("", &["pods/eviction"], &["create"])]),
        aggregation_rule: None,
    }
}

/// What a run may do in its own namespace, as long as it lasts.
pub(super) fn runner() -> ClusterRole {
    ClusterRole {
        metadata: metadata(RUNNER_ROLE, "controller", None),
        rules: Some(vec![
            rule("", &["pods"], &["get"]),
            rule("", &["pods/exec"], &["get", "create"]),
            // A restore's own command stands in the object, not in the Job.
            rule(api::GROUP, &["restores"], &["get"]),
            progress(),
        ]),
        aggregation_rule: None,
    }
}

/// What a run that execs nowhere may do in its own namespace, as long as it lasts: see whether the holders of locks live, and
/// report how far it is.
pub(super) fn locks() -> ClusterRole {
    ClusterRole {
        metadata: metadata(LOCKS_ROLE, "controller", None),
        rules: Some(vec![rule("", &["pods"], &["get"]), progress()]),
        aggregation_rule: None,
    }
}

/// A run reports how far it is in an Event, which nothing is decided by.
fn progress() -> PolicyRule {
    rule("", &["events"], &["create", "patch"])
}

/// What the webhook may do in the whole cluster: see whom its own configurations trust, and a pod's warning may name the
/// Repositories that there are. It sees no pod, no Secret and no exec; each admission request brings the object. It writes
/// no webhook configuration, not even its own: who may do that may have every object of the cluster sent to a webhook, and no
/// policy limits it, since the API server calls none for these objects.
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

/// What the webhook may do in its own namespace: keep its authority, take turns in leading it, and propose whom the API server
/// is to trust. A server-side apply names what it makes, so that even the right to create is for one name each.
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

/// What the writer of the trust may do in the whole cluster: write the two webhook configurations.
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

/// What it may do in its own namespace: read what the webhook proposes.
pub(super) fn trust_own(namespace: &str) -> Role {
    Role {
        metadata: metadata(TRUST, "trust", Some(namespace)),
        rules: Some(vec![named(rule("", &["configmaps"], &["get", "list", "watch"]), TRUST)]),
    }
}

pub(super) fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
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
