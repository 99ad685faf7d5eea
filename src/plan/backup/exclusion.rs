//! Why a source cannot be stored because of a restore which has not ended, or has not succeeded.

use super::{Blocked, ClaimUses, PlannedSource, Reason, Subject};
use crate::{annotations::object_name, api::RESTORE_UNFINISHED};

/// Fails while the restore step of a pod has not filled the claim, and for a claim which a Restore has created and none
/// has filled.
pub(super) fn check_restored(
    uses: &ClaimUses,
    subject: &Subject,
    planned: Option<&PlannedSource>,
) -> Result<(), Blocked> {
    if let Some(step) = uses.restore_step(subject) {
        let message = format!("waits for {step}. Nothing half restored is stored");
        return Err(Blocked::new(Reason::RestoreUnfinished, message));
    }
    let (Some(restore), Subject::Claim(claim)) = (planned.and_then(|planned| planned.unfilled.as_ref()), subject)
    else {
        return Ok(());
    };
    // A Restore which has not ended is waited for as long as it takes.
    if uses.before_backup(subject).is_some() {
        return Ok(());
    }
    let name = if object_name(restore).is_ok() { format!("Restore {restore}") } else { "a Restore".to_owned() };
    let message = format!(
        "{name} has created claim {claim}, and no Restore into it has succeeded, so the claim may be empty or contain a part \
         of its data, and is not stored. Restore into it again, or delete it; if its content is right, run kubectl annotate \
         persistentvolumeclaim {claim} {RESTORE_UNFINISHED}-"
    );
    Err(Blocked::new(Reason::RestoreUnfinished, message))
}

/// Fails while a pod of a restore may still write into the source, although its Job is over.
pub(super) fn check_unused(uses: &ClaimUses, subject: &Subject) -> Result<(), Blocked> {
    let Some(pod) = uses.lingering_pod(subject) else { return Ok(()) };
    let message = format!(
        "waits for the end of {pod}; if its node is lost, taint the node with \
         node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    );
    Err(Blocked::new(Reason::TargetInUse, message))
}
