//! A Restore is carried out once, whatever becomes of its status.
//!
//! Before its Job may run, the Restore is annotated with its own UID. The annotation is part of the metadata, so that it
//! survives a lost status, a copy by `kubectl get --output yaml`, Velero, and a tool that applies the object again. It must
//! not know what is restored.

use kube::ResourceExt;

use super::{RestoreFacts, claim::refused, target::Missing};
use crate::{
    api::{CARRIED_OUT, Restore, RestoreStatus},
    model::Reason,
    plan::{
        jobs::is_suspended,
        names::{self, Owner},
    },
};

/// Number of the attempt whose Job writes into a claim; the one before it only looks the snapshot up.
pub(super) const INTO_CLAIM: u32 = 2;
/// Number of the attempt of any other Job.
pub(super) const FIRST: u32 = 1;

/// Whether a Job that changes something was allowed to run for this very Restore.
fn is_carried_out(restore: &Restore) -> bool {
    mark(restore).is_some_and(|mark| restore.metadata.uid.as_deref() == Some(mark))
}

/// Refuses a Restore that is a copy of one which was carried out.
pub(super) fn check(restore: &Restore) -> Result<(), Missing> {
    if mark(restore).is_none() || is_carried_out(restore) {
        return Ok(());
    }
    let message = format!(
        "this Restore is a copy of one that was carried out (annotation {CARRIED_OUT}), and a Restore is carried out once; \
         to restore again, create a Restore of another name without that annotation"
    );
    Err(refused(Reason::AlreadyCarriedOut, message))
}

/// The Job that is watched, by a name that follows from the Restore alone: the name in the status is only believed where it
/// is one that the Restore's Jobs can have.
pub(super) fn job(restore: &Restore, owner: &Owner, status: &RestoreStatus) -> Option<String> {
    let source = restore.spec.from.source.as_str();
    let names = [INTO_CLAIM, FIRST].map(|attempt| names::job_name(owner, source, attempt));
    if let Some(job) = status.job.as_ref().filter(|job| names.contains(job)) {
        return Some(job.clone());
    }
    if !is_carried_out(restore) {
        return None;
    }
    // The status is lost. What only looked a snapshot up reports nothing about the restore.
    let [into_claim, first] = names;
    let to_claim = restore.spec.to.as_ref().is_some_and(|to| to.claim.is_some());
    Some(if to_claim { into_claim } else { first })
}

/// Whether the Job was made and never allowed to run, so that all is planned again. One that a person has suspended later
/// may have done a part of its work.
pub(super) fn is_unstarted(restore: &Restore, job: &str, facts: RestoreFacts<'_>, status: &RestoreStatus) -> bool {
    let is_known = status.job.as_deref() == Some(job) && is_carried_out(restore);
    let observed = facts.jobs.iter().find(|observed| observed.job.name_any() == job);
    observed.is_some_and(|observed| is_suspended(&observed.job)) && !is_known
}

fn mark(restore: &Restore) -> Option<&str> {
    restore.annotations().get(CARRIED_OUT).map(String::as_str)
}
