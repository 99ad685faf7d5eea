//! Restores one volume, or one stored file, as an archive in another store. The run is green only if the archive was
//! stored as it was sent.

use std::{
    fmt::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    limit::restore_within,
    select_snapshot::{choose_readable, relative},
    story::log_progress,
};
use crate::{
    model::{
        ArchiveReport, ArchiveRestore, BackendConfig, Failure, Proof, Reason, RunReport, archive_name, milliseconds,
        wrong_archive_name,
    },
    repository::{ArchiveTarget, Archived, Progress, Repository, SnapshotSummary, StoreAccess, TarContent, Trouble},
};

/// Runs the restore. `volume` is the mount point of the volume on which the archive is created, if it is on a volume.
/// Every outcome is a report.
pub async fn restore_archive(
    repository: &Repository,
    run: &ArchiveRestore,
    store: StoreAccess,
    volume: &Path,
    cancel: &CancellationToken,
) -> RunReport {
    let started = Instant::now();
    let result = restore_within(run.timeout, cancel, restore(repository, run, store, volume)).await;
    let mut report = result.unwrap_or_else(|failure| RunReport::failed(failure, Duration::ZERO));
    report.duration_milliseconds = milliseconds(started.elapsed());
    report
}

async fn restore(
    repository: &Repository,
    run: &ArchiveRestore,
    store: StoreAccess,
    volume: &Path,
) -> Result<RunReport, Failure> {
    let list = repository.list_snapshots().await?;
    let chosen = choose_readable(&list, &run.from, repository, Timestamp::now())?;
    let snapshot = chosen.snapshot;
    let name = match &run.name {
        Some(name) => name.clone(),
        None => archive_name(&run.from.source, snapshot.time, &snapshot.id, run.format),
    };
    if let Some(wrong) = wrong_archive_name(&name) {
        return Err(Failure::new(Reason::InvalidRequest, format!("{name:?} {wrong}")));
    }
    info!(snapshot = snapshot.id, "archiving snapshot {} of {} as {name}", &snapshot.id[..8], snapshot.time);
    let is_on_volume = matches!(store.backend, BackendConfig::Folder { .. });
    let to = ArchiveTarget { store, name, format: run.format, overwrite: run.overwrite, at_most: snapshot.bytes };
    let progress = Arc::new(Progress::default());
    let stored = (snapshot.id.as_str(), snapshot.identity.path.as_str());
    let paths = relative(&snapshot.identity.path, &run.paths)?;
    let archiving = repository.archive(stored, &paths, &to, Arc::clone(&progress));
    let mut archived = tokio::select! {
        archived = archiving => archived?,
        never = log_progress(snapshot.bytes.filter(|_| run.paths.is_empty()), || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    if is_on_volume && let Ok(below) = Path::new(&archived.location).strip_prefix(volume) {
        let below = below.display();
        // A task of an earlier version does not name the volume.
        archived.location = if run.volume.is_empty() { below.to_string() } else { format!("{}/{below}", run.volume) };
    }
    Ok(chosen.report(report_of(snapshot, run, archived)))
}

fn report_of(snapshot: &SnapshotSummary, run: &ArchiveRestore, archived: Archived) -> RunReport {
    let Archived { location, bytes, sha256, content } = archived;
    let TarContent { files, bytes: content_bytes, left_out } = content;
    for Trouble { path, reason } in &left_out.first {
        warn!("left out: {path}: {reason}");
    }
    let mut message = format!("snapshot {} of {:.0}, {files} files, as {location}", &snapshot.id[..8], snapshot.time);
    if left_out.count > 0 {
        let paths: Vec<&str> = left_out.first.iter().take(5).map(|trouble| trouble.path.as_str()).collect();
        let _ = write!(
            message,
            "; left out, because a tar archive cannot hold them: {} sockets ({})",
            left_out.count,
            paths.join(", ")
        );
    }
    RunReport {
        message,
        bytes: content_bytes,
        proof: Proof::Sealed,
        snapshot: Some(snapshot.id.clone()),
        archive: Some(ArchiveReport { location, format: run.format, bytes, sha256 }),
        ..RunReport::done(Duration::ZERO)
    }
}
