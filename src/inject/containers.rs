//! The containers, volumes and mounts that are put into pods, as JSON.
//!
//! Each of them passes Pod Security `restricted` wherever the app does. Values that Kubernetes omits when it serializes
//! an object (`readOnly: false`, empty lists) are omitted here, so that a later comparison recognizes them. No
//! container opens a port, so `hostNetwork` makes no difference.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    plan::InjectionPlan,
    pod::PodView,
    resources,
    run_as::{OF_OUR_IMAGE, User},
    store::Store,
};
use crate::model::{
    SECRET_SOURCES_VARIABLE,
    injected::{
        BACKEND_VARIABLE, CLUSTER_VARIABLE, CONNECTION_VARIABLE, HELPER_IN_IMAGE, HELPER_MOUNT, HELPER_PROGRAM,
        HELPER_VOLUME, REPOSITORY_ID_VARIABLE, REPOSITORY_VOLUME, RESTORE_CONTAINER, SCRATCH_MOUNT, SCRATCH_VOLUME,
        SECRET_VOLUME_PREFIX, SECRETS_FOLDER, SIDECAR_CONTAINER, SIDECAR_ROLE, SOCKET_MOUNT, SOCKET_VOLUME,
        STORE_MOUNT, STORE_VOLUME, VOLUMES_FOLDER,
    },
    mounts,
};

/// Mode of a Secret's files. They belong to root, and a pod need not have an `fsGroup`, so every user must be able to
/// read them.
pub(super) const READABLE: u32 = 0o444;

/// The init container that copies the helper.
pub(super) fn helper(view: &PodView<'_>, image: &str) -> Value {
    // Prefer the pod's own user, because the namespace's policies allow it.
    let inherited = view.security("runAsUser").and_then(Value::as_u64).is_some_and(|user| user != 0);
    let user = if inherited { User::Inherited } else { OF_OUR_IMAGE };
    with_resources(
        json!({
            "name": HELPER_VOLUME,
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": [HELPER_IN_IMAGE, "install", HELPER_PROGRAM],
            "securityContext": security(user, &[]),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{ "name": HELPER_VOLUME, "mountPath": HELPER_MOUNT }],
        }),
        resources::of_init(view, resources::COPY_MEMORY),
    )
}

/// The native sidecar. It has no probes, because a failing probe would take the app's pod out of service.
pub(super) fn sidecar(view: &PodView<'_>, plan: &InjectionPlan<'_>, image: &str) -> Value {
    let mut container = worker(view, plan, image, SIDECAR_CONTAINER, SIDECAR_ROLE, true);
    container["restartPolicy"] = "Always".into();
    with_resources(container, resources::of_sidecar(view, plan.sidecar_resources.as_ref()))
}

/// The init container that restores into empty volumes.
pub(super) fn restore(view: &PodView<'_>, plan: &InjectionPlan<'_>, image: &str) -> Value {
    let container = worker(view, plan, image, RESTORE_CONTAINER, "restore-step", false);
    with_resources(container, resources::of_init(view, mounts::WORK_MEMORY))
}

