//! One pack, read from its first byte to its last: its hash, its header, and every blob in it.
//!
//! In memory are what was just read and the blob that is not complete yet; one that is too long for that is read once more, by
//! a temporary file. It must not know who needs the blobs.

use std::io;

use bytes::{Buf, BytesMut};
use rustic_core::Id;
use sha2::{Digest, Sha256};
use tokio_util::task::AbortOnDropHandle;

use crate::repository::{
    RepositoryError,
    archive::internal,
    crypto::Cipher,
    long_blob,
    pack::{self, PackedBlob},
    part::{Fetcher, Part},
    scratch,
    store::Store,
    tree_nodes::SHORT_BYTES,
};

/// How much is read by one request.
const REQUEST_BYTES: u64 = 4 << 20;

/// What is wrong with a pack.
#[derive(Debug)]
pub(super) struct Damage {
    /// The first of it.
    pub why: String,
    /// Which blobs are not what was written, by their place in the pack's index.
    pub blobs: Vec<usize>,
}

/// Reads a pack; if something is wrong, once more, since it may have been on the way that a bit flipped.
pub(super) async fn read_twice_if_damaged(
    store: &Store,
    cipher: &Cipher,
    id: Id,
    size: u64,
    blobs: Vec<PackedBlob>,
) -> Result<Option<Damage>, RepositoryError> {
    let (place, store, cipher) = (store.clone(), store.clone(), cipher.clone());
    // A task of its own, so that all cores decrypt; it ends with this future.
    let reading = tokio::spawn(async move {
        match read(&store, &cipher, id, size, &blobs).await? {
            Some(_) => read(&store, &cipher, id, size, &blobs).await,
            None => Ok(None),
        }
    });
    AbortOnDropHandle::new(reading).await.map_err(|panic| internal(&place, panic))?
}

async fn read(
    store: &Store,
    cipher: &Cipher,
    id: Id,
    size: u64,
    blobs: &[PackedBlob],
) -> Result<Option<Damage>, RepositoryError> {
    let mut reading = Reading::new(cipher, blobs);
    let mut hash = Sha256::default();
    let mut offset = 0;
    while offset < size {
        let length = REQUEST_BYTES.min(size - offset);
        let (Ok(at), Ok(wanted)) = (u32::try_from(offset), u32::try_from(length)) else {
            return Ok(Some(reading.broken_off(format!("{size} bytes are too long for a pack"))));
        };
        match store.read_range(&id, at, wanted).await {
            Ok(bytes) => {
                hash.update(&bytes);
                reading.take(&bytes);
            }
            Err(RepositoryError::Damaged { what, .. }) => return Ok(Some(reading.broken_off(what))),
            Err(error) => return Err(error),
        }
        offset += length;
    }
    let is_hash_right = Id::new(hash.finalize().into()) == id;
    for place in std::mem::take(&mut reading.long) {
        if let Err(why) = verify_long(store, cipher, blobs[place].part(id)).await? {
            reading.lose(place, &why);
        }
    }
    Ok(reading.ended(is_hash_right))
}

/// Reads a blob that is too long for memory; the inner error says why it is not what was written.
async fn verify_long(store: &Store, cipher: &Cipher, part: Part) -> Result<Result<(), String>, RepositoryError> {
    let mut reader = match long_blob::fetch(&Fetcher { store: store.clone(), cipher: cipher.clone() }, part).await {
        Ok(reader) => reader,
        Err(RepositoryError::Damaged { what, .. }) => return Ok(Err(what)),
        Err(error) => return Err(error),
    };
    match io::copy(&mut reader, &mut io::sink()) {
        Ok(_) => Ok(Ok(())),
        Err(error) if scratch::is_of_file(&error) => Err(scratch::failed(error)),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// What was read, and what of it is checked.
struct Reading<'a> {
    cipher: &'a Cipher,
    blobs: &'a [PackedBlob],
    /// The next blob's place.
    next: usize,
    /// Where in the pack `rest` begins, which is not checked yet.
    start: u32,
    /// How much before that belongs to the next blob, which is a long one.
    skipped: u32,
    rest: BytesMut,
    /// The content of a blob, in a buffer that each uses again.
    plain: Vec<u8>,
    /// The places of blobs that are too long for memory, and are read on their own afterwards.
    long: Vec<usize>,
    /// Of the first blob that is damaged.
    why: Option<String>,
    damaged: Vec<usize>,
}

impl<'a> Reading<'a> {
    fn new(cipher: &'a Cipher, blobs: &'a [PackedBlob]) -> Self {
        Self {
            cipher,
            blobs,
            next: 0,
            start: 0,
            skipped: 0,
            rest: BytesMut::new(),
            plain: Vec::new(),
            long: Vec::new(),
            why: None,
            damaged: Vec::new(),
        }
    }

    /// Checks all blobs that are complete with these bytes.
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(blob) = self.blobs.get(self.next) {
            if blob.plain_length() > SHORT_BYTES && blob.offset >= self.start.saturating_sub(self.skipped) {
                if !self.skip(blob) {
                    return;
                }
                self.long.push(self.next);
                self.next += 1;
                continue;
            }
            let checked = match blob.offset.checked_sub(self.start) {
                // Its index is wrong: it begins within the one before it.
                None => Err("its index names blobs that overlap".to_owned()),
                Some(skipped) => match self.rest.get(skipped as usize..skipped as usize + blob.length as usize) {
                    None => return,
                    Some(sealed) => {
                        let wanted = (&blob.id, blob.uncompressed_length);
                        let opened = self.cipher.open_blob(wanted, sealed, &mut self.plain);
                        opened.map_err(|error| error.to_string())
                    }
                },
            };
            if let Err(why) = checked {
                self.lose(self.next, &why);
            }
            self.rest.advance(blob.end().saturating_sub(self.start) as usize);
            self.start = self.start.max(blob.end());
            self.next += 1;
        }
    }

    /// Leaves out what was read of a blob; whether that was all of it.
    fn skip(&mut self, blob: &PackedBlob) -> bool {
        let there = u32::try_from(self.rest.len()).unwrap_or(u32::MAX);
        let skipped = blob.end().saturating_sub(self.start).min(there);
        self.rest.advance(skipped as usize);
        self.start += skipped;
        let is_over = self.start >= blob.end();
        self.skipped = if is_over { 0 } else { self.start.saturating_sub(blob.offset) };
        is_over
    }

    fn lose(&mut self, place: usize, why: &str) {
        let id = self.blobs[place].id;
        self.why.get_or_insert_with(|| format!("blob {}: {why}", id.to_hex().as_str()));
        self.damaged.push(place);
    }

    /// What comes after the last blob must be a header that names the same blobs as the index.
    fn ended(mut self, is_hash_right: bool) -> Option<Damage> {
        if self.next < self.blobs.len() {
            return Some(self.broken_off("it ends before its last blob".to_owned()));
        }
        let header = match pack::read_header(self.cipher, &self.rest) {
            Ok(named) if named == self.blobs => Ok(()),
            Ok(_) => Err("its header names other blobs than its index".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let hash = if is_hash_right { Ok(()) } else { Err("it is not what was written".to_owned()) };
        let why = self.why.take().or(header.err()).or(hash.err())?;
        Some(Damage { why, blobs: self.damaged })
    }

    /// It could not be read to its end: what was not checked counts as damaged.
    fn broken_off(mut self, why: String) -> Damage {
        self.damaged.extend(self.next..self.blobs.len());
        Damage { why: self.why.unwrap_or(why), blobs: self.damaged }
    }
}
