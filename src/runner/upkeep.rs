//! Prune, what is done ahead of it, and check as runs: the retention is decided on what is in the repository, carried out,
//! and reported.
//!
//! It must not know when a run is due, nor what becomes of its report.

use std::time::Instant;

use indicatif::BinaryBytes;
use jiff::{Timestamp, tz::TimeZone};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::job::with_repository;
use crate::{
    model::{
        DataPart, Failure, Reason, Retention, SnapshotIdentity, SnapshotRecord, SourceReport, UpkeepReport, Verdict,
        few, milliseconds,
    },
    plan::{RetentionPlan, plan_retention, time_zone},
    repository::{self, Access, CheckReport, Forget, PruneRules, Repository, SnapshotSummary},
};

/// What is packed anew at most ahead of a prune; until that has ended it is in the store twice. The next prune goes on.
const MOST_REPACKED_BYTES: u64 = 32 << 30;
/// The same for the prune itself, since all backups wait for it: what others left in the meantime, in a minute or so.
const MOST_REPACKED_BYTES_ALONE: u64 = 1 << 30;
/// How many findings are told in the report; the log has the first hundred.
const FINDINGS_TOLD: usize = 3;

/// What the rules say of these snapshots; hours and days are those of `zone`.
pub fn decide<'a>(
    policy: &Retention,
    all: &'a [SnapshotSummary],
    zone: &TimeZone,
    now: Timestamp,
) -> RetentionPlan<'a> {
    let records: Vec<SnapshotRecord<'a>> = all.iter().map(SnapshotSummary::record).collect();
    plan_retention(policy, &records, zone, now)
}

/// What a person should look at, one sentence each.
pub fn warnings_of(plan: &RetentionPlan<'_>) -> Vec<String> {
    let of_future = plan.from_future.iter().map(|snapshot| {
        let source = snapshot.identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&snapshot.identity.path);
        format!(
            "snapshot {} of {source} is dated in the future ({:.0}): it is kept, and no restore takes it by itself; check the \
             clocks of the nodes",
            snapshot.short_id(),
            snapshot.time
        )
    });
    plan.shrunk.iter().map(ToString::to_string).chain(of_future).collect()
}

/// What is to go by that plan, which was made for all of these snapshots.
pub fn forget_of(plan: &RetentionPlan<'_>, all: &[SnapshotSummary]) -> Forget {
    Forget {
        snapshots: plan.drop.iter().map(|dropped| dropped.id.to_owned()).collect(),
        planned_on: all.iter().map(|snapshot| snapshot.id.clone()).collect(),
        last_of_source: false,
    }
}

fn zone_of(name: &str) -> Result<TimeZone, Failure> {
    time_zone(name).map_err(|why| Failure::new(Reason::InvalidRequest, format!("spec.timeZone {name:?} {why}")))
}

/// Packs anew what [`prune`] would, beside others that work on the repository.
pub async fn repack(
    access: Access,
    policy: &Retention,
    zone: &str,
    cancel: &CancellationToken,
) -> Result<SourceReport, Failure> {
    let started = Instant::now();
    let zone = zone_of(zone)?;
    let report = with_repository(access, cancel, async |open| {
        let all = open.snapshots().await?;
        let going = forget_of(&decide(policy, &all, &zone, Timestamp::now()), &all).snapshots;
        let rules = PruneRules { max_repack: Some(MOST_REPACKED_BYTES), ..PruneRules::default() };
        Ok(open.repack(&going, &rules).await?)
    })
    .await?;
    let (packs, new, bytes) = (report.packs, report.new_packs, report.new_bytes);
    info!(packs, new, bytes, "{packs} packs packed anew, into {new} of {} in all", BinaryBytes(bytes));
    Ok(SourceReport { bytes, upkeep: Some(UpkeepReport::Repack { bytes }), ..SourceReport::done(started.elapsed()) })
}

