//! Whether a claim can be read from a CSI snapshot by the class that is named for it, and what the claim that is made of that
//! snapshot has to be like.
//!
//! It must not know how a snapshot is made. Where none can be made the claim is no source: its live volume, which nobody asked
//! for, is never read instead.

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
    annotations::{Role, own_key, snapshot_class},
    api,
};

const ONE_NODE: &str = "ReadWriteOnce";
const READ_ONLY: &str = "ReadOnlyMany";
/// What a class says that keeps what was made by it.
const RETAIN: &str = "Retain";

/// What is known of snapshots; nothing where no claim asks for one.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotFacts<'a> {
    /// All `VolumeSnapshotClass`es; none when the cluster has no such API.
    pub classes: Option<&'a [DynamicObject]>,
    /// The volumes of the claims that ask, as far as they are there.
    pub volumes: &'a [PersistentVolume],
    /// All `StorageClass`es.
    pub storage_classes: &'a [StorageClass],
}

/// How a claim is snapshot, and what the claim is like that is made of that.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimSnapshot {
    /// Name of the `VolumeSnapshotClass`.
    pub class: String,
    /// Name of the `StorageClass`.
    pub storage_class: String,
    /// How the new claim is mounted.
    pub access_mode: String,
    /// What the claim itself has asked for.
    pub size: Quantity,
}

/// The names of the volumes whose claims ask for a snapshot, by themselves or by their namespace.
pub fn snapshot_volumes<'a>(namespace: &Namespace, claims: &'a [PersistentVolumeClaim]) -> Vec<&'a str> {
    let asks = |claim: &&PersistentVolumeClaim| {
        let class = snapshot_class(claim.metadata.annotations.as_ref(), namespace.metadata.annotations.as_ref());
        !is_temporary(&claim.metadata) && matches!(class, Ok(Some(_)))
    };
    let volume = |claim: &'a PersistentVolumeClaim| claim.spec.as_ref()?.volume_name.as_deref();
    claims.iter().filter(asks).filter_map(volume).collect()
}

/// Whether a claim is one that a Backup has made of a snapshot, and will delete: no data of its own is on it.
pub(super) fn is_temporary(metadata: &ObjectMeta) -> bool {
    let group = format!("{}/", api::GROUP);
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && owner.kind == "Backup" && owner.api_version.starts_with(&group))
}

/// How the claim is snapshot by this class; why it cannot be, and what to do.
pub(super) fn snapshot(
    facts: ClaimFacts<'_>,
    claim: &PersistentVolumeClaim,
    class: &str,
) -> Result<ClaimSnapshot, String> {
    check(facts, claim, class).map_err(|why| {
        let key = own_key(Role::SnapshotClass);
        format!(
            "{key} has it backed up from a snapshot of VolumeSnapshotClass {class}, and none can be made: {why}; or annotate \
             the claim with {key}: \"\" to have the live volume read"
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
                    definitions, as the documentation of the CSI driver says"
            .into());
    };
    let spec = claim.spec.as_ref();
    let volume_name = spec.and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let volume = volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(volume_name));
    let Some(volume) = volume.and_then(|volume| volume.spec.as_ref()) else {
        return Err(format!("its PersistentVolume {volume_name:?} is not there; look why"));
    };
    let Some(csi) = &volume.csi else {
        return Err(format!(
            "its PersistentVolume {volume_name} is of no CSI driver, and only those have snapshots; take the annotation away"
        ));
    };
    let text = |class: &DynamicObject, field: &str| {
        class.data.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    };
    let Some(found) = classes.iter().find(|candidate| candidate.metadata.name.as_deref() == Some(class)) else {
        let of_driver = classes.iter().filter(|class| text(class, "driver") == csi.driver);
        let names: Vec<&str> = of_driver.filter_map(|class| class.metadata.name.as_deref()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(format!("there is no such class; of the volume's driver {} there is {names}", csi.driver));
    };
    let driver = text(found, "driver");
    if driver != csi.driver {
        return Err(format!(
            "the class is of driver {driver}, and the volume of {}; name a class of that one",
            csi.driver
        ));
    }
    // What is kept would be left behind by each Backup, unseen and for ever.
    if text(found, "deletionPolicy") == RETAIN {
        return Err(
            "its deletionPolicy is Retain, by which each backup would leave a snapshot behind; name a class with \
                    deletionPolicy Delete"
                .into(),
        );
    }
    let storage_class = spec.and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
    let found = storage_classes.iter().find(|found| found.metadata.name.as_ref() == Some(&storage_class));
    let Some(found) = found else {
        return Err(format!(
            "the claim's StorageClass {storage_class:?}, by which a volume would be made of the snapshot, is not there; make it"
        ));
    };
    if found.reclaim_policy.as_deref() == Some(RETAIN) {
        return Err(format!(
            "the reclaimPolicy of the claim's StorageClass {storage_class} is Retain, by which each backup would leave a \
             volume behind; have the class delete, and give the volumes that are to be kept \
             persistentVolumeReclaimPolicy: Retain themselves"
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
