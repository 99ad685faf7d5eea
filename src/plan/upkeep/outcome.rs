//! What follows from the report of a prune or check: words, conditions, and how far the data has been read.
//!
//! It must not know what is done next.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    super::{
        actions::Occurrence,
        names::RunKind,
        schedule::{Schedule, Slots},
        text::{later, until},
    },
    facts::Verb,
};
use crate::{
    api::{
        CheckStatus, RepositoryStatus, SIZE_ANOMALY, SOUND, UpkeepStatus, condition, condition_is_true,
        remove_condition, set_condition, set_condition_status,
    },
    model::{DataPart, Reason, SourceReport, UpkeepReport, Verdict},
};

/// The reason of `Sound=False` when a check has found damage.
pub(super) const DAMAGE_FOUND: &str = "DamageFound";
/// The reason of `Sound=False` when a prune has met damage, and removed nothing.
pub(super) const PRUNE_REFUSED: &str = "PruneRefused";
/// The reason of `Sound` when the last check is too old.
const CHECK_OVERDUE: &str = "CheckOverdue";
/// The reason of `SizeAnomaly`.
pub(super) const SHRUNK: &str = "Shrunk";

/// A report that calls itself green and does not say what was done proves nothing.
pub(super) fn must_say_what_was_done(kind: RunKind, report: SourceReport) -> SourceReport {
    let says = match (kind, &report.upkeep) {
        (RunKind::Repack, Some(UpkeepReport::Repack { .. })) | (RunKind::Prune, Some(UpkeepReport::Prune { .. })) => {
            true
        }
        (RunKind::Check, Some(UpkeepReport::Check { findings, .. })) => *findings == 0,
        _ => false,
    };
    if !report.verdict.is_green() || says {
        return report;
    }
    let message = "the run calls itself green, and its report does not say what was done".to_owned();
    SourceReport { verdict: Verdict::Failed, reason: Reason::ResultLost, message, ..report }
}

/// What was done, or what failed.
pub(super) fn words(report: &SourceReport, missed: u32) -> String {
    let made_up = match missed {
        0 => String::new(),
        missed => format!("; {missed} slots before it were missed"),
    };
    let did = match &report.upkeep {
        _ if !report.message.is_empty() => report.message.clone(),
        Some(UpkeepReport::Prune { forgotten, kept, freed_bytes, .. }) => {
            format!("{forgotten} snapshots forgotten, {kept} kept, {freed_bytes} bytes freed")
        }
        Some(UpkeepReport::Check { part, bytes_read, snapshots, .. }) => {
            format!(
                "{snapshots} snapshots checked, part {part} of the data read ({bytes_read} bytes), nothing is wrong"
            )
        }
        Some(UpkeepReport::Repack { .. }) | None => report.verdict.to_string(),
    };
    did + &made_up
}

/// Brings the conditions, and how far the data has been read, up to the report of a run that is not tried again.
pub(super) fn conclude(
    verb: Verb,
    status: &mut RepositoryStatus,
    report: &SourceReport,
    now: Timestamp,
) -> Option<Occurrence> {
    let is_damaged = report.reason == Reason::RepositoryDamaged;
    match (verb, &report.upkeep) {
        (Verb::Prune, Some(UpkeepReport::Prune { shrunk, first_shrunk, .. })) if report.verdict.is_green() => {
            // What it met before is there again: it has seen all of the structure.
            if condition(&status.conditions, SOUND).is_some_and(|sound| sound.reason == PRUNE_REFUSED) {
                remove_condition(&mut status.conditions, SOUND);
            }
            return size_anomaly(status, *shrunk, first_shrunk, now);
        }
        (Verb::Prune, _) if is_damaged => sound(status, false, PRUNE_REFUSED, &report.message, now),
        (Verb::Check, Some(UpkeepReport::Check { part, .. })) if report.verdict.is_green() => {
            let message = words(report, 0);
            sound(status, true, &report.reason.to_string(), &message, now);
            let check = status.check.get_or_insert_default();
            read(check, *part, now);
        }
        (Verb::Check, Some(UpkeepReport::Check { part, findings, harmed_snapshots, harmed_sources, .. }))
            if is_damaged =>
        {
            let message = format!(
                "{findings} findings; {harmed_snapshots} snapshots cannot be restored as a whole{}: {}",
                of_sources(harmed_sources),
                report.message
            );
            sound(status, false, DAMAGE_FOUND, &message, now);
            status.check.get_or_insert_default().damaged_part = Some(*part);
        }
        (Verb::Check, _) if is_damaged => sound(status, false, DAMAGE_FOUND, &report.message, now),
        // It has not looked, so that nothing is known anew.
        _ => {}
    }
    None
}

/// `Sound` reports no more than the last check: it becomes `Unknown` when that is older than two intervals of its schedule.
pub(super) fn age(status: &mut RepositoryStatus, schedule: &Schedule, run: &UpkeepStatus, now: Timestamp) {
    let is_sound = condition_is_true(&status.conditions, SOUND);
    let Some(Time(last)) = run.last_success_time.as_ref().filter(|_| is_sound) else { return };
    let Slots { due: Some(due), next: Some(next) } = schedule.slots(*last, now) else { return };
    let interval = until(next, due.slot);
    if now <= later(later(*last, interval), interval) {
        return;
    }
    let message = format!(
        "the last check that found nothing wrong ended at {last}, which is more than two intervals of its schedule ago; see \
         status.check for why none has ended well since"
    );
    let words = (CHECK_OVERDUE, message.as_str());
    set_condition_status(&mut status.conditions, SOUND, "Unknown", words, status.observed_generation, now);
}

fn of_sources(sources: &[String]) -> String {
    if sources.is_empty() { String::new() } else { format!(" (of {})", sources.join(", ")) }
}

fn read(check: &mut CheckStatus, part: DataPart, now: Timestamp) {
    check.damaged_part = None;
    check.read_part = Some(part);
    if part.next().is_none() {
        check.all_read_time = Some(Time(now));
    }
}

fn sound(status: &mut RepositoryStatus, is_sound: bool, reason: &str, message: &str, now: Timestamp) {
    let generation = status.observed_generation;
    set_condition(&mut status.conditions, SOUND, is_sound, (reason, message), generation, now);
}

fn size_anomaly(status: &mut RepositoryStatus, count: u64, first: &[String], now: Timestamp) -> Option<Occurrence> {
    if count == 0 {
        remove_condition(&mut status.conditions, SIZE_ANOMALY);
        return None;
    }
    let message = format!("{count} sources have shrunk: {}", first.join("; "));
    let is_known = condition(&status.conditions, SIZE_ANOMALY).is_some_and(|known| known.message == message);
    let generation = status.observed_generation;
    set_condition(&mut status.conditions, SIZE_ANOMALY, true, (SHRUNK, &message), generation, now);
    let note = message.clone();
    (!is_known).then(|| Occurrence {
        is_warning: true,
        reason: SIZE_ANOMALY.to_owned(),
        action: "Prune",
        note,
        job: None,
    })
}
