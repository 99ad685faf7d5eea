//! Finds out whether a pod has a Stowaway sidecar which can execute a run. It examines only the given pod object.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::model::{
    BackendConfig,
    injected::{BACKEND_VARIABLE, SIDECAR_CONTAINER, SOCKET_MOUNT, SOCKET_VOLUME},
};

/// The result of the search.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sidecar {
    /// The pod has no sidecar.
    Absent,
    /// The pod has a sidecar which cannot be used, for this reason.
    Unusable(String),
    /// The pod has a usable sidecar.
    Usable,
}

/// Looks for a sidecar which uses this repository. For a command, its container must also have the sidecar's socket
/// mounted.
pub fn find(pod: &Pod, backend: &BackendConfig, container: Option<&str>) -> Sidecar {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    // A container of that name which is not restarted is not Stowaway's.
    let sidecar = init
        .filter(|candidate| candidate.name == SIDECAR_CONTAINER)
        .find(|candidate| candidate.restart_policy.as_deref() == Some("Always"));
    let Some(sidecar) = sidecar else { return Sidecar::Absent };
    if !is_running(pod) {
        return Sidecar::Unusable(format!("container {SIDECAR_CONTAINER} is not running"));
    }
    let variable = sidecar.env.iter().flatten().find(|variable| variable.name == BACKEND_VARIABLE);
    let injected = variable.and_then(|variable| serde_json::from_str::<BackendConfig>(variable.value.as_deref()?).ok());
    if injected.as_ref() != Some(backend) {
        let message = "it was made for another repository; recreate the pod, so that it gets the present one";
        return Sidecar::Unusable(message.to_owned());
    }
    let Some(container) = container else { return Sidecar::Usable };
    let mut containers = spec.into_iter().flat_map(all_containers);
    let has_socket = containers.any(|candidate| {
        candidate.name == container
            && candidate
                .volume_mounts
                .iter()
                .flatten()
                .any(|mount| mount.name == SOCKET_VOLUME && mount.mount_path == SOCKET_MOUNT)
    });
    if has_socket {
        Sidecar::Usable
    } else {
        Sidecar::Unusable(format!("container {container} does not mount its socket; recreate the pod"))
    }
}

fn all_containers(spec: &k8s_openapi::api::core::v1::PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let is_it = |status: &&ContainerStatus| status.name == SIDECAR_CONTAINER;
    statuses.filter(is_it).any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn backend() -> BackendConfig {
        BackendConfig::Folder { path: "/cellar".to_owned() }
    }

    fn pod(change: impl FnOnce(&mut serde_json::Value)) -> Pod {
        let mut pod = json!({
            "spec": {
                "initContainers": [{
                    "name": "stowaway-sidecar",
                    "restartPolicy": "Always",
                    "env": [{ "name": "STOWAWAY_BACKEND", "value": serde_json::to_string(&backend()).unwrap() }]
                }],
                "containers": [
                    { "name": "press", "volumeMounts": [{ "name": "stowaway-socket", "mountPath": "/stowaway-socket" }] },
                    { "name": "other" }
                ]
            },
            "status": { "initContainerStatuses": [{
                "name": "stowaway-sidecar", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": {} }
            }] }
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn sidecar_is_used_only_where_it_runs_for_this_repository_and_can_be_reached() {
        assert_eq!(find(&pod(|_| ()), &backend(), Some("press")), Sidecar::Usable);
        assert_eq!(find(&pod(|_| ()), &backend(), None), Sidecar::Usable);
        assert_eq!(find(&Pod::default(), &backend(), None), Sidecar::Absent);
        let init = pod(|pod| {
            let container = &mut pod["spec"]["initContainers"][0];
            container["restartPolicy"] = json!(null);
        });
        assert_eq!(find(&init, &backend(), None), Sidecar::Absent);
        let other = BackendConfig::Folder { path: "/other".to_owned() };
        for (pod, backend, container) in [
            (pod(|_| ()), other, None),
            (pod(|_| ()), backend(), Some("other")),
            (pod(|_| ()), backend(), Some("missing")),
            (pod(|pod| pod["spec"]["initContainers"][0]["env"] = json!([])), backend(), None),
            (pod(|pod| pod["status"]["initContainerStatuses"][0]["state"] = json!({ "waiting": {} })), backend(), None),
            (pod(|pod| pod["status"] = json!({})), backend(), None),
        ] {
            assert!(matches!(find(&pod, &backend, container), Sidecar::Unusable(_)), "{container:?}");
        }
    }
}
