//! A blob that is too long for memory, in a temporary file. It is written piece by piece and encrypted into a pack of
//! its own, or fetched, authenticated and read piece by piece. Format: restic's design document, section "Pack Format".

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    sync::Arc,
};

use sha2::{Digest, Sha256};
use zstd::stream::{read::Decoder, write::Encoder};

use super::{
    RepositoryError,
    crypto::{Cipher, CryptoError, OVERHEAD_BYTES, new_nonce},
    crypto_stream::{BLOCK_BYTES, CryptoStream, NONCE_BYTES, TAG_BYTES},
    format::{BlobKind, Id, PackedBlob},
    index::{blob_location::BlobLocation, fetcher::Fetcher},
    pack::header_of,
    scratch,
};

/// How many bytes are in memory at once.
const PIECE_BYTES: usize = 1 << 20;
const _: () = assert!(PIECE_BYTES.is_multiple_of(BLOCK_BYTES));
/// How many bytes one request fetches.
const REQUEST_BYTES: u32 = 4 << 20;

/// A blob that is being written to a temporary file, which begins with space for the nonce.
pub(super) struct LongWriter {
    hash: Sha256,
    length: u64,
    output: Output,
}

enum Output {
    Compressed(Box<Encoder<'static, BufWriter<File>>>),
    Plain(BufWriter<File>),
}

impl LongWriter {
    /// Begins a blob. `version` is the version of the repository's format.
    pub fn new(version: u32) -> io::Result<Self> {
        let mut file = BufWriter::new(scratch::file()?);
        file.write_all(&[0; NONCE_BYTES])?;
        let output = if version >= 2 {
            Output::Compressed(Box::new(Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)?))
        } else {
            Output::Plain(file)
        };
        Ok(Self { hash: Sha256::default(), length: 0, output })
    }

    /// Appends the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        match &mut self.output {
            Output::Compressed(encoder) => encoder.write_all(bytes),
            Output::Plain(file) => file.write_all(bytes),
        }
    }

    /// Finishes the blob.
    pub fn finish(self) -> io::Result<LongBlob> {
        let (file, compressed) = match self.output {
            Output::Compressed(encoder) => (encoder.finish()?, true),
            Output::Plain(file) => (file, false),
        };
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let end = file.stream_position()?;
        Ok(LongBlob { id: Id::new(self.hash.finalize().into()), length: self.length, file, end, compressed })
    }
}

/// A blob that was written to a temporary file but is not encrypted yet.
pub(super) struct LongBlob {
    pub id: Id,
    /// The length before compression.
    pub length: u64,
    file: File,
    /// The offset of the blob's end in the file.
    end: u64,
    compressed: bool,
}

/// A pack in a temporary file.
#[derive(Clone, Debug)]
pub(super) struct PackFile {
    pub id: Id,
    pub content: Arc<File>,
    pub size: u64,
    pub blob: PackedBlob,
}

impl LongBlob {
    /// Converts the file to a pack which contains only this blob. The blob is encrypted within the file.
    ///
    /// Errors: [`CryptoError::Format`] if the blob is too long for a pack.
    pub fn seal(mut self, cipher: &Cipher, kind: BlobKind) -> Result<PackFile, SealError> {
        let too_long = |_| CryptoError::Format(format!("{} bytes are too long for a blob", self.length));
        let length = u32::try_from(self.end + TAG_BYTES as u64).map_err(too_long)?;
        let plain_length = u32::try_from(self.length).map_err(too_long)?;
        let uncompressed_length = self.compressed.then_some(plain_length);
        let blob = PackedBlob { id: self.id, kind, offset: 0, length, uncompressed_length };

        let nonce = new_nonce();
        let (mut stream, mut hash) = (cipher.stream(&nonce), Sha256::default());
        self.file.write_all_at(&nonce, 0)?;
        hash.update(nonce);
        let (mut at, mut piece) = (NONCE_BYTES as u64, vec![0; PIECE_BYTES]);
        let tag = loop {
            let left = self.end - at;
            let is_last = left <= PIECE_BYTES as u64;
            piece.truncate(usize::try_from(left).unwrap_or(PIECE_BYTES));
            self.file.read_exact_at(&mut piece, at)?;
            stream.apply(&mut piece);
            self.file.write_all_at(&piece, at)?;
            hash.update(&piece);
            at += piece.len() as u64;
            if is_last {
                break stream.tag(&piece);
            }
            stream.authenticate(&piece);
        };
        self.file.seek(SeekFrom::Start(at))?;
        let header = header_of(cipher, &blob)?;
        for bytes in [&tag[..], &header] {
            self.file.write_all(bytes)?;
            hash.update(bytes);
        }
        let size = at + TAG_BYTES as u64 + header.len() as u64;
        Ok(PackFile { id: Id::new(hash.finalize().into()), content: Arc::new(self.file), size, blob })
    }
}

/// Why a long blob could not be encrypted.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error(transparent)]
    Scratch(#[from] io::Error),
}

