//! The classification of failures of a single attempt.

use std::io;

use opendal::ErrorKind;

use super::objects;
use crate::StoreFault;

/// Why a single attempt failed.
#[derive(Debug)]
pub(super) enum Fault {
    Missing(StoreFault),
    /// The bucket or container itself does not exist.
    NoBucket(StoreFault),
    Taken,
    Full(StoreFault),
    Denied(StoreFault),
    /// A retry would not help.
    Permanent(StoreFault),
    /// A retry may help.
    Transient(StoreFault),
    Cancelled,
}

impl From<opendal::Error> for Fault {
    fn from(error: opendal::Error) -> Self {
        let classify = match error.kind() {
            _ if objects::is_bucket_missing(&error) => Self::NoBucket,
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists => return Self::Taken,
            _ if objects::is_full(&error) => Self::Full,
            _ if objects::is_denied(&error) => Self::Denied,
            _ if objects::is_final(&error) => Self::Permanent,
            _ => Self::Transient,
        };
        classify(objects::fault(&error))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Io;
        let classify = match error.kind() {
            Io::NotFound => Self::Missing,
            Io::AlreadyExists => return Self::Taken,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Self::Full,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => Self::Denied,
            Io::NotADirectory | Io::IsADirectory | Io::InvalidInput | Io::Unsupported => Self::Permanent,
            _ => Self::Transient,
        };
        classify(StoreFault::File(error))
    }
}
