//! Scheduled maintenance: snapshots beyond the retention are removed together with their data, damage is found and
//! reported until it is repaired, and the lock of a killed run blocks no prune.

use anyhow::{Context, Result, ensure};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use stowaway::{
    api::{self, Repository, RepositoryStatus},
    model::Verdict,
};
use stowaway_e2e::{
    Namespace, Restic, S3, Workload, in_namespace, process,
    runs::{all_green, ended, source},
    skipped,
};

const SOURCE: &str = "pod/box/main";

/// A cron schedule that is due once a day, and the next time in one to two minutes. With a daily schedule and
/// `readAllWithin: 1d` each check reads all data.
fn soon() -> String {
    let then = (Timestamp::now() + 100.seconds()).to_zoned(TimeZone::UTC);
    format!("{} {} * * *", then.minute(), then.hour())
}

/// Applies the Repository `main` with these additional fields.
async fn set(namespace: &Namespace, server: &S3, fields: &Value) -> Result<()> {
    let mut object = server.repository_object("main", "password", true);
    let spec = object["spec"].as_object_mut().context("no spec")?;
    spec.extend(fields.as_object().context("no fields")?.clone());
    namespace.apply_object(object).await
}

/// Waits until the status of `main` meets the condition.
async fn until(
    namespace: &Namespace,
    what: &str,
    is: impl Fn(&RepositoryStatus) -> bool + Send + Sync,
) -> Result<RepositoryStatus> {
    let holds = move |repository: Option<&Repository>| {
        repository.and_then(|repository| repository.status.as_ref()).is_some_and(&is)
    };
    let repository = namespace.wait_for("main", what, holds).await?;
    repository.status.context("no status")
}

fn pruned_since(status: &RepositoryStatus, since: Timestamp) -> bool {
    let last = status.prune.as_ref().and_then(|prune| prune.last_success_time.as_ref());
    last.is_some_and(|last| last.0 >= since)
}

fn sound(status: &RepositoryStatus) -> Option<(&str, &str)> {
    let sound = api::condition(&status.conditions, api::HEALTHY)?;
    Some((sound.status.as_str(), sound.reason.as_str()))
}

fn packs(restic: &Restic) -> Result<usize> {
    let listed = process::run(&mut restic.restic("restic", &["list", "packs", "--no-lock"]))?;
    Ok(String::from_utf8_lossy(&listed).lines().filter(|line| !line.is_empty()).count())
}

/// A pod whose dumps all have other data.
async fn changing(namespace: &Namespace) -> Result<Pod> {
    Workload::toolbox(namespace, "box", "head -c 3000000 /dev/urandom").start(namespace).await
}

#[tokio::test(flavor = "multi_thread")]
async fn old_snapshots_are_removed_their_data_is_freed_and_backups_continue() -> Result<()> {
    in_namespace("prune", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        let restic = server.repository(namespace).await?;
        changing(namespace).await?;
        let mut newest = None;
        for name in ["first", "second", "third"] {
            let backup = namespace.back_up(name, json!({})).await?;
            all_green(&backup)?;
            newest.clone_from(&source(&backup, SOURCE)?.outcome.snapshot);
        }
        let before = packs(&restic)?;
        let since = Timestamp::now();
        set(
            namespace,
            &server,
            &json!({
                "retention": { "keepLast": 1 }, "prune": { "schedule": " * * * * * " },
                "check": { "schedule": "@yearly" }, "timeZone": "Europe/Berlin",
            }),
        )
        .await?;
        let status = until(namespace, "pruned", |status| pruned_since(status, since)).await?;
        let message = &status.prune.as_ref().context("no prune")?.message;
        ensure!(message.contains("2 snapshots forgotten"), "{message}");
        ensure!(status.prune.as_ref().is_some_and(|prune| prune.repacked_bytes.is_some()), "{:?}", status.prune);
        let left = restic.snapshots()?;
        ensure!(left.len() == 1 && Some(&left[0].id) == newest.as_ref(), "{left:?} remain instead of {newest:?}");
        let (digest, bytes) = restic.dump("restic", &left[0])?;
        ensure!(left[0].tag("sha256") == Some(&digest) && bytes == 3_000_000, "the remaining snapshot is incomplete");
        ensure!(packs(&restic)? < before, "no pack was removed");
        restic.check("restic", true)?;
        restic.check("restic-0.14", true)?;
        // A prune is due every minute, and none of them delays a backup for long.
        all_green(&namespace.back_up("fourth", json!({})).await?)?;
        let check = status.check.context("no check")?;
        ensure!(check.run.next_time.is_some() && check.run.slot.is_none(), "{check:?}");
        Ok(())
    })
    .await
}

