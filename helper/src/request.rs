//! The client of a supervisor, started by exec in the sidecar. It copies a request and the rest of stdin to the
//! supervisor, and the supervisor's lines to stdout.
//!
//! The end of its stdin ends the client, but never a run. After the last line it stays until its stdin ends, because
//! the last bytes of a process that exits can be lost in transit.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use stowaway_protocol::Reply;

use crate::descriptors::{self, IoResult};

/// The time for which the client stays after the last line.
const LINGER: Duration = Duration::from_secs(10);
/// The time for which the reader may be slow before the client gives up.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// Sends the request, and copies in both directions.
pub fn run(socket: &Path, tokens: &[OsString]) -> Result<(), String> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => {
            // The reply is sent in-band, so that the other side need not interpret an error of the exec.
            let _unread = writeln!(io::stdout(), "{}", Reply::NoSupervisor);
            return Err(format!("no supervisor listens: {error}"));
        }
    };
    let tokens: Vec<&str> = tokens.iter().map(|token| token.to_str().unwrap_or_default()).collect();
    let line = format!("{}\n", tokens.join(" "));
    let sent = stream.write_all(line.as_bytes()).and_then(|()| descriptors::never_block(&stream).map_err(Into::into));
    sent.map_err(|error| format!("the request cannot be sent to the supervisor: {error}"))?;
    descriptors::never_block(io::stdin()).map_err(|error| error.to_string())?;
    pass(&stream);
    Ok(())
}

fn pass(stream: &UnixStream) {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut buffer = [0; 16 * 1024];
    let mut done_at: Option<Instant> = None;
    let mut has_answered = false;
    loop {
        let left = done_at.map_or(READ_TIMEOUT, |done_at| LINGER.saturating_sub(done_at.elapsed()));
        if left.is_zero() {
            return;
        }
        let answers = done_at.is_none().then_some((stream.as_fd(), PollFlags::IN));
        let [input, answer] = descriptors::wait([Some((stdin.as_fd(), PollFlags::IN)), answers], left);
        if !input.is_empty() {
            match descriptors::read(&stdin, &mut buffer) {
                IoResult::Bytes(_) if done_at.is_some() => {}
                IoResult::Bytes(length) => {
                    if !write_all(stream, &buffer[..length]) {
                        done_at.get_or_insert_with(Instant::now);
                    }
                }
                IoResult::Nothing => {}
                IoResult::Ended => return,
            }
        }
        if !answer.is_empty() {
            match descriptors::read(stream, &mut buffer) {
                IoResult::Bytes(length) => {
                    has_answered = true;
                    if !write_all(&stdout, &buffer[..length]) {
                        return;
                    }
                }
                IoResult::Nothing => {}
                // Nothing was written, so nothing can be lost.
                IoResult::Ended if !has_answered => return,
                IoResult::Ended => done_at = Some(Instant::now()),
            }
        }
    }
}

/// Writes all bytes, unless the reader is gone or too slow.
fn write_all(to: impl AsFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match descriptors::write(&to, bytes) {
            IoResult::Bytes(length) => bytes = &bytes[length..],
            IoResult::Nothing => {
                let [room] = descriptors::wait([Some((to.as_fd(), PollFlags::OUT))], READ_TIMEOUT);
                if room.is_empty() {
                    return false;
                }
            }
            IoResult::Ended => return false,
        }
    }
    true
}
