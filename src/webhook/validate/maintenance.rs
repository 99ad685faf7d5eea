//! Validates the maintenance schedules of a Repository.

use jiff::tz::TimeZone;
use kube::ResourceExt;

use super::objects::Findings;
use crate::{
    api::Repository,
    plan::{Schedule, differing_retentions, time_zone},
};

/// `repositories` are those of the namespace.
pub(super) fn check(repository: &Repository, repositories: &[Repository], findings: &mut Findings) {
    let spec = &repository.spec;
    if let Some(name) = &spec.time_zone
        && let Err(reason) = time_zone(name)
    {
        findings.wrong(&["spec", "timeZone"], name, reason);
    }
    let schedules = [
        ("prune", spec.prune.as_ref().map(|prune| &prune.schedule)),
        ("check", spec.check.as_ref().map(|check| &check.schedule)),
    ];
    for (field, schedule) in schedules {
        let Some(text) = schedule else { continue };
        // Neither the time zone nor the seed affects whether the schedule can be parsed.
        if let Err(reason) = Schedule::parse(text, &repository.name_any(), TimeZone::UTC) {
            findings.wrong(&["spec", field, "schedule"], text, reason);
        }
    }
    // The retention of either object is not applied, also if the other one keeps all snapshots.
    let stops =
        |one: &Repository, other: &Repository| !differing_retentions(std::slice::from_ref(one), other).is_empty();
    if let Some(other) = repositories.iter().find(|other| stops(repository, other) || stops(other, repository)) {
        let other = other.name_any();
        let message = format!(
            "differs from that of Repository {other}, which is the same repository, so no snapshot is forgotten: set the same \
             retention and timeZone in both"
        );
        findings.warn(&["spec", "retention"], message);
    }
    let Some(retention) = &spec.retention else { return };
    if spec.prune.is_none() {
        findings.warn(
            &["spec", "retention"],
            "has no effect without spec.prune: no snapshot is ever removed, and the store fills until every backup fails (StoreFull); \
             set spec.prune.schedule (\"@daily-random\"), or leave retention out",
        );
    } else if retention.is_empty() {
        findings.warn(&["spec", "retention"], "is empty, so all snapshots are kept");
    }
}
