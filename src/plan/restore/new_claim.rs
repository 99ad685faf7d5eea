//! The claim that is made for a Restore: as the user wishes it, else as the snapshot records that its own claim was.
//!
//! It must not know when it is made, nor what is restored into it.

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{
    claim::{is_volume, refused},
    target::Missing,
};
use crate::{
    api::{FoundSnapshot, NewClaim, Restore, RestoreClaim},
    model::{BLOCK, Reason, StoredClaim, billionths},
    plan::{labels, names::Owner},
};

const GIBIBYTE: u64 = 1 << 30;
const ONE_NODE: &str = "ReadWriteOnce";
/// What the names of the access modes begin with by which a restore can write.
const WRITABLE: &str = "ReadWrite";

/// A claim, and the sentence that describes how it was made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Made {
    pub claim: PersistentVolumeClaim,
    pub description: String,
}

/// Whether the snapshot has to be looked up first, because not all of the claim is said.
pub(super) fn needs_lookup(restore: &Restore, new: &NewClaim) -> bool {
    let is_said = new.storage_class_name.is_some() && new.volume_mode.is_some() && !new.access_modes.is_empty();
    new.size.is_none() || is_volume(restore) && !is_said
}

/// The volume mode of the new claim; the cluster's own default when there is none.
pub(super) fn volume_mode<'a>(new: &'a NewClaim, found: Option<&'a FoundSnapshot>) -> Option<&'a str> {
    let stored = || found?.claim.as_ref()?.volume_mode.as_deref();
    new.volume_mode.as_deref().or_else(stored)
}

/// The claim that is to be made. `storage_classes` are those of the cluster.
pub(super) fn make(
    (restore, owner): (&Restore, &Owner),
    (to, new): (&RestoreClaim, &NewClaim),
    found: Option<&FoundSnapshot>,
    storage_classes: &[String],
) -> Result<Made, Missing> {
    let stored = found.and_then(|found| found.claim.clone()).unwrap_or_default();
    let (size, of_size) = size((restore, to), new, &stored, found.and_then(|found| found.bytes))?;
    let (class, of_class) = storage_class(new, &stored, storage_classes);
    let mode = volume_mode(new, found);
    // Another class may not have them.
    let is_its_own = class == stored.storage_class_name;
    let modes = access_modes(new, is_its_own.then_some(&stored.access_modes));
    let description = format!(
        "claim {} was made with {}{of_size}, {of_class}, {}{}",
        to.name,
        size.0,
        modes.join(" and "),
        if mode == Some(BLOCK) { ", as a block device" } else { "" }
    );
    let labels = [(labels::MANAGED_BY, labels::MANAGER), (labels::RUN, owner.name.as_str())];
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(to.name.clone()),
            namespace: Some(owner.namespace.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(modes),
            storage_class_name: class,
            volume_mode: mode.map(str::to_owned),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size)].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    };
    Ok(Made { claim, description })
}

/// The size, and from where it is.
fn size(
    (restore, to): (&Restore, &RestoreClaim),
    new: &NewClaim,
    stored: &StoredClaim,
    bytes: Option<u64>,
) -> Result<(Quantity, &'static str), Missing> {
    if let Some(size) = &new.size {
        return Ok((size.clone(), ""));
    }
    if let Some(size) = &stored.size {
        // A volume may have had more than its claim requested.
        return Ok(match bytes.filter(|bytes| !has_room(size, *bytes)) {
            None => (Quantity(size.clone()), " as its own claim had requested when it was stored"),
            Some(bytes) => (
                generous(bytes),
                " (half as much again as the snapshot has, and 1 GiB, because its own claim had requested less than that: \
                 Kubernetes refuses a manifest that requests less, so give its size in spec.to.claim.create.size where the \
                 volume will have more)",
            ),
        });
    }
    let Some(bytes) = bytes else {
        let message = format!(
            "the snapshot records neither its size nor what its claim had requested: give the size of claim {} in \
             spec.to.claim.create.size",
            to.name
        );
        return Err(refused(Reason::InvalidRequest, message));
    };
    let why = if is_volume(restore) {
        " (half as much again as the snapshot has, and 1 GiB, because the snapshot does not record what its claim had requested: \
         Kubernetes refuses a manifest that requests less, so give its size in spec.to.claim.create.size where there is one)"
    } else {
        ""
    };
    Ok((generous(bytes), why))
}

/// Whether a volume of that size has room for so many bytes.
fn has_room(size: &str, bytes: u64) -> bool {
    billionths(size).is_none_or(|size| size / 1_000_000_000 >= i128::from(bytes))
}

/// Room for so many bytes of files: blocks are bigger than small files, and file systems take their part.
fn generous(bytes: u64) -> Quantity {
    let wanted = bytes.saturating_add(bytes / 2).saturating_add(GIBIBYTE);
    Quantity(format!("{}Gi", wanted.div_ceil(GIBIBYTE)))
}

/// The storage class, and its description. One that the cluster does not have would leave the claim without a volume.
fn storage_class(new: &NewClaim, stored: &StoredClaim, existing: &[String]) -> (Option<String>, String) {
    match (&new.storage_class_name, &stored.storage_class_name) {
        (Some(class), _) => (Some(class.clone()), format!("of class {class}")),
        (None, Some(class)) if existing.contains(class) => (Some(class.clone()), format!("of class {class}")),
        (None, Some(class)) => {
            let description = format!(
                "of the default class (because the StorageClass {class}, which the snapshot records, is not in this cluster)"
            );
            (None, description)
        }
        (None, None) => (None, "of the default class".to_owned()),
    }
}

fn access_modes(new: &NewClaim, stored: Option<&Vec<String>>) -> Vec<String> {
    let is_writable = |modes: &&Vec<String>| modes.iter().any(|mode| mode.starts_with(WRITABLE));
    match Some(&new.access_modes).filter(|modes| !modes.is_empty()) {
        Some(wished) => wished.clone(),
        None => stored.filter(is_writable).cloned().unwrap_or_else(|| vec![ONE_NODE.to_owned()]),
    }
}
