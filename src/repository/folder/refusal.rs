//! Which errors are a file system's refusal of something that it cannot hold, or that Stowaway may not set: the contents of
//! the files are whole without that. All other errors, of a disk that is full, read-only or broken, are about the contents.
//!
//! Pure. It must not know what was refused.

use std::io;

use rustix::io::Errno;

/// What file systems, network protocols and rights refuse an owner, a mode or a time with.
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
/// The room for attributes is one of its own (a block on ext4, 64 KiB on XFS), and is full long before the disk is. Drivers
/// in user space answer EIO to everything that they do not know.
const OF_ATTRIBUTES: [Errno; 6] = [Errno::NOSPC, Errno::DQUOT, Errno::TOOBIG, Errno::NODATA, Errno::IO, Errno::ILSEQ];

/// Whether an owner, a mode or times were refused.
pub fn is_refusal(error: &io::Error) -> bool {
    is_one_of(error, &REFUSALS)
}

/// Whether an attribute or an access list was refused.
pub fn is_refusal_of_attribute(error: &io::Error) -> bool {
    is_one_of(error, &REFUSALS) || is_one_of(error, &OF_ATTRIBUTES)
}

/// Whether a link, a pipe, a socket or a device was refused. An error of the disk shows where contents are written, too.
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
    fn what_a_file_system_cannot_hold_is_a_refusal() {
        for error in [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL] {
            assert!(is_refusal(&error.into()) && is_refusal_of_attribute(&error.into()), "{error}");
            assert!(is_refusal_of_entry(error), "{error}");
        }
        // An attribute of 30 KiB on ext4, and one of XFS on a file system that counts otherwise.
        assert!(is_refusal_of_attribute(&Errno::NOSPC.into()) && is_refusal_of_attribute(&Errno::TOOBIG.into()));
        assert!(is_refusal_of_entry(Errno::MLINK), "a file has as many links as it can have");
    }
}
