//! The restore step: before the app starts, its empty volumes are filled from their newest good snapshots, wholly or not at
//! all. Whatever stands in the way fails the step, and so holds the app's start up: no empty start that had a backup.
//!
//! Joins volumes and repository. It must not know how either works inside.

pub(super) mod decide;
mod merge;
pub(super) mod volume;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    decide::{Action, decide},
    volume::{Volume, Whole},
};
use super::{
    MountedVolume,
    job::{leave_report, with_repository, within_grace},
    settings::{self, Identity},
    story::{self, tell_progress},
};
use crate::{
    model::{Failure, Proof, Reason, SourceName, SourceReport, milliseconds},
    repository::{Progress, Repository},
};

/// How long another pod may work on a shared volume before this attempt ends; the kubelet makes another one.
const LOCK_PATIENCE: Duration = Duration::from_mins(10);

/// Looks after all volumes, and returns the process's exit status. The report is left as that of a run.
pub async fn restore_step(volumes: &[MountedVolume]) -> u8 {
    let started = Instant::now();
    let cancel = CancellationToken::new();
    info!("stowaway {}: looking for empty volumes to restore", env!("CARGO_PKG_VERSION"));
    let report = within_grace(&cancel, look_after(volumes, &cancel)).await;
    let mut report = report.unwrap_or_else(|failure| SourceReport::failed(failure, started.elapsed()));
    report.duration_milliseconds = milliseconds(started.elapsed());
    leave_report(&report).await;
    story::exit_code(report.verdict)
}

async fn look_after(volumes: &[MountedVolume], cancel: &CancellationToken) -> Result<SourceReport, Failure> {
    let mut report = SourceReport::done(Duration::ZERO);
    let mut said = Vec::new();
    for volume in volumes {
        let name = &volume.name;
        let outcome = match &volume.source {
            Some(source) => look_after_one(volume, source, cancel).await,
            // No snapshot can be of a volume that nothing names but the pod that it ends with.
            None => Ok(Outcome::said(
                "it belongs to no claim, so that nothing can have been stored of it; it is left as it is",
            )),
        };
        let outcome = outcome.map_err(|failure| {
            let message = format!("volume {name}: {}", failure.message);
            Failure { message, ..failure }
        })?;
        info!(volume = name, "volume {name}: {}", outcome.text);
        said.push(format!("volume {name}: {}", outcome.text));
        report.bytes += outcome.bytes;
        report.snapshot = outcome.snapshot.or(report.snapshot);
    }
    if report.snapshot.is_some() {
        report.proof = Proof::Sealed;
    }
    report.message = said.join("; ");
    Ok(report)
}

/// What became of a volume.
struct Outcome {
    text: String,
    bytes: u64,
    snapshot: Option<String>,
}

impl Outcome {
    fn said(text: &str) -> Self {
        Self { text: text.to_owned(), bytes: 0, snapshot: None }
    }
}

async fn look_after_one(
    mounted: &MountedVolume,
    source: &SourceName,
    cancel: &CancellationToken,
) -> Result<Outcome, Failure> {
    let volume = Volume::new(mounted.folder());
    if decide(volume.observe()?) == Action::Leave {
        return Ok(Outcome::said("it has data and is left as it is"));
    }
    let lock = tokio::select! {
        lock = volume.lock(LOCK_PATIENCE) => lock?,
        () = cancel.cancelled() => return Err(Failure::new(Reason::Cancelled, "cancelled while waiting for another pod")),
    };
    // Whoever held the lock may have done all of it.
    let outcome = match decide(volume.observe()?) {
        Action::Leave => Ok(Outcome::said("it has data and is left as it is")),
        Action::Clear => volume.clear().map(|()| Outcome::said("it has data; what was left of an attempt is removed")),
        Action::Move => {
            finish(&volume).map(|()| Outcome::said("it was restored; what had not been moved to its place is now"))
        }
        Action::Restore => {
            let restored = restore(&mounted.name, &volume, source, cancel).await;
            if restored.is_err()
                && let Err(failure) = volume.discard_half()
            {
                warn!("{failure}; the next attempt tries it again");
            }
            restored
        }
    };
    volume.unlock(lock)?;
    outcome
}

async fn restore(
    name: &str,
    volume: &Volume,
    source: &SourceName,
    cancel: &CancellationToken,
) -> Result<Outcome, Failure> {
    let namespace = settings::namespace()?;
    let backend = settings::backend()?;
    info!(volume = name, "volume {name} is empty, looking for snapshots of {source}");
    let identity = Identity::from_environment().in_cluster(&settings::cluster()).expecting(settings::repository_id());
    let access = settings::access(&backend, &settings::connection()?, &identity)?;
    let restored =
        with_repository(access, cancel, async |repository| restore_from(repository, volume, source, &namespace).await);
    restored.await.map_err(|failure| match failure.reason {
        Reason::RepositoryNotFound => Failure {
            message: format!(
                "{}; if it is a new one, the controller sets it up soon, and this step is tried again until then",
                failure.message
            ),
            ..failure
        },
        _ => failure,
    })
}

async fn restore_from(
    repository: &Repository,
    volume: &Volume,
    source: &SourceName,
    namespace: &str,
) -> Result<Outcome, Failure> {
    let list = repository.list_snapshots().await?;
    let trouble = list.trouble();
    let Some(snapshot) = decide::choose(&list.snapshots, source, namespace)? else {
        if let Some(trouble) = trouble {
            let message = format!(
                "the repository has no snapshot of {source} of namespace {namespace} that can be read, and the app is not \
                 started on an empty volume, because {trouble}; or take the restore annotation away to start empty"
            );
            return Err(Failure::new(Reason::RepositoryDamaged, message));
        }
        volume.clear()?;
        let text = format!("the repository has no snapshot of {source} of namespace {namespace}: the app starts empty");
        return Ok(Outcome::said(&text));
    };
    info!(snapshot = snapshot.id, "restoring snapshot {} of {}", &snapshot.id[..8], snapshot.time);
    let part = volume.begin()?;
    let progress = Arc::new(Progress::default());
    let restoring = repository.restore_folder(&snapshot.id, &snapshot.identity.path, &part, Arc::clone(&progress));
    let restored = tokio::select! {
        restored = restoring => restored?,
        never = tell_progress(|| progress.bytes_read()) => match never {},
    };
    for trouble in &restored.not_kept.first {
        warn!(path = trouble.path, "not kept of {}: {}", trouble.path, trouble.reason);
    }
    volume.mark(&Whole { snapshot: snapshot.id.clone(), own: restored.own })?;
    finish(volume)?;
    let lost = match restored.not_kept.count {
        0 => String::new(),
        count => format!("; {count} owners, modes or attributes could not be kept, the log names them"),
    };
    let trouble = trouble.map_or_else(String::new, |trouble| format!("; a newer one may be among others: {trouble}"));
    let text = format!(
        "restored snapshot {} of {}, {} files{lost}{trouble}",
        &snapshot.id[..8],
        snapshot.time,
        restored.files
    );
    Ok(Outcome { text, bytes: restored.bytes, snapshot: Some(snapshot.id.clone()) })
}

fn finish(volume: &Volume) -> Result<(), Failure> {
    for what in volume.move_to_place(None)? {
        // Of most volumes the folder itself is root's, or the kubelet's to care for.
        info!("of the volume's own folder {what} was not kept");
    }
    Ok(())
}
