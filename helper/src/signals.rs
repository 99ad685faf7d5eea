//! Signals as something that can be waited for. Handlers, not "ignore": a command starts with the default again.
//!
//! It must not know what is done about them.

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

/// Wakes whoever waits when a child changed or somebody asks this program to end.
pub struct Signals {
    wake: UnixStream,
    asked_to_end: Arc<AtomicBool>,
}

impl Signals {
    /// From here on no signal but KILL ends this program.
    pub fn catch() -> io::Result<Self> {
        let (wake, written) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let asked_to_end = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            flag::register(signal, asked_to_end.clone())?;
        }
        for signal in [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            pipe::register(signal, written.try_clone()?)?;
        }
        Ok(Self { wake, asked_to_end })
    }

    /// What becomes readable.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes the wakes that came, and says whether this program has to end.
    pub fn take(&self) -> bool {
        let mut buffer = [0; 64];
        while matches!((&self.wake).read(&mut buffer), Ok(length) if length == buffer.len()) {}
        self.asked_to_end.load(Ordering::Relaxed)
    }
}
