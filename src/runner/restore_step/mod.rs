//! The restore step. Before the app starts, its empty volumes are filled from their newest good snapshots, either
//! completely or not at all. Any problem fails the step, and thereby delays the start of the app, so that no app with a
//! backup starts on an empty volume.

mod changed;
pub(super) mod decide;
pub(super) mod mark;
mod merge;
pub(super) mod volume;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    decide::{Action, decide},
    mark::Whole,
    volume::Volume,
};
use super::{
    MountedVolume,
    job::{with_repository_to_read, within_grace, write_report},
    settings::{self, Identity},
    story::{self, log_progress},
};
use crate::{
    api::ACCEPT_REPOSITORY,
    model::{Failure, Proof, Reason, RunReport, SnapshotRecord, SourceName, milliseconds},
    repository::{Progress, Repository, RestoredFolder, SnapshotSummary, Trouble, Troubles},
};

/// How long another pod may work on a shared volume before this attempt ends. The kubelet then starts another attempt.
const LOCK_PATIENCE: Duration = Duration::from_mins(10);

/// Processes all volumes, and returns the process's exit status. The report is written like that of a run.
pub async fn restore_step(volumes: &[MountedVolume]) -> u8 {
    let started = Instant::now();
    let cancel = CancellationToken::new();
    info!("stowaway {}: looking for empty volumes to restore", env!("CARGO_PKG_VERSION"));
    let report = within_grace(&cancel, process_volumes(volumes, &cancel)).await;
    let mut report = report.unwrap_or_else(|failure| RunReport::failed(failure, started.elapsed()));
    report.duration_milliseconds = milliseconds(started.elapsed());
    write_report(&report).await;
    story::exit_code(report.verdict)
}

async fn process_volumes(volumes: &[MountedVolume], cancel: &CancellationToken) -> Result<RunReport, Failure> {
    let mut report = RunReport::done(Duration::ZERO);
    let mut texts = Vec::new();
    for volume in volumes {
        let name = &volume.name;
        let outcome = match &volume.source {
            Some(source) => process_volume(volume, source, cancel).await,
            // A volume without a claim is deleted with its pod, so that no snapshot of it can exist.
            None => Ok(Outcome::with_text(
                "it belongs to no claim, so that no backup of it can exist; it is left unchanged",
            )),
        };
        let outcome = outcome.map_err(|failure| {
            let message = format!("volume {name}: {}", failure.message);
            Failure { message, ..failure }
        })?;
        info!(volume = name, "volume {name}: {}", outcome.text);
        texts.push(format!("volume {name}: {}", outcome.text));
        report.bytes += outcome.bytes;
        report.snapshot = outcome.snapshot.or(report.snapshot);
    }
    if report.snapshot.is_some() {
        report.proof = Proof::Sealed;
    }
    report.message = texts.join("; ");
    Ok(report)
}

/// The outcome for a volume.
struct Outcome {
    text: String,
    bytes: u64,
    snapshot: Option<String>,
}

impl Outcome {
    fn with_text(text: &str) -> Self {
        Self { text: text.to_owned(), bytes: 0, snapshot: None }
    }
}

