//! Pack files. A pack consists of encrypted blobs and an encrypted header which lists them. Format: restic's design
//! document, section "Pack Format".

use bytes::Bytes;

use super::{
    crypto::{self, Cipher, CryptoError, OVERHEAD_BYTES},
    format::{BlobKind, Id, PackedBlob},
};

/// Bytes of a header entry: type, length and id. The entry of a compressed blob also contains the uncompressed length.
const ENTRY_BYTES: usize = 37;
const COMPRESSED_ENTRY_BYTES: usize = 41;
/// Bytes of the field at the end of a pack which contains the header's length.
const LENGTH_BYTES: usize = 4;

impl PackedBlob {
    /// Appends the blob's entry to a pack's header.
    fn append_entry(&self, header: &mut Vec<u8>) {
        header.push(type_of(self.kind, self.uncompressed_length.is_some()));
        header.extend(self.length.to_le_bytes());
        header.extend(self.uncompressed_length.map(u32::to_le_bytes).iter().flatten());
        header.extend(self.id.bytes());
    }

    /// Returns the length of the blob's entry in the pack's header.
    pub fn entry_bytes(&self) -> u64 {
        if self.uncompressed_length.is_some() { COMPRESSED_ENTRY_BYTES as u64 } else { ENTRY_BYTES as u64 }
    }
}

/// Bytes of a header without its entries.
pub(super) const HEADER_BYTES: u64 = (OVERHEAD_BYTES + LENGTH_BYTES) as u64;

/// A pack that is being filled.
#[derive(Debug, Default)]
pub(super) struct Packing {
    content: Vec<u8>,
    header: Vec<u8>,
    blobs: Vec<PackedBlob>,
}

/// A finished pack, not written yet.
#[derive(Debug)]
pub(super) struct Packed {
    pub id: Id,
    pub content: Bytes,
    pub blobs: Vec<PackedBlob>,
}

impl Packing {
    /// Returns how many bytes the pack has so far.
    pub fn bytes(&self) -> usize {
        self.content.len() + self.header.len()
    }

    /// Returns how many blobs the pack has so far.
    pub fn blobs(&self) -> usize {
        self.blobs.len()
    }

    /// Appends an encrypted blob.
    pub fn add(
        &mut self,
        kind: BlobKind,
        id: Id,
        sealed: &[u8],
        uncompressed_length: Option<u32>,
    ) -> Result<(), CryptoError> {
        let (offset, length) = (number(self.content.len())?, number(sealed.len())?);
        let blob = PackedBlob { id, kind, offset, length, uncompressed_length };
        blob.append_entry(&mut self.header);
        self.content.extend_from_slice(sealed);
        self.blobs.push(blob);
        Ok(())
    }

    /// Finishes the pack. Returns none if the pack is empty.
    pub fn finish(mut self, cipher: &Cipher) -> Result<Option<Packed>, CryptoError> {
        if self.blobs.is_empty() {
            return Ok(None);
        }
        self.content.extend(seal_header(cipher, &self.header)?);
        let id = crypto::id_of(&self.content);
        Ok(Some(Packed { id, content: self.content.into(), blobs: self.blobs }))
    }
}

/// Returns the encrypted header of a pack with a single blob, including the length field.
pub(super) fn header_of(cipher: &Cipher, blob: &PackedBlob) -> Result<Vec<u8>, CryptoError> {
    let mut header = Vec::new();
    blob.append_entry(&mut header);
    seal_header(cipher, &header)
}

fn seal_header(cipher: &Cipher, header: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut sealed = cipher.encrypt(header)?;
    sealed.extend(number(sealed.len())?.to_le_bytes());
    Ok(sealed)
}

/// Returns the blobs that a pack's header lists, in order. `end` is the part of the pack after the last blob.
pub(super) fn read_header(cipher: &Cipher, end: &[u8]) -> Result<Vec<PackedBlob>, CryptoError> {
    let broken = |what: &str| CryptoError::Format(format!("its header {what}"));
    let (sealed, length) = end.split_last_chunk::<LENGTH_BYTES>().ok_or_else(|| broken("is missing"))?;
    if u32::from_le_bytes(*length) as usize != sealed.len() {
        return Err(broken("does not have the length that the pack's end specifies"));
    }
    let header = cipher.decrypt(sealed)?;
    let (mut rest, mut blobs, mut offset) = (&header[..], Vec::new(), 0_u32);
    while let Some((&kind, after)) = rest.split_first() {
        let (kind, is_compressed) = match kind {
            0 => (BlobKind::Data, false),
            1 => (BlobKind::Tree, false),
            2 => (BlobKind::Data, true),
            3 => (BlobKind::Tree, true),
            _ => return Err(broken("contains an unknown kind of blob")),
        };
        let short = || broken("ends within an entry");
        let (length, after) = after.split_first_chunk().ok_or_else(short)?;
        let (plain, after) = if is_compressed {
            let (plain, after) = after.split_first_chunk().ok_or_else(short)?;
            (Some(u32::from_le_bytes(*plain)), after)
        } else {
            (None, after)
        };
        let (id, after) = after.split_first_chunk().ok_or_else(short)?;
        let blob = PackedBlob {
            id: Id::new(*id),
            kind,
            offset,
            length: u32::from_le_bytes(*length),
            uncompressed_length: plain,
        };
        (rest, offset) = (after, blob.end());
        blobs.push(blob);
    }
    Ok(blobs)
}

fn type_of(kind: BlobKind, is_compressed: bool) -> u8 {
    match (kind, is_compressed) {
        (BlobKind::Data, false) => 0,
        (BlobKind::Tree, false) => 1,
        (BlobKind::Data, true) => 2,
        (BlobKind::Tree, true) => 3,
    }
}

fn number(length: usize) -> Result<u32, CryptoError> {
    u32::try_from(length).map_err(|_| CryptoError::Format(format!("{length} bytes are too long for a pack")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::MasterKey;

    #[test]
    fn header_lists_the_packed_blobs() {
        let cipher = Cipher::of(&MasterKey::new());
        let mut packing = Packing::default();
        for (kind, plain) in [(BlobKind::Data, None), (BlobKind::Tree, Some(9)), (BlobKind::Data, Some(7))] {
            packing.add(kind, crypto::id_of(&[kind as u8]), &[1; 50], plain).unwrap();
        }
        let packed = packing.finish(&cipher).unwrap().unwrap();
        let header = &packed.content[150..];
        assert_eq!(read_header(&cipher, header).unwrap(), packed.blobs);
        let entries: u64 = packed.blobs.iter().map(PackedBlob::entry_bytes).sum();
        assert_eq!(header.len() as u64, HEADER_BYTES + entries);
        for position in 0..header.len() {
            let mut broken = header.to_vec();
            broken[position] ^= 1;
            assert!(read_header(&cipher, &broken).is_err(), "byte {position}");
        }
        assert!(read_header(&cipher, &header[1..]).is_err());
        assert!(read_header(&cipher, &[]).is_err());
    }

    #[test]
    fn empty_pack_is_none() {
        let cipher = Cipher::of(&MasterKey::new());
        assert!(Packing::default().finish(&cipher).unwrap().is_none());
    }
}
