//! The user which the sidecar and the restore step run as. It is the owner of the app's files, which is derived from
//! the security contexts in the pod's raw JSON by the rule in `plan/owner.rs`.

use serde_json::Value;

use super::pod::{ContainerView, List, PodView};
use crate::plan::{FileOwner, NON_ROOT, RunAs};

/// The user of a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum User {
    /// The user that the pod specifies.
    Inherited,
    /// A fixed user id.
    Numbers {
        user: u64,
        /// The group id. Without it, the container has the image's group, which has none of the app's rights.
        group: Option<u64>,
    },
}

impl User {
    /// The user which can access that owner's files; in `group` if the pod specifies no group.
    pub fn of(owner: FileOwner, group: Option<u64>) -> Self {
        let (user, group) = owner.user(group);
        Self::Numbers { user, group }
    }
}

/// User and group of Stowaway's image.
pub(super) const OF_OUR_IMAGE: User = User::Numbers { user: NON_ROOT, group: Some(NON_ROOT) };

/// The owner of the files in these volumes. The containers that mount a volume determine it (or all containers, if
/// none does), first the app's containers and then the init containers.
pub(super) fn owner(view: &PodView<'_>, volumes: &[&str]) -> FileOwner {
    if volumes.is_empty() {
        return FileOwner::NoFiles;
    }
    let mounts = |container: &&ContainerView<'_>| container.mounts().any(|(name, _)| volumes.contains(&name));
    // Debug containers are ignored, because they are added later and must not change the decision.
    let all = || view.of_the_user().filter(|container| container.list != List::Ephemeral);
    let mut owners: Vec<&ContainerView<'_>> = all().filter(mounts).collect();
    if owners.is_empty() {
        owners = all().collect();
    }
    let contexts: Vec<RunAs> = owners
        .into_iter()
        .map(|container| {
            let field = |name: &str| field(view, container, name);
            RunAs {
                user: field("runAsUser").and_then(Value::as_u64),
                group: field("runAsGroup").and_then(Value::as_u64),
                non_root: field("runAsNonRoot") == Some(&Value::Bool(true)),
            }
        })
        .collect();
    FileOwner::of(&contexts)
}

/// A warning about the owner, if the pod does not specify it.
pub(super) fn warning(owner: FileOwner, volumes: &[&str]) -> Option<String> {
    let volumes = volumes.join(", ");
    match owner {
        FileOwner::NoFiles | FileOwner::Known { .. } => None,
        FileOwner::NotRoot { .. } => Some(format!(
            "the pod does not specify which user writes the files of {volumes}, so Stowaway uses {NON_ROOT}, which can \
             access only files that are open to all users or to the pod's fsGroup; set securityContext.runAsUser"
        )),
        FileOwner::Unknown { .. } => Some(format!(
            "the pod does not specify which user writes the files of {volumes}, so Stowaway's containers run as root, with \
             no more rights than to read and write those files; set securityContext.runAsUser"
        )),
    }
}

/// A field of the container's security context, or else of the pod's.
fn field<'a>(view: &PodView<'a>, container: &ContainerView<'a>, field: &str) -> Option<&'a Value> {
    let own = container.container.get("securityContext").and_then(|context| context.get(field));
    own.filter(|value| !value.is_null()).or_else(|| view.security(field))
}
