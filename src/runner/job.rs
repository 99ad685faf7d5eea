//! The runner role: carries out the task of its Job, and leaves its report where the kubelet and `kubectl logs` show it.
//!
//! An edge: signals, clock and files are here. What a run decides is in `backup` and `restore`.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    BackupRun, DumpFrom, FeedTo, JudgedCommand, RestoreRun, VolumeRun, backup, backup_device, backup_volume, commands,
    in_sidecar,
    judge::PodJudge,
    progress, restore, restore_archive, restore_volume,
    settings::{self, Identity},
    sidecar::Driven,
    story, upkeep, wanted,
};
use crate::{
    cluster::exec::{ExecTarget, Limits},
    model::{
        Failure, Reason, SnapshotLookup, SourceReport, StoredClaim, TargetCommand, Task, TaskKind, Verdict,
        VolumeRestore, WantedSnapshot, mounts,
    },
    repository::{self, Access, Progress, Repository},
    telemetry,
};

/// How long a cancelled run may take to report: the kubelet kills it 30 s after its SIGTERM.
const REPORT_WITHIN: Duration = Duration::from_secs(10);

/// How long the API server may take to answer what became of a pod.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Carries out the task in the environment, and returns the process's exit status.
pub async fn run_job() -> u8 {
    let started = Instant::now();
    let cancel = CancellationToken::new();
    let (report, note) = match settings::task() {
        Ok(mut task) => {
            let note = std::mem::take(&mut task.note);
            let is_in_cluster = !task.cluster.is_empty();
            // On the heap: the stack of the main thread is short for it where nothing is optimised.
            let work = Box::pin(carry_out(task.preferring_own_cluster(), cancel.clone()));
            (within_grace(&cancel, showing_progress(is_in_cluster, work)).await, note)
        }
        Err(failure) => (Err(failure), String::new()),
    };
    let report = report.unwrap_or_else(|failure| SourceReport::failed(failure, started.elapsed()));
    let report = story::noted(report, &note);
    leave_report(&report).await;
    story::exit_code(report.verdict)
}

/// The work, and beside it how far it is, where there is an API server to write that to.
async fn showing_progress<T>(is_in_cluster: bool, work: impl Future<Output = T>) -> T {
    let client = if is_in_cluster { connect().await.ok() } else { None };
    let Some(client) = client else { return work.await };
    let identity = Identity::from_environment();
    tokio::select! {
        done = work => done,
        never = progress::write(client, &identity) => match never {},
    }
}

/// Leaves a report where the kubelet and `kubectl logs` show it.
pub(super) async fn leave_report(report: &SourceReport) {
    let log_tail = if report.verdict.is_green() { String::new() } else { telemetry::tail::last_lines() };
    story::tell_verdict(report);
    let path = settings::mounted(mounts::TERMINATION_MESSAGE);
    let message = SourceReport { log_tail, ..report.clone() }.to_termination_message();
    if let Err(error) = tokio::fs::write(&path, message).await {
        // The controller takes a lost report for a failure, so green is not at risk; the log still has the story.
        warn!("failed to write the report to {}: {error}", path.display());
    }
}

/// Cancels `work` on SIGTERM and SIGINT, and gives it [`REPORT_WITHIN`] to end by itself.
pub async fn within_grace<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    within_grace_of(cancel, terminated(), work).await
}

/// The same for whatever `asked_to_end` waits for, and names.
pub async fn within_grace_of<T>(
    cancel: &CancellationToken,
    asked_to_end: impl Future<Output = &'static str>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        name = asked_to_end => {
            warn!("{name} received, ending the run");
            cancel.cancel();
        }
    }
    tokio::time::timeout(REPORT_WITHIN, work).await.unwrap_or_else(|_| {
        let message = format!("cancelled, and did not end within {} s", REPORT_WITHIN.as_secs());
        Err(Failure::new(Reason::Cancelled, message))
    })
}

/// Waits for a signal that requests the end of this process, and names it. The signal is caught from this call on, not from the
/// first poll on, because the kernel ends a process that has no handler yet. Never returns when signals cannot be received.
pub fn terminated() -> impl Future<Output = &'static str> + Send + 'static {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        tokio::select! {
            () = receive(terminate) => "SIGTERM",
            () = receive(interrupt) => "SIGINT",
        }
    }
}

