//! Backs up one volume from the folder where it is mounted: stores its files as a snapshot, with a report which names
//! what could not be read.

mod report;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use self::report::{Account, account_for};
use super::{
    backup::{adopt, warn_of_later},
    clock, limit,
    story::{log_progress, noted, with_lacking},
};
use crate::{
    model::{Excludes, Failure, Proof, Reason, RunReport, SnapshotIdentity, milliseconds},
    repository::{FolderRules, Progress, Repository, RepositoryError, StoredFolder},
};

/// The parameters of a backup of a volume.
#[derive(Clone, Debug)]
pub struct VolumeRun {
    /// The labels of the snapshot.
    pub identity: SnapshotIdentity,
    /// Patterns of paths which are excluded; see [`Excludes`].
    pub exclude: Vec<String>,
    /// Whether the volume may be empty, or much smaller than its last good snapshot.
    pub accept_shrunken: bool,
    /// The time that the run may take.
    pub timeout: Option<Duration>,
}

/// Runs the backup. Every outcome is a report.
pub async fn backup_volume(
    repository: &Repository,
    run: VolumeRun,
    folder: &Path,
    progress: Arc<Progress>,
) -> RunReport {
    let started = Instant::now();
    let mut report = store(repository, &run, folder, progress)
        .await
        .unwrap_or_else(|failure| RunReport::failed(failure, started.elapsed()));
    report.duration_milliseconds = milliseconds(started.elapsed());
    report
}

async fn store(
    repository: &Repository,
    run: &VolumeRun,
    folder: &Path,
    progress: Arc<Progress>,
) -> Result<RunReport, Failure> {
    let VolumeRun { identity, exclude, accept_shrunken, timeout } = run;
    let excludes = Excludes::new(exclude)
        .map_err(|error| Failure::new(Reason::InvalidRequest, format!("the list of excludes of the volume {error}")))?;
    let history = repository.snapshots().await?;
    let time = clock::now()?;
    let later = warn_of_later(&history, identity, time);
    if let Some(report) = adopt(repository, &history, identity, &[]).await? {
        return Ok(report);
    }
    info!(path = identity.path, host = identity.host, "storing as {} of host {}", identity.path, identity.host);
    let rules = FolderRules { excludes, accept_shrunken: *accept_shrunken, ..FolderRules::whole(time) };
    let storing = repository.store_folder(identity, &rules, folder, progress.clone());
    let stored = tokio::select! {
        biased;
        stored = storing => stored.map_err(refused)?,
        () = limit::over(*timeout) => {
            let message = format!(
                "the volume took longer than its timeout of {:?}: raise it; what was written is kept for the next run",
                timeout.unwrap_or_default()
            );
            return Err(Failure::new(Reason::Timeout, message));
        }
        never = log_progress(None, || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    let report = report_of(stored, identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&identity.path));
    Ok(noted(report, &later))
}

/// The failure of a volume, with what a user can do about it.
fn refused(error: RepositoryError) -> Failure {
    let is_excluded = matches!(error, RepositoryError::AllExcluded(_));
    let failure = Failure::from(error);
    if !is_excluded {
        return failure;
    }
    let message = format!(
        "{}: correct the annotation stowaway.dev/exclude of the claim, or that of its Namespace if the claim has none; if \
         the volume need not be backed up, annotate the claim with stowaway.dev/backup: \"false\"",
        failure.message
    );
    Failure { message, ..failure }
}

fn report_of(stored: StoredFolder, source: &str) -> RunReport {
    let Account { verdict, reason, message, warnings } = account_for(&stored, source);
    let message = with_lacking(message, &stored.lacking);
    let StoredFolder { snapshot, files, bytes, added_bytes, .. } = stored;
    info!(files, bytes, added_bytes, "{files} files are stored");
    for warning in warnings {
        warn!("{warning}");
    }
    RunReport {
        verdict,
        reason,
        message,
        bytes,
        proof: Proof::Sealed,
        snapshot: Some(snapshot),
        ..RunReport::done(Duration::ZERO)
    }
}
