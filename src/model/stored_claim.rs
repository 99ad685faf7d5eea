//! What a claim had requested when its volume was stored, in the tags of the snapshot: so that a claim that is made for a
//! restore is the one that the manifest of the app describes.
//!
//! Pure data. It must not know how a claim is read or made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SnapshotIdentity, TagError};

/// The tag key of the requested size.
const SIZE: &str = "claim-size";
/// The tag key of the storage class.
const STORAGE_CLASS: &str = "claim-storage-class";
/// The tag key of the access modes.
const ACCESS_MODES: &str = "claim-access-modes";
/// What stands between access modes, since a comma stands between tags.
const BETWEEN: char = '+';
/// The volume mode of a claim that is a block device.
pub const BLOCK: &str = "Block";

/// What a claim had requested, as far as that is recorded.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredClaim {
    /// The size in the claim's spec, which a volume may exceed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub size: Option<String>,
    /// Its storage class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// Its access modes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 32)))]
    pub access_modes: Vec<String>,
    /// Its volume mode, if it was a block device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub volume_mode: Option<String>,
}

impl StoredClaim {
    /// What the tags of a snapshot record, if anything.
    pub fn of(identity: &SnapshotIdentity) -> Option<Self> {
        let text = |key| identity.tag(key).filter(|text| !text.is_empty()).map(str::to_owned);
        let modes = identity.tag(ACCESS_MODES).unwrap_or_default().split(BETWEEN).filter(|mode| !mode.is_empty());
        let found = Self {
            size: text(SIZE),
            storage_class_name: text(STORAGE_CLASS),
            access_modes: modes.map(str::to_owned).collect(),
            volume_mode: identity.has_tag(SnapshotIdentity::DEVICE).then(|| BLOCK.to_owned()),
        };
        (found != Self::default()).then_some(found)
    }

    /// Records it, but for the volume mode: what is stored of a device is tagged as one by the run that stores it.
    pub fn record(&self, identity: &mut SnapshotIdentity) -> Result<(), TagError> {
        let modes = self.access_modes.join(&BETWEEN.to_string());
        let tags = [(SIZE, self.size.as_deref()), (STORAGE_CLASS, self.storage_class_name.as_deref())];
        for (key, value) in tags.into_iter().chain([(ACCESS_MODES, Some(modes.as_str()))]) {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                identity.push_tag(key, value)?;
            }
        }
        Ok(())
    }
}

/// What was found out of a snapshot without restoring it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotLookup {
    /// Bytes of all its files; none where its writer did not record them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What its claim had requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<StoredClaim>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(tags: &[&str]) -> SnapshotIdentity {
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        SnapshotIdentity { host: "shop".into(), path: "/data/claim".into(), tags }
    }

    #[test]
    fn request_of_a_claim_comes_back_out_of_the_tags() {
        let claim = StoredClaim {
            size: Some("1Gi".into()),
            storage_class_name: Some("fast".into()),
            access_modes: vec!["ReadWriteOnce".into(), "ReadOnlyMany".into()],
            volume_mode: None,
        };
        let mut stored = identity(&["source=pvc/claim"]);
        claim.record(&mut stored).unwrap();
        assert!(stored.tags.iter().all(|tag| !tag.contains(',')), "restic could not carry it: {:?}", stored.tags);
        assert_eq!(StoredClaim::of(&stored), Some(claim.clone()));
        stored.tags.push(SnapshotIdentity::DEVICE.to_owned());
        assert_eq!(StoredClaim::of(&stored), Some(StoredClaim { volume_mode: Some("Block".into()), ..claim }));
    }

    #[test]
    fn snapshot_without_such_tags_records_nothing_and_a_device_alone_its_mode() {
        assert_eq!(StoredClaim::of(&identity(&["source=pvc/claim", "claim-size="])), None);
        let device = StoredClaim::of(&identity(&["device"])).unwrap();
        assert_eq!((device.volume_mode.as_deref(), device.size), (Some("Block"), None));
        let mut nothing = identity(&[]);
        StoredClaim::default().record(&mut nothing).unwrap();
        assert!(nothing.tags.is_empty());
    }
}
