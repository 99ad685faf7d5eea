//! Whom sidecar and restore step run as: whoever owns the app's files, which is read from the pod's raw JSON here.
//!
//! It must not know what they do with the files; the rule itself is `plan::Owner`'s.

use serde_json::Value;

use super::pod::{ContainerView, List, PodView};
use crate::plan::{NON_ROOT, Owner, Said};

/// Whom a container runs as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum User {
    /// As the pod says.
    Inherited,
    /// As these numbers.
    Numbers {
        /// The user.
        user: u64,
        /// The group; the image's, which has none of the app's rights, when there is none.
        group: Option<u64>,
    },
}

impl User {
    /// Who can use the files of that owner; in `group` where the pod says nothing of its own.
    pub fn of(owner: Owner, group: Option<u64>) -> Self {
        let (user, group) = owner.user(group);
        Self::Numbers { user, group }
    }
}

/// User and group of our image.
pub(super) const OF_OUR_IMAGE: User = User::Numbers { user: NON_ROOT, group: Some(NON_ROOT) };

/// Whose the files of these volumes are: an app's container is asked before one that only prepares them. What nobody mounts
/// may belong to any of them.
pub(super) fn owner(view: &PodView<'_>, volumes: &[&str]) -> Owner {
    if volumes.is_empty() {
        return Owner::Nobody;
    }
    let mounts = |container: &&ContainerView<'_>| container.mounts().any(|(name, _)| volumes.contains(&name));
    // One for debugging comes later, and shall not change what was decided.
    let all = || view.of_the_user().filter(|container| container.list != List::Ephemeral);
    let mut owners: Vec<&ContainerView<'_>> = all().filter(mounts).collect();
    if owners.is_empty() {
        owners = all().collect();
    }
    let said: Vec<Said> = owners
        .into_iter()
        .map(|container| {
            let field = |name: &str| field(view, container, name);
            Said {
                user: field("runAsUser").and_then(Value::as_u64),
                group: field("runAsGroup").and_then(Value::as_u64),
                non_root: field("runAsNonRoot") == Some(&Value::Bool(true)),
            }
        })
        .collect();
    Owner::of(&said)
}

/// What should be known of it.
pub(super) fn warning(owner: Owner, volumes: &[&str]) -> Option<String> {
    let volumes = volumes.join(", ");
    match owner {
        Owner::Nobody | Owner::Known { .. } => None,
        Owner::NotRoot { .. } => Some(format!(
            "nothing in the pod says as which user the files of {volumes} are written, so Stowaway uses {NON_ROOT}, which \
             can use only what is open to everybody or to the pod's fsGroup; set securityContext.runAsUser"
        )),
        Owner::Unsaid { .. } => Some(format!(
            "nothing in the pod says as which user the files of {volumes} are written, so Stowaway's containers run as \
             root, with no more rights than to read and write those files; set securityContext.runAsUser"
        )),
    }
}

/// A field of the security context: the container's own, else the pod's.
fn field<'a>(view: &PodView<'a>, container: &ContainerView<'a>, field: &str) -> Option<&'a Value> {
    let own = container.container.get("securityContext").and_then(|context| context.get(field));
    own.filter(|value| !value.is_null()).or_else(|| view.security(field))
}
