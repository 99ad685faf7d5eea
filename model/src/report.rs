//! The result of a run: verdict, proof, reason, and the report that carries them from the runner to the status.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a run of one source ended. It is never inferred from silence: a run whose report is lost is `Failed`, with the
/// reason `ResultLost`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum Verdict {
    /// Stored, proven complete and visible in the repository; or restored, and the target confirmed it.
    Succeeded,
    /// Stored and tagged `unproven`, because nothing proved the end of the stream. Not green, and never the newest
    /// snapshot.
    Unproven,
    /// A part failed or could not be read.
    Incomplete,
    /// Stored and tagged `suspect`, because the volume was empty, or had lost most of its content, or because a Restore
    /// into the command had failed. Not green, and never the newest snapshot.
    Suspect,
    /// Nothing visible was stored, or the restore did not take effect.
    Failed,
}

impl Verdict {
    /// Whether a user may rely on it.
    pub fn is_green(self) -> bool {
        self == Self::Succeeded
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Succeeded => "Succeeded",
            Self::Unproven => "Unproven",
            Self::Incomplete => "Incomplete",
            Self::Suspect => "Suspect",
            Self::Failed => "Failed",
        })
    }
}

/// How the end of a stream was proven, weakest first, so that `a < b` means "a proves less than b".
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Proof {
    /// Only the exec's own status, which is not reliable.
    None,
    /// The end marker of the dump's own format was found.
    Marker,
    /// The remote shell sent the exit status in band, and stayed alive until the run acknowledged it.
    Acknowledged,
    /// The helper sealed the stream with byte count, digest and exit status. Two cases without a network count as
    /// sealed, too: a local process whose parent collected its exit status after its pipe was drained, and files that
    /// the run itself has read.
    Sealed,
}

impl fmt::Display for Proof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::None => "None",
            Self::Marker => "Marker",
            Self::Acknowledged => "Acknowledged",
            Self::Sealed => "Sealed",
        })
    }
}

