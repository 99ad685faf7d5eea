//! Backups contain exactly the bytes that the command wrote, for the oldest and the newest restic, and from every kind
//! of container.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use stowaway::{
    api::Backup,
    model::{Proof, Verdict},
};
use stowaway_e2e::{
    Kind, Namespace, Restic, S3, Sequence, Workload, in_namespace, process,
    restic::{RESTICS, Snapshot},
    runs::{all_green, ended, ensure_contains, known, source},
    sequence, skipped, store,
    workload::{self, COMMAND, INJECT},
};

/// A short stream, one with every byte value and an odd length, one of many incompressible packs, and one longer than
/// 2^30 bytes. Each is backed up within the memory limit of a Job.
const STREAMS: [(&str, Sequence); 4] = [
    ("short", Sequence::new(Kind::Random, 5, 1024)),
    ("every", Sequence::new(Kind::Every, 0, 3_000_017)),
    ("packs", Sequence::new(Kind::Random, 6, 300 << 20)),
    ("long", Sequence::new(Kind::Text, 7, (1 << 30) + 1)),
];

#[tokio::test(flavor = "multi_thread")]
async fn dumps_are_byte_exact_for_the_oldest_and_the_newest_restic() -> Result<()> {
    in_namespace("exact", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let mut pod = Workload::new(namespace, "box", "toolbox");
        for (name, stream) in &STREAMS {
            pod = pod.named_command(name, &stream.command());
        }
        pod.start(namespace).await?;
        let backup = namespace.back_up("exact", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;

        let snapshots = restic.snapshots()?;
        ensure!(snapshots.len() == STREAMS.len(), "{} snapshots", snapshots.len());
        for (name, stream) in &STREAMS {
            let source_name = format!("pod/box/main/{name}");
            let outcome = &source(&backup, &source_name)?.outcome;
            let digest = stream.digest();
            ensure!(
                outcome.digest.as_deref() == Some(&digest) && outcome.bytes == Some(stream.bytes),
                "{name}: {outcome:?}"
            );
            ensure!(outcome.proof == Some(Proof::Sealed), "{name}: {outcome:?}");
            let snapshot = snapshots.iter().find(|snapshot| snapshot.tag("source") == Some(&source_name));
            let snapshot = snapshot.with_context(|| format!("no snapshot of {source_name}"))?;
            ensure!(snapshot.hostname == namespace.name, "host {}", snapshot.hostname);
            for program in RESTICS {
                file_is_exact(&restic, program, snapshot, stream.bytes, &digest)
                    .with_context(|| format!("{program}, {name}"))?;
            }
        }
        for program in RESTICS {
            restic.check(program, true)?;
            mounted_files_are_exact(&restic, program, &snapshots).with_context(|| format!("{program} mount"))?;
        }
        Ok(())
    })
    .await
}

/// Checks that `ls` prints the size, and that `dump`, `restore` and `restore --verify` return the bytes.
fn file_is_exact(restic: &Restic, program: &str, snapshot: &Snapshot, bytes: u64, digest: &str) -> Result<()> {
    let listed = String::from_utf8(process::run(&mut restic.restic(program, &["ls", "--long", &snapshot.id]))?)?;
    ensure!(
        listed.lines().any(|line| line.contains(&format!(" {bytes} ")) && line.ends_with(snapshot.path())),
        "ls does not print {bytes} bytes for {}:\n{listed}",
        snapshot.path()
    );
    ensure!(restic.dump(program, snapshot)? == (digest.to_owned(), bytes), "dump returns other bytes");
    for options in [&["restore"][..], &["restore", "--verify"]] {
        let target = tempfile::tempdir()?;
        let path = target.path().display().to_string();
        process::run(restic.restic(program, options).args(["--target", &path, &snapshot.id]))?;
        let restored = target.path().join(snapshot.path().trim_start_matches('/'));
        ensure!(digest_of_file(&restored)? == digest, "{options:?} returns other bytes");
    }
    Ok(())
}

