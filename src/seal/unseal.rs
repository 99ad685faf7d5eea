//! The parser of what the remote side sends on stdout: ready, the data, and the end in band.
//!
//! It must not know who carries the bytes; however they are cut into chunks, the result is the same.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;

use super::Nonce;

/// What is held back of the data: more than a trailer (32 digits, a status of 3, a newline) takes.
const HELD_BACK: usize = 40;
const STATUS_DIGITS: usize = 3;

/// Why a stream is not what it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnsealError {
    /// Something other than `ready` came first: whatever answered is not our script.
    #[error("the stream does not begin with the word of our script")]
    NotReady,
    /// Bytes after the trailer, or a malformed one.
    #[error(
        "the stream went on after its end at {bytes} bytes: the command left a background process behind that writes to stdout"
    )]
    Contradicted {
        /// Bytes before the trailer.
        bytes: u64,
    },
    /// The stream ended without a trailer.
    #[error("the stream ended after {bytes} bytes without the word that it is whole")]
    Cut {
        /// Bytes that came.
        bytes: u64,
    },
}

/// Takes a stream apart. Feed it with [`Unsealer::push`]; only [`Unsealer::exit_status`] says that it is whole.
pub struct Unsealer {
    nonce: Nonce,
    finder: Finder<'static>,
    held: BytesMut,
    ready: bool,
    status: Option<u16>,
    bytes: u64,
}

impl Unsealer {
    /// For a stream of this nonce.
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

    /// Takes the next bytes, and returns those that are data for certain. They may still turn out to be worth nothing.
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

    /// Whether the remote side said that it starts the command.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The command's exit status, once the stream came to its end; [`super::INPUT_LEFT`] is possible, too.
    pub fn exit_status(&self) -> Option<u16> {
        self.status
    }

    /// Bytes of data released so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The exit status of a stream after whose last byte the carrier ended.
    pub fn finish(&self) -> Result<u16, UnsealError> {
        self.status.ok_or(UnsealError::Cut { bytes: self.bytes })
    }

    fn take_ready(&mut self) -> Result<bool, UnsealError> {
        let word = self.nonce.ready();
        let length = word.len().min(self.held.len());
        if self.held[..length] != word[..length] {
            return Err(UnsealError::NotReady);
        }
        if length == word.len() {
            self.held.advance(length);
            self.ready = true;
        }
        Ok(self.ready)
    }

    /// `held` begins with the nonce: the digits of the status and a newline follow, and then nothing, ever.
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
