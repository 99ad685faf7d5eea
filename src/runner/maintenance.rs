//! Prune, the repack before it, and check as runs: decides the retention from the snapshots in the repository, executes
//! it, and reports.

use std::time::Instant;

use indicatif::BinaryBytes;
use jiff::{Timestamp, tz::TimeZone};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::job::{with_repository, with_repository_to_read};
use crate::{
    model::{
        DamagedPacks, DataPart, Failure, MaintenanceReport, Reason, Retention, RunReport, SnapshotIdentity,
        SnapshotRecord, Verdict, milliseconds, truncate_list,
    },
    plan::{RetentionPlan, plan_retention, time_zone},
    repository::{self, CheckReport, Forget, OpenOptions, PruneRules, Repository, SnapshotSummary},
};

/// The most bytes which are repacked before a prune. Until the prune has ended, they are in the store twice. The next
/// prune continues.
const MAX_REPACKED_BYTES: u64 = 32 << 30;
/// The most bytes which the prune itself repacks, because all backups wait for it: the packs which other runs have left
/// in the meantime. Takes a minute or so.
const MAX_REPACKED_BYTES_ALONE: u64 = 1 << 30;
/// The number of findings that the report contains. The log has the first hundred.
const FINDINGS_REPORTED: usize = 3;

/// The retention of a Repository, and whose snapshots it applies to.
///
/// Namespaces and clusters which share a repository have Repositories of their own, each with its own retention. So a
/// Repository's retention never forgets the snapshots of another namespace or another cluster, nor reports on them.
#[derive(Clone, Copy, Debug)]
pub struct RetentionScope<'a> {
    pub policy: &'a Retention,
    /// IANA name of the zone whose hours and days count.
    pub time_zone: &'a str,
    /// The snapshots' host.
    pub namespace: &'a str,
    /// The id of the cluster. Snapshots which record no cluster count as its own.
    pub cluster: &'a str,
}

impl RetentionScope<'_> {
    fn zone(&self) -> Result<TimeZone, Failure> {
        let name = self.time_zone;
        time_zone(name).map_err(|why| Failure::new(Reason::InvalidRequest, format!("spec.timeZone {name:?} {why}")))
    }

    fn own(&self, all: &[SnapshotSummary]) -> Vec<SnapshotSummary> {
        let is_own = |snapshot: &&SnapshotSummary| {
            snapshot.identity.host == self.namespace && snapshot.record().is_of_cluster(self.cluster)
        };
        all.iter().filter(is_own).cloned().collect()
    }
}

/// The retention plan for these snapshots. Hours and days are those of `zone`.
pub fn decide<'a>(
    policy: &Retention,
    all: &'a [SnapshotSummary],
    zone: &TimeZone,
    now: Timestamp,
) -> RetentionPlan<'a> {
    let records: Vec<SnapshotRecord<'a>> = all.iter().map(SnapshotSummary::record).collect();
    plan_retention(policy, &records, zone, now)
}

/// The warnings for a user, one sentence each.
pub fn warnings_of(plan: &RetentionPlan<'_>) -> Vec<String> {
    let of_future = plan.from_future.iter().map(|snapshot| {
        let source = snapshot.identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&snapshot.identity.path);
        format!(
            "snapshot {} of {source} is dated in the future ({:.0}): it is kept, and no restore chooses it \
             automatically; check the clocks of the nodes",
            snapshot.short_id(),
            snapshot.time
        )
    });
    plan.shrunk.iter().map(ToString::to_string).chain(of_future).collect()
}

/// The snapshots which the plan deletes.
pub fn forget_of(plan: &RetentionPlan<'_>) -> Forget {
    Forget { snapshots: plan.drop.iter().map(|dropped| dropped.id.to_owned()).collect(), last_of_source: false }
}

/// Repacks, under a shared lock, the packs which [`prune`] would repack.
pub async fn repack(
    access: OpenOptions,
    scope: &RetentionScope<'_>,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
    let started = Instant::now();
    let zone = scope.zone()?;
    let report = with_repository(access, cancel, async |open| {
        let all = open.snapshots().await?;
        let own = scope.own(&all);
        let forgotten = forget_of(&decide(scope.policy, &own, &zone, Timestamp::now())).snapshots;
        let rules = PruneRules { max_repack: Some(MAX_REPACKED_BYTES), ..PruneRules::default() };
        Ok(open.repack(&forgotten, &rules).await?)
    })
    .await?;
    let (packs, new, bytes) = (report.packs, report.new_packs, report.new_bytes);
    info!(packs, new, bytes, "{packs} packs repacked into {new} packs of {} in all", BinaryBytes(bytes));
    Ok(RunReport {
        bytes,
        maintenance: Some(MaintenanceReport::Repack { bytes }),
        ..RunReport::done(started.elapsed())
    })
}

/// Forgets the snapshots which the policy drops, then removes the data which no snapshot needs, under one exclusive
/// lock. `repacked_bytes` were repacked before it and are in the store twice.
pub async fn prune(
    access: OpenOptions,
    scope: &RetentionScope<'_>,
    repacked_bytes: u64,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
    let started = Instant::now();
    let zone = scope.zone()?;
    let open = repository::open_exclusively(access, cancel.clone()).await?;
    info!(repository = open.id(), "opened repository {} exclusively", open.id());
    let pruned = forget_and_prune(&open, scope, &zone, repacked_bytes).await;
    open.close().await;
    let (maintenance, message) = pruned?;
    let freed = if let MaintenanceReport::Prune { freed_bytes, .. } = maintenance { freed_bytes } else { 0 };
    Ok(RunReport { message, bytes: freed, maintenance: Some(maintenance), ..RunReport::done(started.elapsed()) })
}

