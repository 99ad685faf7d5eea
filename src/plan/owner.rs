//! Whom ours run as where they use an app's files: whoever owns them, as far as the app's pod says.
//!
//! It must not know pods. What an image says of its user is not known here.
//!
//! | the pod says | ours run as |
//! |---|---|
//! | a number | that user; root with few capabilities if it is 0 |
//! | `runAsNonRoot`, without a number | 65532 |
//! | nothing | root with few capabilities: the app itself may be root, and Pod Security `restricted` would not let it in |

/// The customary "nonroot" of images without a distribution, and the user and group of our image.
pub const NON_ROOT: u64 = 65_532;

/// What one container says, itself or by its pod, of whom it runs as.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Said {
    /// `runAsUser`.
    pub user: Option<u64>,
    /// `runAsGroup`.
    pub group: Option<u64>,
    /// `runAsNonRoot`.
    pub non_root: bool,
}

/// Who owns the files in some volumes, as far as is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
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
    /// Whoever the first container that names a user names, of those that use the volumes.
    pub fn of(said: &[Said]) -> Self {
        let known = said.iter().find_map(|said| Some(Self::Known { user: said.user?, group: said.group }));
        let group = said.iter().find_map(|said| said.group);
        let are_non_root = !said.is_empty() && said.iter().all(|said| said.non_root);
        known.unwrap_or(if are_non_root { Self::NotRoot { group } } else { Self::Unsaid { group } })
    }

    /// The user and group that ours run as; `in_group` where nothing is said of a group.
    pub fn user(self, in_group: Option<u64>) -> (u64, Option<u64>) {
        match self {
            Self::Nobody => (NON_ROOT, Some(NON_ROOT)),
            Self::Known { user, group } => (user, group.or(in_group)),
            Self::NotRoot { group } => (NON_ROOT, group.or(Some(NON_ROOT))),
            Self::Unsaid { group } => (0, group.or(in_group)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Said = Said { user: None, group: None, non_root: false };

    #[test]
    fn whose_files_they_are_is_what_somebody_says_of_a_number() {
        let said = Said { user: Some(999), group: Some(7), non_root: true };
        assert_eq!(Owner::of(&[NOTHING, said]).user(None), (999, Some(7)));
        assert_eq!(Owner::of(&[Said { group: None, ..said }]).user(Some(5)), (999, Some(5)));
        assert_eq!(Owner::of(&[Said { user: Some(0), ..NOTHING }]).user(None), (0, None));
    }

    #[test]
    fn root_is_taken_unless_all_say_that_they_are_not() {
        let non_root = Said { non_root: true, ..NOTHING };
        assert_eq!(Owner::of(&[]).user(None), (0, None));
        assert_eq!(Owner::of(&[NOTHING, non_root]).user(None), (0, None));
        assert_eq!(Owner::of(&[non_root, non_root]).user(None), (65_532, Some(65_532)));
        assert_eq!(Owner::Nobody.user(Some(5)), (65_532, Some(65_532)));
    }
}
