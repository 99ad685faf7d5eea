//! Backups of claims from CSI snapshots: the stored data is of one point in time, and no temporary object remains,
//! whatever happens meanwhile.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    core::DynamicObject,
};
use serde_json::{Value, json};
use stowaway::{
    api::Backup,
    model::Verdict,
    resources::snapshot::{volume_snapshot_classes, volume_snapshots},
};
use stowaway_e2e::{
    Namespace, S3, Workload, in_namespace, process,
    runs::{all_green, ended, ensure_contains, source},
    volume,
};

/// The annotation that selects a class.
const KEY: &str = "stowaway.dev/volume-snapshot-class";
/// The working VolumeSnapshotClass and StorageClass of the built-in cluster.
const CLASS: &str = "csi-disk";

/// Creates a claim of the built-in cluster's CSI driver, with `class` as its annotation, if any.
async fn claim(namespace: &Namespace, name: &str, class: Option<&str>, mode: &str) -> Result<()> {
    ensure!(namespace.cluster.is_built_in(), "the driver is the built-in cluster's");
    let annotations = class.map_or(json!({}), |class| json!({ KEY: class }));
    namespace
        .apply_object(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "annotations": annotations },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS, "volumeMode": mode,
                "resources": { "requests": { "storage": "96Mi" } },
            },
        }))
        .await
}

/// A pod that mounts the claim at `/data`.
fn user(namespace: &Namespace, claim: &str) -> Workload {
    Workload::new(namespace, claim, "toolbox")
        .set("volumeMounts", json!([{ "name": "data", "mountPath": "/data" }]))
        .set_in_pod("volumes", json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }]))
}

fn snapshots(namespace: &Namespace) -> Api<DynamicObject> {
    Api::namespaced_with(namespace.cluster.client.clone(), &namespace.name, &volume_snapshots())
}

/// The claims, volumes and snapshots of the namespace, except for these claims and their volumes.
async fn leftovers(namespace: &Namespace, claims: &[&str]) -> Result<Vec<String>> {
    let is_other = |name: &str| !claims.contains(&name);
    let everything = ListParams::default();
    let mut found = Vec::new();
    let api: Api<PersistentVolumeClaim> = namespace.api();
    let names = api.list(&everything).await?.items.into_iter().map(|claim| claim.name_any());
    found.extend(names.filter(|name| is_other(name)).map(|name| format!("PersistentVolumeClaim {name}")));
    let volumes: Api<PersistentVolume> = Api::all(namespace.cluster.client.clone());
    for volume in volumes.list(&everything).await?.items {
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone()).unwrap_or_default();
        if claim.namespace.as_ref() == Some(&namespace.name) && is_other(&claim.name.unwrap_or_default()) {
            found.push(format!("PersistentVolume {}", volume.name_any()));
        }
    }
    let names = snapshots(namespace).list(&everything).await?.items.into_iter().map(|snapshot| snapshot.name_any());
    found.extend(names.map(|name| format!("VolumeSnapshot {name}")));
    let mut kind = volume_snapshot_classes();
    (kind.kind, kind.plural) = ("VolumeSnapshotContent".into(), "volumesnapshotcontents".into());
    let contents: Api<DynamicObject> = Api::all_with(namespace.cluster.client.clone(), &kind);
    for content in contents.list(&everything).await?.items {
        let of_namespace = content.data.pointer("/spec/volumeSnapshotRef/namespace").and_then(Value::as_str);
        if of_namespace == Some(&namespace.name) {
            found.push(format!("VolumeSnapshotContent {}", content.name_any()));
        }
    }
    Ok(found)
}

