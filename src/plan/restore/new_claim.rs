//! The claim which is created for a Restore. Its properties are those of `spec.to.claim.create`, else those which the
//! snapshot records of the claim that was backed up.

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{
    claim::{is_volume, refused},
    target::StartError,
};
use crate::{
    api::{FoundSnapshot, NewClaim, RESTORE_UNFINISHED, Restore, RestoreClaim},
    model::{BLOCK, Reason, StoredClaim, billionths},
    plan::{labels, names::OwnerRef},
};

const GIBIBYTE: u64 = 1 << 30;
const ONE_NODE: &str = "ReadWriteOnce";
/// Prefix of the access modes which allow a restore to write.
const WRITABLE: &str = "ReadWrite";

/// A claim to create, and a sentence which describes its properties and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlannedClaim {
    pub claim: PersistentVolumeClaim,
    pub description: String,
}

/// Whether the snapshot has to be looked up first, because the spec does not set all properties of the claim.
pub(super) fn needs_lookup(restore: &Restore, new: &NewClaim) -> bool {
    let is_set = new.storage_class_name.is_some() && new.volume_mode.is_some() && !new.access_modes.is_empty();
    new.size.is_none() || is_volume(restore) && !is_set
}

/// The volume mode of the new claim; `None` for the cluster's default.
pub(super) fn volume_mode<'a>(new: &'a NewClaim, found: Option<&'a FoundSnapshot>) -> Option<&'a str> {
    let stored = || found?.claim.as_ref()?.volume_mode.as_deref();
    new.volume_mode.as_deref().or_else(stored)
}

/// The claim to create. `storage_classes` are those of the cluster.
pub(super) fn plan_claim(
    (restore, owner): (&Restore, &OwnerRef),
    (to, new): (&RestoreClaim, &NewClaim),
    found: Option<&FoundSnapshot>,
    storage_classes: &[String],
) -> Result<PlannedClaim, StartError> {
    let stored = found.and_then(|found| found.claim.clone()).unwrap_or_default();
    let (size, of_size) = size((restore, to), new, &stored, found.and_then(|found| found.bytes))?;
    let (class, of_class) = storage_class(new, &stored, storage_classes);
    let mode = volume_mode(new, found);
    // Another storage class may not support the recorded access modes.
    let is_same_class = class == stored.storage_class_name;
    let modes = access_modes(new, is_same_class.then_some(&stored.access_modes));
    let description = format!(
        "claim {} was created with {}{of_size}, {of_class}, {}{}",
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
            annotations: Some([(RESTORE_UNFINISHED.to_owned(), owner.name.clone())].into()),
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
    Ok(PlannedClaim { claim, description })
}

/// The size, and a text which states where it comes from.
fn size(
    (restore, to): (&Restore, &RestoreClaim),
    new: &NewClaim,
    stored: &StoredClaim,
    bytes: Option<u64>,
) -> Result<(Quantity, &'static str), StartError> {
    if let Some(size) = &new.size {
        return Ok((size.clone(), ""));
    }
    if let Some(size) = &stored.size {
        // A volume may be larger than its claim requested.
        return Ok(match bytes.filter(|bytes| !has_room(size, *bytes)) {
            None => (Quantity(size.clone()), ", which the source's claim requested when it was stored"),
            Some(bytes) => (
                size_with_reserve(bytes),
                " (1.5 times the snapshot's size, and 1 GiB, because the source's claim requested less than the snapshot \
                 holds: Kubernetes refuses a manifest which requests less than the claim has, so set \
                 spec.to.claim.create.size if the app's manifest requests another size)",
            ),
        });
    }
    let Some(bytes) = bytes else {
        let message = format!(
            "the snapshot records neither its size nor the size which its claim requested: set the size of claim {} in \
             spec.to.claim.create.size",
            to.name
        );
        return Err(refused(Reason::InvalidRequest, message));
    };
    let why = if is_volume(restore) {
        " (1.5 times the snapshot's size, and 1 GiB, because the snapshot does not record which size its claim requested: \
         Kubernetes refuses a manifest which requests less than the claim has, so set spec.to.claim.create.size if the \
         app has a manifest of the claim)"
    } else {
        ""
    };
    Ok((size_with_reserve(bytes), why))
}

/// Whether a volume of that size can hold so many bytes. A size which cannot be parsed counts as large enough.
fn has_room(size: &str, bytes: u64) -> bool {
    billionths(size).is_none_or(|size| size / 1_000_000_000 >= i128::from(bytes))
}

/// The size of a volume for so many bytes of files, with a reserve for partly used blocks and for file system metadata.
fn size_with_reserve(bytes: u64) -> Quantity {
    let size = bytes.saturating_add(bytes / 2).saturating_add(GIBIBYTE);
    Quantity(format!("{}Gi", size.div_ceil(GIBIBYTE)))
}

/// The storage class, and its description. A recorded class which the cluster does not have is not used, because the
/// claim would never get a volume.
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
        Some(requested) => requested.clone(),
        None => stored.filter(is_writable).cloned().unwrap_or_else(|| vec![ONE_NODE.to_owned()]),
    }
}
