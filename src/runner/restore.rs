//! Restores one stored file into a command's stdin, in a pod or as a local process. The run is green only if the
//! command exited with 0 after it had received everything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    local, pipes,
    select_snapshot::choose_readable,
    sidecar::RunSocket,
    story::{self, log_progress},
};
use crate::{
    exec::{self, Control, ExecTarget, Limits, Lines},
    model::{Failure, RunReport, SnapshotIdentity, Verdict, WantedSnapshot, milliseconds},
    repository::Repository,
    seal::ExecMode,
};

/// The parameters of a restore into a command.
#[derive(Clone, Debug)]
pub struct RestoreRun {
    /// The snapshot.
    pub from: WantedSnapshot,
    /// When the command is ended.
    pub limits: Limits,
}

/// The target of the stream.
#[derive(Clone)]
pub enum RestoreOutput {
    /// A container's command, by exec.
    Container(kube::Client, ExecTarget, ExecMode, Vec<String>),
    /// A process on this machine.
    Local(ExecMode, Vec<String>),
    /// A helper which connects to this socket.
    Socket(RunSocket),
}

/// Runs the restore. Every outcome is a report.
pub async fn restore(
    repository: &Repository,
    run: RestoreRun,
    to: RestoreOutput,
    cancel: CancellationToken,
) -> RunReport {
    let started = Instant::now();
    let (lines, receiver) = Lines::new();
    let logging = tokio::spawn(story::log_lines(receiver));
    let control = Control { limits: run.limits, cancel, lines: lines.clone(), progress: Arc::default() };
    let result = restore_stream(repository, &run, to, &control).await;
    let tail = lines.tail();
    let is_pipefail_missing = lines.is_pipefail_missing();
    drop((lines, control));
    story::finish_lines(logging).await;
    let mut report = result.unwrap_or_else(|failure| RunReport::failed(failure, started.elapsed()));
    pipes::report_missing(&mut report, is_pipefail_missing);
    report.duration_milliseconds = milliseconds(started.elapsed());
    if report.verdict != Verdict::Succeeded {
        report.stderr_tail = tail;
    }
    report
}

async fn restore_stream(
    repository: &Repository,
    run: &RestoreRun,
    to: RestoreOutput,
    control: &Control,
) -> Result<RunReport, Failure> {
    let list = repository.list_snapshots().await?;
    let chosen = choose_readable(&list, &run.from, repository, Timestamp::now())?;
    let snapshot = chosen.snapshot;
    info!(snapshot = snapshot.id, "restoring snapshot {} of {}", &snapshot.id[..8], snapshot.time);
    let file = repository.read_file(&snapshot.id, &snapshot.identity.path).await?;
    let size = file.size;
    let feeding = async {
        match to {
            RestoreOutput::Container(client, target, mode, argv) => {
                exec::feed(&client, &target, &mode, &argv, size, file.pieces, control).await
            }
            RestoreOutput::Local(mode, argv) => local::feed(&mode, &argv, size, file.pieces, control).await,
            RestoreOutput::Socket(socket) => {
                exec::feed_over_socket(socket.helper(control), size, file.pieces, control).await
            }
        }
    };
    let end = tokio::select! {
        result = feeding => result?,
        never = log_progress(Some(size), || control.progress.bytes(), || repository.store_wait()) => match never {},
    };
    Ok(chosen.report(RunReport {
        exit_code: Some(end.exit_code),
        bytes: size,
        digest: snapshot.identity.tag(SnapshotIdentity::DIGEST).map(str::to_owned),
        proof: end.proof,
        snapshot: Some(snapshot.id.clone()),
        ..RunReport::done(Duration::ZERO)
    }))
}
