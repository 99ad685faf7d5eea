//! The user and group which Stowaway's containers run as. They match the owner of the app's files, as far as the pod's
//! security contexts show it. The user of an image is not known here.
//!
//! | the pod's security contexts set | Stowaway's containers run as |
//! |---|---|
//! | `runAsUser` | that user; root with few capabilities if it is 0 |
//! | `runAsNonRoot` without `runAsUser` | 65532 |
//! | neither | root with few capabilities, because the app itself may be root; Pod Security `restricted` would not admit it |

/// The user `nonroot` of distroless images, and the user and group of Stowaway's image.
pub const NON_ROOT: u64 = 65_532;

/// The user settings of one container: its own, else its pod's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RunAs {
    /// `runAsUser`.
    pub user: Option<u64>,
    /// `runAsGroup`.
    pub group: Option<u64>,
    /// `runAsNonRoot`.
    pub non_root: bool,
}

/// The owner of the files in some volumes, as far as the security contexts show it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileOwner {
    /// There are no volumes, so there are no files.
    NoFiles,
    Known {
        user: u64,
        group: Option<u64>,
    },
    /// Any user but root.
    NotRoot {
        group: Option<u64>,
    },
    /// Any user, possibly root.
    Unknown {
        group: Option<u64>,
    },
}

impl FileOwner {
    /// The owner by the settings of the containers which use the volumes. The first container with a user decides.
    pub fn of(settings: &[RunAs]) -> Self {
        let known = settings.iter().find_map(|run_as| Some(Self::Known { user: run_as.user?, group: run_as.group }));
        let group = settings.iter().find_map(|run_as| run_as.group);
        let are_non_root = !settings.is_empty() && settings.iter().all(|run_as| run_as.non_root);
        known.unwrap_or(if are_non_root { Self::NotRoot { group } } else { Self::Unknown { group } })
    }

    /// The user and group which Stowaway's containers run as; `in_group` is the group if the owner's group is not
    /// known.
    pub fn user(self, in_group: Option<u64>) -> (u64, Option<u64>) {
        match self {
            Self::NoFiles => (NON_ROOT, Some(NON_ROOT)),
            Self::Known { user, group } => (user, group.or(in_group)),
            Self::NotRoot { group } => (NON_ROOT, group.or(Some(NON_ROOT))),
            Self::Unknown { group } => (0, group.or(in_group)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: RunAs = RunAs { user: None, group: None, non_root: false };

    #[test]
    fn first_user_of_any_container_is_the_owner() {
        let numbered = RunAs { user: Some(999), group: Some(7), non_root: true };
        assert_eq!(FileOwner::of(&[NOTHING, numbered]).user(None), (999, Some(7)));
        assert_eq!(FileOwner::of(&[RunAs { group: None, ..numbered }]).user(Some(5)), (999, Some(5)));
        assert_eq!(FileOwner::of(&[RunAs { user: Some(0), ..NOTHING }]).user(None), (0, None));
    }

    #[test]
    fn root_is_assumed_unless_all_containers_are_non_root() {
        let non_root = RunAs { non_root: true, ..NOTHING };
        assert_eq!(FileOwner::of(&[]).user(None), (0, None));
        assert_eq!(FileOwner::of(&[NOTHING, non_root]).user(None), (0, None));
        assert_eq!(FileOwner::of(&[non_root, non_root]).user(None), (65_532, Some(65_532)));
        assert_eq!(FileOwner::NoFiles.user(Some(5)), (65_532, Some(65_532)));
    }
}
