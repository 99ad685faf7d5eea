//! Whom ours run as: whoever owns the app's files.
//!
//! It must not know what they do with them. What an image says of its user is not known here.
//!
//! | the pod says | ours run as |
//! |---|---|
//! | a number | that user; root with few capabilities if it is 0 |
//! | `runAsNonRoot`, without a number | 65532 |
//! | nothing | root with few capabilities: the app itself may be root, and Pod Security `restricted` would not let it in |

use serde_json::Value;

use super::{
    NON_ROOT,
    pod::{ContainerView, List, PodView},
};

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

/// User and group of our image.
pub(super) const OF_OUR_IMAGE: User = User::Numbers { user: NON_ROOT, group: Some(NON_ROOT) };

/// Who owns the files in some volumes, as far as the pod says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    /// There are no files.
    Nobody,
    /// This user.
    Known {
        /// The user.
        user: u64,
        /// The group.
        group: Option<u64>,
    },
    /// Anybody but root.
    NotRoot {
        /// The group.
        group: Option<u64>,
    },
    /// Anybody.
    Unsaid {
        /// The group.
        group: Option<u64>,
    },
}

impl Owner {
    /// Whoever mounts the volumes; an app's container is asked before one that only prepares them. What nobody mounts may
    /// belong to any of them.
    pub fn of(view: &PodView<'_>, volumes: &[&str]) -> Self {
        if volumes.is_empty() {
            return Self::Nobody;
        }
        let mounts = |container: &&ContainerView<'_>| container.mounts().any(|(name, _)| volumes.contains(&name));
        // One for debugging comes later, and shall not change what was decided.
        let all = || view.of_the_user().filter(|container| container.list != List::Ephemeral);
        let mut owners: Vec<&ContainerView<'_>> = all().filter(mounts).collect();
        if owners.is_empty() {
            owners = all().collect();
        }
        let number = |container: &ContainerView<'_>, field: &str| said(view, container, field).and_then(Value::as_u64);
        let known = owners.iter().find_map(|container| {
            Some(Self::Known { user: number(container, "runAsUser")?, group: number(container, "runAsGroup") })
        });
        let group = owners.iter().find_map(|container| number(container, "runAsGroup"));
        let is_non_root =
            |container: &&ContainerView<'_>| said(view, container, "runAsNonRoot") == Some(&Value::Bool(true));
        known.unwrap_or(if owners.iter().all(is_non_root) { Self::NotRoot { group } } else { Self::Unsaid { group } })
    }

    /// Whom sidecar and restore step run as; in `group` where the pod says nothing of its own.
    pub fn user(self, in_group: Option<u64>) -> User {
        match self {
            Self::Nobody => OF_OUR_IMAGE,
            Self::Known { user, group } => User::Numbers { user, group: group.or(in_group) },
            Self::NotRoot { group } => User::Numbers { user: NON_ROOT, group: group.or(Some(NON_ROOT)) },
            Self::Unsaid { group } => User::Numbers { user: 0, group: group.or(in_group) },
        }
    }

    /// What should be known of it.
    pub fn warning(self, volumes: &[&str]) -> Option<String> {
        let volumes = volumes.join(", ");
        match self {
            Self::Nobody | Self::Known { .. } => None,
            Self::NotRoot { .. } => Some(format!(
                "nothing in the pod says as which user the files of {volumes} are written, so Stowaway uses {NON_ROOT}, which \
                 can use only what is open to everybody or to the pod's fsGroup; set securityContext.runAsUser"
            )),
            Self::Unsaid { .. } => Some(format!(
                "nothing in the pod says as which user the files of {volumes} are written, so Stowaway's containers run as \
                 root, with no more rights than to read and write those files; set securityContext.runAsUser"
            )),
        }
    }
}

/// A field of the security context: the container's own, else the pod's.
fn said<'a>(view: &PodView<'a>, container: &ContainerView<'a>, field: &str) -> Option<&'a Value> {
    let own = container.container.get("securityContext").and_then(|context| context.get(field));
    own.filter(|value| !value.is_null()).or_else(|| view.security(field))
}
