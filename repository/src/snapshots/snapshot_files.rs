//! Reads snapshot files. A file that cannot be read is reported, and does not prevent reading the others. The caller
//! decides what follows from it: a backup continues, a prune refuses.

use futures::{StreamExt, stream};

use crate::{
    Repository, RepositoryError, SnapshotSummary, by_id,
    crypto::{self, Cipher},
    format::{Id, SnapshotFile},
    store::{Kind, Store},
};

/// How many snapshot files are read in parallel; they are small.
const PARALLEL_READS: usize = 16;
/// How many unreadable files a message lists.
const NAMED: usize = 3;

/// A file of a repository that does not match its name, or has an invalid format.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadableFile {
    /// Its path in the repository.
    pub path: String,
    /// Why it cannot be read.
    pub why: String,
}

/// The snapshots that could be read, and the files that could not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SnapshotList {
    /// Oldest first.
    pub snapshots: Vec<SnapshotSummary>,
    /// Snapshot files that could not be read. Their source is unknown.
    pub unreadable: Vec<UnreadableFile>,
}

impl SnapshotList {
    /// Returns a message that lists the unreadable files and the next step, or none if all files could be read.
    pub fn trouble(&self) -> Option<String> {
        let count = self.unreadable.len();
        let named: Vec<String> =
            self.unreadable.iter().take(NAMED).map(|file| format!("{} ({})", file.path, file.why)).collect();
        let more = if count > NAMED { ", ..." } else { "" };
        (count > 0).then(|| {
            format!(
                "{count} snapshot files cannot be read: {}{more}; restore each of them from a copy of the repository, \
                 or remove it from the store if there is no copy",
                named.join(", ")
            )
        })
    }

    /// Fails if the prefix of an id matches a snapshot file that cannot be read.
    pub fn check_readable(&self, id_prefix: &str, location: &str) -> Result<(), RepositoryError> {
        let wanted = id_prefix.to_ascii_lowercase();
        let name = |file: &UnreadableFile| file.path.rsplit('/').next().unwrap_or_default().to_owned();
        match self.unreadable.iter().find(|file| !wanted.is_empty() && name(file).starts_with(&wanted)) {
            None => Ok(()),
            Some(UnreadableFile { path, why }) => Err(RepositoryError::Damaged {
                location: location.to_owned(),
                what: format!("the requested snapshot's file {path} cannot be read: {why}; choose another snapshot"),
            }),
        }
    }
}

impl Repository {
    /// Returns all snapshots that can be read, oldest first, and logs a warning about the files that cannot. If the
    /// store does not answer this is an error, so that a listing is never incomplete.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotSummary>, RepositoryError> {
        Ok(self.list_snapshots().await?.snapshots)
    }

    /// As [`Self::snapshots`], but also returns the files that cannot be read.
    pub async fn list_snapshots(&self) -> Result<SnapshotList, RepositoryError> {
        let (files, unreadable) = self.snapshot_files().await?;
        let mut snapshots: Vec<_> = files.iter().map(SnapshotSummary::of).collect();
        snapshots.sort_by(|one, other| (one.time, &one.id).cmp(&(other.time, &other.id)));
        let list = SnapshotList { snapshots, unreadable };
        if let Some(trouble) = list.trouble() {
            tracing::warn!("{trouble}");
        }
        Ok(list)
    }

    /// Returns all snapshot files, and those that cannot be read.
    pub(crate) async fn snapshot_files(&self) -> Result<(Vec<SnapshotFile>, Vec<UnreadableFile>), RepositoryError> {
        let (mut files, mut unreadable) = (Vec::new(), Vec::new());
        read_each(&self.store, &self.cipher, |read| match read {
            Ok(file) => files.push(file),
            Err(file) => unreadable.push(file),
        })
        .await?;
        Ok((files, unreadable))
    }

    /// Finds a snapshot by a prefix of its id; see [`by_id`].
    pub async fn find(&self, id_prefix: &str) -> Result<SnapshotSummary, RepositoryError> {
        let list = self.list_snapshots().await?;
        list.check_readable(id_prefix, self.store.location())?;
        by_id(&list.snapshots, id_prefix, self.store.location()).cloned()
    }
}

/// Reads all snapshot files in any order and calls `each` with every result. Errors: the store does not answer.
pub(crate) async fn read_each(
    store: &Store,
    cipher: &Cipher,
    mut each: impl FnMut(Result<SnapshotFile, UnreadableFile>),
) -> Result<(), RepositoryError> {
    let listed = match store.list(Kind::Snapshot).await {
        // A missing config shows that the volume is not mounted, rather than that a single folder is missing.
        Err(error) if store.stat(Kind::Config, &Id::default()).await.is_ok_and(|config| config.is_none()) => {
            tracing::debug!("the repository's config is missing: {error}");
            return Err(RepositoryError::Lost { location: store.location().to_owned() });
        }
        listed => listed?,
    };
    let reads = listed.into_iter().map(|(id, _)| async move { (id, store.read(Kind::Snapshot, &id).await) });
    let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_READS);
    while let Some((id, content)) = reads.next().await {
        let parsed = match content? {
            Some(content) => parse(cipher, id, &content),
            None => Err("it was removed after it was listed".to_owned()),
        };
        each(parsed.map_err(|why| UnreadableFile { path: Kind::Snapshot.path(&id), why }));
    }
    Ok(())
}

/// Reads one snapshot file. Errors: the file is missing or cannot be read.
pub(crate) async fn read_one(store: &Store, cipher: &Cipher, id: Id) -> Result<SnapshotFile, RepositoryError> {
    let path = Kind::Snapshot.path(&id);
    let content = store.read(Kind::Snapshot, &id).await?.ok_or_else(|| store.damaged(format!("{path} is missing")))?;
    parse(cipher, id, &content).map_err(|why| store.damaged(format!("{path} cannot be read: {why}")))
}

fn parse(cipher: &Cipher, id: Id, content: &[u8]) -> Result<SnapshotFile, String> {
    if content.is_empty() {
        return Err("it is empty".to_owned());
    }
    if crypto::id_of(content) != id {
        return Err("it is not what was written".to_owned());
    }
    let json = cipher.decrypt_file(content).map_err(|error| error.to_string())?;
    let mut file: SnapshotFile =
        serde_json::from_slice(&json).map_err(|error| format!("it is not a snapshot: {error}"))?;
    file.id = id;
    Ok(file)
}