/// Checks a copy of each file from `restic mount`.
fn mounted_files_are_exact(restic: &Restic, program: &str, snapshots: &[Snapshot]) -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        skipped("restic mount, since this machine has no /dev/fuse");
        return Ok(());
    }
    let (at, target) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut mounting =
        restic.restic(program, &["mount"]).arg(at.path()).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let copied = (|| {
        let ids = at.path().join("ids");
        let deadline = std::time::Instant::now() + stowaway_e2e::namespace::WAIT_LIMIT;
        while !ids.is_dir() {
            ensure!(mounting.try_wait()?.is_none() && std::time::Instant::now() < deadline, "nothing is mounted");
            std::thread::sleep(stowaway_e2e::namespace::POLL_INTERVAL);
        }
        for snapshot in snapshots {
            let from = ids.join(&snapshot.id[..8]).join(snapshot.path().trim_start_matches('/'));
            let to = target.path().join("copy");
            process::run(std::process::Command::new("cp").arg(&from).arg(&to))?;
            ensure!(
                Some(digest_of_file(&to)?.as_str()) == snapshot.tag("sha256"),
                "a copy of {} has other bytes",
                from.display()
            );
            fs::remove_file(to)?;
        }
        Ok(())
    })();
    // restic unmounts when it is interrupted.
    process::run(std::process::Command::new("kill").args(["-s", "INT", &mounting.id().to_string()]))?;
    mounting.wait()?;
    copied
}

