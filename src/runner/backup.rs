//! Backs up one command, in a pod or as a local process: stores its stream as a snapshot, with a report which claims no
//! more than was proven.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    clock,
    format_check::check_format,
    half_restored, local, paths, pipes, shrunken,
    sidecar::RunSocket,
    story::{self, log_progress},
};
use crate::{
    exec::{self, Control, Dumped, ExecTarget, Limits, Lines},
    model::{
        Failure, Proof, Quality, Reason, RunReport, SnapshotIdentity, SnapshotRecord, SourceName, Verdict, milliseconds,
    },
    repository::{Progress, Repository, RepositoryError, SnapshotSummary, StoreRules, Stored},
    seal::ExecMode,
    stream::{StreamItem, StreamSender, pieces},
};

/// The parameters of a backup of a command.
#[derive(Clone, Debug)]
pub struct BackupRun {
    /// Name of the source; empty for a local command without `--source`.
    pub source: SourceName,
    /// The labels of the snapshot.
    pub identity: SnapshotIdentity,
    /// The path of the snapshot if `identity.path` belongs to another source's history.
    pub alternative_path: String,
    /// When the command is ended.
    pub limits: Limits,
    /// Whether a stream of 0 bytes is stored.
    pub allow_empty: bool,
    /// Whether a run without proof is green, and its snapshot a good one.
    pub accept_unproven: bool,
    /// Whether a stream of a known format is stored even if the end of that format is missing.
    pub skip_format_check: bool,
}

/// The source of the stream.
#[derive(Clone)]
pub enum BackupInput {
    /// A container's command, by exec.
    Container(kube::Client, ExecTarget, ExecMode, Vec<String>),
    /// A process on this machine.
    Local(ExecMode, Vec<String>),
    /// A helper which connects to this socket.
    Socket(RunSocket),
}

