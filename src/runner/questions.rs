//! What the CLI can ask of an open repository: its snapshots, their files, and the bytes of one.
//!
//! The same answers locally and from within the cluster; it must not know who asks.

use serde::{Deserialize, Serialize};

use crate::{
    model::{DataPart, Failure, Reason},
    repository::{Entry, EntryKind, Repository, RepositoryError, SnapshotSummary, StoredFile},
};

/// One question.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Question {
    /// All snapshots.
    Snapshots,
    /// The files of one.
    List {
        /// Its id, or the first digits.
        snapshot: String,
    },
    /// The bytes of one file.
    File {
        /// Id of the snapshot, or the first digits.
        snapshot: String,
        /// Its path; the only file otherwise.
        path: Option<String>,
    },
    /// What is wrong with the repository, even if it cannot be opened.
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

/// The files of the snapshot whose id begins with `id`.
pub async fn list(repository: &Repository, id: &str) -> Result<Vec<Entry>, Failure> {
    let snapshot = repository.find(id).await?;
    Ok(repository.list(&snapshot.id).await?)
}

/// The file at `path` of that snapshot, as it is listed or relative to the volume's own folder; its only file when no path is
/// given.
pub async fn file(repository: &Repository, id: &str, path: Option<&str>) -> Result<StoredFile, Failure> {
    let snapshot = repository.find(id).await?;
    let path = match path {
        Some(path) => return named_file(repository, &snapshot, path).await,
        None => {
            let files: Vec<Entry> = repository
                .list(&snapshot.id)
                .await?
                .into_iter()
                .filter(|entry| entry.kind == EntryKind::File)
                .collect();
            let [only] = files.as_slice() else {
                let message = format!(
                    "snapshot {} holds {} files; say which (`stowaway ls` lists them)",
                    &snapshot.id[..8],
                    files.len()
                );
                return Err(Failure::new(Reason::InvalidRequest, message));
            };
            only.path.clone()
        }
    };
    Ok(repository.read_file(&snapshot.id, &path).await?)
}

/// The file at a path in either form of [`relative`](super::wanted::relative). Where both are there, a slash at the beginning
/// decides.
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
