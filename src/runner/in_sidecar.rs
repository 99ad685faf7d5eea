//! Decides whether a Job's run is executed in its pod's sidecar, and starts it there over the API server.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    commands,
    settings::Identity,
    sidecar::{HelperCommand, Sidecar, SidecarOutcome, SidecarRun, drive, find},
};
use crate::{
    exec::{self, Control, ExecTarget, Limits, Lines},
    model::{
        Failure, Reason, RunReport, SnapshotIdentity, TargetCommand, TargetVolume, Task, TaskKind,
        injected::SIDECAR_CONTAINER,
    },
    seal::ExecMode,
};

/// How much longer than its command's timeout a run may take: it waits for other runs, opens the repository, and
/// uploads the rest, for which the store may be unreachable for a quarter of an hour.
const MARGIN: Duration = Duration::from_mins(30);
/// The time that a run without a timeout may take. Its Job does not live longer, either.
const MAX_RUN: Duration = Duration::from_hours(24);
/// The supervisor's report of a run which could not parse its task.
const REFUSED: &str = "exited with status 1";

/// Executes the task of a command in the pod's sidecar; `None` if the pod has no sidecar.
pub(super) async fn command(
    client: &Client,
    pod: &Pod,
    task: &Task,
    identity: &Identity,
    target: &TargetCommand,
    (mode, argv): (&ExecMode, &[String]),
    cancel: &CancellationToken,
) -> Result<Option<SidecarOutcome>, Failure> {
    let program = match (find(pod, &task.backend, Some(&target.container)), mode) {
        (Sidecar::Absent, _) => return Ok(None),
        (Sidecar::Unusable(why), _) => return Ok(Some(SidecarOutcome::NotUsed(why))),
        (Sidecar::Usable, ExecMode::Helper(program)) => program.clone(),
        (Sidecar::Usable, ExecMode::Shell) => {
            let why = format!("container {} has no helper which could connect to it", target.container);
            return Ok(Some(SidecarOutcome::NotUsed(why)));
        }
    };
    let restore = matches!(task.kind, TaskKind::Restore { .. });
    let helper = Some(HelperCommand { program, restore, command: argv.to_vec() });
    drive_at(client, task, identity, (&target.namespace, &target.pod, &target.container), helper, cancel)
        .await
        .map(Some)
}

/// Executes the task of a volume, to which only a sidecar has access.
pub(super) async fn volume(
    client: &Client,
    task: &Task,
    identity: &Identity,
    target: &TargetVolume,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
    let TargetVolume { namespace, pod: name, pod_uid, claim: _ } = target;
    let sidecar = TargetCommand {
        namespace: namespace.clone(),
        pod: name.clone(),
        pod_uid: pod_uid.clone(),
        container: SIDECAR_CONTAINER.to_owned(),
        command: None,
    };
    let pod = commands::find_pod(client, &sidecar).await?;
    let why = match find(&pod, &task.backend, None) {
        Sidecar::Absent => {
            let message = format!("pod {namespace}/{name} has no Stowaway sidecar; recreate it, so that it gets one");
            return Err(Failure::new(Reason::NotInjected, message));
        }
        Sidecar::Unusable(why) => why,
        Sidecar::Usable => {
            match drive_at(client, task, identity, (namespace, name, SIDECAR_CONTAINER), None, cancel).await? {
                SidecarOutcome::Report(report) => return Ok(*report),
                SidecarOutcome::NotUsed(why) => why,
            }
        }
    };
    Err(Failure::new(Reason::ExecRefused, format!("the sidecar of pod {namespace}/{name} cannot be used: {why}")))
}

