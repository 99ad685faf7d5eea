//! restic's encryption and compression of files and blobs, and its ids (SHA-256 of the content).
//!
//! Formats: restic's "Repository Format" in its design document, sections "Keys, Encryption and MAC" and "Unpacked Data
//! Format": 16 bytes of nonce, AES-256-CTR ciphertext, 16 bytes of Poly1305-AES tag.

use std::{cell::RefCell, io};

use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce, aead::AeadInPlace};
use jiff::Timestamp;
use rand::Rng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;
use zstd::bulk::Decompressor;

use super::{
    crypto_stream::{CryptoStream, KEY_BYTES, NONCE_BYTES, TAG_BYTES},
    format::{Binary, Id, KeyFile, MasterKey},
    holder::LockHolder,
};
use stowaway_model::Secret;

/// The bytes that encryption adds: nonce and tag.
pub(super) const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;
/// The first byte of the plaintext of a compressed file other than a pack (repository format 2).
const COMPRESSED: u8 = 2;
/// The limit of scrypt's memory, because a hostile or corrupt key file must not exhaust memory. restic's keys need less
/// than 256 MiB.
const MAX_SCRYPT_BYTES: u64 = 1 << 30;
/// log2 of scrypt's N for keys that Stowaway creates. With r = 8 and p = 1 scrypt needs 32 MiB, which fits into a small
/// pod.
const NEW_KEY_SCRYPT_LOG_N: u8 = 15;
const NEW_KEY_SCRYPT_R: u32 = 8;
const NEW_KEY_SCRYPT_P: u32 = 1;

/// Why data cannot be decrypted, or is not what was stored.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum CryptoError {
    #[error("it does not decrypt with the repository's key")]
    NotAuthentic,
    #[error("it does not match its id")]
    OtherContent,
    #[error("it has an unknown format: {0}")]
    Format(String),
}

/// Encrypts and decrypts with one key.
#[derive(Clone)]
pub(super) struct Cipher {
    whole: Aes256CtrPoly1305Aes,
    key: Zeroizing<[u8; KEY_BYTES]>,
}

impl Cipher {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self { whole: Aes256CtrPoly1305Aes::new(Key::from_slice(key)), key: Zeroizing::new(*key) }
    }

    /// Returns a cipher for a content that is processed in pieces.
    pub fn stream(&self, nonce: &[u8; NONCE_BYTES]) -> CryptoStream {
        CryptoStream::new(&self.key, nonce)
    }

    /// Returns the cipher of a repository's master key.
    pub fn of(master: &MasterKey) -> Self {
        Self::new(master.bytes())
    }

    pub fn encrypt(&self, plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut sealed = vec![0; plain.len() + OVERHEAD_BYTES];
        sealed[NONCE_BYTES..][..plain.len()].copy_from_slice(plain);
        self.encrypt_within(&mut sealed)?;
        Ok(sealed)
    }

    /// Encrypts the content of a buffer, whose first and last 16 bytes are space for nonce and tag.
    pub fn encrypt_within(&self, sealed: &mut [u8]) -> Result<(), CryptoError> {
        let too_short = || CryptoError::Format("too short for nonce and tag".into());
        let (front, rest) = sealed.split_first_chunk_mut::<NONCE_BYTES>().ok_or_else(too_short)?;
        let (content, back) = rest.split_last_chunk_mut::<TAG_BYTES>().ok_or_else(too_short)?;
        let nonce = Nonce::from(new_nonce());
        let tag = self.whole.encrypt_in_place_detached(&nonce, &[], content);
        let tag = tag.map_err(|_| CryptoError::Format("too long to be encrypted".into()))?;
        front.copy_from_slice(&nonce);
        back.copy_from_slice(&tag);
        Ok(())
    }

    pub fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut plain = Vec::new();
        self.decrypt_into(sealed, &mut plain)?;
        Ok(plain)
    }

    /// Decrypts into `plain`, whose former content is replaced.
    fn decrypt_into(&self, sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), CryptoError> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES).ok_or(CryptoError::NotAuthentic)?;
        let (content, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(CryptoError::NotAuthentic)?;
        plain.clear();
        plain.extend_from_slice(content);
        let decrypted = self.whole.decrypt_in_place_detached(Nonce::from_slice(nonce), &[], plain, tag.into());
        decrypted.map_err(|_| CryptoError::NotAuthentic)
    }

    /// Decrypts and decompresses a blob into `plain`, whose former content is replaced, and verifies that the blob
    /// matches its id. `uncompressed_length` is none if the blob is not compressed. A blob that is longer is an error.
    pub fn open_blob(
        &self,
        (id, uncompressed_length): (&Id, Option<u32>),
        sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        match uncompressed_length {
            None => self.decrypt_into(sealed, plain)?,
            Some(length) => UNPACKER.with_borrow_mut(|unpacker| {
                let Unpacker { packed, decompressor } = unpacker;
                self.decrypt_into(sealed, packed)?;
                let decompressor = match decompressor {
                    Some(decompressor) => decompressor,
                    None => decompressor.insert(Decompressor::new().map_err(broken)?),
                };
                plain.clear();
                plain.reserve_exact(length as usize);
                decompressor.decompress_to_buffer(packed, plain).map_err(broken)?;
                Ok(())
            })?,
        }
        if id_of(plain) == *id { Ok(()) } else { Err(CryptoError::OtherContent) }
    }

    /// Encrypts a JSON file (snapshot, index, lock, config). The file is compressed if the repository's version has
    /// compression.
    pub fn encrypt_file(&self, json: &[u8], version: u32) -> Result<Vec<u8>, CryptoError> {
        if version < 2 {
            return self.encrypt(json);
        }
        let mut plain = vec![COMPRESSED];
        plain.extend(compress(json)?);
        self.encrypt(&plain)
    }

    pub fn decrypt_file(&self, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let plain = self.decrypt(sealed)?;
        match plain.split_first() {
            Some((b'{' | b'[', _)) => Ok(plain),
            Some((&COMPRESSED, rest)) => decompress(rest),
            _ => Err(CryptoError::Format("neither JSON nor compressed JSON".into())),
        }
    }
}

