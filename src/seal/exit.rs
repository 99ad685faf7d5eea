//! The meaning of exit statuses.

use stowaway_protocol::Outcome;

use crate::model::{Failure, Reason};

/// The status of the restore form for a command which exited with 0 and left input unread. It is outside the range of a
/// process.
pub const INPUT_LEFT: u16 = 256;

/// The status of the dump form for a command which exited with 0 while a process which it left behind still holds its
/// stdout.
pub const HELD_OPEN: u16 = 257;

/// The outcome as a shell's status, or [`INPUT_LEFT`].
pub fn status_of(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Exited(status) => status.into(),
        Outcome::Killed(signal) => 128 + u16::from(signal),
        Outcome::InputLeft => INPUT_LEFT,
    }
}

/// Why a command with this exit status failed; `None` for status 0.
///
/// Statuses are those of a POSIX shell (XCU 2.8.2): 126 not executable, 127 not found, 128 + n ended by signal n.
pub fn failure_of(status: u16) -> Option<Failure> {
    let (reason, message) = match status {
        0 => return None,
        INPUT_LEFT => {
            let message =
                "the command exited 0 before it had read all of its input: it does not read its stdin to the end";
            return Some(Failure::new(Reason::InputNotConsumed, message).with_exit_code(0));
        }
        HELD_OPEN => {
            let message = "the command exited 0, and a process that it left in the background still holds its stdout, so \
                that the dump may not be whole: let the script `wait` for its background commands, and start services \
                with their output elsewhere (`>/dev/null 2>&1`)";
            return Some(Failure::new(Reason::OutputHeldOpen, message).with_exit_code(0));
        }
        126 => (
            Reason::CommandNotFound,
            "the command cannot be executed (126): check its permissions in the image".to_owned(),
        ),
        127 => (
            Reason::CommandNotFound,
            "the command was not found in the container (127): check its name and the container's PATH".to_owned(),
        ),
        129..=192 => {
            let signal = status - 128;
            (Reason::CommandKilled, format!("the command was ended by signal {signal}{}", hint(signal)))
        }
        _ => (Reason::CommandFailed, format!("the command exited with status {status}: see its stderr")),
    };
    Some(Failure::new(reason, message).with_exit_code(i32::from(status)))
}

fn hint(signal: u16) -> &'static str {
    match signal {
        9 => " (KILL): it was killed, or the container ran out of memory",
        13 => " (PIPE): its output had no reader any more",
        15 => " (TERM): another process terminated it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_their_reasons() {
        for (status, reason) in [
            (1, Reason::CommandFailed),
            (125, Reason::CommandFailed),
            (126, Reason::CommandNotFound),
            (127, Reason::CommandNotFound),
            (128, Reason::CommandFailed),
            (137, Reason::CommandKilled),
            (255, Reason::CommandFailed),
            (INPUT_LEFT, Reason::InputNotConsumed),
            (HELD_OPEN, Reason::OutputHeldOpen),
        ] {
            assert_eq!(failure_of(status).map(|failure| failure.reason), Some(reason), "{status}");
        }
        assert_eq!(failure_of(0), None);
    }
}