/// The machine-readable cause of a verdict. It is the condition reason, the Event reason and the metric label alike.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum Reason {
    /// Everything was proven.
    Completed,
    /// An earlier attempt of the same run had committed a snapshot, which was adopted.
    Adopted,
    /// The stream ended without proof, because the container has no shell and no helper.
    NotProven,
    /// The command exited with a status other than 0.
    CommandFailed,
    /// The command does not exist in the container, or cannot be executed (126, 127).
    CommandNotFound,
    /// A signal ended the command.
    CommandKilled,
    /// The command exited 0 and wrote nothing, and `allow-empty` is not set.
    EmptyStream,
    /// The connection broke, or the stream ended before its trailer.
    StreamCut,
    /// Bytes followed the trailer, or the exec's status contradicts it.
    StreamContradicted,
    /// The command ran longer than `timeout`.
    Timeout,
    /// No byte was transferred for `idle-timeout`.
    IdleTimeout,
    /// The run was cancelled (SIGTERM, deletion).
    Cancelled,
    /// The pod or its container is gone, is not running, or was replaced by another one.
    PodGone,
    /// The API server rejected the exec.
    ExecRefused,
    /// A restore's command ended before it had read all of its input.
    InputNotConsumed,
    /// A restore's input was complete, and then its exit status was lost, so that it may have taken effect.
    OutcomeUnknown,
    /// The container lacks a tool that a safe restore needs.
    UnsafeTarget,
    /// A file or directory of a volume could not be read.
    SourceUnreadable,
    /// The CSI snapshot from which a volume is backed up could not be created.
    VolumeSnapshotFailed,
    /// A file or directory of a restore's target could not be written, because the target is full, read-only, or not
    /// empty.
    TargetUnwritable,
    /// A temporary file of the run could not be written or read, because its directory is full or read-only.
    ScratchUnwritable,
    /// A restore's target is not empty, and overwriting was not allowed.
    TargetNotEmpty,
    /// A restore's target is in use: a pod has it mounted, or a workload did not end.
    TargetInUse,
    /// All contents were stored or restored, but not all owners, modes, attributes and links.
    MetadataNotKept,
    /// The store could not be reached, or rejected a request after all retries.
    StoreUnavailable,
    /// The store is full.
    StoreFull,
    /// The store has no repository, or the namespace has no Repository of the requested name.
    RepositoryNotFound,
    /// The store has another repository than the one that was opened before.
    RepositoryChanged,
    /// The password opens no key of the repository.
    WrongPassword,
    /// Another process holds an exclusive lock.
    RepositoryLocked,
    /// The repository contains data that differs from what was written.
    RepositoryDamaged,
    /// The acknowledgement of the snapshot's own write was lost, so that the snapshot may be visible.
    CommitUnknown,
    /// The source has no snapshot, or none with that id.
    SnapshotNotFound,
    /// A Secret, or a key of it, is missing.
    SecretMissing,
    /// The request itself is invalid.
    InvalidRequest,
    /// The pod requests something that was never injected, because it was created before its annotation, or bypassed
    /// the webhook.
    NotInjected,
    /// The run's pod did not start in time.
    PodNotStarted,
    /// The namespace's rules refuse the run's pod until a user changes the pod's settings or the rules.
    PodRefused,
    /// The run ended without a readable report.
    ResultLost,
    /// A defect in Stowaway or its storage engine.
    InternalError,
    /// The volume is empty, but its last good snapshot is not.
    VolumeEmptied,
    /// The volume has lost more than half of the files or bytes of its last good snapshot.
    VolumeShrank,
    /// The volume does not hold the app's data, because a restore into it is in progress or was interrupted, or because
    /// the restore step of a pod has not run yet. A dump is stored as suspect for this reason after a failed Restore
    /// into its command.
    RestoreUnfinished,
    /// The command exited with 0, but a process that it left behind still held its stdout, so that the dump may be
    /// incomplete.
    OutputHeldOpen,
    /// The stream is of a known format, and the end of that format is missing.
    Truncated,
    /// An object that is not Stowaway's has the name that the run needs.
    NameTaken,
    /// The Restore is a copy of another Restore whose Job was allowed to run.
    AlreadyCarriedOut,
    /// A source that was stored before, or which a workload's annotations request, is missing.
    SourcesMissing,
    /// The clock of the run's node is behind the controller's.
    ClockBehind,
    /// The workload which a Restore has scaled to 0 could not be scaled back.
    NotScaledBack,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variant's name is the spelling for users and machines alike.
        fmt::Debug::fmt(self, formatter)
    }
}

/// Why something failed: a reason for machines, and a sentence for users.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{message} ({reason})")]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub reason: Reason,
    /// A sentence that states what failed, on which object, why, and what to do next. It contains no secret.
    pub message: String,
    /// The command's exit status, if it was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

impl Failure {
    /// A failure without an exit status.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), exit_code: None }
    }

    /// Adds the exit status that was received.
    #[must_use]
    pub fn with_exit_code(mut self, exit_code: i32) -> Self {
        self.exit_code = Some(exit_code);
        self
    }
}

/// The report of a run on its source (or, for an `Init` run, on the repository). It is the run's last log line and the
/// pod's termination message (JSON, at most [`RunReport::MAX_BYTES`]).
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// The end of the run.
    pub verdict: Verdict,
    /// The machine-readable reason.
    pub reason: Reason,
    /// A description of the reason; empty when everything succeeded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The command's exit status, if it was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Bytes of the stream. For a restore, the bytes sent to the command, or of all files; for a prune, the bytes
    /// freed; for a check, the bytes read.
    pub bytes: u64,
    /// SHA-256 of the stream, 64 hex digits; only for a stream that was read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The proof of the end of the stream.
    pub proof: Proof,
    /// Id of the snapshot, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Id of the last snapshot with the former content of a restore's target, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_snapshot: Option<String>,
    /// Ids of all snapshots with the former content of a restore's target, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub safety_snapshots: Vec<String>,
    /// The archive that was written; only for a restore into an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<super::ArchiveReport>,
    /// Id of the repository, 64 hex digits; only for a run that opened or created it ([`super::TaskKind::Init`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// The result of the lookup; only for a run that looked up a snapshot ([`super::TaskKind::FindSnapshot`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<super::SnapshotLookup>,
    /// Number of keys that open the repository; only for a run that opened or created it, and for a check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u32>,
    /// The results of a prune or a check.
    #[serde(alias = "upkeep", default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<super::MaintenanceReport>,
    /// Milliseconds from the start of the runner to the verdict.
    pub duration_milliseconds: u64,
    /// The last lines of the command's stderr, redacted; only for failures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr_tail: String,
    /// The last lines of the run's own log, without the command's output; only for a run that is not green.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
}

