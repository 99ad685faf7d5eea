//! The config of a repository: the encrypted file `config`, which is never compressed. Source: restic's design
//! document, section "Repository Format".

use serde::{Deserialize, Serialize};

use super::Id;

/// The version of new repositories, which have compression.
const NEW_VERSION: u32 = 2;

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigFile {
    /// The version of the repository's format: 1, or 2, which has compression.
    pub version: u32,
    /// The repository's id: a random number.
    pub id: Id,
    /// The polynomial by which content is cut into chunks, in hex digits.
    chunker_polynomial: String,
}

impl ConfigFile {
    /// The config of a new repository.
    pub fn new(id: Id, polynomial: u64) -> Self {
        Self { version: NEW_VERSION, id, chunker_polynomial: format!("{polynomial:x}") }
    }

    /// The polynomial by which content is cut into chunks; none if the config has an invalid one.
    pub fn polynomial(&self) -> Option<u64> {
        u64::from_str_radix(&self.chunker_polynomial, 16).ok()
    }
}
