//! Of which version that is which was injected into a pod.
//!
//! It must not know what is injected for what.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::model::{
    image::is_same_content,
    injected::{HELPER_VOLUME, RESTORE_CONTAINER, SIDECAR_CONTAINER},
};

/// Of which version it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InjectedVersion {
    /// That of the installation.
    Current,
    /// Another one, which stays until the pod is replaced.
    Other,
}

/// Of which version that is which was injected; none where nothing was. `image` is that of the installation.
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
    fn version_is_that_of_the_image_of_all_that_was_injected() {
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
