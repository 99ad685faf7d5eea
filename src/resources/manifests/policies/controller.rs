//! Limits what the controller's account may create, bind, change and delete. Its rights apply in all namespaces, and
//! RBAC cannot restrict the content of an object. With these policies and those in `jobs`, a stolen token of the
//! controller can only start and end runs, grant rights only to the accounts of runs, and delete only objects that
//! Stowaway created.
//!
//! One attack remains possible: to start a run of the attacker's choice, which reads Secrets that its Job mounts, and
//! execs in the namespace of the Job. See `docs/security.md`.

use super::{
    super::{
        Installation,
        conditions::{list, text},
    },
    Guard, is_controller,
};
use crate::{
    api,
    plan::labels::{MANAGED_BY, MANAGER},
    resources::{
        names::ACCOUNT_PREFIX,
        rbac::{LOCKS_ROLE, RUNNER_ROLE},
    },
};

pub(super) fn guards(installation: &Installation<'_>) -> [Guard; 7] {
    let concerns = || Some(("is-the-controller", is_controller(installation.namespace)));
    let prefix = text(ACCOUNT_PREFIX);
    let is_managed = is_managed();
    let binds_a_run = |object: &str| {
        format!(
            "{object}.roleRef.kind == 'ClusterRole' && {object}.roleRef.name in {roles} && \
             {object}.?subjects.orValue([]).all(subject, subject.kind == 'ServiceAccount' && \
             subject.name.startsWith({prefix}) && subject.?namespace.orValue('') == request.namespace)",
            roles = list([RUNNER_ROLE, LOCKS_ROLE])
        )
    };
    let of_a_job = "owner.apiVersion == 'batch/v1' && owner.kind == 'Job'";
    [
        Guard {
            name: "stowaway-controller-bindings",
            rules: vec![("rbac.authorization.k8s.io", &["rolebindings"], &["CREATE", "UPDATE"])],
            concerns: concerns(),
            expression: format!("{} && {}", binds_a_run("object"), owned("object", of_a_job)),
            message: "Stowaway's controller may bind only stowaway-runner and stowaway-locks, each to accounts of runs",
        },
        Guard {
            name: "stowaway-controller-binding-deletes",
            rules: vec![("rbac.authorization.k8s.io", &["rolebindings"], &["DELETE"])],
            concerns: concerns(),
            expression: binds_a_run("oldObject"),
            message: "Stowaway's controller may delete only the RoleBindings of runs",
        },
        Guard {
            name: "stowaway-controller-accounts",
            rules: vec![("", &["serviceaccounts"], &["CREATE", "UPDATE"])],
            concerns: concerns(),
            expression: format!("object.metadata.name.startsWith({prefix})"),
            message: "Stowaway's controller may write only the accounts of runs",
        },
        Guard {
            name: "stowaway-controller-secrets",
            rules: vec![("", &["secrets"], &["CREATE", "UPDATE"])],
            concerns: concerns(),
            expression: format!("object.?type.orValue('Opaque') == 'Opaque' && {is_managed}"),
            message: "Stowaway's controller may create only Secrets with the passwords of repositories",
        },
        Guard {
            name: "stowaway-controller-deletes",
            rules: vec![
                ("", &["persistentvolumeclaims"], &["DELETE"]),
                ("snapshot.storage.k8s.io", &["volumesnapshots"], &["DELETE"]),
            ],
            concerns: concerns(),
            expression: owned("oldObject", &format!("{} && owner.kind == 'Backup'", of_group())),
            message: "Stowaway's controller may delete only claims and VolumeSnapshots that one of its Backups created",
        },
        Guard {
            name: "stowaway-controller-claims",
            rules: vec![("", &["persistentvolumeclaims"], &["UPDATE"])],
            concerns: concerns(),
            expression: only_removes_annotation(api::RESTORE_UNFINISHED),
            message: "Stowaway's controller may change a claim only by removing the annotation stowaway.dev/restore-unfinished",
        },
        Guard {
            name: "stowaway-controller-restores",
            rules: vec![(api::GROUP, &["restores"], &["UPDATE"])],
            concerns: concerns(),
            expression: format!(
                "object.spec == oldObject.spec && {}",
                are_unchanged(&[("labels", "{}"), ("ownerReferences", "[]")])
            ),
            message: "Stowaway's controller may change only the annotations and finalizers of a Restore",
        },
    ]
}

/// The object has a controller for which the condition on `owner` holds.
pub(super) fn owned(object: &str, condition: &str) -> String {
    format!(
        "{object}.metadata.?ownerReferences.orValue([]).exists(owner, owner.?controller.orValue(false) && {condition})"
    )
}

/// The owner is of one of Stowaway's kinds.
pub(super) fn of_group() -> String {
    format!("owner.apiVersion.startsWith({})", text(&format!("{}/", api::GROUP)))
}

/// The object has the label of all objects that Stowaway creates.
pub(super) fn is_managed() -> String {
    format!("object.metadata.?labels[?{}].orValue('') == {}", text(MANAGED_BY), text(MANAGER))
}

/// The update changes none of these fields of the metadata, each with the value that a missing field equals.
fn are_unchanged(fields: &[(&str, &str)]) -> String {
    let unchanged = fields.iter().map(|(field, none)| {
        let value = |object: &str| format!("{object}.metadata.?{field}.orValue({none})");
        format!("{} == {}", value("object"), value("oldObject"))
    });
    unchanged.collect::<Vec<_>>().join(" && ")
}

/// The update changes nothing which a user sets, except that it may remove the annotation of this key.
fn only_removes_annotation(key: &str) -> String {
    let annotations = |object: &str| format!("{object}.metadata.?annotations.orValue({{}})");
    let (new, old, key) = (annotations("object"), annotations("oldObject"), text(key));
    [
        "object.spec == oldObject.spec".to_owned(),
        are_unchanged(&[("labels", "{}"), ("finalizers", "[]"), ("ownerReferences", "[]")]),
        format!("{new}.all(key, key in {old} && {new}[key] == {old}[key])"),
        format!("{old}.all(key, key == {key} || key in {new})"),
    ]
    .join(" && ")
}
