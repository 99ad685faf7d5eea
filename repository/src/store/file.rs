//! The kinds of a repository's files and their paths, and the modes and results of a write.

use crate::format::Id;

/// The kinds of files in restic's repository layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Kind {
    Config,
    Key,
    Lock,
    Snapshot,
    Index,
    Pack,
}

impl Kind {
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Config => "",
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }

    /// Returns the path of a file within the repository.
    pub fn path(self, id: &Id) -> String {
        let name = id.to_hex();
        match self {
            Self::Config => "config".to_owned(),
            Self::Pack => format!("data/{}/{}", &name.as_str()[..2], name.as_str()),
            other => format!("{}/{}", other.folder(), name.as_str()),
        }
    }
}

/// The behaviour of a write if the file exists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Write {
    /// Replace the file. All names except the config's are hashes of the content, so the replaced content is the same.
    Replace,
    /// Fail. Only one of several writers succeeds.
    CreateNew,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Written {
    Done,
    /// The file exists; only for [`Write::CreateNew`].
    Taken,
}
