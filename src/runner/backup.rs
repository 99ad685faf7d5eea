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
    local, paths, pipes, shrunken,
    sidecar::Door,
    story::{self, tell_progress},
};
use crate::{
    cluster::exec::{self, Control, Dumped, ExecTarget, Limits, Lines},
    model::{Failure, Proof, Reason, SnapshotIdentity, SourceName, SourceReport, Verdict, milliseconds},
    repository::{Progress, Repository, RepositoryError, SnapshotSummary, StoreRules, Stored},
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
                message: story::with_lacking(message, &stored.lacking),
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
    warn_of_future(&history, &run.identity);
    let paths = [run.alternative_path.as_str()];
    if let Some(report) = adopt(repository, &history, &run.identity, &paths, run.accept_unproven).await? {
        return Ok(Outcome::Adopted(Box::new(report)));
    }
    let mut identity = run.identity.clone();
    identity.path = paths::settle(&history, &run.source, &run.identity, &run.alternative_path);
    info!(path = identity.path, host = identity.host, "storing as {} of host {}", identity.path, identity.host);

    let rules = StoreRules { allow_empty: run.allow_empty, time: Timestamp::now(), device: None };
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
        never = tell_progress(None, || progress.bytes_read(), || repository.store_wait()) => match never {},
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

/// Warns of snapshots of the same source that are dated in the future: either clock may be wrong.
pub(super) fn warn_of_future(history: &[SnapshotSummary], identity: &SnapshotIdentity) {
    let (source, now) = (identity.tag(SnapshotIdentity::SOURCE), Timestamp::now());
    let is_same = |snapshot: &&SnapshotSummary| {
        snapshot.identity.host == identity.host && snapshot.identity.tag(SnapshotIdentity::SOURCE) == source
    };
    for snapshot in history.iter().filter(is_same).map(SnapshotSummary::record).filter(|one| one.is_from_future(now)) {
        warn!(
            "snapshot {} is dated in the future ({:.0}), and no restore takes it by itself: check the clocks of the nodes",
            snapshot.short_id(),
            snapshot.time
        );
    }
}

/// The report of the snapshot that an earlier attempt of the same run committed, if there is one that is what this run
/// would make, and that is all there. `other_paths` are those that the run may take instead of the identity's own.
pub(super) async fn adopt(
    repository: &Repository,
    history: &[SnapshotSummary],
    identity: &SnapshotIdentity,
    other_paths: &[&str],
    accept_unproven: bool,
) -> Result<Option<SourceReport>, Failure> {
    for found in history.iter().rev().filter(|found| is_of_this_run(&found.identity, identity)) {
        let short = &found.id[..8];
        if !is_what_it_would_make(&found.identity, identity, other_paths) {
            warn!(
                snapshot = found.id,
                "snapshot {short} has the tag of this run and is of another source; not taken over"
            );
            continue;
        }
        match repository.verify(&found.id).await {
            Ok(()) => {
                info!(snapshot = found.id, "an earlier attempt of this run had stored snapshot {short}; taken over");
                return Ok(Some(adopted(found, accept_unproven)));
            }
            Err(error @ RepositoryError::Damaged { .. }) => {
                warn!(snapshot = found.id, "snapshot {short} of an earlier attempt of this run is not whole: {error}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Whether an attempt of the same run has made it.
fn is_of_this_run(found: &SnapshotIdentity, run: &SnapshotIdentity) -> bool {
    let id = run.tag(SnapshotIdentity::RUN);
    id.is_some() && found.tag(SnapshotIdentity::RUN) == id
}

/// Whether it is labelled as this run would label it. Its pod may be another one: a later attempt takes the pod that is there.
fn is_what_it_would_make(found: &SnapshotIdentity, run: &SnapshotIdentity, other_paths: &[&str]) -> bool {
    let is_path = found.path == run.path || other_paths.contains(&found.path.as_str());
    let same = |key| found.tag(key) == run.tag(key);
    found.host == run.host && is_path && same(SnapshotIdentity::SOURCE) && same(SnapshotIdentity::CLUSTER)
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