/// Returns a random nonce.
pub(super) fn new_nonce() -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

/// Compresses contents, one at a time.
pub(super) struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    pub fn new() -> Result<Self, CryptoError> {
        let made = zstd::bulk::Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL);
        made.map(Self).map_err(|error| CryptoError::Format(error.to_string()))
    }

    /// Compresses into a buffer of at least [`compressed_bound`] bytes. Returns the compressed length.
    pub fn compress_into(&mut self, plain: &[u8], compressed: &mut [u8]) -> Result<usize, CryptoError> {
        self.0.compress_to_buffer(plain, compressed).map_err(|error| CryptoError::Format(error.to_string()))
    }
}

/// Returns the maximum length of compressed content.
pub(super) fn compressed_bound(plain: usize) -> usize {
    zstd::zstd_safe::compress_bound(plain)
}

fn compress(plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut compressed = vec![0; compressed_bound(plain.len())];
    let length = Compressor::new()?.compress_into(plain, &mut compressed)?;
    compressed.truncate(length);
    Ok(compressed)
}

/// The buffers of a thread for decompressing blobs, one at a time.
struct Unpacker {
    /// The decrypted, compressed blob.
    packed: Vec<u8>,
    /// The decompressor is reused, because creating it takes longer than decompressing a small blob.
    decompressor: Option<Decompressor<'static>>,
}

thread_local! {
    static UNPACKER: RefCell<Unpacker> = const { RefCell::new(Unpacker { packed: Vec::new(), decompressor: None }) };
}

fn decompress(packed: &[u8]) -> Result<Vec<u8>, CryptoError> {
    // The length in the file is only a hint for the buffer's capacity, and is limited because it is not trusted.
    let length = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten().unwrap_or(0);
    let mut plain = Vec::with_capacity(usize::try_from(length).unwrap_or(0).min(packed.len() * 20));
    zstd::stream::copy_decode(packed, &mut plain).map_err(broken)?;
    Ok(plain)
}

#[expect(clippy::needless_pass_by_value, reason = "as errors come")]
fn broken(error: io::Error) -> CryptoError {
    CryptoError::Format(error.to_string())
}

