//! One backup of one command: stream in, snapshot out, and a report that claims no more than was proven.
//!
//! The same for a pod and for a local process. It must not know Jobs or the command line.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    format_check::check_format,
    local, paths, pipes,
    sidecar::Door,
    story::{self, tell_progress},
};
use crate::{
    cluster::exec::{self, Control, Dumped, ExecTarget, Limits, Lines},
    model::{Failure, Proof, Reason, SnapshotIdentity, SourceName, SourceReport, Verdict, milliseconds},
    repository::{Progress, Repository, SnapshotSummary, StoreRules, Stored},
    seal::Way,
    stream::{Piece, PieceSender, pieces},
};

/// What is stored, and by which rules.
#[derive(Clone, Debug)]
pub struct BackupRun {
    /// Name of the source; none for a local command without `--source`.
    pub source: SourceName,
    /// How the snapshot is labelled.
    pub identity: SnapshotIdentity,
    /// The path when `identity.path` belongs to another source's history.
    pub alternative_path: String,
    /// When to end the command.
    pub limits: Limits,
    /// Store a stream of 0 bytes.
    pub allow_empty: bool,
    /// Call a run without proof green.
    pub accept_unproven: bool,
    /// Store a stream of a known format without the end of that format.
    pub skip_format_check: bool,
}

/// Where the stream comes from.
#[derive(Clone)]
pub enum DumpFrom {
    /// A container's command, by exec.
    Container(kube::Client, ExecTarget, Way, Vec<String>),
    /// A process on this machine.
    Local(Way, Vec<String>),
    /// A helper that comes to us.
    Socket(Door),
}

/// Runs it. Every outcome is a report; none is silent.
pub async fn backup(
    repository: &Repository,
    run: BackupRun,
    from: DumpFrom,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> SourceReport {
    let started = Instant::now();
    let (lines, said) = Lines::new();
    let telling = tokio::spawn(story::tell_lines(said));
    let control = Control {
        limits: run.limits,
        // The dump ends when the store does: a store that failed must not leave a command running.
        cancel: cancel.child_token(),
        lines: lines.clone(),
        progress: Arc::default(),
    };
    let result = store(repository, &run, from, &control, progress).await;
    let tail = lines.tail();
    let is_pipefail_missing = lines.is_pipefail_missing();
    drop((lines, control));
    story::finish_lines(telling).await;
    let mut report = match result {
        Ok(Outcome::Adopted(report)) => *report,
        Ok(Outcome::Stored(stored)) => {
            let (verdict, reason, message) = story::verdict_of_proof(stored.proof, run.accept_unproven);
            SourceReport {
                verdict,
                reason,
                message,
                exit_code: Some(0),
                bytes: stored.bytes,
                digest: Some(stored.digest),
                proof: stored.proof,
                snapshot: Some(stored.snapshot),
                ..SourceReport::done(started.elapsed())
            }
        }
        Err(failure) => SourceReport::failed(failure, started.elapsed()),
    };
    pipes::report_missing(&mut report, is_pipefail_missing);
    report.duration_milliseconds = milliseconds(started.elapsed());
    if report.verdict != Verdict::Succeeded {
        report.stderr_tail = tail;
    }
    report
}

enum Outcome {
    Stored(Stored),
    Adopted(Box<SourceReport>),
}

async fn store(
    repository: &Repository,
    run: &BackupRun,
    from: DumpFrom,
    control: &Control,
    progress: Arc<Progress>,
) -> Result<Outcome, Failure> {
    let history = repository.snapshots().await?;
    if let Some(report) = adopt(&history, &run.identity, run.accept_unproven) {
        return Ok(Outcome::Adopted(Box::new(report)));
    }
    let mut identity = run.identity.clone();
    identity.path = paths::settle(&history, &run.source, &run.identity, &run.alternative_path);
    info!(path = identity.path, host = identity.host, "storing as {} of host {}", identity.path, identity.host);

    let rules = StoreRules { allow_empty: run.allow_empty, time: Timestamp::now() };
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
        never = tell_progress(|| progress.bytes_read()) => match never {},
    };
    Ok(Outcome::Stored(stored))
}

/// Sends the stream and how it ended; the store judges by what it receives.
async fn dump(from: DumpFrom, control: &Control, sender: PieceSender) {
    let dumped = match &from {
        DumpFrom::Local(way, command) => local::dump(way, command, control, &sender).await,
        DumpFrom::Container(client, target, way, command) => {
            exec::dump(client, target, way, command, control, &sender).await
        }
        DumpFrom::Socket(door) => {
            exec::dump_over_socket(door.helper(control), control, &sender).await.map(Dumped::Whole)
        }
    };
    let Ok(Dumped::NoShell { why }) = dumped else { return };
    match &from {
        // From a helper comes no such word.
        DumpFrom::Local(..) | DumpFrom::Socket(_) => {
            let failure = Failure::new(Reason::UnsafeTarget, format!("this machine has no usable sh: {why}"));
            // A store that is gone has a failure of its own.
            let _gone = sender.send(Piece::Broken(failure)).await;
        }
        DumpFrom::Container(client, target, _, command) => {
            warn!(
                "the container has no sh that could prove the stream ({why}); plain exec follows, which proves nothing"
            );
            let _told_by_the_pieces = exec::dump_plain(client, target, command, control, &sender).await;
        }
    }
}

/// The report of the snapshot that an earlier attempt of the same run committed, if there is one.
pub(super) fn adopt(
    history: &[SnapshotSummary],
    identity: &SnapshotIdentity,
    accept_unproven: bool,
) -> Option<SourceReport> {
    let run_id = identity.tag(SnapshotIdentity::RUN)?;
    let found = history.iter().find(|snapshot| snapshot.identity.tag(SnapshotIdentity::RUN) == Some(run_id))?;
    info!(snapshot = found.id, "an earlier attempt of this run had stored snapshot {}; taken over", &found.id[..8]);
    Some(adopted(found, accept_unproven))
}

/// Its acknowledgement was lost, or its report.
fn adopted(found: &SnapshotSummary, accept_unproven: bool) -> SourceReport {
    let proof = match found.identity.tag(SnapshotIdentity::PROOF) {
        Some("Sealed") => Proof::Sealed,
        Some("Acknowledged") => Proof::Acknowledged,
        Some("Marker") => Proof::Marker,
        _ => Proof::None,
    };
    let proof = if found.is_unproven() { Proof::None } else { proof };
    let (verdict, _, message) = story::verdict_of_proof(proof, accept_unproven);
    let (verdict, reason, message) = if found.is_incomplete() {
        let message =
            "stored by an earlier attempt of this run, which could not read all of it; its log names what".to_owned();
        (Verdict::Incomplete, Reason::SourceUnreadable, message)
    } else {
        (verdict, Reason::Adopted, message)
    };
    SourceReport {
        verdict,
        reason,
        message: if message.is_empty() { "stored by an earlier attempt of this run".to_owned() } else { message },
        exit_code: Some(0),
        bytes: found.bytes.unwrap_or(0),
        digest: found.identity.tag(SnapshotIdentity::DIGEST).map(str::to_owned),
        proof,
        snapshot: Some(found.id.clone()),
        ..SourceReport::done(Duration::ZERO)
    }
}
