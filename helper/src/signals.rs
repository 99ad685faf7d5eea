//! Signals as a descriptor that can be polled. It installs handlers instead of ignoring signals, because a command
//! starts with the default disposition again.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    flag,
    low_level::pipe,
};

/// Wakes a poll when a child has changed or a signal requests the end of this program.
pub struct Signals {
    wake: UnixStream,
    end_requested: Arc<AtomicBool>,
}

impl Signals {
    /// Catches the signals. From then on, only KILL ends this program.
    pub fn catch() -> io::Result<Self> {
        let (wake, written) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let end_requested = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            flag::register(signal, end_requested.clone())?;
        }
        for signal in [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            pipe::register(signal, written.try_clone()?)?;
        }
        Ok(Self { wake, end_requested })
    }

    /// The descriptor that becomes readable.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Consumes pending wake-ups, and returns whether the end of this program was requested.
    pub fn take(&self) -> bool {
        let mut buffer = [0; 64];
        while matches!((&self.wake).read(&mut buffer), Ok(length) if length == buffer.len()) {}
        self.end_requested.load(Ordering::Relaxed)
    }
}