async fn receive(signals: std::io::Result<Signal>) {
    match signals {
        Ok(mut signals) => drop(signals.recv().await),
        Err(error) => {
            warn!("signals cannot be received: {error}");
            std::future::pending::<()>().await;
        }
    }
}

async fn carry_out(task: Task, cancel: CancellationToken) -> Result<SourceReport, Failure> {
    let started = Instant::now();
    let mut identity = Identity::from_environment().in_cluster(&task.cluster).expecting(task.repository_id.clone());
    info!("stowaway {} in pod {}/{}", env!("CARGO_PKG_VERSION"), identity.namespace, identity.pod);
    if let TaskKind::Answer { timeout } = task.kind {
        info!("waiting {} s for questions", timeout.as_secs());
        let _elapsed = tokio::time::timeout(timeout, cancel.cancelled()).await;
        return Ok(SourceReport::done(started.elapsed()));
    }
    if !identity.cluster.is_empty() {
        identity.judge = PodJudge::of(&connect().await?, &identity.namespace, &identity.cluster);
    }
    match &task.kind {
        TaskKind::Init | TaskKind::Open { .. } => {
            let repository = open(&task, identity, cancel).await?;
            report_opened(repository, started).await
        }
        TaskKind::Backup { target, source, .. } => {
            tell_target("backing up", source.as_str(), target);
            let client = connect().await?;
            let pod = commands::find_pod(&client, target).await?;
            let judged = commands::backup_command(&pod, target)?;
            let way = commands::way(&pod, target);
            let driven =
                in_sidecar::command(&client, &pod, &task, &identity, target, (&way, judged.argv()), &cancel).await?;
            let by_exec = DumpFrom::Container(client.clone(), exec_target(target), way, judged.argv().to_vec());
            let report = or_else(driven, &judged, async || back_up(&task, &identity, by_exec, &cancel).await).await;
            Ok(with_loss_of_pod(report?, &client, target).await)
        }
        TaskKind::BackupVolume { target, source, .. } => {
            info!(source = source.as_str(), "backing up {source}: pod {}/{}", target.namespace, target.pod);
            let client = connect().await?;
            in_sidecar::volume(&client, &task, &identity, target, &cancel).await
        }
        TaskKind::BackupClaim { claim, device, source, identity: label, exclude, accept_shrunken, timeout } => {
            info!(source = source.as_str(), "backing up {source}: PersistentVolumeClaim {claim}, mounted here");
            let run = VolumeRun {
                identity: label.clone(),
                exclude: exclude.clone(),
                accept_shrunken: *accept_shrunken,
                timeout: *timeout,
            };
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            with_repository(access, &cancel, async |repository| {
                Ok(if *device {
                    let device = settings::mounted(mounts::DATA_DEVICE);
                    backup_device(repository, run, &device, Arc::default()).await
                } else {
                    backup_volume(repository, run, &settings::mounted(mounts::DATA_FOLDER), Arc::default()).await
                })
            })
            .await
        }
        TaskKind::Restore { restore: name, target, source, .. } => {
            tell_target("restoring", source.as_str(), target);
            let client = connect().await?;
            let pod = commands::find_pod(&client, target).await?;
            let judged = commands::restore_command(&client, &identity.namespace, name, &pod, target).await?;
            let way = commands::way(&pod, target);
            let driven =
                in_sidecar::command(&client, &pod, &task, &identity, target, (&way, judged.argv()), &cancel).await?;
            let by_exec = FeedTo::Container(client.clone(), exec_target(target), way, judged.argv().to_vec());
            let report = or_else(driven, &judged, async || bring_back(&task, &identity, by_exec, &cancel).await).await;
            Ok(with_loss_of_pod(report?, &client, target).await)
        }
        TaskKind::Repack { retention, time_zone } => {
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            upkeep::repack(access, retention, time_zone, &cancel).await
        }
        TaskKind::Prune { retention, time_zone, repacked_bytes } => {
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            upkeep::prune(access, retention, time_zone, *repacked_bytes, &cancel).await
        }
        TaskKind::Check { part } => {
            upkeep::check(settings::access(&task.backend, &task.connection, &identity)?, *part, &cancel).await
        }
        TaskKind::RestoreVolume(run) => {
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            restore_into_claim(access, run, &cancel).await
        }
        TaskKind::RestoreArchive(run) => {
            let store = settings::archive_access(&run.backend, &run.connection)?;
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            let volume = settings::mounted(mounts::ARCHIVE_FOLDER);
            with_repository_to_read(access, &cancel, async |repository| {
                Ok(restore_archive(repository, run, store.clone(), &volume, &cancel).await)
            })
            .await
        }
        TaskKind::FindSnapshot(wanted) => {
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            with_repository_to_read(access, &cancel, async |repository| find_snapshot(repository, wanted).await).await
        }
        TaskKind::Answer { .. } => Ok(SourceReport::done(started.elapsed())),
    }
}

