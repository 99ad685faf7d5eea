//! What can go wrong with a repository, each cause its own variant, told for people and mapped to one reason.
//!
//! It must not know how the store or the engine found out, and no message may hold a credential.

use std::{io, time::Duration};

use jiff::Timestamp;

use crate::model::{Failure, Reason};

/// Why an operation on a repository did not happen. `place` is always the repository's place without credentials,
/// `file` a path within it.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is no repository, and the store said so itself.
    #[error("there is no repository at {place}: create it first, or correct the place")]
    NotFound {
        /// The repository's place.
        place: String,
    },
    /// There is one already, and it was left alone.
    #[error("there is already a repository at {place}: open it, or choose another place")]
    AlreadyExists {
        /// The repository's place.
        place: String,
    },
    /// Another repository is there than the caller expects, and nothing was written to it.
    #[error(
        "the repository at {place} has the id {found}, and {expected} was expected: the store was emptied and used again, or \
         the place is that of another repository; nothing was read or written"
    )]
    Changed {
        /// The repository's place.
        place: String,
        /// The id that it should have; several are separated by "or".
        expected: String,
        /// The id that it has.
        found: String,
    },
    /// No key file opens with the password.
    #[error("the password opens no key of the repository at {place}: give the one it was created with")]
    WrongPassword {
        /// The repository's place.
        place: String,
    },
    /// Somebody else holds a lock that excludes us.
    #[error(
        "the repository at {place} is locked by {holder}, last refreshed {since}: wait until that ends; if it runs no more, \
         `stowaway unlock` removes the lock 30 minutes after that"
    )]
    Locked {
        /// The repository's place.
        place: String,
        /// User, host and process number from the lock file.
        holder: String,
        /// When the lock was last refreshed.
        since: Timestamp,
    },
    /// Our own lock is gone or could not be refreshed: a prune may have started, so nothing may be committed.
    #[error("the run's own lock in the repository at {place} was lost ({why}): nothing was committed, run it again")]
    LockLost {
        /// The repository's place.
        place: String,
        /// How it was lost.
        why: String,
    },
    /// The store did not answer, or refused a request after all retries.
    #[error("the store at {place} failed to {action} {file}: {source}; check that it is up and can be reached")]
    StoreUnavailable {
        /// The repository's place.
        place: String,
        /// The request, as a verb.
        action: &'static str,
        /// The file.
        file: String,
        /// The last answer.
        source: StoreFault,
    },
    /// The store has no room left.
    #[error("the store at {place} is full, {file} could not be written: {source}; make room, and run it again")]
    StoreFull {
        /// The repository's place.
        place: String,
        /// The file.
        file: String,
        /// The answer.
        source: StoreFault,
    },
    /// The store does not let these credentials do that.
    #[error("the store at {place} does not allow to {action} {file}: {source}; check the credentials and their rights")]
    AccessDenied {
        /// The repository's place.
        place: String,
        /// The request, as a verb.
        action: &'static str,
        /// The file.
        file: String,
        /// The answer.
        source: StoreFault,
    },
    /// The repository holds something that cannot be what was written.
    #[error("the repository at {place} is damaged: {what}; look at it with `restic check --read-data`")]
    Damaged {
        /// The repository's place.
        place: String,
        /// What was found.
        what: String,
    },
    /// The acknowledgement of the snapshot's own write was lost, and the store cannot be asked whether it is there.
    #[error("it is not known whether snapshot {snapshot} became visible in the repository at {place}: {source}")]
    CommitUnknown {
        /// The repository's place.
        place: String,
        /// The snapshot's id, 64 hex digits.
        snapshot: String,
        /// Why the store could not be asked.
        source: Box<RepositoryError>,
    },
    /// Something is at the place of an archive, and nobody said that it may be overwritten.
    #[error(
        "there is already {file} at {place}, and nothing was written: give another name, or say that it may be overwritten"
    )]
    Taken {
        /// The archive's place.
        place: String,
        /// The file.
        file: String,
    },
    /// The store acknowledged an archive, and does not have it as it was sent.
    #[error(
        "the store at {place} acknowledged {file} of {sent} bytes, and has {found} bytes under that name, which \
         were left there: do not trust them, check the store, and run it again"
    )]
    NotKept {
        /// The archive's place.
        place: String,
        /// The file.
        file: String,
        /// How many bytes were sent.
        sent: u64,
        /// How many bytes it has.
        found: u64,
    },
    /// The acknowledgement of an archive was lost, and the store cannot be asked whether it is there.
    #[error("it is not known whether {file} is whole at {place}: {source}; look for it, and do not trust it")]
    OutcomeUnknown {
        /// The archive's place.
        place: String,
        /// The file.
        file: String,
        /// Why the store could not be asked.
        source: Box<RepositoryError>,
    },
    /// Somebody cancelled the run.
    #[error("cancelled while working on the repository at {place}")]
    Cancelled {
        /// The repository's place.
        place: String,
    },
    /// The stream that was to be stored did not end well; nothing was stored.
    #[error(transparent)]
    Stream(Failure),
    /// No snapshot answers to that id.
    #[error("there is no snapshot {wanted} in the repository at {place}")]
    SnapshotNotFound {
        /// The repository's place.
        place: String,
        /// What was asked for.
        wanted: String,
    },
    /// The snapshot holds no such file.
    #[error("snapshot {snapshot} in the repository at {place} holds no file {path}")]
    FileNotFound {
        /// The repository's place.
        place: String,
        /// The snapshot's id.
        snapshot: String,
        /// What was asked for.
        path: String,
    },
    /// A folder that was to be stored cannot be read at all; nothing was stored.
    #[error("the folder {path} cannot be read: {source}; nothing was stored")]
    Unreadable {
        /// The folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A folder that was to be stored is in the middle of a restore; nothing was stored.
    #[error(
        "a restore into {path} is under way, or was broken off: it holds {mark}, and what is beside that may be a part of the \
         data; nothing was stored. Let the restore end: start the pod again whose restore step it is, or repeat the Restore. \
         If what was restored is not wanted, remove {mark} from the volume"
    )]
    RestoreUnfinished {
        /// The folder.
        path: String,
        /// The entry that shows it.
        mark: &'static str,
    },
    /// The target of a restore cannot be written.
    #[error("failed to {action} {path}: {source}; the restore is not complete")]
    Unwritable {
        /// What was tried, as a verb.
        action: &'static str,
        /// Relative to the target; the target's own path if it is that itself.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A temporary file failed, which a large repository or a long folder needs.
    #[error(
        "a temporary file in {folder} failed: {source}; make room for it on the node or in that folder, or set TMPDIR to a \
         folder with room, and run it again"
    )]
    Scratch {
        /// The folder of temporary files.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// The request itself cannot be carried out.
    #[error("{0}")]
    InvalidRequest(String),
    /// A defect in Stowaway or its storage engine.
    #[error("the storage engine failed on the repository at {place}: {what}; this is a defect, please report it")]
    Internal {
        /// The repository's place.
        place: String,
        /// What it said.
        what: String,
    },
}

