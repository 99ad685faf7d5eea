//! The `VolumeSnapshot` of a claim, and the temporary claim created from it, for one attempt of one source.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference, VolumeResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

use super::{
    labels,
    names::{OwnerRef, RunKind},
};
use crate::plan::{CreateSnapshot, StartJob};

/// The API group of the kinds below.
const GROUP: &str = "snapshot.storage.k8s.io";
const SNAPSHOT: &str = "VolumeSnapshot";

/// The kind `VolumeSnapshot`. Its CRD may be missing in the cluster.
pub fn volume_snapshots() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", SNAPSHOT), "volumesnapshots")
}

/// The kind `VolumeSnapshotClass`. Its CRD may be missing in the cluster.
pub fn volume_snapshot_classes() -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, "v1", "VolumeSnapshotClass");
    ApiResource::from_gvk_with_plural(&kind, "volumesnapshotclasses")
}

/// The `VolumeSnapshot`.
pub fn volume_snapshot(owner: &OwnerRef, request: &CreateSnapshot) -> DynamicObject {
    let CreateSnapshot { name, claim, class, source, attempt, repository } = request;
    let mut snapshot = DynamicObject::new(name, &volume_snapshots()).data(json!({
        "spec": { "volumeSnapshotClassName": class, "source": { "persistentVolumeClaimName": claim } },
    }));
    snapshot.metadata = metadata(owner, name, source, *attempt, repository);
    snapshot
}

/// The claim that the Job mounts, if it must first be created from a `VolumeSnapshot`.
pub fn temporary_claim(owner: &OwnerRef, request: &StartJob) -> Option<PersistentVolumeClaim> {
    let made = request.data_source.as_ref()?;
    Some(PersistentVolumeClaim {
        metadata: metadata(owner, &made.snapshot, &request.source, request.attempt, &request.repository),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![made.access_mode.clone()]),
            storage_class_name: Some(made.storage_class.clone()),
            volume_mode: Some(if made.device { "Block" } else { "Filesystem" }.to_owned()),
            data_source: Some(TypedLocalObjectReference {
                api_group: Some(GROUP.to_owned()),
                kind: SNAPSHOT.to_owned(),
                name: made.snapshot.clone(),
            }),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), made.size.clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}

fn metadata(owner: &OwnerRef, name: &str, source: &str, attempt: u32, repository: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(owner.namespace.clone()),
        labels: Some(labels::of_job(owner, RunKind::Backup, source, attempt, repository)),
        annotations: Some(BTreeMap::from([(labels::SOURCE.to_owned(), source.to_owned())])),
        owner_references: Some(vec![owner.reference()]),
        ..ObjectMeta::default()
    }
}
