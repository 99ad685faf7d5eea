//! The last finished Backup which a new one is compared with, and its sources. There may be thousands of Backups, so
//! they are compared one after the other, and only the best one is kept.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::{api::Backup, model::SourceName};

/// Returns the better of `best` and `candidate` to compare `backup` with: a finished Backup of the same selector and
/// Repository, and of two such Backups the newer one. A Backup without sources could not start, so it does not count.
pub fn newer_of(backup: &Backup, best: Option<Backup>, candidate: Backup) -> Option<Backup> {
    let is_comparable = candidate.uid() != backup.uid()
        && candidate.spec.selector == backup.spec.selector
        && candidate.spec.repository_ref == backup.spec.repository_ref
        && ended(&candidate).is_some()
        && !sources_of(&candidate).is_empty();
    match best {
        best if !is_comparable => best,
        Some(best) if ended(&best) >= ended(&candidate) => Some(best),
        _ => Some(candidate),
    }
}

fn ended(backup: &Backup) -> Option<jiff::Timestamp> {
    let status = backup.status.as_ref().filter(|status| status.verdict.is_some())?;
    status.completion_time.as_ref().map(|time| time.0)
}

/// The sources of the Backup, and those which it reported as missing for a reason which the user still has to fix.
pub fn sources_of(backup: &Backup) -> Vec<SourceName> {
    let Some(status) = &backup.status else { return Vec::new() };
    // A pod that could not be named as a source has two parts, as a claim has.
    let is_pod = |name: &&SourceName| name.as_str().starts_with("pod/") && name.as_str().matches('/').count() == 1;
    let had = status.sources.iter().map(|source| &source.name).filter(|name| !is_pod(name));
    let missed = status.missing.iter().filter(|missing| missing.reason.is_loss()).map(|missing| &missing.name);
    had.chain(missed).collect::<BTreeSet<_>>().into_iter().cloned().collect()
}
