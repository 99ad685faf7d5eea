//! Parameters with which unit tests open repositories.

use std::{collections::BTreeMap, path::Path};

use super::{LockHolder, LockRules, OpenOptions, Timeouts};
use stowaway_model::{BackendConfig, Connection, DamagedPacks, Secret};

/// Returns the parameters for a repository in a folder.
pub(super) fn access(folder: &Path) -> OpenOptions {
    OpenOptions {
        backend: BackendConfig::Folder { path: folder.display().to_string() },
        password: Secret::new("password".into()),
        untrimmed_password: None,
        connection: Connection::default(),
        credentials: BTreeMap::new(),
        holder: LockHolder { host: String::new(), user: String::new() },
        locks: LockRules::default(),
        timeouts: Timeouts::default(),
        expected_ids: Vec::new(),
        damaged_packs: DamagedPacks::default(),
    }
}
