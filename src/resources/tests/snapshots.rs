//! The objects of a source that is read from a `VolumeSnapshot`, besides its Job.

use serde_json::json;

use super::{is_golden, owner, value};
use crate::{
    model::TaskKind,
    plan::{CreateSnapshot, StartJob, TemporaryClaim},
    resources::{
        names::{self, RunKind},
        snapshot,
    },
};

#[test]
fn snapshot_and_the_claim_that_is_made_of_it_are_golden() {
    let owner = owner("Backup", "evening");
    let name = names::job_name(&owner, "pvc/cask", 2);
    let request = CreateSnapshot {
        name: name.clone(),
        claim: "cask".into(),
        class: "frost".into(),
        source: "pvc/cask".into(),
        attempt: 2,
        repository: "cellar".into(),
    };
    let made = TemporaryClaim {
        snapshot: name.clone(),
        storage_class: "ice".into(),
        access_mode: "ReadWriteOnce".into(),
        device: false,
        size: serde_json::from_value(json!("7Gi")).unwrap(),
    };
    let start = |data_source| StartJob {
        kind: RunKind::Backup,
        source: "pvc/cask".into(),
        attempt: 2,
        task: TaskKind::Init,
        repository: "cellar".into(),
        timeout: None,
        claim: None,
        data_source,
        target: None,
        note: String::new(),
    };
    let claim = snapshot::temporary_claim(&owner, &start(Some(made.clone()))).unwrap();
    is_golden("snapshot.yaml", &[value(&snapshot::volume_snapshot(&owner, &request)), value(&claim)]);
    let device = snapshot::temporary_claim(&owner, &start(Some(TemporaryClaim { device: true, ..made }))).unwrap();
    assert_eq!(device.spec.unwrap().volume_mode.as_deref(), Some("Block"));
    assert_eq!(snapshot::temporary_claim(&owner, &start(None)), None);
}
