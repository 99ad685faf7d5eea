//! The restore step: before the app starts, its empty volumes are filled from their newest good snapshots, wholly or not at
//! all. Whatever stands in the way fails the step, and so holds the app's start up: no empty start that had a backup.
//!
//! Joins volumes and repository. It must not know how either works inside.

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
    job::{leave_report, with_repository_to_read, within_grace},
    settings::{self, Identity},
    story::{self, tell_progress},
};
use crate::{
    model::{Failure, Proof, Reason, SnapshotRecord, SourceName, SourceReport, milliseconds},
    repository::{Progress, Repository, RestoredFolder, SnapshotSummary, Trouble, Troubles},
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
        Action::Clear => volume.forget().map(|()| Outcome::said("it has data; what was left of an attempt is removed")),
        Action::Move => volume.move_to_place(None).map(|lost| {
            let text = "it was restored; what had not been moved to its place is now";
            Outcome { text: format!("{text}{}", of_own_folder(&lost)), bytes: 0, snapshot: None }
        }),
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
    let restored = with_repository_to_read(access, cancel, async |repository| {
        restore_from(repository, volume, source, &namespace).await
    });
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
    let records: Vec<SnapshotRecord<'_>> = list.snapshots.iter().map(SnapshotSummary::record).collect();
    let here = (settings::cluster(), Timestamp::now());
    let Some(found) = decide::choose(&records, source, namespace, (&here.0, here.1))? else {
        if let Some(trouble) = trouble {
            let message = format!(
                "the repository has no snapshot of {source} of namespace {namespace} that can be read, and the app is not \
                 started on an empty volume, because {trouble}; or take the restore annotation away to start empty"
            );
            return Err(Failure::new(Reason::RepositoryDamaged, message));
        }
        volume.forget()?;
        let text = format!("the repository has no snapshot of {source} of namespace {namespace}: the app starts empty");
        let others = decide::note_of_other_namespaces(&records, source, namespace, (&here.0, here.1));
        if let Some(others) = &others {
            warn!("the app starts empty, and {others}");
        }
        return Ok(Outcome::said(&others.map_or(text.clone(), |others| format!("{text}; {others}"))));
    };
    let snapshot = found.snapshot;
    info!(snapshot = snapshot.id, "restoring snapshot {} of {}", snapshot.short_id(), snapshot.time);
    let note = found.note().map_or_else(String::new, |note| format!("; {note}"));
    if !note.is_empty() {
        warn!("of {source}{note}");
    }
    let part = volume.begin()?;
    let progress = Arc::new(Progress::default());
    let restoring = repository.restore_folder(snapshot.id, &snapshot.identity.path, &part, Arc::clone(&progress));
    let restored = tokio::select! {
        restored = restoring => restored?,
        never = tell_progress(snapshot.bytes, || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    for Trouble { path, reason } in &restored.not_kept.first {
        warn!(path, "not kept of {path}: {reason}");
    }
    if restored.essential.count > 0 {
        return Err(not_as_it_was(&snapshot, source, &restored.essential));
    }
    let trouble = trouble.map_or_else(String::new, |trouble| format!("; a newer one may be among others: {trouble}"));
    let text = format!("{}{note}{trouble}", text_of(&snapshot, &restored));
    volume.mark(&Whole { snapshot: snapshot.id.to_owned(), own: restored.own })?;
    let not_kept = volume.move_to_place(None)?;
    let text = format!("{text}{}", of_own_folder(&not_kept));
    Ok(Outcome { text, bytes: restored.bytes, snapshot: Some(snapshot.id.to_owned()) })
}

/// Why the app is not started: with other owners or modes it may fail, or let in whom it must not.
fn not_as_it_was(snapshot: &SnapshotRecord<'_>, source: &SourceName, essential: &Troubles) -> Failure {
    let claim = source.as_str().rsplit('/').next().unwrap_or_default();
    Failure::new(
        Reason::MetadataNotKept,
        format!(
            "snapshot {} was not restored, because {} owners, modes, attributes or links would not be as they were: {}; let the \
             pod run as the owner of the files or as root, or restore it as it can be by `stowaway restore --source {source} \
             --claim {claim}` while the pod waits",
            snapshot.short_id(),
            essential.count,
            few(essential)
        ),
    )
}

fn text_of(snapshot: &SnapshotRecord<'_>, restored: &RestoredFolder) -> String {
    let not_kept = match restored.not_kept.count {
        0 => String::new(),
        count => format!("; not kept of {count}, which an app can do without: {}", few(&restored.not_kept)),
    };
    let rounded = match restored.rounded_times {
        0 => String::new(),
        count => format!("; the times of {count} entries are rounded, because the file system holds no finer ones"),
    };
    let (id, time, files) = (snapshot.short_id(), snapshot.time, restored.files);
    format!("restored snapshot {id} of {time}, {files} files{not_kept}{rounded}")
}

fn few(troubles: &Troubles) -> String {
    let named: Vec<String> =
        troubles.first.iter().take(5).map(|Trouble { path, reason }| format!("{path}: {reason}")).collect();
    let more = if (named.len() as u64) < troubles.count { ", ..." } else { "" };
    format!("{}{more}", named.join(", "))
}

/// Of most volumes the folder itself is root's, or the kubelet's to care for.
fn of_own_folder(lost: &[String]) -> String {
    if lost.is_empty() {
        String::new()
    } else {
        format!("; the volume's own folder stays without {}", lost.join(" and "))
    }
}
