//! The process of one run in a sidecar. It opens the repository, receives the stream from the pod's helper or reads the
//! files of the mounted volume, and reports on its stdout. Its stderr is the run's log.
//!
//! The end of stdin cancels the run: either the supervisor requests that, or the supervisor has ended.

use std::{io::Write, path::PathBuf, sync::Arc, time::Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Assignment, RunSocket};
use crate::{
    model::{BackendConfig, Failure, Reason, RunReport, TargetVolume, Task, TaskKind, injected::SOCKET_MOUNT},
    repository::Progress,
    runner::{
        BackupInput, MountedVolume, RestoreOutput, VolumeRun, backup_volume, clock,
        job::{run_backup, run_restore, terminated, with_repository, within_grace_of},
        settings::{self, Identity},
        story,
    },
    seal::sealed::{Event, MAX_TASK, report_digest},
};

/// Executes the run which stdin specifies, and returns the process's exit status.
pub async fn run_in_sidecar(volumes: &[MountedVolume]) -> u8 {
    let started = Instant::now();
    let mut stdin = BufReader::new(tokio::io::stdin());
    let Assignment { id, task } = match assignment(&mut stdin).await {
        Ok(assignment) => assignment,
        Err(failure) => {
            // Without the run's name the supervisor could not assign a report to it.
            tracing::error!("{failure}");
            return 1;
        }
    };
    let signal = terminated();
    let end_request = async {
        tokio::select! {
            name = signal => name,
            () = end_of(stdin) => "the end of stdin",
        }
    };
    let cancel = CancellationToken::new();
    let report = within_grace_of(&cancel, end_request, execute(task, volumes, cancel.clone()))
        .await
        .unwrap_or_else(|failure| RunReport::failed(failure, started.elapsed()));
    let text = report.to_termination_message();
    send_event(&Event::Report { digest: report_digest(&id, &text), text });
    story::exit_code(report.verdict)
}

/// Parses the first line of stdin.
async fn assignment(stdin: &mut (impl AsyncRead + AsyncBufReadExt + Unpin)) -> Result<Assignment, Failure> {
    let invalid =
        |why: String| Failure::new(Reason::InvalidRequest, format!("the task on stdin cannot be parsed: {why}"));
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_TASK).unwrap_or(u64::MAX);
    stdin.take(limit).read_until(b'\n', &mut line).await.map_err(|error| invalid(error.to_string()))?;
    serde_json::from_slice(&line).map_err(|error| invalid(error.to_string()))
}

async fn end_of(mut stdin: impl AsyncRead + Unpin) {
    let mut buffer = [0; 64];
    while matches!(stdin.read(&mut buffer).await, Ok(length) if length > 0) {}
}

/// Sends an event to the supervisor. Errors are ignored, because a supervisor which has ended needs no events.
fn send_event(event: &Event) {
    let mut stdout = std::io::stdout().lock();
    let _gone = writeln!(stdout, "{event}").and_then(|()| stdout.flush());
}

async fn execute(task: Task, volumes: &[MountedVolume], cancel: CancellationToken) -> Result<RunReport, Failure> {
    let identity = Identity::from_environment()
        .in_cluster(&task.cluster)
        .expecting(task.repository_id.clone())
        .distrusting(&task.damaged_packs);
    info!("stowaway {} in the sidecar of pod {}/{}", env!("CARGO_PKG_VERSION"), identity.namespace, identity.pod);
    check_backend(&task.backend, &settings::backend()?)?;
    clock::begin(task.not_before)?;
    let socket = || RunSocket::new(settings::mounted(SOCKET_MOUNT), Arc::new(send_event));
    match &task.kind {
        TaskKind::Backup { .. } => run_backup(&task, &identity, BackupInput::Socket(socket()), &cancel).await,
        TaskKind::Restore { .. } => run_restore(&task, &identity, RestoreOutput::Socket(socket()), &cancel).await,
        TaskKind::BackupVolume { target, source: _, identity: label, exclude, accept_shrunken, timeout } => {
            let folder = folder_of(volumes, target)?;
            let run = VolumeRun {
                identity: label.clone(),
                exclude: exclude.clone(),
                accept_shrunken: *accept_shrunken,
                timeout: *timeout,
            };
            with_repository(
                settings::access(&task.backend, &task.connection, &identity)?,
                &cancel,
                async |repository| Ok(backup_volume(repository, run, &folder, Arc::new(Progress::default())).await),
            )
            .await
        }
        TaskKind::Init
        | TaskKind::Open { .. }
        | TaskKind::BackupClaim { .. }
        | TaskKind::Repack { .. }
        | TaskKind::Prune { .. }
        | TaskKind::Check { .. }
        | TaskKind::RestoreVolume(_)
        | TaskKind::RestoreArchive(_)
        | TaskKind::FindSnapshot(_)
        | TaskKind::Answer { .. } => {
            Err(Failure::new(Reason::InvalidRequest, "a sidecar only runs backups and restores"))
        }
    }
}

/// Rejects a task for another repository, because the credentials in this container are only for the repository which
/// was injected with them.
fn check_backend(requested: &BackendConfig, injected: &BackendConfig) -> Result<(), Failure> {
    if injected == requested {
        return Ok(());
    }
    let message = "the sidecar was made for another repository; recreate its pod, so that it gets the present one";
    Err(Failure::new(Reason::InvalidRequest, message))
}

/// The folder where the claim is mounted. Only the volumes in the sidecar's own arguments are accepted.
fn folder_of(volumes: &[MountedVolume], target: &TargetVolume) -> Result<PathBuf, Failure> {
    let source = format!("pvc/{}", target.claim);
    let volume = volumes
        .iter()
        .find(|volume| volume.source.as_ref().is_some_and(|mounted| mounted.as_str() == source))
        .ok_or_else(|| {
            let message = format!(
                "the sidecar of pod {}/{} has no volume of claim {}; recreate the pod, so that the sidecar gets it",
                target.namespace, target.pod, target.claim
            );
            Failure::new(Reason::NotInjected, message)
        })?;
    Ok(volume.folder())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str) -> BackendConfig {
        BackendConfig::Folder { path: path.to_owned() }
    }

    #[test]
    fn credentials_serve_no_other_repository() {
        assert!(check_backend(&folder("/a"), &folder("/a")).is_ok());
        assert_eq!(check_backend(&folder("/a"), &folder("/b")).unwrap_err().reason, Reason::InvalidRequest);
    }

    #[test]
    fn only_mounted_claims_are_read() {
        let volumes: Vec<MountedVolume> =
            ["data=pvc/harvest", "scratch"].iter().map(|text| text.parse().unwrap()).collect();
        let target = |claim: &str| TargetVolume {
            namespace: "orchard".into(),
            pod: "mill-0".into(),
            pod_uid: "u".into(),
            claim: claim.into(),
        };
        assert!(folder_of(&volumes, &target("harvest")).unwrap().ends_with("stowaway-volumes/data"));
        for claim in ["scratch", "other", "../harvest"] {
            assert_eq!(folder_of(&volumes, &target(claim)).unwrap_err().reason, Reason::NotInjected);
        }
    }
}
