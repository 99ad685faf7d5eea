//! The effects of the report of a prune or check: its message, the conditions, and which parts of the data were read.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    super::{
        actions::EventRecord,
        names::RunKind,
        schedule::{Schedule, Slots},
        text::{later, until},
    },
    facts::Operation,
};
use crate::{
    api::{
        CheckStatus, HEALTHY, MaintenanceStatus, RETENTION_DIFFERS, RepositoryStatus, SIZE_ANOMALY, condition,
        condition_is_true, remove_condition, set_condition, set_condition_status,
    },
    model::{DamagedPacks, DataPart, MaintenanceReport, Reason, RunReport, Verdict},
};

/// The reason of `Healthy=False` when a check has found damage.
pub(super) const DAMAGE_FOUND: &str = "DamageFound";
/// The reason of `Healthy=False` when a prune has found damage, and removed nothing.
pub(super) const PRUNE_REFUSED: &str = "PruneRefused";
/// The reason of `Healthy` when the last check is too old.
const CHECK_OVERDUE: &str = "CheckOverdue";
/// The reason of `SizeAnomaly`.
pub(super) const SHRUNK: &str = "Shrunk";
/// The reason of `RetentionDiffers`.
const NOTHING_FORGOTTEN: &str = "NothingForgotten";

/// Turns a green report without the details of its kind into a failure, because it proves nothing.
pub(super) fn require_details(kind: RunKind, report: RunReport) -> RunReport {
    let has_details = match (kind, &report.maintenance) {
        (RunKind::Repack, Some(MaintenanceReport::Repack { .. }))
        | (RunKind::Prune, Some(MaintenanceReport::Prune { .. })) => true,
        (RunKind::Check, Some(MaintenanceReport::Check { findings, .. })) => *findings == 0,
        _ => false,
    };
    if !report.verdict.is_green() || has_details {
        return report;
    }
    let message = "the run reports success, but its report does not contain what was done".to_owned();
    RunReport { verdict: Verdict::Failed, reason: Reason::ResultLost, message, ..report }
}

/// The message of a report: what was done, or what failed.
pub(super) fn result(report: &RunReport, missed: u32) -> String {
    let made_up = match missed {
        0 => String::new(),
        missed => format!("; {missed} earlier slots were missed"),
    };
    let did = match &report.maintenance {
        _ if !report.message.is_empty() => report.message.clone(),
        Some(MaintenanceReport::Prune { forgotten, kept, freed_bytes, .. }) => {
            format!("{forgotten} snapshots forgotten, {kept} kept, {freed_bytes} bytes freed")
        }
        Some(MaintenanceReport::Check { part, bytes_read, snapshots, .. }) => {
            format!("{snapshots} snapshots checked, part {part} of the data read ({bytes_read} bytes), no errors found")
        }
        Some(MaintenanceReport::Repack { .. }) | None => report.verdict.to_string(),
    };
    did + &made_up
}

/// Updates the conditions and the read parts from the report of a run's last attempt. Returns an Event if there is a
/// new anomaly.
pub(super) fn apply_report(
    operation: Operation,
    status: &mut RepositoryStatus,
    report: &RunReport,
    now: Timestamp,
) -> Option<EventRecord> {
    let is_damaged = report.reason == Reason::RepositoryDamaged;
    match (operation, &report.maintenance) {
        (Operation::Prune, Some(MaintenanceReport::Prune { shrunk, first_shrunk, .. }))
            if report.verdict.is_green() =>
        {
            // A green prune has read the whole structure, so the damage which an earlier prune found no longer exists.
            if condition(&status.conditions, HEALTHY).is_some_and(|sound| sound.reason == PRUNE_REFUSED) {
                remove_condition(&mut status.conditions, HEALTHY);
            }
            return size_anomaly(status, *shrunk, first_shrunk, now);
        }
        (Operation::Prune, _) if is_damaged => set_sound(status, false, PRUNE_REFUSED, &report.message, now),
        (Operation::Check, Some(MaintenanceReport::Check { part, damaged_packs, .. })) if report.verdict.is_green() => {
            let check = status.check.get_or_insert_default();
            // A check without findings may have found damage, of which another pack has the data.
            let damage = check.damage().after_check(*part, damaged_packs.clone().unwrap_or_default());
            check.damaged_packs = Some(damage).filter(|damage| !damage.is_empty());
            record_read_part(check, *part, now);
            // A part with damage may be left, if this check has read another part.
            if check.damaged_part.is_none() {
                set_sound(status, true, &report.reason.to_string(), &result(report, 0), now);
            }
        }
        (
            Operation::Check,
            Some(MaintenanceReport::Check { part, findings, harmed_snapshots, harmed_sources, damaged_packs, .. }),
        ) if is_damaged => {
            let message = format!(
                "{findings} findings; {harmed_snapshots} snapshots cannot be restored as a whole{}: {}",
                of_sources(harmed_sources),
                report.message
            );
            set_sound(status, false, DAMAGE_FOUND, &message, now);
            let check = status.check.get_or_insert_default();
            let found = damaged_packs.clone().unwrap_or_else(|| DamagedPacks::anywhere_in(*part));
            // What the check has found may be why it has not read all packs of its part.
            check.damaged_packs = Some(found.and(check.damage()));
            check.damaged_part = Some(*part);
        }
        (Operation::Check, _) if is_damaged => set_sound(status, false, DAMAGE_FOUND, &report.message, now),
        // The run has verified nothing, so the conditions stay.
        _ => {}
    }
    None
}

