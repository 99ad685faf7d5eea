//! Restores one volume, or one stored file, into a mounted folder. Everything is restored into a folder beside the
//! present content, verified and made durable before any present entry is changed, so that a failure leaves the target
//! as it was. (`device` restores a stored device onto a device.)

mod device;

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
    clock,
    limit::restore_within,
    restore_step::{mark::Whole, volume::Volume},
    select_snapshot::{choose_readable, relative},
    story::log_progress,
};
use crate::{
    model::{Failure, Proof, Reason, RunReport, SnapshotIdentity, Verdict, VolumeRestore, escape_name, milliseconds},
    repository::{FolderRules, Progress, Repository, RestoredFolder, SnapshotSummary, StoredFolder, Trouble},
};

/// The time for which another pod may work on the volume.
const LOCK_PATIENCE: Duration = Duration::from_mins(10);
/// The limit of backups of the present content before an overwrite while entries change that would be replaced.
const SAFETY_ATTEMPTS: u32 = 3;

/// Runs the restore. Every outcome is a report.
pub async fn restore_volume(
    repository: &Repository,
    run: &VolumeRestore,
    mount: &Path,
    cancel: &CancellationToken,
) -> RunReport {
    let started = Instant::now();
    let mut safety = Vec::new();
    let work = async {
        if run.device {
            device::restore(repository, run, mount, &mut safety, cancel).await
        } else {
            restore(repository, run, mount, &mut safety, cancel).await
        }
    };
    let result = restore_within(run.timeout, cancel, work).await;
    let mut report = result.unwrap_or_else(|failure| RunReport::failed(failure, started.elapsed()));
    report.duration_milliseconds = milliseconds(started.elapsed());
    if report.verdict == Verdict::Failed {
        report.message += &previous_content(&safety);
    }
    report.safety_snapshot = safety.last().cloned();
    report.safety_snapshots = safety;
    report
}

/// Names all safety snapshots, for the end of a message; empty if there are none. Each earlier one may have content
/// that was replaced or changed before the last one was stored.
fn previous_content(safety: &[String]) -> String {
    let Some((last, earlier)) = safety.split_last() else { return String::new() };
    let mut text = format!("; the previous content is snapshot {}", &last[..8]);
    if !earlier.is_empty() {
        let ids: Vec<&str> = earlier.iter().map(|id| &id[..8]).collect();
        let _ = write!(text, ", and earlier states of it are {}", ids.join(", "));
    }
    text
}

async fn restore(
    repository: &Repository,
    run: &VolumeRestore,
    mount: &Path,
    safety: &mut Vec<String>,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
    let list = repository.list_snapshots().await?;
    let chosen = choose_readable(&list, &run.from, repository, Timestamp::now())?;
    let snapshot = chosen.snapshot;
    let run = &VolumeRestore { paths: relative(&snapshot.identity.path, &run.paths)?, ..run.clone() };
    // Otherwise the restore itself checks this first, because it stores no safety snapshot and creates no folder before
    // that.
    if run.overwrite.is_some() || !run.folder.is_empty() {
        repository.check_stored((&snapshot.id, &snapshot.identity.path), &run.paths).await?;
    }
    let volume = Volume::with_folder(mount, &run.folder)?;
    // Before anything in the target is changed, even its times.
    check_empty(&volume, run)?;
    let time = volume.modified();
    let lock = tokio::select! {
        lock = volume.lock(LOCK_PATIENCE) => lock?,
        () = cancel.cancelled() => return Err(Failure::new(Reason::Cancelled, "cancelled while waiting for another pod")),
    };
    volume.set_modified(time);
    let restored = into(repository, run, snapshot, (mount, &volume), safety).await;
    if restored.is_err()
        && let Err(failure) = volume.discard_half()
    {
        warn!("{failure}; an incomplete restore folder is left in the target");
    }
    let unlocked = volume.unlock(lock);
    if restored.is_err() || !volume.folder().is_empty() {
        volume.set_modified(time);
    }
    unlocked?;
    let (restored, not_kept) = restored?;
    Ok(chosen.report(report_of(snapshot, restored, &not_kept, safety)))
}

