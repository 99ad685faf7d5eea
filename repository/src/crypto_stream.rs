//! Encryption and decryption of a content that is too long for memory, piece by piece, in restic's format of blobs: 16
//! bytes of nonce, AES-256-CTR ciphertext, 16 bytes of Poly1305-AES tag.

use aes::{
    Aes128, Aes256,
    cipher::{BlockEncrypt, KeyInit, KeyIvInit, StreamCipher},
};
use ctr::Ctr128BE;
use poly1305::{Poly1305, universal_hash::UniversalHash};
use zeroize::Zeroize;

use super::format::MASTER_KEY_BYTES;

pub(super) const NONCE_BYTES: usize = 16;
pub(super) const TAG_BYTES: usize = 16;
pub(super) const KEY_BYTES: usize = MASTER_KEY_BYTES;

/// The block length: every piece except the last must be a multiple of it.
pub(super) const BLOCK_BYTES: usize = 16;

/// The keystream and the tag of one content.
pub(super) struct CryptoStream {
    keystream: Ctr128BE<Aes256>,
    tag: Poly1305,
}

impl CryptoStream {
    /// `key` contains restic's three keys: 32 bytes for the cipher, 16 bytes for the tag's nonce, 16 bytes for the tag.
    pub fn new(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES]) -> Self {
        let mut block = (*nonce).into();
        Aes128::new(key[32..48].into()).encrypt_block(&mut block);
        let mut tag_key = [0; 32];
        tag_key[..16].copy_from_slice(&key[48..]);
        tag_key[16..].copy_from_slice(&block);
        let tag = Poly1305::new(&tag_key.into());
        tag_key.zeroize();
        block.as_mut_slice().zeroize();
        Self { keystream: Ctr128BE::new(key[..32].into(), nonce.into()), tag }
    }

    /// Encrypts or decrypts the next piece.
    pub fn apply(&mut self, piece: &mut [u8]) {
        self.keystream.apply_keystream(piece);
    }

    /// Adds the next piece of the ciphertext to the tag.
    pub fn authenticate(&mut self, ciphertext: &[u8]) {
        self.tag.update_padded(ciphertext);
    }

    /// Adds the last piece of the ciphertext, and returns the tag.
    pub fn tag(self, last: &[u8]) -> [u8; TAG_BYTES] {
        self.tag.compute_unpadded(last).into()
    }
}