pub(super) fn hash(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// Returns the id of content in the repository: its SHA-256.
pub(super) fn id_of(content: &[u8]) -> Id {
    Id::new(hash(content))
}

/// Decrypts the master key of a key file. Returns none if the password is wrong. The function is slow, and the
/// parameters in the file determine how much memory it needs.
pub(super) fn open_key_file(content: &[u8], password: &Secret) -> Result<Option<MasterKey>, CryptoError> {
    let file: KeyFile = serde_json::from_slice(content).map_err(|error| CryptoError::Format(error.to_string()))?;
    if file.kdf != "scrypt" || !file.n.is_power_of_two() || file.n < 2 {
        return Err(CryptoError::Format(format!("unknown key derivation {} with N={}", file.kdf, file.n)));
    }
    if 128 * u64::from(file.n) * u64::from(file.r) > MAX_SCRYPT_BYTES {
        return Err(CryptoError::Format(format!(
            "key derivation with N={} r={} takes too much memory",
            file.n, file.r
        )));
    }
    let log_n = u8::try_from(file.n.trailing_zeros()).unwrap_or(u8::MAX);
    let cipher = Cipher::new(&*derive(password, &file.salt.0, log_n, file.r, file.p)?);
    let Ok(plain) = cipher.decrypt(&file.data.0).map(Zeroizing::new) else { return Ok(None) };
    serde_json::from_slice(&plain).map(Some).map_err(|_| CryptoError::Format("the master key in it is invalid".into()))
}

/// Creates a key file, in restic's format, which contains the master key encrypted with the password.
pub(super) fn make_key_file(
    master: &MasterKey,
    password: &Secret,
    holder: &LockHolder,
    now: Timestamp,
) -> Result<Vec<u8>, CryptoError> {
    let mut salt = vec![0; 64];
    rand::rng().fill_bytes(&mut salt);
    let key = derive(password, &salt, NEW_KEY_SCRYPT_LOG_N, NEW_KEY_SCRYPT_R, NEW_KEY_SCRYPT_P)?;
    let plain = Zeroizing::new(serde_json::to_vec(master).map_err(|error| CryptoError::Format(error.to_string()))?);
    let file = KeyFile {
        hostname: Some(holder.host.clone()),
        username: Some(holder.user.clone()),
        created: Some(now),
        kdf: "scrypt".to_owned(),
        n: 1 << NEW_KEY_SCRYPT_LOG_N,
        r: NEW_KEY_SCRYPT_R,
        p: NEW_KEY_SCRYPT_P,
        data: Binary(Cipher::new(&key).encrypt(&plain)?),
        salt: Binary(salt),
    };
    serde_json::to_vec(&file).map_err(|error| CryptoError::Format(error.to_string()))
}

fn derive(
    password: &Secret,
    salt: &[u8],
    log_n: u8,
    r: u32,
    p: u32,
) -> Result<Zeroizing<[u8; KEY_BYTES]>, CryptoError> {
    let refused = |_| CryptoError::Format(format!("impossible scrypt parameters log N={log_n} r={r} p={p}"));
    let parameters = scrypt::Params::new(log_n, r, p).map_err(refused)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    scrypt::scrypt(password.expose().as_bytes(), salt, &parameters, &mut *key)
        .map_err(|_| CryptoError::Format("impossible key length".into()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> LockHolder {
        LockHolder { host: "runner".into(), user: "pod UID 1".into() }
    }

    #[test]
    fn changed_ciphertext_does_not_decrypt() {
        let cipher = Cipher::of(&MasterKey::new());
        let sealed = cipher.encrypt_file(b"{\"a\":1}", 2).unwrap();
        for position in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[position] ^= 1;
            assert_eq!(cipher.decrypt_file(&broken), Err(CryptoError::NotAuthentic), "byte {position}");
        }
        assert_eq!(cipher.decrypt_file(&sealed[..5]), Err(CryptoError::NotAuthentic));
        assert_eq!(cipher.decrypt_file(&sealed).unwrap(), b"{\"a\":1}");
    }

    #[test]
    fn both_repository_versions_are_read() {
        let cipher = Cipher::of(&MasterKey::new());
        for version in [1, 2] {
            let sealed = cipher.encrypt_file(b"{}", version).unwrap();
            assert_eq!(cipher.decrypt_file(&sealed).unwrap(), b"{}");
        }
    }

    #[test]
    fn key_file_opens_with_its_password_only() {
        let master = MasterKey::new();
        let file = make_key_file(&master, &Secret::new("right".into()), &holder(), Timestamp::UNIX_EPOCH).unwrap();
        assert!(open_key_file(&file, &Secret::new("wrong".into())).unwrap().is_none());
        let opened = open_key_file(&file, &Secret::new("right".into())).unwrap().unwrap();
        assert!(opened == master);
    }

    #[test]
    fn key_file_that_would_take_all_memory_is_refused() {
        let file = r#"{"kdf":"scrypt","N":1073741824,"r":8,"p":1,"data":"AA==","salt":"AA=="}"#;
        assert!(matches!(open_key_file(file.as_bytes(), &Secret::new("x".into())), Err(CryptoError::Format(_))));
    }
}