/// The last answer of a store that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// From an object store, in its own words. The library's error is not kept: it holds the request's URL, in whose
    /// query a credential may be.
    #[error("{0}")]
    Object(String),
    /// From a REST server, or from the way to it.
    #[error("{0}")]
    Http(String),
    /// From an SSH server, or from the way to it.
    #[error("{0}")]
    Ssh(String),
    /// From a file system.
    #[error("{0}")]
    File(#[source] io::Error),
    /// No answer at all.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
}

impl RepositoryError {
    /// The one machine-readable cause.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } => Reason::RepositoryNotFound,
            Self::Changed { .. } => Reason::RepositoryChanged,
            Self::WrongPassword { .. } => Reason::WrongPassword,
            Self::Locked { .. } | Self::LockLost { .. } => Reason::RepositoryLocked,
            Self::StoreUnavailable { .. } | Self::AccessDenied { .. } | Self::NotKept { .. } => {
                Reason::StoreUnavailable
            }
            Self::Taken { .. } => Reason::TargetNotEmpty,
            Self::OutcomeUnknown { .. } => Reason::OutcomeUnknown,
            Self::StoreFull { .. } => Reason::StoreFull,
            Self::Damaged { .. } => Reason::RepositoryDamaged,
            Self::CommitUnknown { .. } => Reason::CommitUnknown,
            Self::Cancelled { .. } => Reason::Cancelled,
            Self::Stream(failure) => failure.reason,
            Self::SnapshotNotFound { .. } | Self::FileNotFound { .. } => Reason::SnapshotNotFound,
            Self::Unreadable { .. } => Reason::SourceUnreadable,
            Self::RestoreUnfinished { .. } => Reason::RestoreUnfinished,
            Self::Unwritable { .. } => Reason::TargetUnwritable,
            Self::Scratch { .. } => Reason::ScratchUnwritable,
            Self::AlreadyExists { .. } | Self::InvalidRequest(_) => Reason::InvalidRequest,
            Self::Internal { .. } => Reason::InternalError,
        }
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::Stream(failure) => failure,
            other => Self::new(other.reason(), other.to_string()),
        }
    }
}
