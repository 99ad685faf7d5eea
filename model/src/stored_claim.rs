//! The request of a claim when its volume was stored, recorded in the tags of the snapshot. A claim that is created for
//! a restore then matches the manifest of the app.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SnapshotIdentity, TagError, quantity::billionths};

/// The tag key of the requested size.
const SIZE: &str = "claim-size";
/// The tag key of the storage class.
const STORAGE_CLASS: &str = "claim-storage-class";
/// The tag key of the access modes.
const ACCESS_MODES: &str = "claim-access-modes";
/// The separator of access modes. A comma is not possible, because it separates tags.
const BETWEEN: char = '+';
/// The volume mode of a claim that is a block device.
pub const BLOCK: &str = "Block";

/// The access modes of Kubernetes.
const MODES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

fn is_size(text: &str) -> bool {
    text.len() <= 64 && billionths(text).is_some_and(|size| size > 0)
}

/// Whether the text has the form of an object's name, which is a DNS subdomain.
fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 253 && bytes.iter().all(|byte| is_inner(*byte)) && ends(bytes.first()) && ends(bytes.last())
}

/// The request of a claim, as far as it is recorded.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredClaim {
    /// The size in the claim's spec, which the volume may exceed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub size: Option<String>,
    /// Storage class of the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// Access modes of the claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 32)))]
    pub access_modes: Vec<String>,
    /// Volume mode of the claim, if it was a block device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub volume_mode: Option<String>,
}

impl StoredClaim {
    /// The request which the tags of a snapshot record, if any. Any client that can write into the repository can write
    /// tags, so a value that no claim can have requested counts as not recorded.
    pub fn of(identity: &SnapshotIdentity) -> Option<Self> {
        let text =
            |key, is_possible: fn(&str) -> bool| identity.tag(key).filter(|text| is_possible(text)).map(str::to_owned);
        let modes = identity.tag(ACCESS_MODES).unwrap_or_default().split(BETWEEN).filter(|mode| MODES.contains(mode));
        let found = Self {
            size: text(SIZE, is_size),
            storage_class_name: text(STORAGE_CLASS, is_name),
            access_modes: modes.map(str::to_owned).collect(),
            volume_mode: identity.has_tag(SnapshotIdentity::DEVICE).then(|| BLOCK.to_owned()),
        };
        (found != Self::default()).then_some(found)
    }

    /// Records the request in tags, except the volume mode: the run that stores a device tags the snapshot as one.
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

/// The result of looking up a snapshot without restoring it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotLookup {
    /// Bytes of all its files; none if its writer did not record them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The request of the snapshot's claim.
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
    fn tags_that_no_claim_can_have_requested_record_nothing() {
        let long = "a".repeat(254);
        for tag in [
            "claim-size=much",
            "claim-size=-1Gi",
            "claim-size=0",
            &format!("claim-size={}", "1".repeat(65)),
            "claim-storage-class=Fast_Disk",
            "claim-storage-class=-fast",
            &format!("claim-storage-class={long}"),
            "claim-access-modes=Everything",
        ] {
            assert_eq!(StoredClaim::of(&identity(&["source=pvc/claim", tag])), None, "{tag}");
        }
        let modes = StoredClaim::of(&identity(&["claim-access-modes=Everything+ReadWriteMany"])).unwrap().access_modes;
        assert_eq!(modes, ["ReadWriteMany"]);
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