/// Waits until all temporary objects are deleted, which takes the driver some time.
async fn nothing_is_left(namespace: &Namespace, claims: &[&str]) -> Result<()> {
    let is_clean = async || Ok(leftovers(namespace, claims).await?.is_empty().then_some(()));
    if let Err(error) = namespace.wait_until("all temporary objects of the Backup are deleted", is_clean).await {
        return Err(error.context(leftovers(namespace, claims).await?.join(", ")));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn volume_that_is_written_all_the_time_is_stored_as_it_was_at_one_moment() -> Result<()> {
    in_namespace("frozen", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        claim(namespace, "live", Some(CLASS), "Filesystem").await?;
        user(namespace, "live").start(namespace).await?;
        // `first` is written before `last`, so at any moment it is equal to `last` or one more. A backup of the live
        // volume, which reads much data between the two files, would find `first` to be much less.
        let script = "head -c 24000000 /dev/urandom >/data/between; nohup sh -c 'i=0; while :; do i=$((i+1)); \
                      echo $i >/data/first.new; mv /data/first.new /data/first; \
                      echo $i >/data/last.new; mv /data/last.new /data/last; done' >/dev/null 2>&1 &";
        namespace.shell("live", script)?;
        let is_written = async || Ok(namespace.shell("live", "test -s /data/last").ok());
        namespace.wait_until("both files are written", is_written).await?;

        namespace.start_backup("one", json!({ "retryLimit": 0 })).await?;
        let jobs: Api<Job> = namespace.api();
        let of_backups = ListParams::default().labels("stowaway.dev/kind=backup");
        let first_job = async || Ok(jobs.list(&of_backups).await?.items.into_iter().next());
        let job = namespace.wait_until("the Job exists", first_job).await?;
        let spec = job.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
        ensure!(spec.affinity.is_none(), "the Job is bound to a node: {:?}", spec.affinity);
        let backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        ensure!(backup.status.iter().all(|status| status.skipped.is_empty()), "{:?}", backup.status);
        let found = restic.snapshots()?;
        let [snapshot] = &found[..] else { anyhow::bail!("{found:?}") };
        ensure!((snapshot.path(), &snapshot.hostname) == ("/data/live", &namespace.name), "{snapshot:?}");
        ensure!(snapshot.tag("source") == Some("pvc/live") && snapshot.tag("pod") == Some("live"), "{snapshot:?}");
        let target = tempfile::tempdir()?;
        let restored = target.path().join("data/live");
        process::run(
            restic
                .restic("restic", &["restore", &snapshot.id])
                .args(["--target", &target.path().display().to_string()]),
        )?;
        let read = |name: &str| -> Result<u64> { Ok(fs::read_to_string(restored.join(name))?.trim().parse()?) };
        let (first, last) = (read("first")?, read("last")?);
        ensure!(first == last || first == last + 1, "first is {first}, last is {last}");
        ensure!(restored.join("between").metadata()?.len() == 24_000_000);
        nothing_is_left(namespace, &["live"]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn device_is_stored_as_it_was_at_one_moment() -> Result<()> {
    in_namespace("frozen-device", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        claim(namespace, "disk", Some(CLASS), "Block").await?;
        Workload::new(namespace, "disk", "toolbox")
            .set("volumeMounts", json!([]))
            .set("volumeDevices", json!([{ "name": "data", "devicePath": "/dev/disk" }]))
            .set_in_pod("volumes", json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "disk" } }]))
            .start(namespace)
            .await?;
        let sum = namespace.shell(
            "disk",
            "seq 1000000 | dd of=/dev/disk bs=64k conv=notrunc 2>/dev/null; sync; sha256sum </dev/disk",
        )?;
        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;
        let outcome = &source(&backup, "pvc/disk")?.outcome;
        ensure!(outcome.message.is_empty(), "no process writes to a snapshot: {}", outcome.message);
        let found = restic.snapshots()?;
        let (digest, _) = restic.dump("restic", found.first().context("no snapshot")?)?;
        ensure!(sum.starts_with(&digest), "{sum} was stored as {digest}");
        nothing_is_left(namespace, &["disk"]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_that_cannot_be_snapshot_fails_alone_with_the_reason_and_is_not_read_live() -> Result<()> {
    in_namespace("unfrozen", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        process::run(namespace.command(process::program("kubectl")).args([
            "annotate",
            "namespace",
            &namespace.name,
            &format!("{KEY}={CLASS}"),
        ]))?;
        claim(namespace, "by-default", None, "Filesystem").await?;
        claim(namespace, "of-no-class", Some("no-such-class"), "Filesystem").await?;
        claim(namespace, "of-another-driver", Some("of-another-driver"), "Filesystem").await?;
        claim(namespace, "on-fire", Some("csi-disk-failing"), "Filesystem").await?;
        volume::provide(namespace, 2).await?;
        for (name, annotations) in [("static", json!({})), ("static-live", json!({ KEY: "" }))] {
            namespace
                .apply_object(json!({
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": { "name": name, "annotations": annotations },
                    "spec": volume::claim(namespace, "ReadWriteOnce"),
                }))
                .await?;
        }
        let claims = ["by-default", "of-no-class", "of-another-driver", "on-fire", "static", "static-live"];
        for name in claims {
            user(namespace, name).apply(namespace).await?;
        }
        for name in claims {
            namespace.wait_until_ready(name).await?;
            namespace.shell(name, "echo x >/data/x && sync")?;
        }
        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        for name in ["pvc/by-default", "pvc/static-live"] {
            ended(name, &source(&backup, name)?.outcome, Verdict::Succeeded, &["Completed"])?;
        }
        let opt_out = format!("{KEY}: \"\"");
        for (name, texts) in [
            ("pvc/of-no-class", ["no-such-class", "there is no such class", "csi-disk", &opt_out]),
            (
                "pvc/of-another-driver",
                ["of-another-driver", "tape.csi.stowaway.dev", "disk.csi.stowaway.dev", &opt_out],
            ),
            ("pvc/static", ["csi-disk", "of no CSI driver", "remove the annotation", &opt_out]),
        ] {
            let outcome = &source(&backup, name)?.outcome;
            ended(name, outcome, Verdict::Failed, &["InvalidRequest"])?;
            ensure_contains(name, &outcome.message, &texts)?;
        }
        let outcome = &source(&backup, "pvc/on-fire")?.outcome;
        ended("pvc/on-fire", outcome, Verdict::Failed, &["VolumeSnapshotFailed"])?;
        ensure_contains(
            "pvc/on-fire",
            &outcome.message,
            &["the disk is on fire", "csi-disk-failing", "PersistentVolumeClaim on-fire"],
        )?;
        ensure!(backup.status.iter().all(|status| status.verdict == Some(Verdict::Incomplete)), "{:?}", backup.status);
        ensure!(restic.snapshots()?.len() == 2, "a volume was read without a snapshot");
        nothing_is_left(namespace, &claims).await
    })
    .await
}

/// Starts a Backup of a claim, and waits until its VolumeSnapshot exists.
async fn begin(namespace: &Namespace) -> Result<()> {
    claim(namespace, "live", Some(CLASS), "Filesystem").await?;
    user(namespace, "live").start(namespace).await?;
    namespace.shell("live", "head -c 8000000 /dev/urandom >/data/x && sync")?;
    namespace.start_backup("one", json!({ "retryLimit": 0 })).await?;
    let snapshots = snapshots(namespace);
    let exists = async || Ok((!snapshots.list(&ListParams::default()).await?.items.is_empty()).then_some(()));
    namespace.wait_until("the VolumeSnapshot exists", exists).await
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_that_is_killed_with_a_snapshot_half_made_finds_it_and_leaves_nothing() -> Result<()> {
    in_namespace("frozen-restart", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        begin(namespace).await?;
        let system: Api<Pod> = namespace.system().api();
        let at_once = DeleteParams::default().grace_period(0);
        for pod in namespace.pods_of("controller").await? {
            system.delete(&pod.name_any(), &at_once).await?;
        }
        let backup: Backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        ensure!(source(&backup, "pvc/live")?.attempt == 1, "{:?}", backup.status);
        nothing_is_left(namespace, &["live"]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_that_is_deleted_midway_leaves_nothing() -> Result<()> {
    in_namespace("frozen-deleted", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        begin(namespace).await?;
        let backups: Api<Backup> = namespace.api();
        backups.delete("one", &DeleteParams::background()).await?;
        nothing_is_left(namespace, &["live"]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_cannot_delete_claims_and_snapshots_that_no_backup_has_made() -> Result<()> {
    in_namespace("frozen-guard", async |namespace: &Namespace| {
        claim(namespace, "live", None, "Filesystem").await?;
        let user = "system:serviceaccount:stowaway-system:stowaway-controller";
        let controller = namespace.cluster.impersonate(user).await?;
        let snapshot: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": { "name": "own" },
            "spec": { "volumeSnapshotClassName": CLASS, "source": { "persistentVolumeClaimName": "live" } },
        }))?;
        snapshots(namespace).create(&PostParams::default(), &snapshot).await?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(controller.clone(), &namespace.name);
        let of_controller: Api<DynamicObject> = Api::namespaced_with(controller, &namespace.name, &volume_snapshots());
        let parameters = DeleteParams::default();
        let responses = [
            claims.delete("live", &parameters).await.map(drop).map_err(|error| error.to_string()),
            of_controller.delete("own", &parameters).await.map(drop).map_err(|error| error.to_string()),
        ];
        for response in responses {
            let message = response.err().context("the controller's account deleted the object")?;
            ensure!(message.contains("ValidatingAdmissionPolicy 'stowaway-controller-deletes'"), "{message}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_a_run_from_a_snapshot_outlives_the_run() -> Result<()> {
    in_namespace("frozen-log", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        begin(namespace).await?;
        let backup: Backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        let job = source(&backup, "pvc/live")?.jobs.last().context("no Job")?.clone();
        let log = process::run(&mut namespace.kubectl(&["logs", &format!("job/{job}")]))?;
        ensure_contains("the log", &String::from_utf8_lossy(&log), &["opened repository", "verdict Succeeded"])?;
        // The run's pod is deleted with its temporary claim. After that the CLI shows the end of the log from the
        // status.
        nothing_is_left(namespace, &["live"]).await?;
        let kept = process::run(&mut namespace.stowaway(&["logs", "backup/one"])?)?;
        ensure_contains(
            "the stored log",
            &String::from_utf8_lossy(&kept),
            &["pvc/live", "its pod is deleted", "verdict Succeeded"],
        )
    })
    .await
}
