//! New repositories whose key costs nothing to derive from the password.
//!
//! A key file states how expensive its derivation is. Those of Stowaway and of restic take up to 0.2 seconds of CPU time
//! at each opening, and the tests open repositories thousands of times. Tests of creation use `create`.

use std::{fs, path::Path};

use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, aead::Aead};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;

use super::{PASSWORD, archives::sha256};

/// The folders of an empty repository, besides those of its packs.
const FOLDERS: [&str; 4] = ["index", "keys", "locks", "snapshots"];
/// An irreducible polynomial of degree 53.
const POLYNOMIAL: &str = "3da3358b4dc173";

/// Writes an empty repository of format 2 with the password [`PASSWORD`].
pub fn write_repository(folder: &Path) {
    for name in FOLDERS.map(str::to_owned).into_iter().chain((0..=255).map(|byte| format!("data/{byte:02x}"))) {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let (master, salt): ([u8; 64], [u8; 64]) = (rand::random(), rand::random());
    let (encrypt, mac) = master.split_at(32);
    let mac = json!({ "k": BASE64.encode(&mac[..16]), "r": BASE64.encode(&mac[16..]) });
    let plain = json!({ "mac": mac, "encrypt": BASE64.encode(encrypt) });
    let mut derived = [0; 64];
    let parameters = scrypt::Params::new(1, 1, 1).unwrap();
    scrypt::scrypt(PASSWORD.as_bytes(), &salt, &parameters, &mut derived).unwrap();
    let data = sealed(&derived, plain.to_string().as_bytes());
    let key = json!({
        "kdf": "scrypt", "N": 2, "r": 1, "p": 1, "salt": BASE64.encode(salt), "data": BASE64.encode(data),
        "created": "2026-01-01T00:00:00Z", "hostname": "runner-1", "username": "pod UID 6f9619ff",
    });
    let key = key.to_string();
    fs::write(folder.join("keys").join(sha256(key.as_bytes())), key).unwrap();
    let id = sha256(&rand::random::<[u8; 32]>());
    let config = json!({ "version": 2, "id": id, "chunker_polynomial": POLYNOMIAL });
    fs::write(folder.join("config"), sealed(&master, config.to_string().as_bytes())).unwrap();
}

/// Encrypts a file: nonce, content, tag.
fn sealed(key: &[u8; 64], plain: &[u8]) -> Vec<u8> {
    let nonce: [u8; 16] = rand::random();
    let content = Aes256CtrPoly1305Aes::new(Key::from_slice(key)).encrypt(&nonce.into(), plain).unwrap();
    [&nonce[..], &content].concat()
}