/// Runs the backup. Every outcome is a report.
pub async fn backup(
    repository: &Repository,
    run: BackupRun,
    from: BackupInput,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> RunReport {
    let started = Instant::now();
    let (lines, receiver) = Lines::new();
    let logging = tokio::spawn(story::log_lines(receiver));
    let control = Control {
        limits: run.limits,
        // A store which fails cancels the dump, so that no command keeps running.
        cancel: cancel.child_token(),
        lines: lines.clone(),
        progress: Arc::default(),
    };
    let result = store(repository, &run, from, &control, progress).await;
    let tail = lines.tail();
    let is_pipefail_missing = lines.is_pipefail_missing();
    drop((lines, control));
    story::finish_lines(logging).await;
    let mut report = match result {
        Ok(Outcome::Adopted(report)) => *report,
        Ok(Outcome::Stored(stored, later)) => {
            let (verdict, reason, message) = story::verdict_of_proof(stored.proof, run.accept_unproven);
            let report = RunReport {
                verdict,
                reason,
                message: story::with_lacking(message, &stored.lacking),
                exit_code: Some(0),
                bytes: stored.bytes,
                digest: Some(stored.digest),
                proof: stored.proof,
                snapshot: Some(stored.snapshot),
                ..RunReport::done(started.elapsed())
            };
            story::noted(report, &later)
        }
        Err(failure) => RunReport::failed(failure, started.elapsed()),
    };
    pipes::report_missing(&mut report, is_pipefail_missing);
    report.duration_milliseconds = milliseconds(started.elapsed());
    if report.verdict != Verdict::Succeeded {
        report.stderr_tail = tail;
    }
    report
}

enum Outcome {
    /// The snapshot, and notes about it.
    Stored(Box<Stored>, String),
    Adopted(Box<RunReport>),
}

async fn store(
    repository: &Repository,
    run: &BackupRun,
    from: BackupInput,
    control: &Control,
    progress: Arc<Progress>,
) -> Result<Outcome, Failure> {
    let history = repository.snapshots().await?;
    let time = clock::now()?;
    let later = warn_of_later(&history, &run.identity, time);
    let paths = [run.alternative_path.as_str()];
    if let Some(report) = adopt(repository, &history, &run.identity, &paths).await? {
        let stored = (report.snapshot.as_deref(), report.bytes);
        let lost = shrunken::stream_note(&history, &run.identity, stored, time);
        return Ok(Outcome::Adopted(Box::new(story::noted(report, &lost))));
    }
    let mut identity = run.identity.clone();
    identity.path = paths::settle(&history, &run.source, &run.identity, &run.alternative_path);
    info!(path = identity.path, host = identity.host, "storing as {} of host {}", identity.path, identity.host);

    let BackupRun { allow_empty, accept_unproven, .. } = *run;
    let rules = StoreRules { allow_empty, accept_unproven, time, device: None };
    let (sender, receiver) = pieces();
    let receiver = if run.skip_format_check { receiver } else { check_format(receiver, run.allow_empty) };
    let dumping = dump(from, control, sender);
    let storing = async {
        let stored = repository.store_stream(&identity, &rules, receiver, progress.clone()).await;
        if stored.is_err() {
            control.cancel.cancel();
        }
        stored
    };
    let both = async { tokio::join!(storing, dumping).0 };
    let stored = tokio::select! {
        stored = both => stored?,
        never = log_progress(None, || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    let lost = shrunken::stream_note(&history, &identity, (None, stored.bytes), time);
    let notes: Vec<String> = [lost, later].into_iter().filter(|note| !note.is_empty()).collect();
    Ok(Outcome::Stored(Box::new(stored), notes.join("; ")))
}

/// Sends the stream and its end. The store judges by what it receives.
async fn dump(from: BackupInput, control: &Control, sender: StreamSender) {
    let dumped = match &from {
        BackupInput::Local(mode, command) => local::dump(mode, command, control, &sender).await,
        BackupInput::Container(client, target, mode, command) => {
            exec::dump(client, target, mode, command, control, &sender).await
        }
        BackupInput::Socket(socket) => {
            exec::dump_over_socket(socket.helper(control), control, &sender).await.map(Dumped::Whole)
        }
    };
    let Ok(Dumped::NoShell { why }) = dumped else { return };
    match &from {
        // A helper at a socket never reports `NoShell`.
        BackupInput::Local(..) | BackupInput::Socket(_) => {
            let failure = Failure::new(Reason::UnsafeTarget, format!("this machine has no usable sh: {why}"));
            // If the store has failed, its own failure is reported.
            let _gone = sender.send(StreamItem::Broken(failure)).await;
        }
        BackupInput::Container(client, target, _, command) => {
            warn!(
                "the container has no sh which could prove the stream ({why}); the command runs by plain exec, which \
                 proves nothing"
            );
            let _outcome_is_in_the_stream = exec::dump_plain(client, target, command, control, &sender).await;
        }
    }
}

/// Logs a warning about snapshots of the same source which are dated in the future. Returns a note if a restore would take
/// a snapshot which is dated later than this run, and not that of this run. Either clock may be wrong.
pub(super) fn warn_of_later(history: &[SnapshotSummary], identity: &SnapshotIdentity, now: Timestamp) -> String {
    let source = identity.tag(SnapshotIdentity::SOURCE);
    let is_same = |snapshot: &&SnapshotSummary| {
        snapshot.identity.host == identity.host && snapshot.identity.tag(SnapshotIdentity::SOURCE) == source
    };
    let same: Vec<SnapshotRecord<'_>> = history.iter().filter(is_same).map(SnapshotSummary::record).collect();
    for snapshot in same.iter().filter(|one| one.is_from_future(now)) {
        warn!(
            "snapshot {} is dated in the future ({:.0}), so no restore chooses it automatically: check the clocks of \
             the nodes",
            snapshot.short_id(),
            snapshot.time
        );
    }
    let cluster = identity.tag(SnapshotIdentity::CLUSTER).unwrap_or_default();
    let is_taken = |one: &&SnapshotRecord<'_>| {
        one.time > now
            && matches!(one.quality(now), Quality::Proven | Quality::FromFuture)
            && one.cluster().unwrap_or_default() == cluster
    };
    let Some(later) = same.iter().filter(is_taken).max_by_key(|one| one.time) else { return String::new() };
    let (id, time) = (later.short_id(), later.time);
    format!(
        "snapshot {id} of this source is dated {time:.0}, and this run has the earlier time {now:.0}, so that one of the two \
         clocks was wrong: as soon as {time:.0} has passed, a restore of the newest takes {id} and not the snapshot of this \
         run. If the clock of this run is behind, correct it (for example by NTP) and back up again; if that of {id} was \
         ahead, delete {id} (stowaway forget {id})"
    )
}

/// The report of a snapshot which an earlier attempt of the same run committed, if there is one which is labelled as
/// this run would label it and which is complete. `other_paths` are the paths which the run may use instead of the
/// identity's path.
pub(super) async fn adopt(
    repository: &Repository,
    history: &[SnapshotSummary],
    identity: &SnapshotIdentity,
    other_paths: &[&str],
) -> Result<Option<RunReport>, Failure> {
    for found in history.iter().rev().filter(|found| is_of_this_run(&found.identity, identity)) {
        let short = &found.id[..8];
        if !has_expected_label(&found.identity, identity, other_paths) {
            warn!(snapshot = found.id, "snapshot {short} has the tag of this run but another source; it is not used");
            continue;
        }
        match repository.verify(&found.id).await {
            Ok(()) => {
                info!(
                    snapshot = found.id,
                    "an earlier attempt of this run has stored snapshot {short}; its result is used"
                );
                return Ok(Some(adopted(found)));
            }
            Err(error @ RepositoryError::Damaged { .. }) => {
                warn!(
                    snapshot = found.id,
                    "snapshot {short} of an earlier attempt of this run is not complete: {error}"
                );
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Whether an attempt of the same run has stored the snapshot.
fn is_of_this_run(found: &SnapshotIdentity, run: &SnapshotIdentity) -> bool {
    let id = run.tag(SnapshotIdentity::RUN);
    id.is_some() && found.tag(SnapshotIdentity::RUN) == id
}

/// Whether the snapshot is labelled as this run would label it. Its pod may differ, because a later attempt uses the
/// pod which exists then.
fn has_expected_label(found: &SnapshotIdentity, run: &SnapshotIdentity, other_paths: &[&str]) -> bool {
    let is_path = found.path == run.path || other_paths.contains(&found.path.as_str());
    let same = |key| found.tag(key) == run.tag(key);
    found.host == run.host && is_path && same(SnapshotIdentity::SOURCE) && same(SnapshotIdentity::CLUSTER)
}

/// The report of an adopted snapshot. The acknowledgement or the report of the earlier attempt was lost. Whether an
/// unproven snapshot was accepted is read from its tags, because these decide whether a restore uses it.
fn adopted(found: &SnapshotSummary) -> RunReport {
    let proof = match found.identity.tag(SnapshotIdentity::PROOF) {
        Some("Sealed") => Proof::Sealed,
        Some("Acknowledged") => Proof::Acknowledged,
        Some("Marker") => Proof::Marker,
        _ => Proof::None,
    };
    let proof = if found.is_unproven() { Proof::None } else { proof };
    let (verdict, _, message) = story::verdict_of_proof(proof, !found.is_unproven());
    let (verdict, reason, message) = if found.is_unproven() {
        let message = format!(
            "{message}; an earlier attempt of this run has stored it as unproven, so no restore chooses it automatically: \
             if it is to count as good, run `restic tag --remove unproven {}`",
            &found.id[..8]
        );
        (verdict, Reason::Adopted, message)
    } else if found.is_incomplete() {
        let message =
            "stored by an earlier attempt of this run, which could not read all of the source; its log names the paths"
                .to_owned();
        (Verdict::Incomplete, Reason::SourceUnreadable, message)
    } else if found.is_suspect() && !found.identity.has_tag(SnapshotIdentity::SHRUNKEN) {
        (Verdict::Suspect, Reason::RestoreUnfinished, half_restored::adopted_message(&found.id))
    } else if found.is_suspect() {
        (Verdict::Suspect, Reason::VolumeShrank, shrunken::adopted_message(&found.id))
    } else if found.identity.has_tag(SnapshotIdentity::WITHOUT_ATTRIBUTES) {
        let message = "stored by an earlier attempt of this run, which could not read the attributes of some files; its log names \
                       them"
            .to_owned();
        (Verdict::Incomplete, Reason::MetadataNotKept, message)
    } else {
        (verdict, Reason::Adopted, message)
    };
    RunReport {
        verdict,
        reason,
        message: if message.is_empty() { "stored by an earlier attempt of this run".to_owned() } else { message },
        exit_code: Some(0),
        bytes: found.bytes.unwrap_or(0),
        digest: found.identity.tag(SnapshotIdentity::DIGEST).map(str::to_owned),
        proof,
        snapshot: Some(found.id.clone()),
        ..RunReport::done(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adopted_snapshot_without_proof_is_green_only_if_a_restore_uses_it() {
        let report = |tags: &[&str]| {
            let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
            adopted(&SnapshotSummary {
                id: "ab".repeat(32),
                time: Timestamp::UNIX_EPOCH,
                identity: SnapshotIdentity { host: "orchard".into(), path: "/casks".into(), tags },
                paths: vec!["/casks".into()],
                bytes: Some(7),
            })
        };
        let proven = report(&["proof=Sealed"]);
        assert_eq!((proven.verdict, proven.proof), (Verdict::Succeeded, Proof::Sealed));
        let accepted = report(&["proof=None", SnapshotIdentity::ACCEPTED_UNPROVEN]);
        assert_eq!((accepted.verdict, accepted.proof), (Verdict::Succeeded, Proof::None));
        assert!(accepted.message.contains("accept-unproven"), "{accepted:?}");
        // Versions before tagged it so with consent, too.
        let unproven = report(&["proof=None", SnapshotIdentity::UNPROVEN]);
        assert_eq!((unproven.verdict, unproven.proof), (Verdict::Unproven, Proof::None));
        assert!(unproven.message.contains("`restic tag --remove unproven abababab`"), "{unproven:?}");
        // A dump has no size that shrank: a Restore into its command had failed.
        for (tags, reason) in
            [(&["suspect"][..], Reason::RestoreUnfinished), (&["suspect", "shrunken"], Reason::VolumeShrank)]
        {
            let suspect = report(tags);
            assert_eq!((suspect.verdict, suspect.reason), (Verdict::Suspect, reason));
            assert!(suspect.message.contains("`restic tag --remove suspect abababab`"), "{suspect:?}");
        }
    }
}
