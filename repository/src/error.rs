//! The errors of operations on a repository: one variant for each cause, with a message for users and one
//! machine-readable reason. No message may contain a credential.

use std::{io, time::Duration};

use jiff::Timestamp;

use stowaway_model::{Failure, Reason};

/// Why an operation on a repository failed. `location` is the location of the repository or of the archive's store,
/// without credentials. `file` is a path within it.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The store itself reported that there is no repository.
    #[error("there is no repository at {location}: create it first, or correct the location")]
    NotFound { location: String },
    /// The store itself reported that there is no repository, where the caller or an earlier run has opened one.
    #[error(
        "there is no repository at {location} any more, although there was one before: do not create one, because it \
         would be empty; restore the store's content from a copy, or correct the location"
    )]
    Lost { location: String },
    /// There is already a repository, and it was not changed.
    #[error("there is already a repository at {location}: open it, or choose another location")]
    AlreadyExists { location: String },
    /// The repository has another id than the caller expects, and nothing was written to it.
    #[error(
        "the repository at {location} has the id {found}, but {expected} was expected: the store was emptied and used \
         again, or the location is that of another repository; nothing was read or written"
    )]
    Changed {
        location: String,
        /// The expected id; several are separated by "or".
        expected: String,
        found: String,
    },
    /// The password opens no key file.
    #[error(
        "the password opens no key of the repository at {location}: use the password with which the repository was created"
    )]
    WrongPassword { location: String },
    /// Another client holds a lock that conflicts with the lock of this run.
    #[error(
        "the repository at {location} is locked by {holder}, last refreshed {since}: wait until the holder has finished; \
         if it does not run any more, {expiry}"
    )]
    Locked {
        location: String,
        /// User, host and process number from the lock file.
        holder: String,
        /// When the lock was last refreshed.
        since: Timestamp,
        /// When the lock of a holder that does not run any more ends, as a main clause.
        expiry: String,
    },
    /// The lock of this run was removed or could not be refreshed. A prune may have started, so nothing may be
    /// committed.
    #[error("the run's own lock in the repository at {location} was lost ({why}): nothing was committed, run it again")]
    LockLost { location: String, why: String },
    /// The store did not answer, or a request still failed after all retries.
    #[error(
        "the store at {location} failed to {action} {file}: {source}; check that the store is up and can be reached"
    )]
    StoreUnavailable {
        location: String,
        /// The request, as a verb.
        action: &'static str,
        file: String,
        source: StoreFault,
    },
    /// The bucket or container itself does not exist.
    #[error(
        "the store at {location} has no {bucket} ({source}): create it, or correct its name, the endpoint and the region \
         in the location"
    )]
    BucketMissing {
        location: String,
        /// The kind and the name, as `bucket "backup"`.
        bucket: String,
        source: StoreFault,
    },
    /// The store has no space left.
    #[error("the store at {location} is full, {file} could not be written: {source}; free space, and run it again")]
    StoreFull { location: String, file: String, source: StoreFault },
    /// The store does not permit the request with these credentials.
    #[error(
        "the store at {location} does not allow to {action} {file}: {source}; check the credentials and their permissions"
    )]
    AccessDenied {
        location: String,
        /// The request, as a verb.
        action: &'static str,
        file: String,
        source: StoreFault,
    },
    /// The repository contains data that cannot be what was written.
    #[error("the repository at {location} is damaged: {what}; examine it with `restic check --read-data`")]
    Damaged { location: String, what: String },
    /// The store did not acknowledge the write of the snapshot file, and a read could not determine whether the file
    /// exists.
    #[error("it is not known whether snapshot {snapshot} became visible in the repository at {location}: {source}")]
    CommitUnknown {
        location: String,
        /// The snapshot's id, 64 hex digits.
        snapshot: String,
        /// Why the snapshot file could not be read.
        source: Box<RepositoryError>,
    },
    /// A file with the archive's name exists, and `overwrite` is not set.
    #[error("there is already {file} at {location}, and nothing was written: choose another name, or set `overwrite`")]
    Taken { location: String, file: String },
    /// The store acknowledged an archive, but the stored file differs from what was sent.
    #[error(
        "the store at {location} acknowledged {file} of {sent} bytes, but has {found} bytes under that name; they were \
         not removed: do not trust them, check the store, and run it again"
    )]
    NotKept {
        location: String,
        file: String,
        /// Bytes that were sent.
        sent: u64,
        /// Bytes of the stored file.
        found: u64,
    },
    /// The store did not acknowledge an archive, and a request could not determine whether the archive is complete.
    #[error(
        "it is not known whether {file} at {location} is complete: {source}; look for the file, and do not trust it"
    )]
    OutcomeUnknown {
        location: String,
        file: String,
        /// Why the archive could not be checked.
        source: Box<RepositoryError>,
    },
    /// The run was cancelled.
    #[error("cancelled while working on the repository at {location}")]
    Cancelled { location: String },
    /// The stream that was to be stored failed or was incomplete; nothing was stored.
    #[error(transparent)]
    Stream(Failure),
    /// No snapshot has the requested id.
    #[error("there is no snapshot {wanted} in the repository at {location}: `stowaway snapshots` lists the ids")]
    SnapshotNotFound {
        location: String,
        /// The requested id.
        wanted: String,
    },
    /// The snapshot does not contain the requested file.
    #[error("snapshot {snapshot} in the repository at {location} contains no file {path}")]
    FileNotFound {
        location: String,
        snapshot: String,
        /// The requested path.
        path: String,
    },
    /// A folder that was to be stored cannot be read at all; nothing was stored.
    #[error("the folder {path} cannot be read: {source}; nothing was stored")]
    Unreadable { path: String, source: io::Error },
    /// The exclude patterns leave no file of the folder; nothing was stored.
    #[error("{0}")]
    AllExcluded(String),
    /// The folder that was to be stored is the target of an unfinished restore; nothing was stored.
    #[error(
        "a restore into {path} is running or was interrupted: the folder contains {mark}, and the other files may be \
         only a part of the data; nothing was stored. Let the restore finish: restart the pod whose restore step it \
         is, or repeat the Restore. If you do not want the restored data, remove {mark} from the volume"
    )]
    RestoreUnfinished {
        path: String,
        /// The directory entry by which a restore marks its target as unfinished.
        mark: &'static str,
    },
    /// The target of a restore cannot be written.
    #[error("failed to {action} {path}: {source}; the restore is not complete")]
    Unwritable {
        /// The operation, as a verb.
        action: &'static str,
        /// A path relative to the target, or the target's own path.
        path: String,
        source: io::Error,
    },
    /// A temporary file failed. Temporary files are needed for a large repository or a large folder.
    #[error(
        "a temporary file in {folder} failed: {source}; free space on the node or in that folder, or set TMPDIR to a \
         folder with enough space, and run it again"
    )]
    Scratch {
        /// The folder of temporary files.
        folder: String,
        source: io::Error,
    },
    /// The request is invalid.
    #[error("{0}")]
    InvalidRequest(String),
    /// A defect in Stowaway.
    #[error("Stowaway failed on the repository at {location}: {what}; this is a defect, please report it")]
    Internal { location: String, what: String },
}

/// Why a request to a store failed: the last answer, or that there was none.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// The error message of an object store. The library's error is not kept, because it contains the request's URL,
    /// whose query may contain a credential.
    #[error("{0}")]
    Object(String),
    /// An error of a REST server, or of the connection to it.
    #[error("{0}")]
    Http(String),
    /// An error of an SSH server, or of the connection to it.
    #[error("{0}")]
    Ssh(String),
    /// An error of a file system.
    #[error("{0}")]
    File(#[source] io::Error),
    /// The store did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
}

impl RepositoryError {
    /// The machine-readable cause.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } | Self::Lost { .. } => Reason::RepositoryNotFound,
            Self::Changed { .. } => Reason::RepositoryChanged,
            Self::WrongPassword { .. } => Reason::WrongPassword,
            Self::Locked { .. } | Self::LockLost { .. } => Reason::RepositoryLocked,
            Self::StoreUnavailable { .. }
            | Self::BucketMissing { .. }
            | Self::AccessDenied { .. }
            | Self::NotKept { .. } => Reason::StoreUnavailable,
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
            Self::AlreadyExists { .. } | Self::AllExcluded(_) | Self::InvalidRequest(_) => Reason::InvalidRequest,
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
