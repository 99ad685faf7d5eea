//! The version of the containers which were injected into a pod.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::model::{
    image::is_same_content,
    injected::{HELPER_VOLUME, RESTORE_CONTAINER, SIDECAR_CONTAINER},
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InjectedVersion {
    /// All injected containers have the image of the installation.
    Current,
    /// At least one has another image, which stays until the pod is replaced.
    Other,
}

/// The version of the injected containers; `None` if there are none. `image` is the image of the installation.
pub fn injected_version(pod: &PodSpec, image: &str) -> Option<InjectedVersion> {
    let containers = || pod.init_containers.iter().flatten().chain(&pod.containers);
    let is_injected =
        |container: &&Container| [HELPER_VOLUME, SIDECAR_CONTAINER, RESTORE_CONTAINER].contains(&&*container.name);
    let mut injected = containers().filter(is_injected).peekable();
    injected.peek()?;
    let is_current =
        injected.all(|container| container.image.as_deref().is_some_and(|injected| is_same_content(injected, image)));
    Some(if is_current { InjectedVersion::Current } else { InjectedVersion::Other })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn version_is_current_if_all_injected_containers_have_the_image() {
        let version = |containers: &[(&str, &str)]| {
            let containers: Vec<_> =
                containers.iter().map(|(name, image)| json!({ "name": name, "image": image })).collect();
            let pod: PodSpec =
                serde_json::from_value(json!({ "initContainers": containers, "containers": [] })).unwrap();
            injected_version(&pod, "registry/stowaway:2")
        };
        assert_eq!(version(&[("migrate", "app:1")]), None);
        assert_eq!(version(&[("stowaway-helper", "registry/stowaway:2")]), Some(InjectedVersion::Current));
        let mixed = [("stowaway-helper", "registry/stowaway:2"), ("stowaway-sidecar", "registry/stowaway:1")];
        assert_eq!(version(&mixed), Some(InjectedVersion::Other));
    }
}
