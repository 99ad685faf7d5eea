//! Reads a whole pack and verifies its hash, its header and every blob in it. Memory holds the bytes which were just
//! read and the current incomplete blob. A blob which is too long for memory is read a second time, through a temporary
//! file.

use std::io;

use bytes::{Buf, BytesMut};
use sha2::{Digest, Sha256};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    RepositoryError,
    crypto::Cipher,
    format::{Id, PackedBlob},
    index::{blob_location::BlobLocation, fetcher::Fetcher},
    long_blob, pack, scratch,
    store::Store,
    trees::tree_nodes::SHORT_BYTES,
};

/// The size of one read request.
const REQUEST_BYTES: u64 = 4 << 20;

/// The damage of a pack.
#[derive(Debug)]
pub(super) struct Damage {
    /// The first problem which was found.
    pub why: String,
    /// The damaged blobs, as positions in the pack's index.
    pub blobs: Vec<usize>,
}

/// Reads and verifies a pack. If it is damaged, it is read again, because a bit may have flipped in transit.
pub(super) async fn verify_with_retry(
    store: &Store,
    cipher: &Cipher,
    id: Id,
    size: u64,
    blobs: Vec<PackedBlob>,
) -> Result<Option<Damage>, RepositoryError> {
    let (task_store, cipher) = (store.clone(), cipher.clone());
    // A separate task, so that decryption uses all cores. The task is aborted when this future is dropped.
    let task = tokio::spawn(async move {
        match read(&task_store, &cipher, id, size, &blobs).await? {
            Some(_) => read(&task_store, &cipher, id, size, &blobs).await,
            None => Ok(None),
        }
    });
    AbortOnDropHandle::new(task).await.map_err(|panic| store.internal(panic))?
}

async fn read(
    store: &Store,
    cipher: &Cipher,
    id: Id,
    size: u64,
    blobs: &[PackedBlob],
) -> Result<Option<Damage>, RepositoryError> {
    let mut pack_reader = PackReader::new(cipher, blobs);
    let mut hash = Sha256::default();
    let mut offset = 0;
    while offset < size {
        let length = REQUEST_BYTES.min(size - offset);
        let (Ok(at), Ok(wanted)) = (u32::try_from(offset), u32::try_from(length)) else {
            return Ok(Some(pack_reader.abort(format!("{size} bytes are too long for a pack"))));
        };
        match store.read_range(&id, at, wanted).await {
            Ok(bytes) => {
                hash.update(&bytes);
                pack_reader.push(&bytes);
            }
            Err(RepositoryError::Damaged { what, .. }) => return Ok(Some(pack_reader.abort(what))),
            Err(error) => return Err(error),
        }
        offset += length;
    }
    let is_hash_right = Id::new(hash.finalize().into()) == id;
    for index in std::mem::take(&mut pack_reader.long) {
        if let Err(why) = verify_long(store, cipher, blobs[index].part(id)).await? {
            pack_reader.mark_damaged(index, &why);
        }
    }
    Ok(pack_reader.finish(is_hash_right))
}

/// Verifies a blob which is too long for memory. The inner error states why the blob is damaged.
async fn verify_long(
    store: &Store,
    cipher: &Cipher,
    part: BlobLocation,
) -> Result<Result<(), String>, RepositoryError> {
    let mut reader = match long_blob::fetch(&Fetcher::new(store, cipher), part).await {
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

/// Verifies a pack while its bytes arrive.
struct PackReader<'a> {
    cipher: &'a Cipher,
    blobs: &'a [PackedBlob],
    /// The position of the next blob.
    next: usize,
    /// The offset of `rest` in the pack. Bytes from there on are not verified yet.
    start: u32,
    /// How many bytes before `start` belong to the next blob, which is too long for memory.
    skipped: u32,
    rest: BytesMut,
    /// A buffer for the content of one blob, which is reused.
    plain: Vec<u8>,
    /// The positions of blobs which are too long for memory. They are read separately afterwards.
    long: Vec<usize>,
    /// The problem of the first damaged blob.
    why: Option<String>,
    damaged: Vec<usize>,
}

impl<'a> PackReader<'a> {
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

    /// Adds bytes, and verifies all blobs which are now complete.
    fn push(&mut self, bytes: &[u8]) {
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
                // The index is wrong: the blob begins before the end of the previous one.
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
                self.mark_damaged(self.next, &why);
            }
            self.rest.advance(blob.end().saturating_sub(self.start) as usize);
            self.start = self.start.max(blob.end());
            self.next += 1;
        }
    }

    /// Skips the bytes of a long blob. Returns whether the blob has ended.
    fn skip(&mut self, blob: &PackedBlob) -> bool {
        let there = u32::try_from(self.rest.len()).unwrap_or(u32::MAX);
        let skipped = blob.end().saturating_sub(self.start).min(there);
        self.rest.advance(skipped as usize);
        self.start += skipped;
        let is_over = self.start >= blob.end();
        self.skipped = if is_over { 0 } else { self.start.saturating_sub(blob.offset) };
        is_over
    }

    fn mark_damaged(&mut self, index: usize, why: &str) {
        let id = self.blobs[index].id;
        self.why.get_or_insert_with(|| format!("blob {}: {why}", id.to_hex()));
        self.damaged.push(index);
    }

    /// Ends the verification. The bytes after the last blob must be a header which names the same blobs as the index.
    fn finish(mut self, is_hash_right: bool) -> Option<Damage> {
        if self.next < self.blobs.len() {
            return Some(self.abort("it ends before its last blob".to_owned()));
        }
        let header = match pack::read_header(self.cipher, &self.rest) {
            Ok(named) if named == self.blobs => Ok(()),
            Ok(_) => Err("its header names other blobs than its index".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let hash = if is_hash_right { Ok(()) } else { Err("its content does not match its id".to_owned()) };
        let why = self.why.take().or(header.err()).or(hash.err())?;
        Some(Damage { why, blobs: self.damaged })
    }

    /// Ends the verification of a pack which could not be read to its end. All blobs which were not verified count as
    /// damaged.
    fn abort(mut self, why: String) -> Damage {
        self.damaged.extend(self.next..self.blobs.len());
        Damage { why: self.why.unwrap_or(why), blobs: self.damaged }
    }
}
