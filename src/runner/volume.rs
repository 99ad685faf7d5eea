//! One backup of one volume, where it is mounted: files in, snapshot out, and a report that names what could not be read.
//!
//! It must not know how the volume came to be there, nor Jobs or the command line.

mod report;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{info, warn};

use self::report::{Account, account_for};
use super::{
    backup::{adopt, warn_of_future},
    limit,
    story::{tell_progress, with_lacking},
};
use crate::{
    model::{Excludes, Failure, Proof, Reason, SnapshotIdentity, SourceReport, milliseconds},
    repository::{FolderRules, Progress, Repository, StoredFolder},
};

/// What is stored, and by which rules.
#[derive(Clone, Debug)]
pub struct VolumeRun {
    /// How the snapshot is labelled.
    pub identity: SnapshotIdentity,
    /// Patterns of what is left out; see [`Excludes`].
    pub exclude: Vec<String>,
    /// Whether the volume may be empty, or much smaller than its last good snapshot.
    pub accept_shrunken: bool,
    /// Give up after this long.
    pub timeout: Option<Duration>,
}

/// Runs it. Every outcome is a report; none is silent.
pub async fn backup_volume(
    repository: &Repository,
    run: VolumeRun,
    folder: &Path,
    progress: Arc<Progress>,
) -> SourceReport {
    let started = Instant::now();
    let mut report = store(repository, &run, folder, progress)
        .await
        .unwrap_or_else(|failure| SourceReport::failed(failure, started.elapsed()));
    report.duration_milliseconds = milliseconds(started.elapsed());
    report
}

async fn store(
    repository: &Repository,
    run: &VolumeRun,
    folder: &Path,
    progress: Arc<Progress>,
) -> Result<SourceReport, Failure> {
    let VolumeRun { identity, exclude, accept_shrunken, timeout } = run;
    let excludes = Excludes::new(exclude).map_err(|error| {
        Failure::new(Reason::InvalidRequest, format!("what is to be left out of the volume {error}"))
    })?;
    let history = repository.snapshots().await?;
    warn_of_future(&history, identity);
    if let Some(report) = adopt(repository, &history, identity, &[], false).await? {
        return Ok(report);
    }
    info!(path = identity.path, host = identity.host, "storing as {} of host {}", identity.path, identity.host);
    let rules = FolderRules { excludes, accept_shrunken: *accept_shrunken, ..FolderRules::whole(Timestamp::now()) };
    let storing = repository.store_folder(identity, &rules, folder, progress.clone());
    let stored = tokio::select! {
        biased;
        stored = storing => stored?,
        () = limit::over(*timeout) => {
            let message = format!(
                "the volume took longer than its timeout of {:?}: raise it; what was written is kept for the next run",
                timeout.unwrap_or_default()
            );
            return Err(Failure::new(Reason::Timeout, message));
        }
        never = tell_progress(None, || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    Ok(report_of(stored, identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&identity.path)))
}

fn report_of(stored: StoredFolder, source: &str) -> SourceReport {
    let Account { verdict, reason, message, warnings } = account_for(&stored, source);
    let message = with_lacking(message, &stored.lacking);
    let StoredFolder { snapshot, files, bytes, added_bytes, .. } = stored;
    info!(files, bytes, added_bytes, "{files} files are stored");
    for warning in warnings {
        warn!("{warning}");
    }
    SourceReport {
        verdict,
        reason,
        message,
        bytes,
        proof: Proof::Sealed,
        snapshot: Some(snapshot),
        ..SourceReport::done(Duration::ZERO)
    }
}
