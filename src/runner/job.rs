//! The runner role: executes the task of its Job, and writes its report to the termination message and the log.
//!
//! Signals, clock and files are accessed here. The decisions of a run are made in `backup` and `restore`.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    BackupInput, BackupRun, JudgedCommand, RestoreOutput, RestoreRun, VolumeRun, backup, backup_device, backup_volume,
    clock, commands, half_restored, in_sidecar,
    lock_owner::PodLiveness,
    maintenance::{self, RetentionScope},
    progress, restore, restore_archive, restore_volume, select_snapshot,
    settings::{self, Identity},
    sidecar::SidecarOutcome,
    story,
};
use crate::{
    cluster::client::{Component, with_user_agent},
    exec::{ExecTarget, Limits},
    model::{
        Failure, Reason, Retention, RunReport, SnapshotIdentity, SnapshotLookup, StoredClaim, TargetCommand, Task,
        TaskKind, Verdict, VolumeRestore, WantedSnapshot, mounts,
    },
    repository::{self, OpenOptions, Progress, Repository, RepositoryError},
    telemetry,
};

/// The time that a cancelled run may take to report. The kubelet kills it 30 s after its SIGTERM.
const REPORT_WITHIN: Duration = Duration::from_secs(10);

/// The time that a look-up of the pod may take after a run has failed.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Executes the task in the environment, and returns the process's exit status.
pub async fn run_job() -> u8 {
    let started = Instant::now();
    let cancel = CancellationToken::new();
    let (report, note) = match settings::task() {
        Ok(mut task) => {
            let note = std::mem::take(&mut task.note);
            let is_in_cluster = !task.cluster.is_empty();
            // Boxed, because the future is too large for the stack of the main thread in a build without optimisation.
            let work = Box::pin(execute(task.preferring_own_cluster(), cancel.clone()));
            (within_grace(&cancel, with_progress(is_in_cluster, work)).await, note)
        }
        Err(failure) => (Err(failure), String::new()),
    };
    let report = report.unwrap_or_else(|failure| RunReport::failed(failure, started.elapsed()));
    let report = story::noted(report, &note);
    write_report(&report).await;
    story::exit_code(report.verdict)
}

/// Runs `work`. If there is an API server, the progress of the run is written to it meanwhile.
async fn with_progress<T>(is_in_cluster: bool, work: impl Future<Output = T>) -> T {
    let client = if is_in_cluster { connect().await.ok() } else { None };
    let Some(client) = client else { return work.await };
    let identity = Identity::from_environment();
    tokio::select! {
        done = work => done,
        never = progress::write(client, &identity) => match never {},
    }
}

/// Writes the report to the termination message, and logs the verdict.
pub(super) async fn write_report(report: &RunReport) {
    let log_tail = if report.verdict.is_green() { String::new() } else { telemetry::tail::last_lines() };
    story::log_verdict(report);
    let path = settings::mounted(mounts::TERMINATION_MESSAGE);
    let message = RunReport { log_tail, ..report.clone() }.to_termination_message();
    if let Err(error) = tokio::fs::write(&path, message).await {
        // The controller takes a missing report for a failure, so the run cannot become green by mistake. The log still
        // holds the report.
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

/// Does the same as [`within_grace`], for any `end_request`: a future which completes with the name of the event that
/// ends the run.
pub async fn within_grace_of<T>(
    cancel: &CancellationToken,
    end_request: impl Future<Output = &'static str>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        name = end_request => {
            warn!("{name} received, ending the run");
            cancel.cancel();
        }
    }
    tokio::time::timeout(REPORT_WITHIN, work).await.unwrap_or_else(|_| {
        let message = format!("cancelled, and did not end within {} s", REPORT_WITHIN.as_secs());
        Err(Failure::new(Reason::Cancelled, message))
    })
}

/// Waits for a signal which requests the end of this process, and returns its name. The signal is caught from this call
/// on, not from the first poll on, because the kernel ends a process which has no handler yet. Never completes if
/// signals cannot be received.
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

