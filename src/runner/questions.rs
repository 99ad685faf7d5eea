//! The CLI's queries of an open repository: its snapshots, their files, and the bytes of one file. The results are the
//! same for a local repository and from within the cluster.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    model::{DataPart, Failure, Reason},
    repository::{Entry, EntryKind, Repository, RepositoryError, SnapshotSummary, StoredFile},
};

/// The number of batches of paths that wait for their reader.
const BATCHES: usize = 4;

/// One query.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Question {
    /// All snapshots.
    Snapshots,
    /// The files of one snapshot.
    List {
        /// The snapshot's id, or its first digits.
        snapshot: String,
    },
    /// The bytes of one file.
    File {
        /// The snapshot's id, or its first digits.
        snapshot: String,
        /// The file's path. Without a path, the snapshot must have a single file.
        path: Option<String>,
    },
    /// The problems of the repository, even if it cannot be opened.
    Examine {
        /// Which packs are read byte by byte.
        data: Option<DataPart>,
    },
}

/// All snapshots, oldest first.
pub async fn snapshots(repository: &Repository) -> Result<Vec<SnapshotSummary>, Failure> {
    let mut snapshots = repository.snapshots().await?;
    snapshots.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.id.cmp(&b.id)));
    Ok(snapshots)
}

/// All paths of the snapshot whose id begins with `id`.
pub async fn list(repository: &Repository, id: &str) -> Result<Vec<Entry>, Failure> {
    let (sender, mut batches) = mpsc::channel(BATCHES);
    let mut entries = Vec::new();
    let gather = async {
        while let Some(batch) = batches.recv().await {
            entries.extend(batch);
        }
        Ok(())
    };
    tokio::try_join!(list_into(repository, id, sender), gather)?;
    Ok(entries)
}

/// Sends all paths of the snapshot whose id begins with `id`, until the receiver is dropped.
pub async fn list_into(repository: &Repository, id: &str, sender: mpsc::Sender<Vec<Entry>>) -> Result<(), Failure> {
    let snapshot = repository.find(id).await?;
    let each = move |entries| match sender.blocking_send(entries) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    Ok(repository.list(&snapshot.id, each).await?)
}

/// The file at `path` of the snapshot. The path is as listed, or relative to the volume's own folder. Without a path,
/// the snapshot's only file.
pub async fn file(repository: &Repository, id: &str, path: Option<&str>) -> Result<StoredFile, Failure> {
    let snapshot = repository.find(id).await?;
    let path = match path {
        Some(path) => return named_file(repository, &snapshot, path).await,
        None => {
            let files = first_files(repository, &snapshot.id).await?;
            let [only] = files.as_slice() else {
                let count = if files.is_empty() { "no file" } else { "more than one file" };
                let message = format!(
                    "snapshot {} holds {count}: name one by its path (`stowaway ls` lists them)",
                    &snapshot.id[..8]
                );
                return Err(Failure::new(Reason::InvalidRequest, message));
            };
            only.path.clone()
        }
    };
    Ok(repository.read_file(&snapshot.id, &path).await?)
}

/// Up to two files of a snapshot.
async fn first_files(repository: &Repository, snapshot: &str) -> Result<Vec<Entry>, Failure> {
    let (sender, found) = std::sync::mpsc::channel();
    let mut left = 2_usize;
    let each = move |entries: Vec<Entry>| {
        for file in entries.into_iter().filter(|entry| entry.kind == EntryKind::File).take(left) {
            left -= 1;
            // The receiver is dropped after the listing only.
            let _ = sender.send(file);
        }
        if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    repository.list(snapshot, each).await?;
    Ok(found.iter().collect())
}

/// The file at a path in either form of [`relative`](super::select_snapshot::relative). If both exist, a leading slash decides.
async fn named_file(repository: &Repository, snapshot: &SnapshotSummary, path: &str) -> Result<StoredFile, Failure> {
    let below = format!("{}/{}", snapshot.identity.path.trim_end_matches('/'), path.trim_start_matches('/'));
    let (first, second) = if path.starts_with('/') { (path, below.as_str()) } else { (below.as_str(), path) };
    match repository.read_file(&snapshot.id, first).await {
        Err(missing @ RepositoryError::FileNotFound { .. }) => match repository.read_file(&snapshot.id, second).await {
            Err(RepositoryError::FileNotFound { .. }) => Err(missing.into()),
            found => Ok(found?),
        },
        found => Ok(found?),
    }
}
