//! Decides which errors mean that the file system cannot store some metadata or kind of entry, or that Stowaway lacks
//! the right to set it. Such a refusal does not affect the contents of files. All other errors, such as those of a
//! full, read-only or broken disk, do.

use std::io;

use rustix::io::Errno;

/// Errors with which file systems, network protocols and permission checks refuse an owner, a mode or a time.
const REFUSALS: [Errno; 12] = [
    Errno::PERM,
    Errno::ACCESS,
    Errno::OPNOTSUPP,
    Errno::NOSYS,
    Errno::INVAL,
    Errno::OVERFLOW,
    Errno::RANGE,
    Errno::DOM,
    Errno::NOTTY,
    Errno::MLINK,
    Errno::XDEV,
    Errno::NAMETOOLONG,
];
/// Additional errors for attributes. The space for attributes is separate (one block on ext4, 64 KiB on XFS) and is
/// exhausted long before the disk is full. FUSE drivers return EIO for every operation which they do not know.
const OF_ATTRIBUTES: [Errno; 6] = [Errno::NOSPC, Errno::DQUOT, Errno::TOOBIG, Errno::NODATA, Errno::IO, Errno::ILSEQ];

/// Whether the error refuses an owner, a mode or times.
pub fn is_refusal(error: &io::Error) -> bool {
    is_one_of(error, &REFUSALS)
}

/// Whether the error refuses an attribute or an access list.
pub fn is_refusal_of_attribute(error: &io::Error) -> bool {
    is_one_of(error, &REFUSALS) || is_one_of(error, &OF_ATTRIBUTES)
}

/// Whether the error refuses a link, a pipe, a socket or a device. EIO counts, because an error of the disk also occurs
/// when contents are written.
pub(super) fn is_refusal_of_entry(error: Errno) -> bool {
    REFUSALS.contains(&error) || error == Errno::IO
}

fn is_one_of(error: &io::Error, refusals: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|error| refusals.contains(&Errno::from_raw_os_error(error)))
        || error.kind() == io::ErrorKind::Unsupported
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_about_contents_are_no_refusals() {
        for error in
            [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS, Errno::NOENT, Errno::EXIST, Errno::STALE, Errno::NOMEM]
        {
            assert!(!is_refusal(&error.into()), "{error}");
        }
        for error in [Errno::ROFS, Errno::NOENT, Errno::BADF, Errno::STALE, Errno::NOMEM] {
            assert!(!is_refusal_of_attribute(&error.into()), "{error}");
        }
        for error in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::EXIST, Errno::LOOP, Errno::NOTDIR, Errno::NOENT] {
            assert!(!is_refusal_of_entry(error), "{error}");
        }
    }

    #[test]
    fn error_of_an_entry_that_the_file_system_cannot_hold_is_a_refusal() {
        for error in [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL] {
            assert!(is_refusal(&error.into()) && is_refusal_of_attribute(&error.into()), "{error}");
            assert!(is_refusal_of_entry(error), "{error}");
        }
        // ENOSPC for an attribute of 30 KiB on ext4, and E2BIG for an attribute from XFS on a file system with a lower
        // limit.
        assert!(is_refusal_of_attribute(&Errno::NOSPC.into()) && is_refusal_of_attribute(&Errno::TOOBIG.into()));
        assert!(is_refusal_of_entry(Errno::MLINK), "a file has as many links as it can have");
    }
}