/// The common part of the sidecar and the restore step: the volumes, the store, and the user. The volumes and their
/// sources are arguments, because neither container can query its pod, and unlike annotations the arguments of a
/// container cannot be changed later.
fn worker(view: &PodView<'_>, plan: &InjectionPlan<'_>, image: &str, name: &str, role: &str, read_only: bool) -> Value {
    let mut volume_mounts = vec![
        json!({ "name": STORE_VOLUME, "mountPath": STORE_MOUNT, "readOnly": true }),
        json!({ "name": SCRATCH_VOLUME, "mountPath": SCRATCH_MOUNT }),
    ];
    if plan.store.as_ref().is_some_and(|store| store.volume.is_some()) {
        volume_mounts.push(json!({ "name": REPOSITORY_VOLUME, "mountPath": mounts::REPOSITORY_FOLDER }));
    }
    if read_only && plan.uses_socket() {
        volume_mounts.push(json!({ "name": SOCKET_VOLUME, "mountPath": SOCKET_MOUNT }));
    }
    for volume in &plan.volumes {
        let mut mount = json!({ "name": volume, "mountPath": format!("{VOLUMES_FOLDER}/{volume}") });
        if read_only {
            mount["readOnly"] = true.into();
        }
        volume_mounts.push(mount);
    }
    let mut arguments = vec![role.to_owned()];
    arguments.extend(plan.volumes.iter().map(|volume| match view.claim(volume) {
        Some(source) => format!("--volume={volume}={source}"),
        None => format!("--volume={volume}"),
    }));
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    let mut environment = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
    ];
    let allocator: &[_] = if read_only { &mounts::STORING_ALLOCATOR } else { &mounts::ALLOCATOR };
    environment.extend(allocator.iter().map(|(name, setting)| value(name, setting)));
    environment.extend(plan.store.as_ref().map(|store| value(BACKEND_VARIABLE, &store.backend)));
    let connection = plan.store.as_ref().and_then(|store| store.connection.as_ref());
    environment.extend(connection.map(|connection| value(CONNECTION_VARIABLE, connection)));
    environment.extend(plan.store.as_ref().map(|store| value(SECRET_SOURCES_VARIABLE, &store.secret_sources)));
    // The sidecar receives the cluster's id with each run.
    let cluster = plan.store.as_ref().and_then(|store| store.cluster.as_ref()).filter(|_| !read_only);
    environment.extend(cluster.map(|cluster| value(CLUSTER_VARIABLE, cluster)));
    let id = plan.store.as_ref().and_then(|store| store.repository_id.as_ref()).filter(|_| !read_only);
    environment.extend(id.map(|id| value(REPOSITORY_ID_VARIABLE, id)));
    environment.extend(plan.store.iter().flat_map(|store| store.environment.iter().cloned()));
    let capabilities: &[&str] = if read_only { &["DAC_OVERRIDE"] } else { &mounts::RIGHTS_TO_RESTORE };
    let user = User::of(plan.owner, plan.store.as_ref().and_then(Store::group));
    json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "env": environment,
        "securityContext": security(user, capabilities),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": volume_mounts,
    })
}

/// A security context. The container runs as root only where the app itself may run as root, and then only with
/// `capabilities`. Root in the app's containers has these capabilities, too, and Pod Security `baseline` allows them.
fn security(user: User, capabilities: &[&str]) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    if let User::Numbers { user, group } = user {
        context["runAsUser"] = user.into();
        if let Some(group) = group {
            context["runAsGroup"] = group.into();
        }
        if user == 0 {
            context["runAsNonRoot"] = false.into();
            context["capabilities"]["add"] = capabilities.into();
        }
    }
    context
}

fn with_resources(mut container: Value, resources: Option<Value>) -> Value {
    if let Some(resources) = resources {
        container["resources"] = resources;
    }
    container
}

/// All volumes that the plan needs, in order.
pub(super) fn volumes(plan: &InjectionPlan<'_>) -> Vec<Value> {
    // A pod that exceeds a limit is evicted, so each limit is several times what is written. The scratch volume holds
    // the index of a large repository, some 120 bytes per blob, and the entries of a large directory.
    let empty = |name: &str, limit: &str| json!({ "name": name, "emptyDir": { "sizeLimit": limit } });
    let mut volumes = Vec::new();
    if plan.uses_helper() {
        volumes.push(empty(HELPER_VOLUME, "16Mi"));
    }
    if plan.uses_socket() {
        volumes.push(empty(SOCKET_VOLUME, "1Mi"));
    }
    if let Some(store) = &plan.store {
        volumes.push(store.secrets.clone());
        volumes.extend(store.volume.clone());
    }
    if plan.uses_store() {
        volumes.push(empty(SCRATCH_VOLUME, "4Gi"));
    }
    volumes.extend(plan.secrets.iter().map(|secret| {
        json!({
            "name": secret_volume(secret),
            "secret": { "secretName": secret, "defaultMode": READABLE, "optional": true },
        })
    }));
    volumes
}

/// The mounts of a command's container.
pub(super) fn mounts_of_target(plan: &InjectionPlan<'_>) -> Vec<Value> {
    let read_only = |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
    let mut found = vec![read_only(HELPER_VOLUME, HELPER_MOUNT)];
    if plan.uses_socket() {
        // Connecting to a socket does not require write access to its file system.
        found.push(read_only(SOCKET_VOLUME, SOCKET_MOUNT));
    }
    found.extend(
        plan.secrets.iter().map(|secret| read_only(&secret_volume(secret), &format!("{SECRETS_FOLDER}/{secret}"))),
    );
    found
}

/// The name of a Secret's volume. It is a digest, because the name of a Secret may be longer than a volume's and may
/// have dots.
pub(super) fn secret_volume(secret: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    let number = digest.first_chunk().copied().map_or(0, u64::from_be_bytes);
    format!("{SECRET_VOLUME_PREFIX}{number:016x}")
}
