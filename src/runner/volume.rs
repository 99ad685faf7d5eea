//! One backup of one volume, where it is mounted: files in, snapshot out, and a report that names what could not be read.
//!
//! It must not know how the volume came to be there, nor Jobs or the command line.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    backup::adopt,
    limit,
    story::{tell_progress, with_lacking},
};
use crate::{
    model::{Excludes, Failure, Proof, Reason, SnapshotIdentity, SourceReport, Verdict, milliseconds},
    repository::{FolderRules, Progress, Repository, StoredFolder},
};

/// What is stored, and by which rules.
#[derive(Clone, Debug)]
pub struct VolumeRun {
    /// How the snapshot is labelled.
    pub identity: SnapshotIdentity,
    /// Patterns of what is left out; see [`Excludes`].
    pub exclude: Vec<String>,
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
    let VolumeRun { identity, exclude, timeout } = run;
    let excludes = Excludes::new(exclude).map_err(|error| {
        Failure::new(Reason::InvalidRequest, format!("what is to be left out of the volume {error}"))
    })?;
    let history = repository.snapshots().await?;
    if let Some(report) = adopt(repository, &history, identity, &[], false).await? {
        return Ok(report);
    }
    info!(path = identity.path, host = identity.host, "storing as {} of host {}", identity.path, identity.host);
    let rules = FolderRules { excludes, ..FolderRules::whole(Timestamp::now()) };
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
        never = tell_progress(|| progress.bytes_read()) => match never {},
    };
    Ok(report_of(stored))
}

fn report_of(stored: StoredFolder) -> SourceReport {
    let StoredFolder { snapshot, files, bytes, added_bytes, unreadable, vanished, left_out, lacking } = stored;
    info!(
        files,
        bytes, added_bytes, vanished, left_out, "{files} files are stored; {vanished} were gone when their turn came"
    );
    let without = match left_out {
        0 => String::new(),
        1 => "1 entry is left out, as its patterns say (stowaway.dev/exclude)".to_owned(),
        _ => format!("{left_out} entries are left out, as its patterns say (stowaway.dev/exclude)"),
    };
    if left_out > 0 {
        info!("{without}; a folder counts once");
    }
    let named: Vec<String> =
        unreadable.first.iter().map(|trouble| format!("{} ({})", trouble.path, trouble.reason)).collect();
    for trouble in &named {
        warn!("not read: {trouble}");
    }
    let (verdict, reason, message) = if unreadable.count == 0 {
        let besides = if left_out == 0 { String::new() } else { format!("{files} files are stored, {without}") };
        (Verdict::Succeeded, Reason::Completed, besides)
    } else {
        let more = if (named.len() as u64) < unreadable.count { ", ..." } else { "" };
        let message = format!(
            "{} of the volume's entries could not be read, and all others are stored: {}{more}{}{without}",
            unreadable.count,
            named.join(", "),
            if left_out == 0 { "" } else { "; " },
        );
        (Verdict::Incomplete, Reason::SourceUnreadable, message)
    };
    SourceReport {
        verdict,
        reason,
        message: with_lacking(message, &lacking),
        bytes,
        proof: Proof::Sealed,
        snapshot: Some(snapshot),
        ..SourceReport::done(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::{Lacking, Trouble, Troubles};

    #[test]
    fn what_could_not_be_read_is_named_and_never_green() {
        let stored = |count: u64, left_out: u64| StoredFolder {
            snapshot: "ab".repeat(32),
            files: 7,
            bytes: 4711,
            added_bytes: 0,
            unreadable: Troubles {
                count,
                first: (count > 0)
                    .then(|| Trouble { path: "press/secret".into(), reason: "permission denied".into() })
                    .into_iter()
                    .collect(),
            },
            vanished: 0,
            left_out,
            lacking: Lacking::default(),
        };
        let whole = report_of(stored(0, 0));
        assert_eq!((whole.verdict, whole.message.as_str()), (Verdict::Succeeded, ""));
        let report = report_of(stored(2, 3));
        assert_eq!((report.verdict, report.reason), (Verdict::Incomplete, Reason::SourceUnreadable));
        assert!(report.message.contains("press/secret (permission denied), ..."), "{}", report.message);
        assert!(report.message.ends_with("; 3 entries are left out, as its patterns say (stowaway.dev/exclude)"));
        // What was left out on purpose is green, and said all the same.
        let report = report_of(stored(0, 1));
        assert_eq!(report.verdict, Verdict::Succeeded);
        assert!(report.message.starts_with("7 files are stored, 1 entry is left out"), "{}", report.message);
    }
}