fn scope<'a>(policy: &'a Retention, time_zone: &'a str, identity: &'a Identity) -> RetentionScope<'a> {
    RetentionScope { policy, time_zone, namespace: &identity.namespace, cluster: &identity.cluster }
}

async fn execute(task: Task, cancel: CancellationToken) -> Result<RunReport, Failure> {
    let started = Instant::now();
    let mut identity = Identity::from_environment()
        .in_cluster(&task.cluster)
        .expecting(task.repository_id.clone())
        .distrusting(&task.damaged_packs);
    info!("stowaway {} in pod {}/{}", env!("CARGO_PKG_VERSION"), identity.namespace, identity.pod);
    if let TaskKind::Answer { timeout } = task.kind {
        info!("waiting {} s for queries", timeout.as_secs());
        let _elapsed = tokio::time::timeout(timeout, cancel.cancelled()).await;
        return Ok(RunReport::done(started.elapsed()));
    }
    clock::begin(task.not_before)?;
    if !identity.cluster.is_empty() {
        identity.probe = PodLiveness::of(&connect().await?, &identity.namespace, &identity.cluster);
    }
    match &task.kind {
        TaskKind::Init | TaskKind::Open { .. } => {
            let repository = open(&task, identity, cancel).await?;
            report_opened(repository, started).await
        }
        TaskKind::Backup { target, source, identity: label, .. } => {
            log_target("backing up", source.as_str(), target);
            let client = connect().await?;
            let pod = commands::find_pod(&client, target).await?;
            let judged = commands::backup_command(&pod, target)?;
            let mode = commands::exec_mode(&pod, target);
            let sidecar_outcome =
                in_sidecar::command(&client, &pod, &task, &identity, target, (&mode, judged.argv()), &cancel).await?;
            let by_exec = BackupInput::Container(client.clone(), exec_target(target), mode, judged.argv().to_vec());
            let report =
                or_else(sidecar_outcome, &judged, async || run_backup(&task, &identity, by_exec, &cancel).await).await;
            Ok(with_pod_loss(half_restored::judged(report?, label), &client, target).await)
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
            backup_claim(access, run, *device, &cancel).await
        }
        TaskKind::Restore { restore: name, target, source, .. } => {
            log_target("restoring", source.as_str(), target);
            let client = connect().await?;
            let pod = commands::find_pod(&client, target).await?;
            let judged = commands::restore_command(&client, &identity.namespace, name, &pod, target).await?;
            let mode = commands::exec_mode(&pod, target);
            let sidecar_outcome =
                in_sidecar::command(&client, &pod, &task, &identity, target, (&mode, judged.argv()), &cancel).await?;
            let by_exec = RestoreOutput::Container(client.clone(), exec_target(target), mode, judged.argv().to_vec());
            let report =
                or_else(sidecar_outcome, &judged, async || run_restore(&task, &identity, by_exec, &cancel).await).await;
            Ok(with_pod_loss(report?, &client, target).await)
        }
        TaskKind::Repack { retention, time_zone } => {
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            maintenance::repack(access, &scope(retention, time_zone, &identity), &cancel).await
        }
        TaskKind::Prune { retention, time_zone, repacked_bytes } => {
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            maintenance::prune(access, &scope(retention, time_zone, &identity), *repacked_bytes, &cancel).await
        }
        TaskKind::Check { part } => {
            maintenance::check(settings::access(&task.backend, &task.connection, &identity)?, *part, &cancel).await
        }
        TaskKind::RestoreVolume(run) => {
            let access = settings::access(&task.backend, &task.connection, &identity)?;
            restore_into_claim(access, run, &cancel).await
        }
        TaskKind::RestoreArchive(run) => {
            let store = settings::archive_access(&run.backend, &run.connection, &identity)?;
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
        TaskKind::Answer { .. } => Ok(RunReport::done(started.elapsed())),
    }
}

async fn backup_claim(
    access: OpenOptions,
    run: VolumeRun,
    is_device: bool,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
    with_repository(access, cancel, async |repository| {
        Ok(if is_device {
            backup_device(repository, run, &settings::mounted(mounts::DATA_DEVICE), Arc::default()).await
        } else {
            backup_volume(repository, run, &settings::mounted(mounts::DATA_FOLDER), Arc::default()).await
        })
    })
    .await
}

async fn restore_into_claim(
    access: OpenOptions,
    run: &VolumeRestore,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
    let target = settings::mounted(if run.device { mounts::TARGET_DEVICE } else { mounts::TARGET_FOLDER });
    let work = async |repository: &_| Ok(restore_volume(repository, run, &target, cancel).await);
    // Before an overwrite the run stores a safety snapshot of the present content.
    if run.overwrite.is_some() {
        with_repository(access, cancel, work).await
    } else {
        with_repository_to_read(access, cancel, work).await
    }
}

/// The message about a repository which can only be read.
const READ_ONLY: &str = "the store refuses writes: restores are possible, but no backups and no prunes; if backups are \
                         expected, check the permissions of the credentials or of the volume";

/// The report of an opened repository: its id and the number of its keys.
async fn report_opened(repository: Repository, started: Instant) -> Result<RunReport, Failure> {
    let id = repository.id().to_owned();
    info!(repository = id, "repository {} is open", short(&id));
    let keys = repository.count_keys().await;
    let message = if repository.lock_note().is_some() { READ_ONLY.to_owned() } else { String::new() };
    repository.close().await;
    let report = RunReport::done(started.elapsed());
    Ok(RunReport { repository_id: Some(id), keys: Some(keys?), message, ..report })
}

/// Opens the task's repository. Only a repository which was never opened is created, or one which a user wants to be
/// recreated. An existing repository is opened for reading if its store refuses writes, because it can be restored from.
async fn open(task: &Task, identity: Identity, cancel: CancellationToken) -> Result<Repository, Failure> {
    let access = |identity: &Identity| settings::access(&task.backend, &task.connection, identity);
    let (access, opened) = match &task.kind {
        TaskKind::Open { accepted } => {
            let ids = task.repository_id.iter().chain(accepted).cloned();
            let access = access(&identity.clone().expecting(ids))?;
            (access.clone(), repository::open(access, cancel.clone()).await)
        }
        _ => {
            let access = access(&identity)?;
            (access.clone(), repository::open_or_create(access, cancel.clone()).await)
        }
    };
    match opened {
        Err(refused @ RepositoryError::AccessDenied { .. }) => {
            repository::open_to_read(access, cancel).await.map_err(|_| settings::repository_failure(refused))
        }
        opened => opened.map_err(settings::repository_failure),
    }
}

/// The report of a run by exec. If the connection broke because the pod no longer exists, the report states that. The
/// connection itself only shows that it ended.
async fn with_pod_loss(report: RunReport, client: &kube::Client, target: &TargetCommand) -> RunReport {
    let may_be_lost = matches!(report.reason, Reason::StreamCut | Reason::OutcomeUnknown | Reason::ExecRefused);
    if report.verdict != Verdict::Failed || !may_be_lost {
        return report;
    }
    match tokio::time::timeout(LOOK_UP_TIMEOUT, commands::find_pod(client, target)).await {
        Ok(Err(lost)) if lost.reason == Reason::PodGone => {
            RunReport { message: format!("{}: {}", lost.message, report.message), ..report }
        }
        Ok(_) | Err(_) => report,
    }
}

/// The sidecar's report. If the sidecar was not used, the report of `other`, which then states why.
async fn or_else(
    sidecar_outcome: Option<SidecarOutcome>,
    judged: &JudgedCommand,
    other: impl AsyncFnOnce() -> Result<RunReport, Failure>,
) -> Result<RunReport, Failure> {
    let why = match sidecar_outcome {
        Some(SidecarOutcome::Report(report)) => return Ok(judged.explain(*report)),
        Some(SidecarOutcome::NotUsed(why)) => why,
        None => return other().await.map(|report| judged.explain(report)),
    };
    warn!("the pod's sidecar is not used: {why}; nothing ran in it, and the command runs by exec");
    let mut report = other().await?;
    if report.message.is_empty() {
        report.message = format!("ran by exec, because the pod's sidecar was not used: {why}");
    }
    Ok(judged.explain(report))
}

/// Runs the task's backup in this process.
pub async fn run_backup(
    task: &Task,
    identity: &Identity,
    from: BackupInput,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
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

/// Runs the task's restore in this process.
pub async fn run_restore(
    task: &Task,
    identity: &Identity,
    to: RestoreOutput,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
    let TaskKind::Restore { restore: _, target: _, source, snapshot: id, as_of, host, timeout, idle_timeout } =
        task.kind.clone()
    else {
        return Err(not_this());
    };
    // A snapshot's id identifies it. Without an id, the host is needed: a repository which several namespaces share may
    // have a source of the same name for each of them.
    let host = host.or_else(|| id.is_none().then(|| identity.namespace.clone()));
    let from = WantedSnapshot { source, id, as_of, host, cluster: identity.cluster.clone() };
    let run = RestoreRun { from, limits: Limits { timeout, idle_timeout } };
    with_repository_to_read(settings::access(&task.backend, &task.connection, identity)?, cancel, async |repository| {
        Ok(restore(repository, run, to, cancel.clone()).await)
    })
    .await
}

/// Reports which snapshot was found, and its size.
async fn find_snapshot(repository: &Repository, wanted: &WantedSnapshot) -> Result<RunReport, Failure> {
    let list = repository.list_snapshots().await?;
    let found = select_snapshot::choose_readable(&list, wanted, repository, Timestamp::now())?.snapshot;
    let proof = found.identity.tag(SnapshotIdentity::PROOF).unwrap_or("not recorded");
    info!(snapshot = found.id, proof, "the snapshot is {} of {}, proof {proof}", short(&found.id), found.time);
    let lookup = SnapshotLookup { bytes: found.bytes, claim: StoredClaim::of(&found.identity) };
    Ok(RunReport {
        bytes: found.bytes.unwrap_or_default(),
        snapshot: Some(found.id.clone()),
        lookup: Some(lookup),
        ..RunReport::done(Duration::ZERO)
    })
}

fn not_this() -> Failure {
    Failure::new(Reason::InternalError, "the task is of another kind")
}

/// Opens the repository, runs `work` on it, and removes its lock afterwards in all cases.
pub async fn with_repository<T>(
    access: OpenOptions,
    cancel: &CancellationToken,
    work: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, Failure> {
    work_on(repository::open(access, cancel.clone()).await.map_err(settings::repository_failure)?, work).await
}

/// Does the same as [`with_repository`] for work which only reads. The lock of a dead prune blocks such work for some
/// minutes only.
pub async fn with_repository_to_read<T>(
    access: OpenOptions,
    cancel: &CancellationToken,
    work: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, Failure> {
    work_on(repository::open_to_read(access, cancel.clone()).await.map_err(settings::repository_failure)?, work).await
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

/// The short form of an id, as restic shows it.
fn short(id: &str) -> &str {
    &id[..id.floor_char_boundary(8)]
}

async fn connect() -> Result<kube::Client, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Reason::ExecRefused, format!("failed to configure the connection to the API server: {error}"))
    };
    let config = kube::Config::infer().await.map_err(|error| failed(&error))?;
    let mut config = with_user_agent(config, Component::Runner);
    // A restore's command may pause for as long as it needs, for example to build an index. The run's own limits end
    // it.
    config.write_timeout = None;
    kube::Client::try_from(config).map_err(|error| failed(&error))
}

fn log_target(doing: &str, source: &str, target: &TargetCommand) {
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