/// What the report of a prune states about the retention.
struct Retained {
    /// The number of all snapshots before it.
    snapshots: usize,
    warnings: Vec<String>,
    /// The sources to warn about.
    shrunk: Vec<String>,
    /// A sentence about the snapshots that are dated in the future, if there are any.
    from_future: Option<String>,
}

/// Applies the retention to the Repository's own snapshots among all of the repository.
fn retain(scope: &RetentionScope<'_>, zone: &TimeZone, all: &[SnapshotSummary], now: Timestamp) -> (Forget, Retained) {
    let own = scope.own(all);
    let plan = decide(scope.policy, &own, zone, now);
    let from_future = plan.from_future.first().map(|first| {
        format!(
            "{} are dated in the future, such as {} of {:.0}: check the clocks of the nodes",
            plan.from_future.len(),
            first.short_id(),
            first.time
        )
    });
    let retained = Retained {
        snapshots: all.len(),
        warnings: warnings_of(&plan),
        shrunk: plan.shrunk.iter().map(ToString::to_string).collect(),
        from_future,
    };
    (forget_of(&plan), retained)
}

/// Forgets and prunes. Returns the report, and a message about snapshots that are dated in the future; without such
/// snapshots the message is empty.
async fn forget_and_prune(
    open: &Repository,
    scope: &RetentionScope<'_>,
    zone: &TimeZone,
    repacked_bytes: u64,
) -> Result<(MaintenanceReport, String), Failure> {
    let (forgotten, plan) = open.forget(|all| Ok(retain(scope, zone, all, Timestamp::now()))).await?;
    for warning in &plan.warnings {
        warn!("{warning}");
    }
    let kept = (plan.snapshots as u64).saturating_sub(forgotten);
    info!(forgotten, kept, "{forgotten} snapshots forgotten, {kept} kept");
    let rules = PruneRules { max_repack: Some(MAX_REPACKED_BYTES_ALONE), ..PruneRules::default() };
    let report = open.prune(&rules).await?;
    let (removed, repacked) = (report.packs_removed, report.packs_repacked);
    info!(
        removed,
        repacked,
        "{removed} packs removed, {repacked} repacked; {} remain, {} of them unused",
        BinaryBytes(report.bytes_after),
        BinaryBytes(report.unused_bytes)
    );
    let freed_bytes = report.freed_bytes().saturating_sub(repacked_bytes);
    let message = plan.from_future.map_or_else(String::new, |from_future| {
        format!("{forgotten} snapshots forgotten, {kept} kept, {freed_bytes} bytes freed; {from_future}")
    });
    let maintenance = MaintenanceReport::Prune {
        forgotten,
        kept,
        freed_bytes,
        shrunk: plan.shrunk.len() as u64,
        first_shrunk: truncate_list(plan.shrunk),
    };
    Ok((maintenance, message))
}

/// Checks the structure, and reads one part of the data. Damage is a report, and not an error.
pub async fn check(access: OpenOptions, part: DataPart, cancel: &CancellationToken) -> Result<RunReport, Failure> {
    let started = Instant::now();
    let checked = with_repository_to_read(access, cancel, async |open| {
        let mut checked = open.check(Some(part)).await?;
        if !checked.is_sound() && open.lock_note().is_some() {
            // Without a lock, a prune may have removed packs after the index was read. A second check reads it again.
            checked = open.check(Some(part)).await?;
        }
        Ok((checked, open.lock_note()))
    });
    let (checked, lock_note) = checked.await?;
    for finding in &checked.findings.first {
        warn!("{finding}");
    }
    for harmed in &checked.harmed {
        let source = harmed.source.as_deref().unwrap_or(&harmed.path);
        warn!(source, snapshot = harmed.id, "snapshot {} of {source} cannot be restored as a whole", harmed.id);
    }
    let report = report_of(part, &checked, milliseconds(started.elapsed()));
    // The note comes first, because it may be the cause of the findings.
    let notes = [lock_note.unwrap_or_default(), report.message.as_str()];
    let message = notes.into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>().join("; ");
    Ok(RunReport { message, ..report })
}

fn report_of(part: DataPart, checked: &CheckReport, duration_milliseconds: u64) -> RunReport {
    let (verdict, reason) = if checked.is_sound() {
        (Verdict::Succeeded, Reason::Completed)
    } else {
        (Verdict::Failed, Reason::RepositoryDamaged)
    };
    let reported = checked.findings.first.iter().take(FINDINGS_REPORTED).map(ToString::to_string);
    let mut message = reported.collect::<Vec<_>>().join("; ");
    if !checked.is_sound() {
        message += "; the run's log has more, and `stowaway check` checks everything";
    }
    let harmed = checked.harmed.iter().map(|harmed| harmed.source.clone().unwrap_or_else(|| harmed.path.clone()));
    RunReport {
        verdict,
        reason,
        message,
        bytes: checked.bytes_read,
        keys: Some(checked.keys),
        maintenance: Some(MaintenanceReport::Check {
            part,
            bytes_read: checked.bytes_read,
            snapshots: checked.snapshots,
            findings: checked.findings.count,
            harmed_snapshots: checked.harmed_snapshots,
            harmed_sources: truncate_list(harmed),
            damaged_packs: Some(DamagedPacks::of(&checked.damaged_packs, part)),
        }),
        duration_milliseconds,
        ..RunReport::done(std::time::Duration::ZERO)
    }
}
