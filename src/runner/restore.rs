//! One restore of one stored file into a command's stdin. Green only if the command said exit 0 after it had everything.
//!
//! The same for a pod and for a local process. It must not know Jobs or the command line.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    local,
    sidecar::Door,
    story::{self, tell_progress},
};
use crate::{
    cluster::exec::{self, Control, ExecTarget, Limits, Lines},
    model::{Failure, Reason, SnapshotIdentity, SourceName, SourceReport, Verdict, milliseconds},
    repository::{self, Repository, SnapshotSummary},
    seal::Way,
};

/// What is restored.
#[derive(Clone, Debug)]
pub struct RestoreRun {
    /// Whose snapshot.
    pub source: SourceName,
    /// Its id or the first digits of it; the newest proven one of the source otherwise.
    pub snapshot: Option<String>,
    /// When to end the command.
    pub limits: Limits,
}

/// Where the stream goes.
#[derive(Clone)]
pub enum FeedTo {
    /// A container's command, by exec.
    Container(kube::Client, ExecTarget, Way, Vec<String>),
    /// A process on this machine.
    Local(Way, Vec<String>),
    /// A helper that comes to us.
    Socket(Door),
}

/// Runs it. Every outcome is a report; none is silent.
pub async fn restore(repository: &Repository, run: RestoreRun, to: FeedTo, cancel: CancellationToken) -> SourceReport {
    let started = Instant::now();
    let (lines, said) = Lines::new();
    let telling = tokio::spawn(story::tell_lines(said));
    let control = Control { limits: run.limits, cancel, lines: lines.clone(), progress: Arc::default() };
    let result = feed(repository, &run, to, &control).await;
    let tail = lines.tail();
    drop((lines, control));
    story::finish_lines(telling).await;
    let mut report = result.unwrap_or_else(|failure| SourceReport::failed(failure, started.elapsed()));
    report.duration_milliseconds = milliseconds(started.elapsed());
    if report.verdict != Verdict::Succeeded {
        report.stderr_tail = tail;
    }
    report
}

async fn feed(
    repository: &Repository,
    run: &RestoreRun,
    to: FeedTo,
    control: &Control,
) -> Result<SourceReport, Failure> {
    let snapshots = repository.snapshots().await?;
    let snapshot = choose(&snapshots, run)?;
    info!(snapshot = snapshot.id, "restoring snapshot {} of {}", &snapshot.id[..8], snapshot.time);
    let file = repository.read_file(&snapshot.id, &snapshot.identity.path).await?;
    let size = file.size;
    let feeding = async {
        match to {
            FeedTo::Container(client, target, way, argv) => {
                exec::feed(&client, &target, &way, &argv, size, file.pieces, control).await
            }
            FeedTo::Local(way, argv) => local::feed(&way, &argv, size, file.pieces, control).await,
            FeedTo::Socket(door) => exec::feed_over_socket(door.helper(control), size, file.pieces, control).await,
        }
    };
    let end = tokio::select! {
        result = feeding => result?,
        never = tell_progress(|| control.progress.bytes()) => match never {},
    };
    Ok(SourceReport {
        verdict: Verdict::Succeeded,
        reason: Reason::Completed,
        message: String::new(),
        exit_code: Some(end.exit_code),
        bytes: size,
        digest: snapshot.identity.tag(SnapshotIdentity::DIGEST).map(str::to_owned),
        proof: end.proof,
        snapshot: Some(snapshot.id.clone()),
        repository_id: None,
        upkeep: None,
        duration_milliseconds: 0,
        stderr_tail: String::new(),
    })
}

/// The snapshot that is meant, which must be one of the source: nothing is ever "the latest of anything".
fn choose<'a>(snapshots: &'a [SnapshotSummary], run: &RestoreRun) -> Result<&'a SnapshotSummary, Failure> {
    let source = &run.source;
    let not_found = |message: String| Failure::new(Reason::SnapshotNotFound, message);
    let Some(id) = &run.snapshot else {
        return repository::newest_of(snapshots, source).ok_or_else(|| {
            let known = known_sources(snapshots);
            not_found(format!("the repository has no proven snapshot of {source}; it has snapshots of: {known}"))
        });
    };
    let mut matching = snapshots.iter().filter(|snapshot| snapshot.id.starts_with(id.as_str()));
    let (Some(found), None) = (matching.next(), matching.next()) else {
        return Err(not_found(format!(
            "the id {id:?} fits no snapshot, or more than one; `stowaway snapshots` lists them"
        )));
    };
    match found.identity.tag(SnapshotIdentity::SOURCE) {
        Some(owner) if owner != source.as_str() => {
            let message = format!("snapshot {} is of {owner}, not of {source}", &found.id[..8]);
            Err(Failure::new(Reason::InvalidRequest, message))
        }
        _ => Ok(found),
    }
}

fn known_sources(snapshots: &[SnapshotSummary]) -> String {
    let names: std::collections::BTreeSet<&str> =
        snapshots.iter().filter_map(|snapshot| snapshot.identity.tag(SnapshotIdentity::SOURCE)).collect();
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.into_iter().take(20).collect::<Vec<_>>().join(", ")
}
