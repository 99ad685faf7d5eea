//! The random nonce that marks the protocol's own lines in a stream.

use std::fmt::{self, Write};

use bytes::Bytes;

/// 128 bits as 32 lower-case hex digits. It is passed over stdin, never on a command line, because the process list and
/// the audit log show command lines. A process that knows it can forge an end of stream, so it is never printed.
#[derive(Clone, Eq, PartialEq)]
pub struct Nonce(String);

impl Nonce {
    /// The number of hex digits.
    pub const LENGTH: usize = 32;

    /// Creates a nonce from 128 random bits.
    pub fn new(random: u128) -> Self {
        Self(format!("{random:032x}"))
    }

    /// Parses the text of [`Nonce::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == Self::LENGTH && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nonce as a line: the same line serves as hello, "go" and acknowledgement.
    pub fn line(&self) -> Bytes {
        Bytes::from(format!("{}\n", self.0))
    }

    /// The two lines that begin a restore in the shell form.
    pub fn line_with_size(&self, size: u64) -> Bytes {
        Bytes::from(format!("{}\n{size}\n", self.0))
    }

    /// The line which the remote side of a shell form sends before it starts the command.
    pub fn ready(&self) -> Vec<u8> {
        format!("{} ready\n", self.0).into_bytes()
    }

    /// The line which the remote side of a shell form sends after the last byte.
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