fn digest_of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("{} was not restored", path.display()))?;
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(sequence::hex(&digest.finalize())),
            Ok(length) => digest.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_with_the_same_container_are_two_sources_and_a_busybox_is_proven_and_no_shell_is_not() -> Result<()> {
    let sequences = [1, 2, 3, 4, 5].map(|seed| Sequence::new(Kind::Every, seed, 100_000 + seed));
    let [first, second, busybox, bare, accepted] = sequences;
    in_namespace("kinds", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let without_shell = |name: &str, sequence: &Sequence| {
            Workload::new(namespace, name, "shell-less")
                .container(name)
                .annotate(COMMAND, &sequence.command())
                .annotate(INJECT, "none")
        };
        let pods = [
            Workload::dumping(namespace, "first", &first)
                .annotate(INJECT, "none")
                .annotate("stowaway.dev/file-extension", ".bin"),
            Workload::dumping(namespace, "second", &second)
                .annotate(INJECT, "none")
                .annotate("stowaway.dev/file-extension", ".bin"),
            Workload::new(namespace, "busybox", "busybox")
                .container("box")
                .annotate(COMMAND, &busybox.command())
                .annotate(INJECT, "none"),
            without_shell("bare", &bare),
            without_shell("accepted", &accepted).annotate("stowaway.dev/accept-unproven", "true"),
        ];
        workload::start_all(namespace, &pods).await?;
        let backup = namespace.back_up("kinds", json!({ "retryLimit": 0 })).await?;

        let outcome = |name: &str| source(&backup, name).map(|source| &source.outcome);
        for name in ["pod/first/main", "pod/second/main", "pod/busybox/box"] {
            ended(name, outcome(name)?, Verdict::Succeeded, &["Completed"])?;
            ensure!(outcome(name)?.proof == Some(Proof::Acknowledged), "{name}: {:?}", outcome(name)?.proof);
        }
        ended("bare", outcome("pod/bare/bare")?, Verdict::Unproven, &["NotProven"])?;
        ended("accepted", outcome("pod/accepted/accepted")?, Verdict::Succeeded, &["NotProven"])?;
        let verdict = backup.status.as_ref().and_then(|status| status.verdict);
        ensure!(verdict != Some(Verdict::Succeeded), "a Backup with an unproven source is green");
        restic.agrees_with(
            &backup,
            &known(&[
                ("pod/first/main", &first),
                ("pod/second/main", &second),
                ("pod/busybox/box", &busybox),
                ("pod/bare/bare", &bare),
                ("pod/accepted/accepted", &accepted),
            ]),
        )?;
        let mut paths: Vec<String> = restic.snapshots()?.iter().map(|snapshot| snapshot.path().to_owned()).collect();
        paths.sort();
        paths.dedup();
        ensure!(paths.len() == 5, "two sources share a path: {paths:?}");
        // The first source gets K8up's path, the second one a path of its own. Both keep their paths in the next run.
        let again = namespace.back_up("again", json!({ "retryLimit": 0 })).await?;
        let of_second = |backup: &stowaway::api::Backup| {
            source(backup, "pod/second/main").map(|source| source.outcome.snapshot.clone())
        };
        let path_of = |id: Option<String>| -> Result<String> {
            let snapshots = restic.snapshots()?;
            Ok(snapshots
                .iter()
                .find(|snapshot| Some(&snapshot.id) == id.as_ref())
                .context("no such snapshot")?
                .path()
                .to_owned())
        };
        ensure!(
            path_of(of_second(&backup)?)? == path_of(of_second(&again)?)?,
            "the path of a source changes between runs"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_on_a_volume_is_written_and_read_by_restic() -> Result<()> {
    let sequence = Sequence::new(Kind::Random, 11, 2_000_003);
    in_namespace("volume", async |namespace: &Namespace| {
        let folder = format!("/var/lib/stowaway-e2e/{}", namespace.name);
        let volume = json!({ "hostPath": { "path": folder, "type": "DirectoryOrCreate" } });
        namespace
            .apply_object(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "folder" },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    // The folder of a hostPath is owned by root, and the runner runs as another user.
                    "initContainers": [{
                        "name": "owner", "image": namespace.cluster.image("busybox"), "imagePullPolicy": "IfNotPresent",
                        "command": ["chown", "65532:65532", "/repository"],
                        "volumeMounts": [{ "name": "repository", "mountPath": "/repository" }],
                    }],
                    "containers": [{
                        "name": "main", "image": namespace.cluster.image("busybox"), "imagePullPolicy": "IfNotPresent",
                        "volumeMounts": [{ "name": "repository", "mountPath": "/repository" }],
                    }],
                    "volumes": [{ "name": "repository", "hostPath": volume["hostPath"] }],
                },
            }))
            .await?;
        namespace.wait_until_ready("folder").await?;
        let mut spec = volume.clone();
        spec["path"] = json!("team/shop");
        namespace
            .apply_object(json!({
                "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository",
                "metadata": { "name": "main", "annotations": { "stowaway.dev/is-default": "true" } },
                "spec": { "volume": spec, "passwordSecretRef": { "name": "password" } },
            }))
            .await?;
        namespace.apply_object(store::secret("password", &json!({ "password": store::PASSWORD }))).await?;
        namespace.wait_until_repository_ready("main").await?;
        Workload::dumping(namespace, "box", &sequence).start(namespace).await?;
        let backup = namespace.back_up("one", json!({})).await?;
        all_green(&backup)?;
        if namespace.cluster.is_built_in() {
            let repository = Path::new(&folder).join("team/shop");
            Restic::folder(&repository, store::PASSWORD)
                .agrees_with(&backup, &known(&[("pod/box/main", &sequence)]))?;
        } else {
            skipped("restic on the node's folder, because the node is not this machine");
        }
        namespace.shell("folder", "rm -rf /repository/*")?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn run_of_a_minute_shows_its_progress() -> Result<()> {
    // At the rate below the run takes more than a minute, so that it reports its progress and the controller reads it.
    let sequence = Sequence::new(Kind::Random, 31, 10 << 20);
    in_namespace("progress", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let command = format!("{} --rate 100k", sequence.command());
        Workload::toolbox(namespace, "box", &command).start(namespace).await?;
        namespace.start_backup("slow", json!({ "retryLimit": 0 })).await?;
        let shows = |backup: Option<&Backup>| {
            backup.and_then(|backup| backup.status.as_ref()).is_some_and(|status| status.transfer.is_some())
        };
        let backup: Backup = namespace.wait_for("slow", "shown", shows).await?;
        let status = backup.status.as_ref().context("no status")?;
        ensure!((1..10 << 20).contains(&status.bytes) && status.verdict.is_none(), "{status:?}");
        let columns = process::run(&mut namespace.kubectl(&["get", "backups.stowaway.dev", "slow"]))?;
        ensure_contains("kubectl get", &String::from_utf8_lossy(&columns), &["TRANSFER", "KiB/s"])?;
        let backup = namespace.backup_ended("slow").await?;
        all_green(&backup)?;
        let status = backup.status.as_ref().context("no status")?;
        ensure!((status.bytes, &status.transfer) == (10 << 20, &None), "{status:?}");
        restic.agrees_with(&backup, &known(&[("pod/box/main", &sequence)]))
    })
    .await
}
