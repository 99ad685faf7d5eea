//! Tests of a Restore as an archive: its Job gets the store, and a request which cannot succeed is not started.

use super::*;
use crate::model::{ArchiveFormat, ArchiveReport, ArchiveRestore, BackendConfig};

const SOURCE: &str = "pvc/casks";

fn world(from: &serde_json::Value, to: &serde_json::Value) -> World {
    let mut store = json!({ "s3": { "endpoint": "https://shed", "bucket": "crates" } });
    store.as_object_mut().unwrap().extend(to.as_object().unwrap().clone());
    let mut source = json!({ "source": SOURCE });
    source.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
    World::new(&json!({ "from": source, "to": { "archive": store }, "timeout": "90s" }))
}

fn started(world: &mut World) -> (StartJob, ArchiveRestore) {
    let start = world.step(0).start.pop().unwrap_or_else(|| panic!("{:?}", world.status()));
    match start.task.clone() {
        TaskKind::RestoreArchive(run) => (start, *run),
        task => panic!("{task:?}"),
    }
}

#[test]
fn job_gets_the_store_the_snapshot_and_the_paths() {
    let from = json!({ "asOf": "2026-05-04T03:02:01Z", "paths": ["a/b"] });
    let to =
        json!({ "format": "tar.zst", "name": "shop/casks.tar.zst", "overwrite": true, "limits": { "connections": 3 } });
    let (start, run) = started(&mut world(&from, &to));
    assert!(matches!(start.target, Some(RestoreTarget::Archive(to)) if to.s3.is_some()));
    assert_eq!((run.from.source.as_str(), run.from.host.as_deref()), (SOURCE, Some(NAMESPACE)));
    assert_eq!(run.from.as_of.unwrap().to_string(), "2026-05-04T03:02:01Z");
    assert_eq!((run.paths, run.format, run.overwrite), (vec!["a/b".to_owned()], ArchiveFormat::TarZstd, true));
    assert_eq!((run.name.as_deref(), run.timeout), (Some("shop/casks.tar.zst"), Some(Duration::from_secs(90))));
    assert!(matches!(run.backend, BackendConfig::S3(config) if config.bucket == "crates"));
    assert_eq!(run.connection.limits.connections, Some(3));
}

#[test]
fn dump_becomes_an_archive_wherever_its_pod_is() {
    let mut world = world(&json!({ "source": "deployment/gone/vat" }), &json!({}));
    world.pods.clear();
    let (_, run) = started(&mut world);
    assert_eq!((run.format, run.name, run.overwrite), (ArchiveFormat::TarGzip, None, false));
    assert_eq!((world.status().pod.as_str(), world.status().claim.as_str()), ("", ""));
}

#[test]
fn archive_that_could_only_fail_is_never_started() {
    for (from, to) in [
        (json!({ "source": MILL, "paths": ["a"] }), json!({})),
        (json!({}), json!({ "name": "shop/config" })),
        (json!({}), json!({ "s3": null })),
    ] {
        let mut world = world(&from, &to);
        // A permanent error does not wait for the repository.
        world.repositories.clear();
        assert!(world.step(0).start.is_empty());
        let outcome = &world.status().outcome;
        assert_eq!(
            (outcome.verdict, outcome.reason.as_str()),
            (Some(Verdict::Failed), "InvalidRequest"),
            "{from} {to}"
        );
    }
}

#[test]
fn status_has_the_archive() {
    let mut world = world(&json!({}), &json!({}));
    started(&mut world);
    let archive = ArchiveReport {
        location: "https://shed/crates/x.tar.gz".into(),
        format: ArchiveFormat::TarGzip,
        bytes: 7,
        sha256: "ab".repeat(32),
    };
    let report = RunReport { archive: Some(archive.clone()), proof: Proof::Sealed, ..success() };
    let name = world.status().job.clone().unwrap();
    world.jobs.push(job(&name, &Scene::Ended(&report.to_termination_message())));
    world.step(10);
    assert_eq!(world.status().outcome.verdict, Some(Verdict::Succeeded));
    assert_eq!(world.status().archive, Some(archive));
}

#[test]
fn location_of_an_archive_on_a_volume_names_the_volume() {
    for (volume, name) in [
        (json!({ "persistentVolumeClaim": { "claimName": "handover" }, "path": "year/may" }), "pvc:handover"),
        (json!({ "nfs": { "server": "shed", "path": "/crates/" } }), "nfs:shed:/crates"),
        (json!({ "hostPath": { "path": "/srv/crates" } }), "hostPath:/srv/crates"),
    ] {
        let (_, run) = started(&mut world(&json!({}), &json!({ "s3": null, "volume": volume })));
        assert_eq!(run.volume, name);
    }
    let long = json!({ "nfs": { "server": "shed", "path": format!("/{}", "ü".repeat(2000)) } });
    let (_, run) = started(&mut world(&json!({}), &json!({ "s3": null, "volume": long })));
    assert!(run.volume.len() <= 512 && run.volume.starts_with("nfs:shed:/ü"), "{}", run.volume);
    let (_, run) = started(&mut world(&json!({}), &json!({})));
    assert_eq!(run.volume, "", "a bucket is no volume");
}
