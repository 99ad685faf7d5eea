//! A small exec into a sidecar: passes a request and the rest of stdin to the supervisor, and what that tells to stdout.
//!
//! It must not know what is asked. The end of its stdin ends it, never a run. When all was told it stays a little until
//! its stdin ends, since last bytes of a process that is gone may be lost on their way.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use stowaway_seal::Reply;

use crate::descriptors::{self, Moved};

/// How long it stays when all was told.
const STAYS: Duration = Duration::from_secs(10);
/// How long nobody need take what was told.
const PATIENCE: Duration = Duration::from_mins(1);

/// Asks, and passes on.
pub fn run(socket: &Path, words: &[OsString]) -> Result<(), String> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => {
            // In band, since nobody should have to understand what is said of an exec.
            let _unheard = writeln!(io::stdout(), "{}", Reply::Nobody);
            return Err(format!("no supervisor listens: {error}"));
        }
    };
    let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let line = format!("{}\n", words.join(" "));
    let asked = stream.write_all(line.as_bytes()).and_then(|()| descriptors::never_block(&stream).map_err(Into::into));
    asked.map_err(|error| format!("the supervisor takes no request: {error}"))?;
    descriptors::never_block(io::stdin()).map_err(|error| error.to_string())?;
    pass(&stream);
    Ok(())
}

fn pass(stream: &UnixStream) {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut buffer = [0; 16 * 1024];
    let mut told: Option<Instant> = None;
    let mut has_answered = false;
    loop {
        let left = told.map_or(PATIENCE, |told| STAYS.saturating_sub(told.elapsed()));
        if left.is_zero() {
            return;
        }
        let answers = told.is_none().then_some((stream.as_fd(), PollFlags::IN));
        let [said, answered] = descriptors::wait([Some((stdin.as_fd(), PollFlags::IN)), answers], left);
        if !said.is_empty() {
            match descriptors::read(&stdin, &mut buffer) {
                Moved::Bytes(_) if told.is_some() => {}
                Moved::Bytes(length) => {
                    if !write_all(stream, &buffer[..length]) {
                        told.get_or_insert_with(Instant::now);
                    }
                }
                Moved::Nothing => {}
                Moved::Ended => return,
            }
        }
        if !answered.is_empty() {
            match descriptors::read(stream, &mut buffer) {
                Moved::Bytes(length) => {
                    has_answered = true;
                    if !write_all(&stdout, &buffer[..length]) {
                        return;
                    }
                }
                Moved::Nothing => {}
                // What was not said cannot be lost.
                Moved::Ended if !has_answered => return,
                Moved::Ended => told = Some(Instant::now()),
            }
        }
    }
}

/// Writes all of it, as long as somebody takes it.
fn write_all(to: impl AsFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match descriptors::write(&to, bytes) {
            Moved::Bytes(length) => bytes = &bytes[length..],
            Moved::Nothing => {
                let [room] = descriptors::wait([Some((to.as_fd(), PollFlags::OUT))], PATIENCE);
                if room.is_empty() {
                    return false;
                }
            }
            Moved::Ended => return false,
        }
    }
    true
}