/// Forgets what the policy drops, then removes what no snapshot needs, in one exclusive opening. So many bytes were packed
/// anew for it, and are there twice.
pub async fn prune(
    access: Access,
    policy: &Retention,
    zone: &str,
    repacked_bytes: u64,
    cancel: &CancellationToken,
) -> Result<SourceReport, Failure> {
    let started = Instant::now();
    let zone = zone_of(zone)?;
    let open = repository::open_exclusively(access, cancel.clone()).await?;
    info!(repository = open.id(), "opened repository {} exclusively", open.id());
    let pruned = forget_and_prune(&open, policy, &zone, repacked_bytes).await;
    open.close().await;
    let (upkeep, message) = pruned?;
    let freed = if let UpkeepReport::Prune { freed_bytes, .. } = upkeep { freed_bytes } else { 0 };
    Ok(SourceReport { message, bytes: freed, upkeep: Some(upkeep), ..SourceReport::done(started.elapsed()) })
}

/// Does both, and returns what was done, with what a person should look at beside sizes.
async fn forget_and_prune(
    open: &Repository,
    policy: &Retention,
    zone: &TimeZone,
    repacked_bytes: u64,
) -> Result<(UpkeepReport, String), Failure> {
    let all = open.snapshots().await?;
    let plan = decide(policy, &all, zone, Timestamp::now());
    for warning in warnings_of(&plan) {
        warn!("{warning}");
    }
    let forgotten = if plan.drop.is_empty() { 0 } else { open.forget(&forget_of(&plan, &all)).await? };
    let kept = plan.keep.len() as u64;
    info!(forgotten, kept, "{forgotten} snapshots forgotten, {kept} kept");
    let rules = PruneRules { max_repack: Some(MOST_REPACKED_BYTES_ALONE), ..PruneRules::default() };
    let report = open.prune(&rules).await?;
    let (removed, repacked) = (report.packs_removed, report.packs_repacked);
    info!(
        removed,
        repacked,
        "{removed} packs removed, {repacked} packed anew; {} stay, {} of them unused",
        BinaryBytes(report.bytes_after),
        BinaryBytes(report.unused_bytes)
    );
    let freed_bytes = report.freed_bytes().saturating_sub(repacked_bytes);
    let message = plan.from_future.first().map_or_else(String::new, |first| {
        format!(
            "{forgotten} snapshots forgotten, {kept} kept, {freed_bytes} bytes freed; {} are dated in the future, such as {} of \
             {:.0}: check the clocks of the nodes",
            plan.from_future.len(),
            first.short_id(),
            first.time
        )
    });
    let upkeep = UpkeepReport::Prune {
        forgotten,
        kept,
        freed_bytes,
        shrunk: plan.shrunk.len() as u64,
        first_shrunk: few(plan.shrunk.iter().map(ToString::to_string)),
    };
    Ok((upkeep, message))
}

/// Checks the structure, and reads one part of the data. Damage is a report, and no error.
pub async fn check(access: Access, part: DataPart, cancel: &CancellationToken) -> Result<SourceReport, Failure> {
    let started = Instant::now();
    let checked = with_repository(access, cancel, async |open| Ok(open.check(Some(part)).await?)).await?;
    for finding in &checked.findings.first {
        warn!("{finding}");
    }
    for harmed in &checked.harmed {
        let source = harmed.source.as_deref().unwrap_or(&harmed.path);
        warn!(source, snapshot = harmed.id, "snapshot {} of {source} cannot be restored as a whole", harmed.id);
    }
    Ok(report_of(part, &checked, milliseconds(started.elapsed())))
}

fn report_of(part: DataPart, checked: &CheckReport, duration_milliseconds: u64) -> SourceReport {
    let (verdict, reason) = if checked.is_sound() {
        (Verdict::Succeeded, Reason::Completed)
    } else {
        (Verdict::Failed, Reason::RepositoryDamaged)
    };
    let told = checked.findings.first.iter().take(FINDINGS_TOLD).map(ToString::to_string);
    let mut message = told.collect::<Vec<_>>().join("; ");
    if !checked.is_sound() {
        message += "; the run's log tells more, and `stowaway check` looks at all";
    }
    let harmed = checked.harmed.iter().map(|harmed| harmed.source.clone().unwrap_or_else(|| harmed.path.clone()));
    SourceReport {
        verdict,
        reason,
        message,
        bytes: checked.bytes_read,
        keys: Some(checked.keys),
        upkeep: Some(UpkeepReport::Check {
            part,
            bytes_read: checked.bytes_read,
            snapshots: checked.snapshots,
            findings: checked.findings.count,
            harmed_snapshots: checked.harmed_snapshots,
            harmed_sources: few(harmed),
        }),
        duration_milliseconds,
        ..SourceReport::done(std::time::Duration::ZERO)
    }
}
