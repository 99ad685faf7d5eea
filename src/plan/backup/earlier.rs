//! The last finished Backup which a new one is compared with, and its sources. There may be thousands of Backups, so
//! they are compared one after the other, and only the best one is kept.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::{
    annotations::{self, KeyId, own_key},
    api::{Backup, MissingReason},
    plan::sources::EarlierSource,
};

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

/// The sources of the Backup, and those which it reported as missing for a reason which the user still has to fix. Sources which
/// may have been deleted are left out once the user has confirmed that by an annotation of the Backup.
pub fn sources_of(backup: &Backup) -> Vec<EarlierSource> {
    let Some(status) = &backup.status else { return Vec::new() };
    let key = own_key(KeyId::AllowMissing);
    let is_confirmed = backup.annotations().get(&key).is_some_and(|value| annotations::boolean(value) == Ok(true));
    let missed = status
        .missing
        .iter()
        .filter(|missing| missing.reason.is_loss())
        .filter(|missing| !(is_confirmed && missing.reason == MissingReason::Unknown))
        .map(|missing| (missing.name.clone(), false));
    // A pod that could not be named as a source has two parts, as a claim has.
    let is_pod = |name: &str| name.starts_with("pod/") && name.matches('/').count() == 1;
    let had = status.sources.iter().filter(|source| !is_pod(source.name.as_str()));
    let had = had.map(|source| (source.name.clone(), source.allow_missing));
    let all: BTreeMap<_, _> = missed.chain(had).collect();
    all.into_iter().map(|(name, may_be_missing)| EarlierSource { name, may_be_missing }).collect()
}
