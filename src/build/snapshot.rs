//! A snapshot of a claim, and the claim that is made of it, for one attempt of one source.
//!
//! It must not know when they are made, nor that they are deleted again.

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
    names::{Owner, RunKind},
};
use crate::plan::{MakeSnapshot, StartJob};

/// The group of the kinds below.
const GROUP: &str = "snapshot.storage.k8s.io";
const SNAPSHOT: &str = "VolumeSnapshot";

/// The kind `VolumeSnapshot`, which the cluster may lack.
pub fn volume_snapshots() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", SNAPSHOT), "volumesnapshots")
}

/// The kind `VolumeSnapshotClass`, which the cluster may lack.
pub fn volume_snapshot_classes() -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, "v1", "VolumeSnapshotClass");
    ApiResource::from_gvk_with_plural(&kind, "volumesnapshotclasses")
}

/// The snapshot.
pub fn volume_snapshot(owner: &Owner, request: &MakeSnapshot) -> DynamicObject {
    let MakeSnapshot { name, claim, class, source, attempt, repository } = request;
    let mut snapshot = DynamicObject::new(name, &volume_snapshots()).data(json!({
        "spec": { "volumeSnapshotClassName": class, "source": { "persistentVolumeClaimName": claim } },
    }));
    snapshot.metadata = metadata(owner, name, source, *attempt, repository);
    snapshot
}

/// The claim that the Job mounts, where it is to be made of a snapshot first.
pub fn temporary_claim(owner: &Owner, request: &StartJob) -> Option<PersistentVolumeClaim> {
    let made = request.made_of.as_ref()?;
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

fn metadata(owner: &Owner, name: &str, source: &str, attempt: u32, repository: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(owner.namespace.clone()),
        labels: Some(labels::of_job(owner, RunKind::Backup, source, attempt, repository)),
        annotations: Some(BTreeMap::from([(labels::SOURCE.to_owned(), source.to_owned())])),
        owner_references: Some(vec![owner.reference()]),
        ..ObjectMeta::default()
    }
}