/// Fetches a blob into a temporary file and verifies its authentication tag. The reader returns authentic data, but
/// compares the blob's id only after it has read the whole blob.
///
/// Errors: [`RepositoryError::Damaged`] if the blob is not authentic.
pub(super) async fn fetch(fetcher: &Fetcher, part: BlobLocation) -> Result<LongReader, RepositoryError> {
    let not_authentic = || fetcher.damaged(&part, &CryptoError::NotAuthentic);
    let overhead = u32::try_from(OVERHEAD_BYTES).unwrap_or(u32::MAX);
    let length = part.length.checked_sub(overhead).ok_or_else(not_authentic)?;
    let file = scratch::file().map_err(scratch::failed)?;
    let nonce = fetcher.store.read_range(&part.pack, part.offset, overhead / 2).await?;
    let nonce: [u8; NONCE_BYTES] = nonce[..].try_into().map_err(|_| not_authentic())?;
    let begin = part.offset.saturating_add(overhead / 2);
    let (mut authenticating, mut at) = (fetcher.cipher.stream(&nonce), 0);
    let tag = loop {
        let wanted = REQUEST_BYTES.min(length - at);
        let piece = fetcher.store.read_range(&part.pack, begin.saturating_add(at), wanted).await?;
        file.write_all_at(&piece, u64::from(at)).map_err(scratch::failed)?;
        at += wanted;
        if at == length {
            break authenticating.tag(&piece);
        }
        authenticating.authenticate(&piece);
    };
    let stored = fetcher.store.read_range(&part.pack, begin.saturating_add(length), overhead / 2).await?;
    // Both tags are public, so the comparison need not take constant time.
    if stored[..] != tag {
        return Err(not_authentic());
    }
    let decrypting = Decrypting {
        file,
        at: 0,
        end: u64::from(length),
        stream: fetcher.cipher.stream(&nonce),
        piece: Vec::new(),
        read: 0,
    };
    let content: Box<dyn Read + Send> = if part.compressed {
        Box::new(Decoder::new(decrypting).map_err(scratch::failed)?)
    } else {
        Box::new(decrypting)
    };
    Ok(LongReader { content, hash: Sha256::default(), left: u64::from(part.plain_length), id: part.id })
}

/// Reads a blob. The last read fails if the content does not match the blob's id.
pub(super) struct LongReader {
    content: Box<dyn Read + Send>,
    hash: Sha256,
    /// How many bytes remain.
    left: u64,
    id: Id,
}

impl Read for LongReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.content.read(&mut buffer[..most])?;
        self.hash.update(&buffer[..read]);
        self.left -= read as u64;
        let is_other = self.left == 0 && Id::new(self.hash.clone().finalize().into()) != self.id;
        if read == 0 || is_other {
            return Err(io::Error::new(io::ErrorKind::InvalidData, CryptoError::OtherContent));
        }
        Ok(read)
    }
}

/// Decrypts a file while it is read.
struct Decrypting {
    file: File,
    at: u64,
    end: u64,
    stream: CryptoStream,
    piece: Vec<u8>,
    /// How many bytes of the piece were read.
    read: usize,
}

impl Read for Decrypting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.piece.len() {
            let length = usize::try_from(self.end - self.at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            self.piece.resize(length, 0);
            self.file.read_exact_at(&mut self.piece, self.at)?;
            self.stream.apply(&mut self.piece);
            self.at += length as u64;
            self.read = 0;
        }
        let read = buffer.len().min(self.piece.len() - self.read);
        buffer[..read].copy_from_slice(&self.piece[self.read..][..read]);
        self.read += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::id_of, format::MasterKey, pack::read_header};

    fn pack(content: &[u8], version: u32) -> (Cipher, Vec<u8>, PackedBlob) {
        let cipher = Cipher::of(&MasterKey::new());
        let mut writer = LongWriter::new(version).unwrap();
        content.chunks(100_001).for_each(|bytes| writer.write(bytes).unwrap());
        let blob = writer.finish().unwrap();
        assert_eq!((blob.id, blob.length), (id_of(content), content.len() as u64));
        let pack = blob.seal(&cipher, BlobKind::Tree).unwrap();
        let mut stored = vec![0; usize::try_from(pack.size).unwrap()];
        pack.content.read_exact_at(&mut stored, 0).unwrap();
        assert_eq!(pack.content.metadata().unwrap().len(), pack.size);
        assert_eq!(id_of(&stored), pack.id);
        (cipher, stored, pack.blob)
    }

    #[test]
    fn pack_of_a_long_blob_is_opened_as_a_short_one() {
        for length in [0, 1, 15, 16, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 16, 3 * PIECE_BYTES + 5] {
            let content: Vec<u8> = (0..length).map(|number| (number * number / 7).to_le_bytes()[0]).collect();
            for version in [1, 2] {
                let (cipher, stored, blob) = pack(&content, version);
                let mut plain = Vec::new();
                let (sealed, end) = stored.split_at(blob.length as usize);
                cipher.open_blob((&blob.id, blob.uncompressed_length), sealed, &mut plain).unwrap();
                assert!(plain == content, "{length} bytes, version {version}");
                assert_eq!(read_header(&cipher, end).unwrap(), [blob]);
            }
        }
    }
}
