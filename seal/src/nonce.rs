//! The random word that marks the protocol's own lines in a stream.
//!
//! It must not know where randomness comes from.

use std::fmt::{self, Write};

use bytes::Bytes;

/// 128 bits as 32 lower-case hex digits. It travels by stdin, never in a command line: those are in the process list and
/// in the audit log. Who holds it can fake an end, so it is not printed.
#[derive(Clone, Eq, PartialEq)]
pub struct Nonce(String);

impl Nonce {
    /// Hex digits of a nonce.
    pub const LENGTH: usize = 32;

    /// From 128 random bits.
    pub fn new(random: u128) -> Self {
        Self(format!("{random:032x}"))
    }

    /// Reads what [`Nonce::as_str`] gave.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == Self::LENGTH && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nonce as a line of its own: hello, "go" and acknowledgement alike.
    pub fn line(&self) -> Bytes {
        Bytes::from(format!("{}\n", self.0))
    }

    /// The two lines that begin a restore by the shell form.
    pub fn line_with_size(&self, size: u64) -> Bytes {
        Bytes::from(format!("{}\n{size}\n", self.0))
    }

    /// What the remote side of a shell form says before it starts the command.
    pub fn ready(&self) -> Vec<u8> {
        format!("{} ready\n", self.0).into_bytes()
    }

    /// What the remote side of a shell form says behind the last byte.
    pub fn trailer(&self, status: u16) -> String {
        let mut trailer = self.0.clone();
        // Writing to a String cannot fail.
        let _ = writeln!(trailer, "{status}");
        trailer
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Nonce(hidden)")
    }
}