async fn restore_into_claim(
    access: Access,
    run: &VolumeRestore,
    cancel: &CancellationToken,
) -> Result<SourceReport, Failure> {
    let target = settings::mounted(if run.device { mounts::TARGET_DEVICE } else { mounts::TARGET_FOLDER });
    let work = async |repository: &_| Ok(restore_volume(repository, run, &target, cancel).await);
    // Before it overwrites, it stores what is there.
    if run.overwrite.is_some() {
        with_repository(access, cancel, work).await
    } else {
        with_repository_to_read(access, cancel, work).await
    }
}

/// The id of the repository and the number of its keys.
async fn report_opened(repository: Repository, started: Instant) -> Result<SourceReport, Failure> {
    let id = repository.id().to_owned();
    info!(repository = id, "repository {} is open", short(&id));
    let keys = repository.count_keys().await;
    repository.close().await;
    let report = SourceReport::done(started.elapsed());
    Ok(SourceReport { repository_id: Some(id), keys: Some(keys?), ..report })
}

/// Opens the task's repository. Only a repository that was never opened is created, or one that a person wants to be new.
async fn open(task: &Task, identity: Identity, cancel: CancellationToken) -> Result<Repository, Failure> {
    let access = |identity: &Identity| settings::access(&task.backend, &task.connection, identity);
    Ok(match &task.kind {
        TaskKind::Open { accepted } => {
            let ids = task.repository_id.iter().chain(accepted).cloned();
            repository::open(access(&identity.clone().expecting(ids))?, cancel).await?
        }
        _ => repository::open_or_create(access(&identity)?, cancel).await?,
    })
}

/// The report of a run by exec. Where the connection broke because the pod is gone, the report says so: what the connection
/// itself shows is only that it ended.
async fn with_loss_of_pod(report: SourceReport, client: &kube::Client, target: &TargetCommand) -> SourceReport {
    let may_be_lost = matches!(report.reason, Reason::StreamCut | Reason::OutcomeUnknown | Reason::ExecRefused);
    if report.verdict != Verdict::Failed || !may_be_lost {
        return report;
    }
    match tokio::time::timeout(LONGEST_LOOK, commands::find_pod(client, target)).await {
        Ok(Err(lost)) if lost.reason == Reason::PodGone => {
            SourceReport { message: format!("{}: {}", lost.message, report.message), ..report }
        }
        Ok(_) | Err(_) => report,
    }
}

/// The sidecar's report, or that of the other way, which then says why it was taken.
async fn or_else(
    driven: Option<Driven>,
    judged: &JudgedCommand,
    other: impl AsyncFnOnce() -> Result<SourceReport, Failure>,
) -> Result<SourceReport, Failure> {
    let why = match driven {
        Some(Driven::Report(report)) => return Ok(judged.explain(*report)),
        Some(Driven::NotUsed(why)) => why,
        None => return other().await.map(|report| judged.explain(report)),
    };
    warn!("the pod's sidecar is not used: {why}; nothing ran there, and the command runs by exec");
    let mut report = judged.explain(other().await?);
    if report.message.is_empty() {
        report.message = format!("by exec, since the pod's sidecar was not used: {why}");
    }
    Ok(report)
}