impl RunReport {
    /// The kubelet keeps 4 KiB of a termination message (12 KiB over all containers of a pod). A quarter is kept free.
    pub const MAX_BYTES: usize = 3 * 1024;
    /// The part of the command's stderr that is copied into the status.
    pub const STDERR_TAIL_BYTES: usize = 512;
    /// The part of the run's log that is copied into the status.
    pub const LOG_TAIL_BYTES: usize = 1024;

    /// The report of a run that failed before it stored anything.
    pub fn failed(failure: Failure, duration: Duration) -> Self {
        Self {
            verdict: Verdict::Failed,
            reason: failure.reason,
            message: failure.message,
            exit_code: failure.exit_code,
            ..Self::done(duration)
        }
    }

    /// The green report of a run without a stream.
    pub fn done(duration: Duration) -> Self {
        Self {
            verdict: Verdict::Succeeded,
            reason: Reason::Completed,
            message: String::new(),
            exit_code: None,
            bytes: 0,
            digest: None,
            proof: Proof::None,
            snapshot: None,
            safety_snapshot: None,
            safety_snapshots: Vec::new(),
            archive: None,
            repository_id: None,
            lookup: None,
            keys: None,
            maintenance: None,
            duration_milliseconds: milliseconds(duration),
            stderr_tail: String::new(),
            log_tail: String::new(),
        }
    }

    /// The report as one line of JSON that fits into the termination message. Long texts are cut at a character
    /// boundary.
    pub fn to_termination_message(&self) -> String {
        let mut report = self.clone();
        report.stderr_tail = tail(&report.stderr_tail, Self::STDERR_TAIL_BYTES).to_owned();
        report.log_tail = tail(&report.log_tail, Self::LOG_TAIL_BYTES).to_owned();
        for limit in [1024, 256, 0] {
            if let Ok(text) = serde_json::to_string(&report)
                && text.len() <= Self::MAX_BYTES
            {
                return text;
            }
            report.message.truncate(report.message.floor_char_boundary(limit));
            report.stderr_tail = tail(&report.stderr_tail, limit / 4).to_owned();
            report.log_tail = tail(&report.log_tail, limit / 4).to_owned();
        }
        serde_json::to_string(&report).unwrap_or_default()
    }
}

/// The last `limit` bytes of `text` at most, starting at a character boundary.
fn tail(text: &str, limit: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(limit))..]
}

/// Whole milliseconds of a duration; `u64` can hold 584 million years of them.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn termination_message_fits_the_kubelets_limit_and_still_parses() {
        let mut report = RunReport::failed(
            Failure::new(Reason::CommandFailed, "ä\"\n".repeat(4000)).with_exit_code(1),
            Duration::from_secs(1),
        );
        report.stderr_tail = "\u{1}ü".repeat(4000);
        report.log_tail = "\u{1}ü".repeat(4000);
        let text = report.to_termination_message();
        assert!(text.len() <= RunReport::MAX_BYTES, "{} bytes", text.len());
        let back: RunReport = serde_json::from_str(&text).unwrap();
        assert_eq!((back.verdict, back.exit_code), (Verdict::Failed, Some(1)));
    }

    #[test]
    fn proofs_are_ordered_by_what_they_prove() {
        assert!(
            Proof::None < Proof::Marker && Proof::Marker < Proof::Acknowledged && Proof::Acknowledged < Proof::Sealed
        );
    }
}
