//! The Restores which have failed after they had begun to write, and which no later Restore has made good. A claim that
//! holds files has marks of an interrupted restore itself. A block device and a database have none, so that only the
//! Restore objects show what they may contain.
//!
//! A user who deletes such a Restore confirms the content.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{claim_of, target_of};
use crate::{
    api::{CARRIED_OUT, Restore},
    model::{Reason, Verdict},
};

/// A Restore that may have written a part of its snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HalfRestored {
    target: WrittenTarget,
    source: String,
    ended: Timestamp,
    /// Name of the Restore.
    pub name: String,
    /// The time and the reason of its failure, for a user.
    pub failure: String,
}

/// What a Restore writes into.
#[derive(Clone, Debug, Eq, PartialEq)]
enum WrittenTarget {
    Claim(String),
    /// A command of a pod that the Restore names. The pod may belong to another workload than the source.
    Pod(String),
    /// The command of the source.
    Source,
}

impl HalfRestored {
    /// Whether the Restore wrote into this source, whose command runs in `pod`.
    pub(super) fn is_into(&self, source: &str, pod: &str) -> bool {
        match (&self.target, claim_of(source)) {
            (WrittenTarget::Claim(claim), Some(name)) => claim == name,
            (WrittenTarget::Pod(name), None) => name == pod,
            (WrittenTarget::Source, None) => self.source == source,
            _ => false,
        }
    }

    /// Whether a Restore of this kind makes the other one good. Another source of the same pod may be another database.
    fn replaces(&self, other: &Self) -> bool {
        let is_whole = matches!(self.target, WrittenTarget::Claim(_)) || self.source == other.source;
        self.target == other.target && is_whole && self.ended > other.ended
    }
}

/// The Restores that may have left a part of a snapshot in their target, the newest first.
pub(super) fn half_restored(restores: &[Restore]) -> Vec<HalfRestored> {
    let is_present = |restore: &&Restore| restore.metadata.deletion_timestamp.is_none();
    let ended = restores.iter().filter(is_present).filter_map(|restore| Some((ended(restore)?, restore)));
    let (failed, whole): (Vec<_>, Vec<_>) = ended.partition(|(_, restore)| verdict(restore) == Some(Verdict::Failed));
    let is_good = |one: &HalfRestored| whole.iter().any(|(whole, _)| whole.replaces(one));
    let failed = failed.into_iter().filter(|(_, restore)| may_have_written(restore)).map(|(failed, _)| failed);
    let mut left: Vec<HalfRestored> = failed.filter(|one| !is_good(one)).collect();
    left.sort_by(|one, other| (other.ended, &other.name).cmp(&(one.ended, &one.name)));
    left
}

fn verdict(restore: &Restore) -> Option<Verdict> {
    restore.status.as_ref()?.outcome.verdict
}

/// The target and the end of a Restore with a verdict; `None` for a Restore into an archive.
fn ended(restore: &Restore) -> Option<HalfRestored> {
    let status = restore.status.as_ref()?;
    verdict(restore)?;
    target_of(restore)?;
    let to = restore.spec.to.as_ref();
    let target = match (to.and_then(|to| to.claim.as_ref()), to.and_then(|to| to.pod.as_ref())) {
        (Some(claim), _) => WrittenTarget::Claim(claim.name.clone()),
        (None, Some(pod)) => WrittenTarget::Pod(pod.clone()),
        (None, None) => WrittenTarget::Source,
    };
    let ended = status.completion_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    Some(HalfRestored {
        target,
        source: restore.spec.from.source.to_string(),
        ended,
        name: restore.name_any(),
        failure: format!("failed at {ended:.0} ({})", status.outcome.reason),
    })
}

/// Whether a failed Restore may have written a part of its snapshot, because its Job was allowed to run and its reason
/// is none of those of a run that has changed nothing.
fn may_have_written(restore: &Restore) -> bool {
    let Some(status) = &restore.status else { return false };
    let mark = restore.annotations().get(CARRIED_OUT);
    let is_carried_out = mark.is_some() && mark == restore.metadata.uid.as_ref();
    let to_claim = restore.spec.to.as_ref().and_then(|to| to.claim.as_ref());
    // A claim that a Restore has created has a mark of its own, which the user can remove.
    let is_marked = !status.made_claim.is_empty();
    // The former content is stored directly before the first byte is written.
    let lacks_copy = to_claim.is_some_and(|to| to.overwrite) && status.safety_snapshot.is_none();
    is_carried_out && !is_marked && may_follow_a_write(&status.outcome.reason, lacks_copy)
}

/// Whether a run that had begun to write may end for this reason. `lacks_copy` is set if the run has not reported the
/// snapshot of the former content, which it stores before it overwrites a claim.
fn may_follow_a_write(reason: &str, lacks_copy: bool) -> bool {
    // A later version may have further reasons.
    let Ok(reason) = serde_json::from_value::<Reason>(reason.into()) else { return true };
    match reason {
        Reason::CommandNotFound
        | Reason::ExecRefused
        | Reason::UnsafeTarget
        | Reason::EmptyStream
        | Reason::NotProven
        | Reason::SourceUnreadable
        | Reason::VolumeSnapshotFailed
        | Reason::TargetNotEmpty
        | Reason::TargetInUse
        | Reason::StoreFull
        | Reason::RepositoryNotFound
        | Reason::RepositoryChanged
        | Reason::WrongPassword
        | Reason::CommitUnknown
        | Reason::SnapshotNotFound
        | Reason::SecretMissing
        | Reason::InvalidRequest
        | Reason::NotInjected
        | Reason::PodNotStarted
        | Reason::PodRefused
        | Reason::RestoreUnfinished
        | Reason::NameTaken
        | Reason::AlreadyCarriedOut
        | Reason::SourcesMissing
        | Reason::ClockBehind
        | Reason::NotScaledBack => false,
        // The runner itself reports these, so that it would have reported the copy, too.
        Reason::StoreUnavailable
        | Reason::RepositoryLocked
        | Reason::RepositoryDamaged
        | Reason::ScratchUnwritable
        | Reason::TargetUnwritable => !lacks_copy,
        Reason::Completed
        | Reason::Adopted
        | Reason::CommandFailed
        | Reason::CommandKilled
        | Reason::StreamCut
        | Reason::StreamContradicted
        | Reason::Timeout
        | Reason::IdleTimeout
        | Reason::Cancelled
        | Reason::PodGone
        | Reason::InputNotConsumed
        | Reason::OutcomeUnknown
        | Reason::MetadataNotKept
        | Reason::ResultLost
        | Reason::InternalError
        | Reason::VolumeEmptied
        | Reason::VolumeShrank
        | Reason::OutputHeldOpen
        | Reason::Truncated => true,
    }
}
