//! The parser of the remote side's stdout: `ready`, the data, and the trailer. The result does not depend on how the
//! bytes are split into chunks.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;

use super::Nonce;

/// The bytes of the data that are held back: more than a trailer (32 digits, a status of 3 digits, a newline) has.
const HELD_BACK: usize = 40;
const STATUS_DIGITS: usize = 3;

/// Why a stream is invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnsealError {
    /// The first bytes are not `ready`, so that the remote program is not Stowaway's script.
    #[error("the stream does not begin with the first line of Stowaway's script")]
    NotReady,
    /// There are bytes after the trailer, or the trailer is malformed.
    #[error(
        "the stream continued after its end at {bytes} bytes: the command left a background process behind that writes to stdout"
    )]
    Contradicted {
        /// Bytes before the trailer.
        bytes: u64,
    },
    /// The stream ended without a trailer.
    #[error("the stream ended after {bytes} bytes without the trailer which proves that it is complete")]
    Cut {
        /// Bytes received.
        bytes: u64,
    },
}

/// Parses a stream. The caller passes chunks to [`Unsealer::push`]; only [`Unsealer::exit_status`] shows that the
/// stream is complete.
pub struct Unsealer {
    nonce: Nonce,
    finder: Finder<'static>,
    held: BytesMut,
    ready: bool,
    status: Option<u16>,
    bytes: u64,
}

impl Unsealer {
    /// Creates the parser of a stream with this nonce.
    pub fn new(nonce: &Nonce) -> Self {
        Self {
            nonce: nonce.clone(),
            finder: Finder::new(nonce.as_str()).into_owned(),
            held: BytesMut::new(),
            ready: false,
            status: None,
            bytes: 0,
        }
    }

    /// Processes the next bytes, and returns those which are certainly data. The stream may still turn out to be
    /// invalid.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Bytes, UnsealError> {
        if self.status.is_some() && !chunk.is_empty() {
            return Err(UnsealError::Contradicted { bytes: self.bytes });
        }
        self.held.extend_from_slice(chunk);
        if !self.ready && !self.take_ready()? {
            return Ok(Bytes::new());
        }
        let data = match self.finder.find(&self.held) {
            Some(position) => {
                let released = self.count(position);
                let data = self.held.split_to(position).freeze();
                self.read_trailer(released)?;
                data
            }
            None => {
                let length = self.held.len().saturating_sub(HELD_BACK);
                self.count(length);
                self.held.split_to(length).freeze()
            }
        };
        Ok(data)
    }

    /// Whether the remote side has reported that it starts the command.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The command's exit status once the stream is complete. [`super::INPUT_LEFT`] is possible, too.
    pub fn exit_status(&self) -> Option<u16> {
        self.status
    }

    /// Bytes of data released so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The exit status of a stream whose connection has ended.
    pub fn finish(&self) -> Result<u16, UnsealError> {
        self.status.ok_or(UnsealError::Cut { bytes: self.bytes })
    }

    fn take_ready(&mut self) -> Result<bool, UnsealError> {
        let ready = self.nonce.ready();
        let length = ready.len().min(self.held.len());
        if self.held[..length] != ready[..length] {
            return Err(UnsealError::NotReady);
        }
        if length == ready.len() {
            self.held.advance(length);
            self.ready = true;
        }
        Ok(self.ready)
    }

    /// Parses the trailer at the beginning of `held`: the nonce, the digits of the status, a newline, and nothing else.
    fn read_trailer(&mut self, bytes: u64) -> Result<(), UnsealError> {
        let contradicted = UnsealError::Contradicted { bytes };
        let rest = &self.held[Nonce::LENGTH..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > STATUS_DIGITS {
            return Err(contradicted);
        }
        match &rest[digits..] {
            [] => Ok(()),
            [b'\n'] if digits > 0 => {
                self.status =
                    Some(rest[..digits].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')));
                self.held.clear();
                Ok(())
            }
            _ => Err(contradicted),
        }
    }

    fn count(&mut self, length: usize) -> u64 {
        // A usize fits in 64 bits on every platform that Rust has.
        self.bytes = self.bytes.saturating_add(length as u64);
        self.bytes
    }
}

#[cfg(test)]
mod tests;
