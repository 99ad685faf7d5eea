//! Limits what the controller's account may create, bind and delete. Its rights apply in all namespaces, and RBAC
//! cannot restrict the content of an object. With these policies, a stolen token of the controller can only start runs,
//! grant rights only to the accounts of runs, and delete only objects that Stowaway created.
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
    model::mounts,
    plan::labels::{KIND, MANAGED_BY, MANAGER},
    resources::{
        names::{ACCOUNT_PREFIX, RUNNER_CONTAINER},
        rbac::{LOCKS_ROLE, RUNNER_ROLE},
    },
};

/// The volumes of a run's pod that may be of any kind: the stores of a Repository or of an archive.
const STORE_VOLUMES: [&str; 2] = ["repository", "archive"];

pub(super) fn guards(installation: &Installation<'_>) -> [Guard; 8] {
    let concerns = || Some(("is-the-controller", is_controller(installation.namespace)));
    let prefix = text(ACCOUNT_PREFIX);
    let of_group = format!("owner.apiVersion.startsWith({})", text(&format!("{}/", api::GROUP)));
    let owned = |object: &str, condition: &str| {
        format!(
            "{object}.metadata.?ownerReferences.orValue([]).exists(owner, owner.?controller.orValue(false) && {condition})"
        )
    };
    let is_managed = format!("object.metadata.?labels[?{}].orValue('') == {}", text(MANAGED_BY), text(MANAGER));
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
            name: "stowaway-controller-jobs",
            rules: vec![("batch", &["jobs"], &["CREATE"])],
            concerns: concerns(),
            expression: [
                owned("object", &of_group),
                is_managed.clone(),
                format!("object.metadata.?labels[?{}].orValue('') != ''", text(KIND)),
                is_a_run(&prefix, installation.image),
            ]
            .join(" && "),
            message: "Stowaway's controller may create only the Jobs of runs: with its labels and owner, an account of runs, \
                      the image of the installation (`stowaway manifests --image` sets both), and no access to the host",
        },
        Guard {
            name: "stowaway-controller-job-deletes",
            rules: vec![("batch", &["jobs"], &["DELETE"])],
            concerns: concerns(),
            expression: owned("oldObject", &of_group),
            message: "Stowaway's controller may delete only Jobs of its own objects",
        },
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
            expression: owned("oldObject", &format!("{of_group} && owner.kind == 'Backup'")),
            message: "Stowaway's controller may delete only claims and VolumeSnapshots that one of its Backups created",
        },
        Guard {
            name: "stowaway-controller-claims",
            rules: vec![("", &["persistentvolumeclaims"], &["UPDATE"])],
            concerns: concerns(),
            expression: only_removes_annotation(api::RESTORE_UNFINISHED),
            message: "Stowaway's controller may change a claim only by removing the annotation stowaway.dev/restore-unfinished",
        },
    ]
}

/// The update changes nothing which a user sets, except that it may remove the annotation of this key.
fn only_removes_annotation(key: &str) -> String {
    let fields = [("labels", "{}"), ("finalizers", "[]"), ("ownerReferences", "[]")].map(|(field, none)| {
        let value = |object: &str| format!("{object}.metadata.?{field}.orValue({none})");
        format!("{} == {}", value("object"), value("oldObject"))
    });
    let annotations = |object: &str| format!("{object}.metadata.?annotations.orValue({{}})");
    let (new, old, key) = (annotations("object"), annotations("oldObject"), text(key));
    [
        "object.spec == oldObject.spec".to_owned(),
        fields.join(" && "),
        format!("{new}.all(key, key in {old} && {new}[key] == {old}[key])"),
        format!("{old}.all(key, key == {key} || key in {new})"),
    ]
    .join(" && ")
}

/// The Job's pod is that of a run.
fn is_a_run(prefix: &str, image: &str) -> String {
    let pod = "object.spec.template.spec";
    let not_of_the_host = ["hostNetwork", "hostPID", "hostIPC"].map(|field| format!("!{pod}.?{field}.orValue(false)"));
    let image =
        format!("(container.image == {image} || container.image.startsWith({image} + '@'))", image = text(image));
    let container = [
        format!("container.name == {}", text(RUNNER_CONTAINER)),
        image,
        "container.?command.orValue([]) == []".to_owned(),
        "container.?args.orValue([]) == ['runner']".to_owned(),
        "!container.?securityContext.?privileged.orValue(false)".to_owned(),
        "!container.?securityContext.?allowPrivilegeEscalation.orValue(true)".to_owned(),
        format!(
            "container.?securityContext.?capabilities.?add.orValue([]).all(capability, capability in {})",
            list(mounts::RIGHTS_TO_RESTORE)
        ),
    ];
    [
        format!("{pod}.?serviceAccountName.orValue('') == {prefix} + object.metadata.name"),
        not_of_the_host.join(" && "),
        format!("size({pod}.?initContainers.orValue([])) == 0"),
        format!("size({pod}.containers) == 1"),
        format!("{pod}.containers.all(container, {})", container.join(" && ")),
        format!(
            "{pod}.?volumes.orValue([]).all(volume, !has(volume.hostPath) || volume.name in {})",
            list(STORE_VOLUMES)
        ),
    ]
    .join(" && ")
}
