//! Whether a Job's run is done in its pod's sidecar, and the Job's part in it, over the API server.
//!
//! It must not know what the sidecar does, nor which other way there is.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    commands,
    settings::Identity,
    sidecar::{Driven, Errand, HelperCommand, Sidecar, drive, find},
};
use crate::{
    cluster::exec::{self, Control, ExecTarget, Limits, Lines},
    model::{
        Failure, Reason, SnapshotIdentity, SourceReport, TargetCommand, TargetVolume, Task, TaskKind,
        injected::SIDECAR_CONTAINER,
    },
    seal::Way,
};

/// What a run may take beyond its command's timeout: to wait for its turn, to open the repository, to upload the rest, for which
/// the store may be away for a quarter of an hour.
const MARGIN: Duration = Duration::from_mins(30);
/// How long one without a timeout may take; its Job does not live longer, either.
const LONGEST_RUN: Duration = Duration::from_hours(24);

/// Does the task of a command in the pod's sidecar; nothing if there is none.
pub(super) async fn command(
    client: &Client,
    pod: &Pod,
    task: &Task,
    identity: &Identity,
    target: &TargetCommand,
    (way, argv): (&Way, &[String]),
    cancel: &CancellationToken,
) -> Result<Option<Driven>, Failure> {
    let program = match (find(pod, &task.backend, Some(&target.container)), way) {
        (Sidecar::Absent, _) => return Ok(None),
        (Sidecar::Unusable(why), _) => return Ok(Some(Driven::NotUsed(why))),
        (Sidecar::Usable, Way::Helper(program)) => program.clone(),
        (Sidecar::Usable, Way::Shell) => {
            let why = format!("container {} has no helper that could come to it", target.container);
            return Ok(Some(Driven::NotUsed(why)));
        }
    };
    let restore = matches!(task.kind, TaskKind::Restore { .. });
    let helper = Some(HelperCommand { program, restore, command: argv.to_vec() });
    drive_at(client, task, identity, (&target.namespace, &target.pod, &target.container), helper, cancel)
        .await
        .map(Some)
}

/// Does the task of a volume, which only a sidecar sees.
pub(super) async fn volume(
    client: &Client,
    task: &Task,
    identity: &Identity,
    target: &TargetVolume,
    cancel: &CancellationToken,
) -> Result<SourceReport, Failure> {
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
            let message = format!("pod {namespace}/{name} has no sidecar of ours; recreate it, so that it gets one");
            return Err(Failure::new(Reason::NotInjected, message));
        }
        Sidecar::Unusable(why) => why,
        Sidecar::Usable => {
            match drive_at(client, task, identity, (namespace, name, SIDECAR_CONTAINER), None, cancel).await? {
                Driven::Report(report) => return Ok(*report),
                Driven::NotUsed(why) => why,
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
) -> Result<Driven, Failure> {
    // A run that is cancelled still has to be told so: these execs are bounded by themselves.
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
    info!("asking the sidecar of pod {namespace}/{pod}");
    let errand = Errand {
        id: &identity.pod,
        key: label.unwrap_or(&identity.pod),
        task,
        helper,
        limit: timeout.map_or(LONGEST_RUN, |timeout| timeout.saturating_add(MARGIN)),
    };
    let in_sidecar = async |line: &[String]| exec::open(client, &sidecar, line, &control).await;
    let in_app = async |line: &[String]| exec::open(client, &app, line, &control).await;
    drive(errand, in_sidecar, in_app, cancel).await
}
