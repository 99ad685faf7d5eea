//! How a run ended: verdict, proof, reason, and the report that carries them from the runner to the status.
//!
//! It must not know who runs what; it only says how it went.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a run of one source ended. Never inferred from silence: a lost report is [`Reason::ResultLost`], and so `Failed`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum Verdict {
    /// Stored, proven whole and visible in the repository; or restored, and the command said so.
    Succeeded,
    /// Stored and tagged `unproven`, since nothing proved the end of the stream. Not green, never "newest".
    Unproven,
    /// A part failed or could not be read.
    Incomplete,
    /// Stored and tagged `suspect`, since the volume was empty, or had lost most of its content. Not green, never "newest".
    Suspect,
    /// Nothing visible was stored, or the restore did not take effect.
    Failed,
}

impl Verdict {
    /// Whether a person may rely on it.
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

/// How a stream was proven whole, weakest first so that `a < b` reads "a proves less than b".
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Proof {
    /// Only the exec's own status, which is measured to lie.
    None,
    /// The end mark of the dump's own format was seen.
    Marker,
    /// The remote shell sent the exit status in band, and stayed alive until we acknowledged it.
    Acknowledged,
    /// The helper sealed it: byte count, digest and exit status. A local process whose exit status its parent collected
    /// after its pipe was drained counts as this, too, and so do files that the run itself has read: no network lies between.
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

/// The one machine-readable cause of a verdict: condition reason, Event reason and metric label alike.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum Reason {
    /// Everything was proven.
    Completed,
    /// A snapshot that an earlier attempt of the same run had committed was found and taken over.
    Adopted,
    /// The stream ended without proof (no shell in the container, and no helper).
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
    /// Bytes came after the trailer, or the exec's status contradicts it.
    StreamContradicted,
    /// The command ran longer than `timeout`.
    Timeout,
    /// No byte moved for `idle-timeout`.
    IdleTimeout,
    /// Somebody cancelled the run (SIGTERM, deletion).
    Cancelled,
    /// The pod or its container is gone, not running, or another one by now.
    PodGone,
    /// The API server refused the exec.
    ExecRefused,
    /// A restore's command ended before it had read all of its input.
    InputNotConsumed,
    /// A restore's input was complete, and then its exit status was lost: it may have taken effect.
    OutcomeUnknown,
    /// The container lacks a tool that a safe restore needs.
    UnsafeTarget,
    /// A file or folder of a volume could not be read.
    SourceUnreadable,
    /// The CSI snapshot that a volume is to be read from could not be made.
    VolumeSnapshotFailed,
    /// A file or folder of a restore's target could not be written: it is full, read-only, or not empty.
    TargetUnwritable,
    /// A temporary file of the run could not be written or read, because its folder is full or read-only.
    ScratchUnwritable,
    /// Something is in a restore's target, and nobody said that it may be overwritten.
    TargetNotEmpty,
    /// Something uses a restore's target: a pod has it mounted, or a workload did not end.
    TargetInUse,
    /// All contents were stored or restored, and not all owners, modes, attributes and links.
    MetadataNotKept,
    /// The store could not be reached, or refused a request after all retries.
    StoreUnavailable,
    /// The store has no room left.
    StoreFull,
    /// There is no repository at that place.
    RepositoryNotFound,
    /// Another repository is there than the one that was opened before.
    RepositoryChanged,
    /// The password opens no key of the repository.
    WrongPassword,
    /// Another process holds an exclusive lock.
    RepositoryLocked,
    /// The repository holds something that cannot be what was written.
    RepositoryDamaged,
    /// The acknowledgement of the snapshot's own write was lost: it may be visible.
    CommitUnknown,
    /// No snapshot of that source, or none by that id.
    SnapshotNotFound,
    /// A Secret, or a key of it, is missing.
    SecretMissing,
    /// The request itself cannot be carried out as written.
    InvalidRequest,
    /// The pod asks for something that was never put into it: it was made before its annotation, or past the webhook.
    NotInjected,
    /// The run's pod did not start in time.
    PodNotStarted,
    /// The run ended without a readable report.
    ResultLost,
    /// A defect in Stowaway or its storage engine.
    InternalError,
    /// The volume is empty, and its last good snapshot is not.
    VolumeEmptied,
    /// The volume has lost more than half of the files or bytes of its last good snapshot.
    VolumeShrank,
    /// A restore into the volume is under way, or was broken off, or the restore step of a pod has not filled it yet: what is
    /// in it is not the app's data.
    RestoreUnfinished,
    /// The command exited 0, and a process that it left behind still held its stdout: the dump may not be whole.
    OutputHeldOpen,
    /// The stream is of a known format, and the end of that format is missing.
    Truncated,
    /// An object that is not Stowaway's has the name that the run needs.
    NameTaken,
    /// The Restore is a copy of one that was carried out.
    AlreadyCarriedOut,
    /// A source that was stored before, or whose workload asks for it, is not there to be stored.
    SourcesMissing,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One spelling for people and machines: the variant's own name.
        fmt::Debug::fmt(self, formatter)
    }
}

