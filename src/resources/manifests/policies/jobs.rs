//! Limits which Jobs the controller's account may create, change and delete.
//!
//! The attacks with a stolen token of the controller, and what prevents each:
//! - *A Job that is no run*: the account, the image, the arguments and the labels are those of a run.
//! - *A Job of another author is stopped or deleted*, also after it was given an owner and labels of Stowaway: only a
//!   Job with the account of a run is changed or deleted, and no other user can create one. Its owners and the labels
//!   by which runs are found are never changed.
//! - *A directory of the node is written to*: only the stores of a Repository and of an archive may be on the host, at
//!   their usual paths in the pod, and in no directory whose files the node itself executes or trusts. Such a Job
//!   cannot run a program of a claim, or relocate the directories that a run uses.
//! - *A run execs in pods that control the cluster, or reads their Secrets*: no run is created in `kube-system` or in
//!   the namespace of the installation.
//!
//! Capabilities are not limited further for Jobs with a directory of the host: a restore into a claim, from a
//! Repository on the host, has all capabilities of a restore.

use super::{
    super::{
        Installation,
        conditions::{list, text},
    },
    Guard,
    accounts::MARKS,
    controller::{is_managed, of_group, owned},
    is_controller,
};
use crate::{
    api::{HOST_PATH_PATTERN, HOST_PATH_TYPES, NODE_FOLDERS, StorePurpose},
    model::mounts,
    plan::labels::{KIND, MANAGED_BY},
    resources::{
        names::{ACCOUNT_PREFIX, RUNNER_CONTAINER},
        settings,
    },
};

/// The namespace of the cluster's own pods. Their containers may have all rights on a node.
const CLUSTER_NAMESPACE: &str = "kube-system";

/// The beginnings of the variables by which the C library of a run would load programs from a claim.
const LOADERS: [&str; 3] = ["LD_", "GLIBC_", "GCONV_"];

const POD: &str = "object.spec.template.spec";

pub(super) fn guards(installation: &Installation<'_>) -> [Guard; 5] {
    let controller = is_controller(installation.namespace);
    let concerns = || Some(("is-the-controller", controller.clone()));
    [
        Guard {
            name: "stowaway-controller-jobs",
            rules: vec![("batch", &["jobs"], &["CREATE"])],
            concerns: concerns(),
            expression: [
                owned("object", &of_group()),
                is_managed(),
                format!("object.metadata.?labels[?{}].orValue('') != ''", text(KIND)),
                is_a_run(installation.image),
            ]
            .join(" && "),
            message: "Stowaway's controller may create only the Jobs of runs: with its labels and owner, an account of runs, \
                      the image of the installation (`stowaway manifests --image` sets both), and no access to the host",
        },
        Guard {
            name: "stowaway-controller-host-paths",
            rules: vec![("batch", &["jobs"], &["CREATE"])],
            concerns: Some((
                "mounts-a-directory-of-the-host",
                format!("{controller} && {POD}.?volumes.orValue([]).exists(volume, has(volume.hostPath))"),
            )),
            expression: mounts_only_stores_of_the_host(),
            message: "a run may mount only a store of the host, and only from a directory that the node itself does not use \
                      (docs/stores.md lists them); move the repository or archive to another directory, and change \
                      hostPath.path",
        },
        Guard {
            name: "stowaway-controller-namespaces",
            rules: vec![
                ("batch", &["jobs"], &["CREATE"]),
                ("rbac.authorization.k8s.io", &["rolebindings"], &["CREATE"]),
            ],
            concerns: concerns(),
            expression: format!("!(request.namespace in {})", list([CLUSTER_NAMESPACE, installation.namespace])),
            message: "Stowaway runs nothing in kube-system or in its own namespace, because a run may exec in the pods there, \
                      which control the cluster; use another namespace, or, if you accept that a stolen token of Stowaway's \
                      controller controls the cluster, delete the ValidatingAdmissionPolicyBinding \
                      stowaway-controller-namespaces",
        },
        Guard {
            name: "stowaway-controller-job-changes",
            rules: vec![("batch", &["jobs"], &["UPDATE"])],
            concerns: concerns(),
            expression: format!("{} && {}", is_an_own_job("oldObject"), keeps_its_marks()),
            message: "Stowaway's controller may change only Jobs of runs, and neither their owners nor their labels",
        },
        Guard {
            name: "stowaway-controller-job-deletes",
            rules: vec![("batch", &["jobs"], &["DELETE"])],
            concerns: concerns(),
            expression: is_an_own_job("oldObject"),
            message: "Stowaway's controller may delete only Jobs of runs",
        },
    ]
}

