//! The properties of a claim which its snapshots record, so that `plan::restore` can create the claim again.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::sources::is_device;
use crate::model::{BLOCK, StoredClaim};

/// The properties which the claim requests. The size is the requested one, not the capacity of the volume, which may be
/// larger.
pub(super) fn stored_claim(claim: &PersistentVolumeClaim) -> StoredClaim {
    let spec = claim.spec.as_ref();
    let size = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    StoredClaim {
        size: size.map(|size| size.0.clone()),
        storage_class_name: spec.and_then(|spec| spec.storage_class_name.clone()).filter(|class| !class.is_empty()),
        access_modes: spec.and_then(|spec| spec.access_modes.clone()).unwrap_or_default(),
        volume_mode: is_device(claim).then(|| BLOCK.to_owned()),
    }
}