/// Whether the volume is empty; an error if it is not and must not be overwritten. A mark proves nothing here, because
/// its restore folder may be of another snapshot or another user.
fn check_empty(volume: &Volume, run: &VolumeRestore) -> Result<bool, Failure> {
    let there = volume.observe()?;
    let is_empty = !there.data && !there.whole;
    if is_empty || run.overwrite.is_some() {
        return Ok(is_empty);
    }
    let is = if there.whole { "has an earlier restore, which was interrupted" } else { "is not empty" };
    let message = format!(
        "the target {is}, and nothing was changed; empty it, or allow overwriting it (spec.to.claim.overwrite), which \
         first stores a snapshot of its content"
    );
    Err(Failure::new(Reason::TargetNotEmpty, message))
}

/// Restores into the volume. Returns what was restored, and the metadata of present folders which could not be set.
async fn into(
    repository: &Repository,
    run: &VolumeRestore,
    snapshot: &SnapshotSummary,
    (mount, volume): (&Path, &Volume),
    safety: &mut Vec<String>,
) -> Result<(RestoredFolder, Vec<String>), Failure> {
    check_empty(volume, run)?;
    finish_earlier(repository, run, (mount, volume), safety).await?;
    info!(snapshot = snapshot.id, "restoring snapshot {} of {}", &snapshot.id[..8], snapshot.time);
    // A safety snapshot has the times of the root as they were.
    let time = volume.modified();
    let part = volume.begin()?;
    volume.set_modified(time);
    let progress = Arc::new(Progress::default());
    let stored = (snapshot.id.as_str(), snapshot.identity.path.as_str());
    let restoring = repository.restore_some(stored, &run.paths, &part, Arc::clone(&progress));
    let mut restored = tokio::select! {
        restored = restoring => restored?,
        never = log_progress(snapshot.bytes.filter(|_| run.paths.is_empty()), || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    // Pods may have written into the target during the download.
    let is_empty = match &run.overwrite {
        None => volume.check_still_empty().map(|()| true)?,
        Some(_) => check_empty(volume, run)?,
    };
    if let Some(identity) = run.overwrite.as_ref().filter(|_| !is_empty) {
        keep_all(repository, identity, (mount, volume), safety).await?;
    }
    volume.mark(&Whole {
        snapshot: snapshot.id.clone(),
        own: restored.own.take(),
        folder: volume.folder().to_owned(),
        over: (!is_empty).then(|| std::mem::take(&mut restored.only)),
    })?;
    let moved = volume.move_into_volume();
    let lost = moved.map_err(|failure| {
        let message = format!(
            "{}; everything was restored, and some entries may have been moved into the target already: run the \
             restore again with overwrite",
            failure.message
        );
        Failure { message, ..failure }
    })?;
    Ok((restored, lost))
}

/// Moves the remaining entries of an earlier restore which was interrupted. Otherwise the volume would keep one half of
/// the earlier restore, without a mark that shows it, if this restore failed or restored other paths.
async fn finish_earlier(
    repository: &Repository,
    run: &VolumeRestore,
    (mount, volume): (&Path, &Volume),
    safety: &mut Vec<String>,
) -> Result<(), Failure> {
    let (Some(earlier), Some(identity)) = (volume.interrupted()?, &run.overwrite) else { return Ok(()) };
    info!("an earlier restore of snapshot {} was interrupted: its remaining entries are moved first", earlier.snapshot);
    let Err(failure) = volume.move_into_volume() else { return Ok(()) };
    warn!("{failure}; the present content is stored, and then replaced");
    keep_all(repository, identity, (mount, volume), safety).await?;
    volume.move_over_volume().map(drop).map_err(|failure| {
        let message = format!(
            "{}; an earlier restore of snapshot {} into this claim was interrupted, and its remaining entries cannot be \
             moved: correct the cause and restore again, or empty the claim",
            failure.message, earlier.snapshot
        );
        Failure { message, ..failure }
    })
}

/// Stores all present content until the last snapshot has everything that will be replaced, as it is now.
async fn keep_all(
    repository: &Repository,
    identity: &SnapshotIdentity,
    (mount, volume): (&Path, &Volume),
    safety: &mut Vec<String>,
) -> Result<(), Failure> {
    for _ in 0..SAFETY_ATTEMPTS {
        let since = volume.time()?;
        safety.push(keep(repository, identity, mount).await?);
        match volume.changed_since(since)? {
            None => return Ok(()),
            Some(path) => {
                info!("{} changed while the content was stored", escape_name(path.as_os_str().as_encoded_bytes()));
            }
        }
    }
    let message = format!(
        "entries that the restore would replace change all the time, so that {SAFETY_ATTEMPTS} snapshots of the present \
         content do not have their last state, and nothing was changed: stop the pods that write into the claim \
         (spec.scaleDown stops a workload), and restore again"
    );
    Err(Failure::new(Reason::TargetInUse, message))
}

/// Stores all present content before it is overwritten. Returns the snapshot's id.
async fn keep(repository: &Repository, identity: &SnapshotIdentity, mount: &Path) -> Result<String, Failure> {
    info!("the target is not empty: storing its content in a safety snapshot");
    let progress = Arc::new(Progress::default());
    let rules = FolderRules::whole(clock::now()?);
    let storing = repository.store_folder(identity, &rules, mount, Arc::clone(&progress));
    let StoredFolder { snapshot, files, unreadable, mounts, .. } = tokio::select! {
        stored = storing => stored?,
        never = log_progress(None, || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    if unreadable.count > 0 {
        let named =
            unreadable.first.first().map_or_else(String::new, |Trouble { path, reason }| format!("{path} ({reason})"));
        let message = format!(
            "{} entries of the target cannot be read, so they cannot be stored before the overwrite: {named}; nothing \
             was changed. Make them readable for the run, or empty the target",
            unreadable.count
        );
        return Err(Failure::new(Reason::SourceUnreadable, message));
    }
    if let Some(Trouble { path, .. }) = mounts.first.first() {
        let message = format!(
            "another file system is mounted in the target at {path}, which the run cannot store before the overwrite: \
             nothing was changed; unmount it, or restore into a folder beside it (spec.to.claim.path)"
        );
        return Err(Failure::new(Reason::SourceUnreadable, message));
    }
    info!(snapshot, files, "the present content is stored as snapshot {}, {files} files", &snapshot[..8]);
    Ok(snapshot)
}

fn report_of(snapshot: &SnapshotSummary, restored: RestoredFolder, lost: &[String], safety: &[String]) -> RunReport {
    let RestoredFolder { files, bytes, not_kept, rounded_times, .. } = restored;
    let named = not_kept.first.iter().map(|Trouble { path, reason }| format!("{path}: {reason}"));
    let named: Vec<String> = named.chain(lost.iter().cloned()).collect();
    for what in &named {
        warn!("not restored: {what}");
    }
    let mut message = format!("snapshot {} of {:.0}, {files} files", &snapshot.id[..8], snapshot.time);
    message += &previous_content(safety);
    if rounded_times > 0 {
        let _ = write!(
            message,
            "; the times of {rounded_times} entries are rounded to the resolution of the target's file system"
        );
    }
    let count = not_kept.count + lost.len() as u64;
    let (verdict, reason) = if count == 0 {
        (Verdict::Succeeded, Reason::Completed)
    } else {
        let some = named.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        let _ = write!(
            message,
            "; all contents are restored, but {count} owners, modes, attributes or links differ from the snapshot: \
             {some}; for other owners the run must be root (spec.runnerPod.securityContext); everything else must be \
             supported by the target's file system"
        );
        (Verdict::Incomplete, Reason::MetadataNotKept)
    };
    RunReport {
        verdict,
        reason,
        message,
        bytes,
        proof: Proof::Sealed,
        snapshot: Some(snapshot.id.clone()),
        ..RunReport::done(Duration::ZERO)
    }
}