async fn drive_at(
    client: &Client,
    task: &Task,
    identity: &Identity,
    (namespace, pod, container): (&str, &str, &str),
    helper: Option<HelperCommand>,
    cancel: &CancellationToken,
) -> Result<SidecarOutcome, Failure> {
    // The cancellation token is not the run's, because a cancelled run must still be cancelled in the sidecar. These
    // execs have time limits of their own.
    let control = Control {
        limits: Limits::default(),
        cancel: CancellationToken::new(),
        lines: Lines::new().0,
        progress: Arc::default(),
    };
    let at = |container: &str| ExecTarget {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: container.to_owned(),
    };
    let (sidecar, app) = (at(SIDECAR_CONTAINER), at(container));
    let (label, timeout) = match &task.kind {
        TaskKind::Backup { identity, timeout, .. } | TaskKind::BackupVolume { identity, timeout, .. } => {
            (identity.tag(SnapshotIdentity::RUN), timeout)
        }
        TaskKind::Restore { timeout, .. } => (None, timeout),
        TaskKind::Init
        | TaskKind::Open { .. }
        | TaskKind::BackupClaim { .. }
        | TaskKind::Repack { .. }
        | TaskKind::Prune { .. }
        | TaskKind::Check { .. }
        | TaskKind::RestoreVolume(_)
        | TaskKind::RestoreArchive(_)
        | TaskKind::FindSnapshot(_)
        | TaskKind::Answer { .. } => (None, &None),
    };
    info!("requesting the run from the sidecar of pod {namespace}/{pod}");
    let run = SidecarRun {
        id: &identity.pod,
        key: label.unwrap_or(&identity.pod),
        task,
        helper,
        limit: timeout.map_or(MAX_RUN, |timeout| timeout.saturating_add(MARGIN)),
    };
    let in_sidecar = async |line: &[String]| exec::open(client, &sidecar, line, &control).await;
    let in_app = async |line: &[String]| exec::open(client, &app, line, &control).await;
    drive(run, in_sidecar, in_app, cancel).await.map_err(|failure| explain_loss(failure, task))
}

/// Names the next step where a sidecar of an earlier version may have refused the task, because it does not know damaged
/// packs or the time of the controller. Such a sidecar ends with the status 1 and without a report.
fn explain_loss(failure: Failure, task: &Task) -> Failure {
    if failure.reason != Reason::ResultLost {
        return failure;
    }
    let (why, field) = if !task.damaged_packs.is_empty() {
        (
            "a check has found damaged packs in the repository, and a sidecar of an earlier version cannot leave them out",
            "damagedPacks",
        )
    } else if task.not_before.is_some() && failure.message.contains(REFUSED) {
        ("a sidecar of an earlier version cannot compare its clock with the controller's", Task::NOT_BEFORE)
    } else {
        return failure;
    };
    let message = format!(
        "{}; {why}: if the log above names `{field}`, recreate the pod, so that it gets the present sidecar",
        failure.message
    );
    Failure { message, ..failure }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::{BackendConfig, Connection, DamagedPacks, DataPart};

    #[test]
    fn loss_of_a_report_in_a_damaged_repository_names_the_next_step() {
        let task = |damaged_packs| Task {
            backend: BackendConfig::Folder { path: "/repository".into() },
            connection: Connection::default(),
            cluster: String::new(),
            repository_id: None,
            damaged_packs,
            not_before: None,
            kind: TaskKind::Init,
            note: String::new(),
        };
        let explained = |reason, damaged| explain_loss(Failure::new(reason, "lost"), &task(damaged)).message;
        let damaged = DamagedPacks::anywhere_in(DataPart::ALL);
        assert!(explained(Reason::ResultLost, damaged.clone()).contains("recreate the pod"));
        assert_eq!(explained(Reason::ResultLost, DamagedPacks::default()), "lost");
        assert_eq!(explained(Reason::Timeout, damaged), "lost");
        let created = Task { not_before: Some(Timestamp::UNIX_EPOCH), ..task(DamagedPacks::default()) };
        let explained = |message: &str| explain_loss(Failure::new(Reason::ResultLost, message), &created).message;
        assert!(explained("its process exited with status 1").contains("names `notBefore`, recreate the pod"));
        assert_eq!(explained("its process was killed"), "its process was killed");
    }
}