/// Flips a bit in the middle of every pack. A second call restores the packs.
fn flip(namespace: &Namespace) -> Result<()> {
    let script = r#"for file in $(find /data/backups -path '/data/backups/*/data/*' -type f); do
        at=$(($(wc -c <"$file") / 2))
        byte=$(dd if="$file" bs=1 skip=$at count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
        printf "\\$(printf %03o $((byte ^ 1)))" | dd of="$file" bs=1 seek=$at conv=notrunc 2>/dev/null
        done"#;
    process::run(&mut namespace.kubectl(&["exec", "s3", "--container=tools", "--", "sh", "-c", script]))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_reported_until_it_is_repaired() -> Result<()> {
    in_namespace("damage", async |namespace: &Namespace| {
        let server = S3::own(namespace).await?;
        let restic = server.repository(namespace).await?;
        changing(namespace).await?;
        all_green(&namespace.back_up("first", json!({})).await?)?;
        let check = || json!({ "check": { "schedule": soon(), "readAllWithin": "1d" } });
        set(namespace, &server, &check()).await?;
        let status = until(namespace, "sound", |status| sound(status) == Some(("True", "Completed"))).await?;
        let all = status.check.as_ref().and_then(|check| check.all_read_time.as_ref());
        ensure!(all.is_some(), "{:?}", status.check);

        flip(namespace)?;
        ensure!(restic.check("restic", true).is_err(), "restic does not find the damage");
        set(namespace, &server, &check()).await?;
        let status = until(namespace, "damaged", |status| sound(status) == Some(("False", "DamageFound"))).await?;
        let message = &api::condition(&status.conditions, api::HEALTHY).context("no condition")?.message;
        ensure!(message.contains(SOURCE), "{message}");
        ensure!(status.check.as_ref().is_some_and(|check| check.run.verdict == Some(Verdict::Failed)));
        let events: Api<Event> = namespace.api();
        let about =
            ListParams::default().fields("involvedObject.kind=Repository,reason=RepositoryDamaged,type=Warning");
        namespace
            .wait_until("an Event of the damage", async || {
                Ok((!events.list(&about).await?.items.is_empty()).then_some(()))
            })
            .await?;

        flip(namespace)?;
        restic.check("restic", true)?;
        set(namespace, &server, &check()).await?;
        until(namespace, "sound again", |status| sound(status) == Some(("True", "Completed"))).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_after_a_check_has_found_damage_is_whole_and_names_the_damage() -> Result<()> {
    in_namespace("distrust", async |namespace: &Namespace| {
        let server = S3::own(namespace).await?;
        let restic = server.repository(namespace).await?;
        // All dumps have the same data, so that each backup would use the packs of the first one.
        Workload::toolbox(namespace, "box", "seq 400000").start(namespace).await?;
        all_green(&namespace.back_up("first", json!({})).await?)?;
        flip(namespace)?;
        set(namespace, &server, &json!({ "check": { "schedule": soon(), "readAllWithin": "1d" } })).await?;
        let status = until(namespace, "damaged", |status| sound(status) == Some(("False", "DamageFound"))).await?;
        let damage = status.check.context("no check")?.damage();
        ensure!(!damage.is_empty(), "no damaged pack is listed");

        let backup = namespace.back_up("second", json!({})).await?;
        all_green(&backup)?;
        let outcome = &source(&backup, SOURCE)?.outcome;
        ensure!(outcome.message.contains("the repository is not healthy"), "{}", outcome.message);
        let snapshots = restic.snapshots()?;
        let stored = snapshots.iter().find(|stored| Some(&stored.id) == outcome.snapshot.as_ref());
        let stored = stored.context("the snapshot is missing")?;
        let (digest, _) = restic.dump("restic", stored)?;
        ensure!(stored.tag("sha256") == Some(&digest), "the new snapshot is not whole");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_of_a_killed_run_blocks_no_prune() -> Result<()> {
    in_namespace("killed", async |namespace: &Namespace| {
        if !namespace.cluster.is_built_in() {
            skipped("a run can be killed only on the built-in cluster's node");
            return Ok(());
        }
        let server = S3::shared(namespace).await?;
        let restic = server.repository(namespace).await?;
        let script = "head -c 3000000 /dev/urandom; exec sleep 600";
        Workload::toolbox(namespace, "box", &json!(["sh", "-c", script]).to_string()).start(namespace).await?;
        namespace.start_backup("killed", json!({ "retryLimit": 0 })).await?;
        namespace.wait_until("a lock", async || Ok((restic.locks()? > 0).then_some(()))).await?;
        // The Job that created the repository has already ended, so this is the only run.
        let pods: Api<Pod> = namespace.api();
        let run = pods.list(&ListParams::default().labels("stowaway.dev/kind=backup")).await?.items;
        ensure!(run.len() == 1, "{} pods of runs", run.len());
        for (id, line) in process::of_pod(&run[0].uid().unwrap_or_default())? {
            if line.contains("runner") {
                process::kill(&id)?;
            }
        }
        let backup = namespace.backup_ended("killed").await?;
        ended("killed", &source(&backup, SOURCE)?.outcome, Verdict::Failed, &["ResultLost"])?;
        ensure!(restic.locks()? == 1, "the killed run did not leave its lock");

        let since = Timestamp::now();
        set(namespace, &server, &json!({ "prune": { "schedule": "* * * * *" } })).await?;
        let status = until(namespace, "pruned", |status| pruned_since(status, since)).await?;
        let prune = status.prune.context("no prune")?;
        ensure!(prune.attempt == 1, "{prune:?}");
        ensure!(restic.locks()? == 0, "the lock of the killed run was not removed");
        Ok(())
    })
    .await
}
