//! Non-blocking descriptors, and polling.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{self, Errno},
};

/// A descriptor, and the events to wait for.
pub type Interest<'a> = (BorrowedFd<'a>, PollFlags);

/// Waits until a descriptor has a requested event or an error, or until the timeout. Returns the events of each
/// descriptor. A signal ends the wait early.
pub fn wait<const N: usize>(wanted: [Option<Interest<'_>>; N], timeout: Duration) -> [PollFlags; N] {
    let present: Vec<Interest<'_>> = wanted.iter().flatten().copied().collect();
    let mut flags = wait_all(&present, timeout).into_iter();
    wanted.map(|wanted| wanted.and_then(|_| flags.next()).unwrap_or(PollFlags::empty()))
}

/// Like [`wait`], for any number of descriptors.
pub fn wait_all(wanted: &[Interest<'_>], timeout: Duration) -> Vec<PollFlags> {
    let mut polled: Vec<PollFd<'_>> =
        wanted.iter().map(|(descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags)).collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // An error of poll can only be a signal, because the descriptors are open and few.
    let is_ok = poll(&mut polled, Some(&timeout)).is_ok();
    let flags_of = |polled: &PollFd<'_>| if is_ok { polled.revents() } else { PollFlags::empty() };
    polled.iter().map(flags_of).collect()
}

/// The result of a non-blocking read or write.
#[derive(Debug, Eq, PartialEq)]
pub enum IoResult {
    /// This many bytes were transferred.
    Bytes(usize),
    /// No bytes for now.
    Nothing,
    /// End of file, or an error.
    Ended,
}

/// Makes a descriptor non-blocking.
pub fn never_block(descriptor: impl AsFd) -> io::Result<()> {
    io::ioctl_fionbio(descriptor, true)
}

/// Reads the available bytes.
pub fn read(from: impl AsFd, buffer: &mut [u8]) -> IoResult {
    match io::read(from, buffer) {
        Ok(0) => IoResult::Ended,
        Ok(length) => IoResult::Bytes(length),
        Err(Errno::AGAIN | Errno::INTR) => IoResult::Nothing,
        Err(_) => IoResult::Ended,
    }
}

/// Writes as many bytes as fit.
pub fn write(to: impl AsFd, bytes: &[u8]) -> IoResult {
    match io::write(to, bytes) {
        Ok(length) => IoResult::Bytes(length),
        Err(Errno::AGAIN | Errno::INTR) => IoResult::Nothing,
        Err(_) => IoResult::Ended,
    }
}