/// Sets `Healthy` to `Unknown` if the last successful check is older than two intervals of its schedule.
pub(super) fn mark_overdue_check(
    status: &mut RepositoryStatus,
    schedule: &Schedule,
    run: &MaintenanceStatus,
    now: Timestamp,
) {
    let is_sound = condition_is_true(&status.conditions, HEALTHY);
    let Some(Time(last)) = run.last_success_time.as_ref().filter(|_| is_sound) else { return };
    let Slots { due: Some(due), next: Some(next) } = schedule.slots(*last, now) else { return };
    let interval = until(next, due.slot);
    if now <= later(later(*last, interval), interval) {
        return;
    }
    let message = format!(
        "the last check without errors ended at {last}, which is more than two intervals of its schedule ago; see \
         status.check for why no check has succeeded since"
    );
    let condition = (CHECK_OVERDUE, message.as_str());
    set_condition_status(&mut status.conditions, HEALTHY, "Unknown", condition, status.observed_generation, now);
}

fn of_sources(sources: &[String]) -> String {
    if sources.is_empty() { String::new() } else { format!(" (of {})", sources.join(", ")) }
}

fn record_read_part(check: &mut CheckStatus, part: DataPart, now: Timestamp) {
    check.damaged_part = check.damaged_part.filter(|damaged| !part.covers(*damaged));
    check.read_part = Some(part);
    if part.next().is_none() {
        check.all_read_time = Some(Time(now));
    }
}

fn set_sound(status: &mut RepositoryStatus, is_sound: bool, reason: &str, message: &str, now: Timestamp) {
    let generation = status.observed_generation;
    set_condition(&mut status.conditions, HEALTHY, is_sound, (reason, message), generation, now);
}

fn size_anomaly(status: &mut RepositoryStatus, count: u64, first: &[String], now: Timestamp) -> Option<EventRecord> {
    let message = (count > 0).then(|| format!("{count} sources have shrunk: {}", first.join("; ")));
    report_warning(status, (SIZE_ANOMALY, SHRUNK), message, now)
}

/// Reports that a prune of the Repository `name` forgets nothing because of the retention of `others`, if there are any.
/// Returns an Event if that is new.
pub(super) fn report_differing_retentions(
    status: &mut RepositoryStatus,
    name: &str,
    others: &[String],
    now: Timestamp,
) -> Option<EventRecord> {
    let message = (!others.is_empty()).then(|| {
        let others = others.join(", ");
        format!(
            "the prune of Repository {name} forgets no snapshot, because {others} of the same namespace has the same \
             repository and keeps other snapshots: set the same retention and timeZone in {name} and in {others}"
        )
    });
    report_warning(status, (RETENTION_DIFFERS, NOTHING_FORGOTTEN), message, now)
}

/// Sets a condition which is present only while it is true, or removes it if there is no message. Returns an Event if the
/// message is new.
fn report_warning(
    status: &mut RepositoryStatus,
    (kind, reason): (&str, &str),
    message: Option<String>,
    now: Timestamp,
) -> Option<EventRecord> {
    let Some(message) = message else {
        remove_condition(&mut status.conditions, kind);
        return None;
    };
    let is_known = condition(&status.conditions, kind).is_some_and(|known| known.message == message);
    let generation = status.observed_generation;
    set_condition(&mut status.conditions, kind, true, (reason, &message), generation, now);
    (!is_known).then(|| EventRecord {
        is_warning: true,
        reason: kind.to_owned(),
        action: "Prune",
        note: message,
        job: None,
    })
}
