//! Ensures that a Restore is carried out once, even if its status is lost.
//!
//! Before its Job may run, the Restore is annotated with its own UID. The annotation is part of the metadata, so that
//! it survives a lost status, a copy by `kubectl get --output yaml`, Velero, and a tool which applies the object again.

use kube::ResourceExt;

use super::{RestoreFacts, claim::refused, target::StartError};
use crate::{
    api::{CARRIED_OUT, Restore, RestoreStatus},
    model::Reason,
    plan::{
        jobs::is_suspended,
        names::{self, OwnerRef},
    },
};

/// Number of the attempt whose Job writes into a claim. The attempt before it only looks the snapshot up.
pub(super) const INTO_CLAIM: u32 = 2;
/// Number of the attempt of any other Job.
pub(super) const FIRST: u32 = 1;

/// Whether a Job which restores was allowed to run for this Restore, and not for one which it is a copy of.
fn is_carried_out(restore: &Restore) -> bool {
    mark(restore).is_some_and(|mark| restore.metadata.uid.as_deref() == Some(mark))
}

/// Refuses a Restore which is a copy of another Restore that was carried out.
pub(super) fn check(restore: &Restore) -> Result<(), StartError> {
    if mark(restore).is_none() || is_carried_out(restore) {
        return Ok(());
    }
    let message = format!(
        "this Restore is a copy of a Restore which was carried out (annotation {CARRIED_OUT}), and a Restore is carried out \
         only once; to restore again, create a Restore of another name without that annotation"
    );
    Err(refused(Reason::AlreadyCarriedOut, message))
}

/// The name of the Restore's Job. It is derived from the Restore alone; a name in the status is trusted only if it is
/// one of the derived names.
pub(super) fn job(restore: &Restore, owner: &OwnerRef, status: &RestoreStatus) -> Option<String> {
    let source = restore.spec.from.source.as_str();
    let names = [INTO_CLAIM, FIRST].map(|attempt| names::job_name(owner, source, attempt));
    if let Some(job) = status.job.as_ref().filter(|job| names.contains(job)) {
        return Some(job.clone());
    }
    if !is_carried_out(restore) {
        return None;
    }
    // The status is lost. The Job which only looked a snapshot up reports nothing about the restore.
    let [into_claim, first] = names;
    let to_claim = restore.spec.to.as_ref().is_some_and(|to| to.claim.is_some());
    Some(if to_claim { into_claim } else { first })
}

/// Whether the Job was created and never allowed to run, so that the Restore is planned again. This does not hold for a
/// Job which a user suspended later, because it may have restored a part.
pub(super) fn is_unstarted(restore: &Restore, job: &str, facts: RestoreFacts<'_>, status: &RestoreStatus) -> bool {
    let is_known = status.job.as_deref() == Some(job) && is_carried_out(restore);
    let observed = facts.jobs.iter().find(|observed| observed.job.name_any() == job);
    observed.is_some_and(|observed| is_suspended(&observed.job)) && !is_known
}

fn mark(restore: &Restore) -> Option<&str> {
    restore.annotations().get(CARRIED_OUT).map(String::as_str)
}
