//! Whether a failed attempt is repeated, and after which pause.

use std::time::Duration;

use crate::model::Reason;

/// The pauses before the second, third and fourth attempt of a source. Later pauses are as long as the last one.
const SOURCE_PAUSES: [Duration; 3] = [Duration::from_secs(10), Duration::from_mins(1), Duration::from_mins(5)];
/// The first pause between two attempts to open a repository. Each pause is twice as long as the previous one.
const FIRST_REPOSITORY_PAUSE: Duration = Duration::from_secs(10);
const MAX_REPOSITORY_PAUSE: Duration = Duration::from_mins(5);

/// Whether a repeated attempt may succeed although no user changed anything.
pub(super) fn is_transient(reason: Reason) -> bool {
    match reason {
        // A user has to change the command, the pod, the namespace, the password or the repository first. A timeout is
        // the time that the user considers long enough, so a second run would only load the database for as long again.
        Reason::InvalidRequest
        | Reason::CommandNotFound
        | Reason::PodRefused
        | Reason::EmptyStream
        | Reason::UnsafeTarget
        | Reason::OutputHeldOpen
        | Reason::Timeout
        | Reason::WrongPassword
        | Reason::RepositoryNotFound
        | Reason::RepositoryChanged
        | Reason::RepositoryDamaged
        | Reason::SnapshotNotFound
        // The following reasons are no failures, or need a decision of the user.
        | Reason::Completed
        | Reason::Adopted
        | Reason::NotProven
        | Reason::SourceUnreadable
        | Reason::TargetUnwritable
        | Reason::TargetNotEmpty
        | Reason::TargetInUse
        | Reason::MetadataNotKept
        | Reason::VolumeEmptied
        | Reason::VolumeShrank
        | Reason::AlreadyCarriedOut
        | Reason::NotScaledBack
        | Reason::SourcesMissing => false,
        Reason::CommandFailed
        | Reason::CommandKilled
        | Reason::StreamCut
        | Reason::StreamContradicted
        | Reason::Truncated
        | Reason::IdleTimeout
        | Reason::Cancelled
        | Reason::PodGone
        | Reason::ExecRefused
        | Reason::InputNotConsumed
        | Reason::OutcomeUnknown
        | Reason::StoreUnavailable
        | Reason::StoreFull
        | Reason::ScratchUnwritable
        | Reason::RepositoryLocked
        | Reason::CommitUnknown
        | Reason::SecretMissing
        | Reason::PodNotStarted
        | Reason::VolumeSnapshotFailed
        | Reason::RestoreUnfinished
        | Reason::NotInjected
        | Reason::ResultLost
        | Reason::NameTaken
        // Another node may run the next attempt, and NTP may have corrected the clock.
        | Reason::ClockBehind
        | Reason::InternalError => true,
    }
}

/// The pause after the attempt of this number, from 1, of a source.
pub(super) fn source_pause(attempt: u32) -> Duration {
    let last = SOURCE_PAUSES.len() - 1;
    SOURCE_PAUSES[usize::try_from(attempt.saturating_sub(1)).unwrap_or(last).min(last)]
}

/// The pause after the attempt of this number, from 1, to open a repository.
pub(super) fn repository_pause(attempt: u32) -> Duration {
    let doubled = FIRST_REPOSITORY_PAUSE.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    doubled.min(MAX_REPOSITORY_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!([1, 2, 3, 4, 11].map(|attempt| source_pause(attempt).as_secs()), [10, 60, 300, 300, 300]);
        assert_eq!([1, 2, 5, 6, u32::MAX].map(|attempt| repository_pause(attempt).as_secs()), [10, 20, 160, 300, 300]);
    }
}