/// Why something did not succeed: a reason for machines, a sentence for people.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{message} ({reason})")]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The cause.
    pub reason: Reason,
    /// What failed, on which object, why, and what to do next. Holds no secret.
    pub message: String,
    /// The command's exit status, where one was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

impl Failure {
    /// A failure without an exit status.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), exit_code: None }
    }

    /// The same with the exit status that was received.
    #[must_use]
    pub fn with_exit_code(mut self, exit_code: i32) -> Self {
        self.exit_code = Some(exit_code);
        self
    }
}

/// What a run says of its one source (or, for an `Init` run, of the repository), as its last log line and as the pod's termination message
/// (JSON, at most [`SourceReport::MAXIMUM_BYTES`]).
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceReport {
    /// How it ended.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The same for people; empty when all went well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The command's exit status, where one was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Bytes of the stream (for a restore: bytes handed to the command, or of all files; for a prune: bytes freed; for a check: bytes read).
    pub bytes: u64,
    /// SHA-256 over those bytes, 64 hex digits; only for a stream that was read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How the stream's end was proven.
    pub proof: Proof,
    /// Id of the snapshot, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Id of the snapshot of what was in a restore's target before, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_snapshot: Option<String>,
    /// The archive that was made; only for a restore as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<super::ArchiveReport>,
    /// Id of the repository, 64 hex digits; only for a run that opened or created it ([`super::TaskKind::Init`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// What was found out of the snapshot; only for a run that looked it up ([`super::TaskKind::FindSnapshot`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<super::SnapshotLookup>,
    /// How many keys open the repository; only for a run that opened or created it, and for a check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u32>,
    /// What a prune or a check has found; only for those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upkeep: Option<super::UpkeepReport>,
    /// Milliseconds from the start of the runner to the verdict.
    pub duration_milliseconds: u64,
    /// The last lines of the command's stderr, redacted; only for failures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr_tail: String,
    /// The last lines of the run's own log, without those of the command; only of a run that is not green.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
}

impl SourceReport {
    /// The kubelet keeps 4 KiB of a termination message (12 KiB over all containers of a pod); a quarter is kept free.
    pub const MAXIMUM_BYTES: usize = 3 * 1024;
    /// How much of the command's stderr goes into status.
    pub const STDERR_TAIL_BYTES: usize = 512;
    /// How much of the run's log goes into status.
    pub const LOG_TAIL_BYTES: usize = 1024;

    /// The report of a run that failed before or without storing anything.
    pub fn failed(failure: Failure, duration: Duration) -> Self {
        Self {
            verdict: Verdict::Failed,
            reason: failure.reason,
            message: failure.message,
            exit_code: failure.exit_code,
            ..Self::done(duration)
        }
    }

    /// The green report of work without a stream.
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
            archive: None,
            repository_id: None,
            lookup: None,
            keys: None,
            upkeep: None,
            duration_milliseconds: milliseconds(duration),
            stderr_tail: String::new(),
            log_tail: String::new(),
        }
    }

    /// The report as one line of JSON that fits the termination message; long texts are cut at a character's border.
    pub fn to_termination_message(&self) -> String {
        let mut report = self.clone();
        report.stderr_tail = tail(&report.stderr_tail, Self::STDERR_TAIL_BYTES).to_owned();
        report.log_tail = tail(&report.log_tail, Self::LOG_TAIL_BYTES).to_owned();
        for limit in [1024, 256, 0] {
            if let Ok(text) = serde_json::to_string(&report)
                && text.len() <= Self::MAXIMUM_BYTES
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

/// The last at most `limit` bytes of `text`, beginning at a character.
fn tail(text: &str, limit: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(limit))..]
}

/// Whole milliseconds of a duration; `u64` holds 584 million years of them.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn termination_message_fits_the_kubelets_limit_and_still_parses() {
        let mut report = SourceReport::failed(
            Failure::new(Reason::CommandFailed, "ä\"\n".repeat(4000)).with_exit_code(1),
            Duration::from_secs(1),
        );
        report.stderr_tail = "\u{1}ü".repeat(4000);
        report.log_tail = "\u{1}ü".repeat(4000);
        let text = report.to_termination_message();
        assert!(text.len() <= SourceReport::MAXIMUM_BYTES, "{} bytes", text.len());
        let back: SourceReport = serde_json::from_str(&text).unwrap();
        assert_eq!((back.verdict, back.exit_code), (Verdict::Failed, Some(1)));
    }

    #[test]
    fn proofs_are_ordered_by_what_they_prove() {
        assert!(
            Proof::None < Proof::Marker && Proof::Marker < Proof::Acknowledged && Proof::Acknowledged < Proof::Sealed
        );
    }
}
