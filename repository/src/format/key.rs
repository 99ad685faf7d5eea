//! Key files, each of which contains the master key, encrypted with a password. Source: restic's design document,
//! section "Keys, Encryption and MAC".

use std::fmt;

use jiff::Timestamp;
use rand::Rng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Binary, time};

/// Bytes of a master key: 32 of the AES-256 key, 16 of the AES key of Poly1305-AES (`k`), and 16 of its number `r`.
pub const MASTER_KEY_BYTES: usize = 64;
const ENCRYPTION_BYTES: usize = 32;
const MAC_BYTES: usize = 16;

/// A key file. The file itself is not encrypted.
#[derive(Debug, Deserialize, Serialize)]
pub struct KeyFile {
    /// The host on which the key was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The user who created the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "time::optional_utc")]
    pub created: Option<Timestamp>,
    /// The key derivation function; always `scrypt`.
    pub kdf: String,
    /// The parameters of scrypt.
    #[serde(rename = "N")]
    pub n: u32,
    pub r: u32,
    pub p: u32,
    /// The JSON of the [`MasterKey`], encrypted with the key that is derived from the password.
    pub data: Binary,
    pub salt: Binary,
}

/// The key which encrypts and authenticates all files and blobs of a repository.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "MasterKeyJson", into = "MasterKeyJson")]
pub struct MasterKey(Zeroizing<[u8; MASTER_KEY_BYTES]>);

#[derive(Deserialize, Serialize)]
struct MasterKeyJson {
    mac: MacJson,
    encrypt: Binary,
}

#[derive(Deserialize, Serialize)]
struct MacJson {
    k: Binary,
    r: Binary,
}

impl MasterKey {
    /// Returns a new random key.
    pub fn new() -> Self {
        let mut bytes = Zeroizing::new([0; MASTER_KEY_BYTES]);
        rand::rng().fill_bytes(&mut *bytes);
        Self(bytes)
    }

    /// Returns the parts in the order of [`MASTER_KEY_BYTES`].
    pub fn bytes(&self) -> &[u8; MASTER_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MasterKey")
    }
}

impl TryFrom<MasterKeyJson> for MasterKey {
    type Error = &'static str;

    fn try_from(json: MasterKeyJson) -> Result<Self, Self::Error> {
        let MasterKeyJson { mac: MacJson { k, r }, encrypt } = json;
        let parts = [Zeroizing::new(encrypt.0), Zeroizing::new(k.0), Zeroizing::new(r.0)];
        if parts.each_ref().map(|part| part.len()) != [ENCRYPTION_BYTES, MAC_BYTES, MAC_BYTES] {
            return Err("a part of the master key has a wrong length");
        }
        let mut bytes = Zeroizing::new([0; MASTER_KEY_BYTES]);
        for (byte, part) in bytes.iter_mut().zip(parts.iter().flat_map(|part| part.iter())) {
            *byte = *part;
        }
        Ok(Self(bytes))
    }
}

impl From<MasterKey> for MasterKeyJson {
    fn from(key: MasterKey) -> Self {
        let (encrypt, mac) = key.0.split_at(ENCRYPTION_BYTES);
        let (k, r) = mac.split_at(MAC_BYTES);
        Self { mac: MacJson { k: Binary(k.to_vec()), r: Binary(r.to_vec()) }, encrypt: Binary(encrypt.to_vec()) }
    }
}
