//! Backups by the sidecar contain the data of the app: commands through the helper and the socket, and mounted volumes.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use stowaway::model::{Proof, Verdict};
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, in_namespace, process,
    runs::{all_green, ended, ensure_contains, source},
    skipped, volume, workload,
};

const STREAM: Sequence = Sequence::new(Kind::Random, 61, 30_000_001);

/// A pod with a claim at `/data`, which the sidecar backs up.
fn with_volume(namespace: &Namespace, name: &str) -> Workload {
    Workload::new(namespace, name, "toolbox")
        .annotate("stowaway.dev/inject", "sidecar")
        .annotate("stowaway.dev/volumes", "data")
        .set("volumeMounts", json!([{ "name": "data", "mountPath": "/data" }]))
        .set_in_pod("volumes", json!([{ "name": "data", "persistentVolumeClaim": { "claimName": name } }]))
}

async fn claim(namespace: &Namespace, name: &str) -> Result<()> {
    volume::provide(namespace, 1).await?;
    let spec = volume::claim(namespace, "ReadWriteOnce");
    let metadata = json!({ "name": name });
    namespace
        .apply_object(
            json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec }),
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_volumes_are_stored_by_the_sidecar_and_the_log_of_the_run_shows_it() -> Result<()> {
    in_namespace("sidecar", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        claim(namespace, "box").await?;
        with_volume(namespace, "box").annotate(workload::COMMAND, &STREAM.command()).start(namespace).await?;
        let script = "mkdir -p /data/deep/er && seq 100000 >/data/deep/numbers && ln /data/deep/numbers /data/link && \
                      ln -s deep/er /data/symlink && printf x >'/data/deep/er/a name with blanks' && chmod 4750 /data/deep/er/* && sync";
        namespace.shell("box", script)?;
        let sums = "cd /data && find . -type f -exec sha256sum {} + | sort && find . -printf '%p %M %u %g %T@ %l\\n' | sort";
        let expected = namespace.shell("box", sums)?;

        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;
        ensure!(source(&backup, "pod/box/main")?.outcome.proof == Some(Proof::Sealed), "not sealed: {backup:?}");
        let snapshots = restic.snapshots()?;
        let dumped = snapshots.iter().find(|snapshot| snapshot.tag("source") == Some("pod/box/main"));
        let dumped = restic.dump("restic", dumped.context("no snapshot of the command")?)?;
        ensure!(dumped == (STREAM.digest(), STREAM.bytes), "other bytes than the command wrote");
        restic.check("restic", true)?;

        let stored = source(&backup, "pvc/box")?;
        let snapshot = stored.outcome.snapshot.clone().unwrap_or_default();
        for program in stowaway_e2e::restic::RESTICS {
            let target = tempfile::tempdir()?;
            let path = target.path().display().to_string();
            process::run(restic.restic(program, &["restore"]).args(["--target", &path, &snapshot]))?;
            let restored = process::run(
                Command::new("sh").arg("-c").arg(sums.replace("/data", &format!("{path}/data/box"))),
            )?;
            ensure!(String::from_utf8_lossy(&restored).trim_end() == expected, "{program} restores something else");
        }
        for job in ["pod/box/main", "pvc/box"] {
            let log = process::run(&mut namespace.stowaway(&["logs", "backup/one", "--source", job])?)?;
            ensure_contains(job, &String::from_utf8_lossy(&log), &["sidecar", "verdict Succeeded"])?;
        }
        namespace.wait_until_ended("box", "main", "stowaway-helper").await?;

        // A second backup with one new file.
        namespace.shell("box", "printf more >/data/more && sync")?;
        let again = namespace.back_up("two", json!({ "retryLimit": 0 })).await?;
        all_green(&again)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_makes_its_volume_incomplete_and_is_named() -> Result<()> {
    in_namespace("unreadable", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        claim(namespace, "box").await?;
        let non_root = json!({ "runAsUser": 12345, "runAsNonRoot": true });
        let root = json!([{
            "name": "root", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "echo a >/data/open; echo b >/data/closed; chmod 600 /data/closed; chmod 755 /data"],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }]);
        with_volume(namespace, "box").set("securityContext", non_root).set_in_pod("initContainers", root).start(namespace).await?;
        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        let outcome = &source(&backup, "pvc/box")?.outcome;
        ended("pvc/box", outcome, Verdict::Incomplete, &[&outcome.reason])?;
        ensure_contains("the message", &outcome.message, &["closed"])?;
        ensure!(backup.status.as_ref().and_then(|status| status.verdict) != Some(Verdict::Succeeded), "green");
        restic.check("restic", true)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_whose_child_is_killed_fails_that_run_and_neither_app_nor_next_run() -> Result<()> {
    in_namespace("killed", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let slow = format!("{} --rate 1m", STREAM.command());
        let pod = Workload::toolbox(namespace, "box", &slow)
            .annotate("stowaway.dev/inject", "sidecar")
            .start(namespace)
            .await?;
        namespace.start_backup("one", json!({ "retryLimit": 0 })).await?;
        namespace.wait_until_running("box", "main", "emit --kind").await?;
        ensure!(kill_the_child(namespace, &pod)?, "no run in the sidecar");
        let backup = namespace.backup_ended("one").await?;
        ensure!(source(&backup, "pod/box/main")?.outcome.verdict == Some(Verdict::Failed), "{backup:?}");
        namespace.wait_until_ended("box", "main", "emit --kind").await?;
        ensure!(restic.snapshots()?.is_empty(), "something is visible");
        let after = namespace.wait_until_ready("box").await?;
        ensure!(restarts(&after) == 0, "the sidecar itself was restarted");
        Ok(())
    })
    .await
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().filter_map(|status| status.init_container_statuses.as_ref()).flatten();
    statuses.map(|status| status.restart_count).sum()
}

/// Kills the sidecar's processes except for the first one. It does so from the node, because the image has no shell.
fn kill_the_child(namespace: &Namespace, pod: &Pod) -> Result<bool> {
    if !namespace.cluster.is_built_in() {
        skipped("processes of another machine's containers cannot be killed from here");
        return Ok(true);
    }
    let mut killed = false;
    for (id, line) in process::of_pod(pod.metadata.uid.as_deref().unwrap_or_default())? {
        if line.contains("sidecar-run") && !line.contains(" supervise ") {
            process::kill(&id)?;
            killed = true;
        }
    }
    Ok(killed)
}