/// Does the task's backup in this very process.
pub async fn back_up(
    task: &Task,
    identity: &Identity,
    from: DumpFrom,
    cancel: &CancellationToken,
) -> Result<SourceReport, Failure> {
    let TaskKind::Backup {
        target: _,
        source,
        identity: label,
        alternative_path,
        timeout,
        idle_timeout,
        allow_empty,
        accept_unproven,
        skip_format_check,
    } = task.kind.clone()
    else {
        return Err(not_this());
    };
    let limits = Limits { timeout, idle_timeout };
    let run = BackupRun {
        source,
        identity: label,
        alternative_path,
        limits,
        allow_empty,
        accept_unproven,
        skip_format_check,
    };
    let progress = Arc::new(Progress::default());
    with_repository(settings::access(&task.backend, &task.connection, identity)?, cancel, async |repository| {
        Ok(backup(repository, run, from, progress, cancel.clone()).await)
    })
    .await
}

/// Does the task's restore in this very process.
pub async fn bring_back(
    task: &Task,
    identity: &Identity,
    to: FeedTo,
    cancel: &CancellationToken,
) -> Result<SourceReport, Failure> {
    let TaskKind::Restore { restore: _, target: _, source, snapshot: id, as_of, host, timeout, idle_timeout } =
        task.kind.clone()
    else {
        return Err(not_this());
    };
    // Who names a snapshot means that one. Else a repository that several namespaces share has one source of that name for
    // each of them.
    let host = host.or_else(|| id.is_none().then(|| identity.namespace.clone()));
    let from = WantedSnapshot { source, id, as_of, host, cluster: identity.cluster.clone() };
    let run = RestoreRun { from, limits: Limits { timeout, idle_timeout } };
    with_repository_to_read(settings::access(&task.backend, &task.connection, identity)?, cancel, async |repository| {
        Ok(restore(repository, run, to, cancel.clone()).await)
    })
    .await
}

/// Tells which snapshot it is, and its bytes.
async fn find_snapshot(repository: &Repository, wanted: &WantedSnapshot) -> Result<SourceReport, Failure> {
    let list = repository.list_snapshots().await?;
    let found = wanted::choose_readable(&list, wanted, repository.place(), Timestamp::now())?.snapshot;
    info!(snapshot = found.id, "the snapshot is {} of {}", short(&found.id), found.time);
    let lookup = SnapshotLookup { bytes: found.bytes, claim: StoredClaim::of(&found.identity) };
    Ok(SourceReport {
        bytes: found.bytes.unwrap_or_default(),
        snapshot: Some(found.id.clone()),
        lookup: Some(lookup),
        ..SourceReport::done(Duration::ZERO)
    })
}

fn not_this() -> Failure {
    Failure::new(Reason::InternalError, "the task is of another kind")
}

/// Opens the repository for one piece of work, and takes its lock away afterwards, whatever came out.
pub async fn with_repository<T>(
    access: Access,
    cancel: &CancellationToken,
    work: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, Failure> {
    work_on(repository::open(access, cancel.clone()).await?, work).await
}

/// The same for work that only reads: the lock of a prune that has died keeps it off for minutes only.
pub async fn with_repository_to_read<T>(
    access: Access,
    cancel: &CancellationToken,
    work: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, Failure> {
    work_on(repository::open_to_read(access, cancel.clone()).await?, work).await
}

async fn work_on<T>(
    repository: Repository,
    work: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let id = repository.id();
    info!(repository = id, "opened repository {}", short(id));
    let result = work(&repository).await;
    repository.close().await;
    result
}

/// An id as people tell it, and as restic shows it.
fn short(id: &str) -> &str {
    &id[..id.floor_char_boundary(8)]
}

async fn connect() -> Result<kube::Client, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Reason::ExecRefused, format!("failed to configure the connection to the API server: {error}"))
    };
    let mut config = kube::Config::infer().await.map_err(|error| failed(&error))?;
    // A restore's command may pause for as long as it likes, to build an index; the run's own limits end it.
    config.write_timeout = None;
    kube::Client::try_from(config).map_err(|error| failed(&error))
}

fn tell_target(doing: &str, source: &str, target: &TargetCommand) {
    let named = target.command.as_ref().map_or_else(String::new, |name| format!(", command {name:?}"));
    info!(
        source,
        pod = target.pod,
        container = target.container,
        "{doing} {source}: pod {}/{}, container {}{named}",
        target.namespace,
        target.pod,
        target.container
    );
}

fn exec_target(target: &TargetCommand) -> ExecTarget {
    ExecTarget { namespace: target.namespace.clone(), pod: target.pod.clone(), container: target.container.clone() }
}
