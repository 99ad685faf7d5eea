//! Lock files. Source: restic's design document, section "Locks".

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The content of a lock file.
#[derive(Debug, Deserialize, Serialize)]
pub struct LockFile {
    pub time: Timestamp,
    #[serde(default)]
    pub exclusive: bool,
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    /// The lease: the holder stops working under the lock this long after `time`, unless it has refreshed the lock.
    /// Only Stowaway writes this field, and only into exclusive locks; restic ignores unknown fields.
    #[serde(default, rename = "stowaway_lease_seconds", skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
}
