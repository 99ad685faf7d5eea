//! Why a source cannot be stored because of a restore which has not ended, or has not succeeded.

use super::{Blocked, ClaimUses, PlannedSource, Reason, Subject, Target};
use crate::{annotations::object_name, model::SnapshotIdentity, plan::claim_uses::HalfRestored};

/// Fails while the restore step of a pod has not filled the claim, and for a claim which a Restore has created and none
/// has filled, or a command in a pod that mounts such a claim.
pub(super) fn check_restored(
    uses: &ClaimUses,
    subject: &Subject,
    planned: Option<&PlannedSource>,
) -> Result<(), Blocked> {
    if let Some(step) = uses.restore_step(subject) {
        let message = format!("waits for {step}. Nothing half restored is stored");
        return Err(Blocked::new(Reason::RestoreUnfinished, message));
    }
    let Some((planned, unfilled)) = planned.and_then(|planned| Some((planned, planned.unfilled.as_ref()?))) else {
        return Ok(());
    };
    // A Restore which has not ended is waited for as long as it takes.
    if uses.before_backup(subject).is_some() {
        return Ok(());
    }
    let (claim, restore) = (&unfilled.name, &unfilled.restore);
    let restore = if object_name(restore).is_ok() { format!("Restore {restore}") } else { "a Restore".to_owned() };
    let (mount, what) = match subject {
        Subject::Claim(_) => (String::new(), "is not stored"),
        Subject::Command { .. } => (format!(", which pod {} mounts", planned.pod), "no dump of the pod is stored"),
    };
    let message = format!(
        "{restore} has created claim {claim}{mount}, and no Restore into the claim has succeeded, so the claim may be \
         empty or contain a part of its data, and {what}. Restore into it again, or delete it; if its content is \
         right, such as after a Restore into a command of its pod, run {}",
        unfilled.confirmation()
    );
    Err(Blocked::new(Reason::RestoreUnfinished, message))
}

/// Fails while a pod of a restore may still write into the source, although its Job is over.
pub(super) fn check_unused(uses: &ClaimUses, subject: &Subject) -> Result<(), Blocked> {
    let Some(pod) = uses.lingering_pod(subject) else { return Ok(()) };
    let message = format!("waits for the end of {pod}");
    Err(Blocked::new(Reason::TargetInUse, message))
}

/// Fails for a block device that a failed Restore may have half written. Nothing on the device shows that.
pub(super) fn check_device(
    uses: &ClaimUses,
    subject: &Subject,
    planned: &PlannedSource,
    target: &Target,
) -> Result<(), Blocked> {
    let Target::Claim(mount) = target else { return Ok(()) };
    // A Restore which has not ended is waited for as long as it takes.
    if !mount.device || uses.before_backup(subject).is_some() {
        return Ok(());
    }
    let Some(restore) = uses.half_restored(planned.name.as_str(), &mount.pod) else { return Ok(()) };
    let HalfRestored { name, failure, .. } = restore;
    let message = format!(
        "Restore {name} into the block device of claim {} {failure}, so the device may hold a part of the snapshot, and is \
         not stored. Restore into it again; if its content is right, confirm that by deleting the Restore: kubectl delete \
         restores.stowaway.dev {name}",
        mount.claim
    );
    Err(Blocked::new(Reason::RestoreUnfinished, message))
}

/// The labels and the note of the dump of a command. If a failed Restore may have left a part of a snapshot in its
/// server, the dump is stored as suspect, because it contains only what the server has now.
pub(super) fn labels_and_note(
    uses: &ClaimUses,
    planned: &PlannedSource,
    target: &Target,
) -> (SnapshotIdentity, String) {
    let (mut identity, planned_note) = (planned.identity.clone(), planned.note.clone());
    let restore = uses.half_restored(planned.name.as_str(), target.pod());
    let Some(HalfRestored { name, failure, .. }) = restore.filter(|_| matches!(target, Target::Command(_))) else {
        return (identity, planned_note);
    };
    identity.tags.push(SnapshotIdentity::SUSPECT.to_owned());
    let note = format!(
        "Restore {name} into this command {failure}, so the data may be a part of what was to be restored. Restore again; if \
         the data is right, confirm that for the next dumps by deleting the Restore: kubectl delete restores.stowaway.dev \
         {name}"
    );
    (identity, if planned_note.is_empty() { note } else { format!("{planned_note}; {note}") })
}
