//! The checks whether a claim can be read from a CSI snapshot of its annotated class, and the settings of the temporary
//! claim which is created from the snapshot. If no snapshot is possible, the claim is a problem; the live volume is
//! never read instead, because the user did not request that.

use k8s_openapi::{
    api::{
        core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::core::DynamicObject;

use super::claims::{ClaimFacts, phase};
use crate::{
    annotations::{KeyId, own_key, snapshot_class},
    api,
};

const ONE_NODE: &str = "ReadWriteOnce";
const READ_ONLY: &str = "ReadOnlyMany";
/// The policy of a class which keeps volumes or snapshots after their objects are deleted.
const RETAIN: &str = "Retain";

/// The observed facts about CSI snapshots; empty if no claim requests a snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotFacts<'a> {
    /// All `VolumeSnapshotClass`es; `None` if the cluster has no such API.
    pub classes: Option<&'a [DynamicObject]>,
    /// The existing volumes of the claims which request a snapshot.
    pub volumes: &'a [PersistentVolume],
    /// All `StorageClass`es.
    pub storage_classes: &'a [StorageClass],
}

/// The settings of a claim's `VolumeSnapshot`, and of the temporary claim which is created from it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimSnapshot {
    /// Name of the `VolumeSnapshotClass`.
    pub class: String,
    /// Name of the `StorageClass`.
    pub storage_class: String,
    /// Access mode of the temporary claim.
    pub access_mode: String,
    /// The size which the original claim requests.
    pub size: Quantity,
}

/// The names of the volumes whose claims request a snapshot, by their own annotation or their namespace's.
pub fn snapshot_volumes<'a>(namespace: &Namespace, claims: &'a [PersistentVolumeClaim]) -> Vec<&'a str> {
    let requests_snapshot = |claim: &&PersistentVolumeClaim| {
        let class = snapshot_class(claim.metadata.annotations.as_ref(), namespace.metadata.annotations.as_ref());
        !is_temporary(&claim.metadata) && matches!(class, Ok(Some(_)))
    };
    let volume = |claim: &'a PersistentVolumeClaim| claim.spec.as_ref()?.volume_name.as_deref();
    claims.iter().filter(requests_snapshot).filter_map(volume).collect()
}

/// Whether a Backup created the claim from a `VolumeSnapshot`. Such a claim is a copy, and the Backup deletes it.
pub(super) fn is_temporary(metadata: &ObjectMeta) -> bool {
    let group = format!("{}/", api::GROUP);
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && owner.kind == "Backup" && owner.api_version.starts_with(&group))
}

/// The settings of the claim's snapshot by this class.
///
/// # Errors
/// If no snapshot is possible: why, and what to do.
pub(super) fn snapshot(
    facts: ClaimFacts<'_>,
    claim: &PersistentVolumeClaim,
    class: &str,
) -> Result<ClaimSnapshot, String> {
    check(facts, claim, class).map_err(|why| {
        let key = own_key(KeyId::SnapshotClass);
        format!(
            "{key} requests a backup from a snapshot of VolumeSnapshotClass {class}, which is not possible: {why}; or \
             annotate the claim with {key}: \"\" to back up the live volume"
        )
    })
}

fn check(facts: ClaimFacts<'_>, claim: &PersistentVolumeClaim, class: &str) -> Result<ClaimSnapshot, String> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("the claim is being deleted; restore it, or opt it out".into());
    }
    if phase(claim) != "Bound" {
        return Err("the claim has no volume yet; wait for it, or opt it out".into());
    }
    let SnapshotFacts { classes, volumes, storage_classes } = facts.snapshots;
    let Some(classes) = classes else {
        return Err("the cluster has no API snapshot.storage.k8s.io/v1; install the snapshot controller and its \
                    definitions, as described in the documentation of the CSI driver"
            .into());
    };
    let spec = claim.spec.as_ref();
    let volume_name = spec.and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let volume = volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(volume_name));
    let Some(volume) = volume.and_then(|volume| volume.spec.as_ref()) else {
        return Err(format!("its PersistentVolume {volume_name:?} does not exist; find out why"));
    };
    let Some(csi) = &volume.csi else {
        return Err(format!(
            "its PersistentVolume {volume_name} is of no CSI driver, so it has no snapshots; remove the annotation"
        ));
    };
    let text = |class: &DynamicObject, field: &str| {
        class.data.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    };
    let Some(found) = classes.iter().find(|candidate| candidate.metadata.name.as_deref() == Some(class)) else {
        let of_driver = classes.iter().filter(|class| text(class, "driver") == csi.driver);
        let names: Vec<&str> = of_driver.filter_map(|class| class.metadata.name.as_deref()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(format!("there is no such class; the classes of the volume's driver {}: {names}", csi.driver));
    };
    let driver = text(found, "driver");
    if driver != csi.driver {
        return Err(format!(
            "the class is of driver {driver}, but the volume is of {}; name a class of the volume's driver",
            csi.driver
        ));
    }
    // With Retain, each Backup would leave a snapshot or volume for ever, without an object which shows it.
    if text(found, "deletionPolicy") == RETAIN {
        return Err("its deletionPolicy is Retain, so each backup would leave a snapshot behind; name a class with \
                    deletionPolicy Delete"
            .into());
    }
    let storage_class = spec.and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
    let found = storage_classes.iter().find(|found| found.metadata.name.as_ref() == Some(&storage_class));
    let Some(found) = found else {
        return Err(format!(
            "the claim's StorageClass {storage_class:?}, which the temporary claim would use, does not exist; create it"
        ));
    };
    if found.reclaim_policy.as_deref() == Some(RETAIN) {
        return Err(format!(
            "the reclaimPolicy of the claim's StorageClass {storage_class} is Retain, so each backup would leave a volume \
             behind; set it to Delete, and set persistentVolumeReclaimPolicy: Retain on the volumes which must be kept"
        ));
    }
    let modes = spec.and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let is_read_only = !modes.is_empty() && modes.iter().all(|mode| mode == READ_ONLY);
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    Ok(ClaimSnapshot {
        class: class.to_owned(),
        storage_class,
        access_mode: if is_read_only { READ_ONLY } else { ONE_NODE }.to_owned(),
        size: requests.and_then(|requests| requests.get("storage").cloned()).unwrap_or_default(),
    })
}
