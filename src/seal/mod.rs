//! The protocols which prove that a stream is complete: the shell forms of both directions, the parser of their output,
//! and the helper's protocol (`sealed`, a crate of its own because the helper must not link everything else).
//!
//! Both sides rely on three rules. A nonce, received on stdin, marks every message of the protocol, so that no data can
//! be taken for a message. The end of a stream is in band, after its last byte. End of file on stdin means cancel,
//! never "this was all".

mod exec_mode;
mod exit;
mod marker;
mod script;
mod unseal;

pub use exec_mode::{ExecMode, socket_command};
pub use exit::{HELD_OPEN, INPUT_LEFT, failure_of, status_of};
pub use marker::Marker;
pub use script::{CommandLineError, MAX_COMMAND_LINE, dump_command, restore_command};
pub use stowaway_protocol::{self as sealed, Nonce};
pub use unseal::{UnsealError, Unsealer};
