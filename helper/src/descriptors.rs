//! Descriptors that never block, and the wait for what they have to offer.
//!
//! It must not know whose they are.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{self, Errno},
};

/// What a descriptor is waited for.
pub type Wanted<'a> = (BorrowedFd<'a>, PollFlags);

/// Waits until one of them has what is wanted, or is broken, or the time is over; says what each one has.
///
/// A signal ends the wait early.
pub fn wait<const N: usize>(wanted: [Option<Wanted<'_>>; N], patience: Duration) -> [PollFlags; N] {
    let present: Vec<Wanted<'_>> = wanted.iter().flatten().copied().collect();
    let mut flags = wait_all(&present, patience).into_iter();
    wanted.map(|wanted| wanted.and_then(|_| flags.next()).unwrap_or(PollFlags::empty()))
}

/// The same for any number.
pub fn wait_all(wanted: &[Wanted<'_>], patience: Duration) -> Vec<PollFlags> {
    let mut polled: Vec<PollFd<'_>> =
        wanted.iter().map(|(descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags)).collect();
    let patience = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    // An error of poll itself can only be a signal: the descriptors are open, and few.
    let is_told = poll(&mut polled, Some(&patience)).is_ok();
    let flags_of = |polled: &PollFd<'_>| if is_told { polled.revents() } else { PollFlags::empty() };
    polled.iter().map(flags_of).collect()
}

/// What came of an attempt that does not wait.
#[derive(Debug, Eq, PartialEq)]
pub enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// None for now.
    Nothing,
    /// The other side is gone, or has ended.
    Ended,
}

/// Makes it one that never blocks.
pub fn never_block(descriptor: impl AsFd) -> io::Result<()> {
    io::ioctl_fionbio(descriptor, true)
}

/// Reads what is there.
pub fn read(from: impl AsFd, buffer: &mut [u8]) -> Moved {
    match io::read(from, buffer) {
        Ok(0) => Moved::Ended,
        Ok(length) => Moved::Bytes(length),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Nothing,
        Err(_) => Moved::Ended,
    }
}

/// Writes what fits.
pub fn write(to: impl AsFd, bytes: &[u8]) -> Moved {
    match io::write(to, bytes) {
        Ok(length) => Moved::Bytes(length),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Nothing,
        Err(_) => Moved::Ended,
    }
}
