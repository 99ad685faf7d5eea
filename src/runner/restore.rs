//! One restore of one stored file into a command's stdin. Green only if the command said exit 0 after it had everything.
//!
//! The same for a pod and for a local process. It must not know Jobs or the command line.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    local, pipes,
    sidecar::Door,
    story::{self, tell_progress},
    wanted::choose_readable,
};
use crate::{
    cluster::exec::{self, Control, ExecTarget, Limits, Lines},
    model::{Failure, SnapshotIdentity, SourceReport, Verdict, WantedSnapshot, milliseconds},
    repository::Repository,
    seal::Way,
};

/// What is restored.
#[derive(Clone, Debug)]
pub struct RestoreRun {
    /// From which snapshot.
    pub from: WantedSnapshot,
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
    let is_pipefail_missing = lines.is_pipefail_missing();
    drop((lines, control));
    story::finish_lines(telling).await;
    let mut report = result.unwrap_or_else(|failure| SourceReport::failed(failure, started.elapsed()));
    pipes::report_missing(&mut report, is_pipefail_missing);
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
    let list = repository.list_snapshots().await?;
    let chosen = choose_readable(&list, &run.from, repository.place(), Timestamp::now())?;
    let snapshot = chosen.snapshot;
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
        never = tell_progress(Some(size), || control.progress.bytes(), || repository.store_wait()) => match never {},
    };
    Ok(chosen.report(SourceReport {
        exit_code: Some(end.exit_code),
        bytes: size,
        digest: snapshot.identity.tag(SnapshotIdentity::DIGEST).map(str::to_owned),
        proof: end.proof,
        snapshot: Some(snapshot.id.clone()),
        ..SourceReport::done(Duration::ZERO)
    }))
}