async fn process_volume(
    mounted: &MountedVolume,
    source: &SourceName,
    cancel: &CancellationToken,
) -> Result<Outcome, Failure> {
    let volume = Volume::new(mounted.folder());
    if decide(volume.observe()?) == Action::Leave {
        return Ok(Outcome::with_text("it has data and is left unchanged"));
    }
    let lock = tokio::select! {
        lock = volume.lock(LOCK_PATIENCE) => lock?,
        () = cancel.cancelled() => return Err(Failure::new(Reason::Cancelled, "cancelled while waiting for another pod")),
    };
    // The previous holder of the lock may have done all the work.
    let outcome = match decide(volume.observe()?) {
        Action::Leave => Ok(Outcome::with_text("it has data and is left unchanged")),
        Action::Clear => {
            let text = "it has data; the remains of an earlier attempt were removed";
            volume.forget().map(|()| Outcome::with_text(text))
        }
        Action::Move => volume.move_into_volume().map(|lost| {
            let text = "it was restored earlier; the remaining entries were moved into it";
            Outcome { text: format!("{text}{}", of_own_folder(&lost)), bytes: 0, snapshot: None }
        }),
        Action::Restore => {
            let restored = restore(&mounted.name, &volume, source, cancel).await;
            if restored.is_err()
                && let Err(failure) = volume.discard_half()
            {
                warn!("{failure}; the next attempt retries this");
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
    let restored = with_repository_to_read(access, cancel, async |repository| {
        restore_from(repository, volume, source, &namespace).await
    });
    restored.await.map_err(|failure| match failure.reason {
        Reason::RepositoryNotFound if settings::repository_id().is_none() => Failure {
            message: format!(
                "{}; if it is a new repository, the controller sets it up soon, and this step is retried until then",
                failure.message
            ),
            ..failure
        },
        // The step has the repository's id from the time when the pod was created.
        Reason::RepositoryChanged => Failure {
            message: format!(
                "{}; if a user has accepted this repository for the Repository (annotation {ACCEPT_REPOSITORY}), delete \
                 this pod: the pod that replaces it restores from the accepted repository",
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
    let records: Vec<SnapshotRecord<'_>> = list.snapshots.iter().map(SnapshotSummary::record).collect();
    let here = (settings::cluster(), Timestamp::now());
    let Some(found) = decide::choose(&records, source, namespace, (&here.0, here.1))? else {
        if let Some(trouble) = trouble {
            let message = format!(
                "the repository has no readable snapshot of {source} of namespace {namespace}, and the app is not \
                 started on an empty volume, because {trouble}; to start on an empty volume anyway, remove the \
                 restore annotation"
            );
            return Err(Failure::new(Reason::RepositoryDamaged, message));
        }
        let note = if records.is_empty() {
            decide::judge_without_snapshots(&repository.remains().await?)?
        } else {
            decide::note_of_other_namespaces(&records, source, namespace, (&here.0, here.1))
        };
        volume.forget()?;
        let text = format!("the repository has no snapshot of {source} of namespace {namespace}: the app starts empty");
        if let Some(note) = &note {
            warn!("the app starts empty, and {note}");
        }
        return Ok(Outcome::with_text(&note.map_or(text.clone(), |note| format!("{text}; {note}"))));
    };
    let snapshot = found.snapshot;
    info!(snapshot = snapshot.id, "restoring snapshot {} of {}", snapshot.short_id(), snapshot.time);
    let note = found.note().map_or_else(String::new, |note| format!("; {note}"));
    if !note.is_empty() {
        warn!("about {source}{note}");
    }
    let part = volume.begin()?;
    let progress = Arc::new(Progress::default());
    let restoring = repository.restore_folder(snapshot.id, &snapshot.identity.path, &part, Arc::clone(&progress));
    let restored = tokio::select! {
        restored = restoring => restored?,
        never = log_progress(snapshot.bytes, || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    for Trouble { path, reason } in &restored.not_kept.first {
        // Without an essential one, the app needs none of them: most often the owner of the volume's own folder.
        if restored.essential.count > 0 {
            warn!(path, "not restored of {path}: {reason}");
        } else {
            info!(path, "not restored of {path}: {reason}");
        }
    }
    if restored.essential.count > 0 {
        return Err(not_as_it_was(&snapshot, source, &restored.essential));
    }
    let trouble = trouble
        .map_or_else(String::new, |trouble| format!("; a newer snapshot may be among unreadable ones: {trouble}"));
    let lock = repository.lock_note().map_or_else(String::new, |note| format!("; {note}"));
    let text = format!("{}{note}{trouble}{lock}", text_of(&snapshot, &restored));
    volume.check_still_empty()?;
    volume.mark(&Whole { snapshot: snapshot.id.to_owned(), own: restored.own, folder: String::new(), over: None })?;
    let not_kept = volume.move_into_volume()?;
    let text = format!("{text}{}", of_own_folder(&not_kept));
    Ok(Outcome { text, bytes: restored.bytes, snapshot: Some(snapshot.id.to_owned()) })
}

/// The failure of a restore with other owners or modes. The app is not started, because it may fail with them, or grant
/// access to users who must not have it.
fn not_as_it_was(snapshot: &SnapshotRecord<'_>, source: &SourceName, essential: &Troubles) -> Failure {
    let claim = source.as_str().rsplit('/').next().unwrap_or_default();
    Failure::new(
        Reason::MetadataNotKept,
        format!(
            "snapshot {} was not restored, because {} owners, modes, attributes or links would differ from the \
             snapshot: {}; let the pod run as the owner of the files or as root, or restore it incompletely by \
             `stowaway restore --source {source} --claim {claim}` while the pod waits",
            snapshot.short_id(),
            essential.count,
            few(essential)
        ),
    )
}

fn text_of(snapshot: &SnapshotRecord<'_>, restored: &RestoredFolder) -> String {
    let not_kept = match restored.not_kept.count {
        0 => String::new(),
        count => {
            format!("; not restored, because an app does not need it: {} ({count} in total)", few(&restored.not_kept))
        }
    };
    let rounded = match restored.rounded_times {
        0 => String::new(),
        count => format!("; the times of {count} entries are rounded to the resolution of the file system"),
    };
    let (id, time, files) = (snapshot.short_id(), snapshot.time, restored.files);
    format!("restored snapshot {id} of {time}, {files} files{not_kept}{rounded}")
}

fn few(troubles: &Troubles) -> String {
    let name = |path: &str| if path == "." { "the volume's own folder".to_owned() } else { path.to_owned() };
    let first = troubles.first.iter().take(5);
    let named: Vec<String> = first.map(|Trouble { path, reason }| format!("{}: {reason}", name(path))).collect();
    let more = if (named.len() as u64) < troubles.count { ", ..." } else { "" };
    format!("{}{more}", named.join(", "))
}

/// The note about metadata of the volume's own folder which was not restored. In most volumes root or the kubelet owns
/// this folder.
fn of_own_folder(lost: &[String]) -> String {
    if lost.is_empty() {
        String::new()
    } else {
        format!(
            "; the volume's own folder belongs to another user, as in most volumes, so that it did not get {}",
            lost.join(" and ")
        )
    }
}
