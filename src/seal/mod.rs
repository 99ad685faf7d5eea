//! The protocols that prove a stream whole: the shell forms of both directions, the parser of what they send, the same
//! spoken by our own binary, and the helper's (`sealed`, a crate of its own, since the helper must not carry the rest).
//!
//! What both sides rely on: a nonce, given on stdin, marks every word of the protocol, so that no data can be taken for
//! one; the end of a stream is in band, behind its last byte; end of file on stdin means cancel, never "that was all".
//! It must not know who carries the bytes.

mod answer;
mod exit;
mod marker;
mod script;
mod unseal;
mod way;

pub use answer::{AnswerError, answer};
pub use exit::{HELD_OPEN, INPUT_LEFT, failure_of, status_of};
pub use marker::Marker;
pub use script::{CommandLineError, MAXIMUM_COMMAND_LINE, dump_command, restore_command};
pub use stowaway_seal::{self as sealed, Nonce};
pub use unseal::{UnsealError, Unsealer};
pub use way::{Way, socket_command};
