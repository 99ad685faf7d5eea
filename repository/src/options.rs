//! The parameters for opening a repository.

use std::collections::BTreeMap;

use super::{holder::LockHolder, lock::LockRules, store::Timeouts};
use stowaway_model::{BackendConfig, Connection, Credential, DamagedPacks, Secret};

/// The parameters for opening a repository.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub backend: BackendConfig,
    /// Opens one of the repository's keys. A new key is created with this password.
    pub password: Secret,
    /// A second password, which is tried when `password` opens no key; see [`stowaway_model::StoredPassword`].
    pub untrimmed_password: Option<Secret>,
    /// Settings of the connection to the store. Each credential that `connection.credentials` lists must be in
    /// `credentials`.
    pub connection: Connection,
    pub credentials: BTreeMap<Credential, Secret>,
    /// The owner that Stowaway writes into its lock files.
    pub holder: LockHolder,
    /// How locks of other clients are treated.
    pub locks: LockRules,
    pub timeouts: Timeouts,
    /// The ids that the repository may have, 64 hex digits each. A repository with another id is not opened. If the
    /// list is empty, any id is accepted.
    pub expected_ids: Vec<String>,
    /// Packs that a check found damaged. What is stored or removed relies on none of them. A pack that is listed by
    /// mistake costs only storage.
    pub damaged_packs: DamagedPacks,
}
