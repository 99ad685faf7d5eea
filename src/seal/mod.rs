//! The protocol that proves a stream whole: the shell forms of both directions, the parser of what they send, and the
//! same protocol spoken by our own binary.
//!
//! What both sides rely on: a nonce, given on stdin, marks every word of the protocol, so that no data can be taken for
//! one; the end of a stream is in band, behind its last byte; end of file on stdin means cancel, never "that was all".
//! It must not know who carries the bytes.

mod answer;
mod exit;
mod marker;
mod script;
mod unseal;

pub use answer::{AnswerError, answer};
pub use exit::{INPUT_LEFT, failure_of};
pub use marker::Marker;
pub use script::{CommandLineError, MAXIMUM_COMMAND_LINE, dump_command, restore_command};
pub use stowaway_seal::Nonce;
pub use unseal::{UnsealError, Unsealer};