/// The Job has the account of its own run. No other author can create such a Job.
fn has_its_account(object: &str) -> String {
    format!(
        "{object}.spec.template.spec.?serviceAccountName.orValue('') == {} + {object}.metadata.name",
        text(ACCOUNT_PREFIX)
    )
}

/// The Job is one that the controller created.
fn is_an_own_job(object: &str) -> String {
    format!("{} && {}", owned(object, &of_group()), has_its_account(object))
}

/// The update changes no owner, and no label by which Stowaway finds its Jobs. Another client's webhook may change
/// other labels in the same request.
fn keeps_its_marks() -> String {
    let owners = |object: &str| format!("{object}.metadata.?ownerReferences.orValue([])");
    let label = |object: &str, key: &str| format!("{object}.metadata.?labels[?{}].orValue('')", text(key));
    let labels = MARKS.into_iter().chain([MANAGED_BY]);
    let labels = labels.map(|key| format!("{} == {}", label("object", key), label("oldObject", key)));
    let owners = format!("{} == {}", owners("object"), owners("oldObject"));
    std::iter::once(owners).chain(labels).collect::<Vec<_>>().join(" && ")
}

/// The Job's pod is that of a run.
fn is_a_run(image: &str) -> String {
    let not_of_the_host = ["hostNetwork", "hostPID", "hostIPC"].map(|field| format!("!{POD}.?{field}.orValue(false)"));
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
        has_its_account("object"),
        not_of_the_host.join(" && "),
        format!("size({POD}.?initContainers.orValue([])) == 0"),
        format!("size({POD}.containers) == 1"),
        format!("{POD}.containers.all(container, {})", container.join(" && ")),
    ]
    .join(" && ")
}

/// Each directory of the host is that of a store, and the container is mounted and started as that of a run.
fn mounts_only_stores_of_the_host() -> String {
    let stores = [StorePurpose::Repository, StorePurpose::Archive];
    let path = "volume.hostPath.path";
    let volume = [
        format!("volume.name in {}", list(stores.map(settings::volume_name))),
        format!("volume.hostPath.?type.orValue('') in {}", list(HOST_PATH_TYPES)),
        format!("{path}.matches({})", text(HOST_PATH_PATTERN)),
        // The path with a slash at its end, as in the list.
        format!(
            "[{path} + ({path}.endsWith('/') ? '' : '/')].all(path, !path.matches('^/home/([^/]+/)?$') && \
             {}.all(folder, !path.startsWith(folder) && !folder.startsWith(path)))",
            list(NODE_FOLDERS)
        ),
    ];
    let mount = [
        "mount.?subPath.orValue('') == '' && mount.?subPathExpr.orValue('') == ''".to_owned(),
        format!("mount.mountPath in {}", list(settings::MOUNT_PATHS)),
        stores
            .map(|store| {
                let (name, folder) = (text(settings::volume_name(store)), text(store.volume_folder()));
                format!("(mount.name != {name} || mount.mountPath == {folder})")
            })
            .join(" && "),
    ];
    let loaders = LOADERS.map(|beginning| format!("!variable.name.startsWith({})", text(beginning)));
    let container = [
        format!("container.?volumeMounts.orValue([]).all(mount, {})", mount.join(" && ")),
        "container.?envFrom.orValue([]) == []".to_owned(),
        format!(
            "container.?env.orValue([]).all(variable, variable.name != {} && {})",
            text(mounts::ROOT_VARIABLE),
            loaders.join(" && ")
        ),
        // Each of these runs a program of its own.
        ["lifecycle", "startupProbe", "livenessProbe", "readinessProbe"]
            .map(|field| format!("!has(container.{field})"))
            .join(" && "),
    ];
    [
        format!("{POD}.?volumes.orValue([]).all(volume, !has(volume.hostPath) || {})", volume.join(" && ")),
        format!("{POD}.containers.all(container, {})", container.join(" && ")),
    ]
    .join(" && ")
}
