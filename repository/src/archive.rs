//! Stores one stream in the repository: cuts it into chunks, stores the chunks, and makes the snapshot visible after
//! the stream has ended successfully. The order is: write packs, write index files, check that all of them are in the
//! store, write the snapshot.

use std::sync::Arc;

use jiff::Timestamp;
use sha2::Sha256;
use tokio::{runtime::Handle, sync::mpsc, task::spawn_blocking};

use super::{
    Lacking, Progress, Repository, RepositoryError, Shrunken,
    chunker::Chunker,
    commit::{self, Commit},
    file_tree::save_file,
    first_error::FirstError,
    folder::LastGood,
    format::{DataId, SnapshotSummary},
    index::{
        fetcher::Fetcher,
        known_blobs::{self, KnownBlobs},
    },
    packer::{Content, Packer, PackerContext},
    source::{Ended, Next, StreamReader},
    store::Store,
    trees::tree::checked_path,
};
use stowaway_model::stream::StreamItem;
use stowaway_model::{Proof, SnapshotIdentity, VolumeExtent};

/// Options for storing a stream.
#[derive(Clone, Debug)]
pub struct StoreRules {
    /// Store a stream of 0 bytes instead of failing.
    pub allow_empty: bool,
    /// Tag a stream without proof as accepted, so that restores use it, instead of as unproven.
    pub accept_unproven: bool,
    /// The time of the snapshot and of the stored file.
    pub time: Timestamp,
    /// Set if the stream is the content of a block device, which is compared with its last good snapshot.
    pub device: Option<DeviceRules>,
}

/// How a block device is compared with its last good snapshot.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRules {
    /// Accept a device that is blank, or much smaller than in its last good snapshot.
    pub accept_shrunken: bool,
}

/// The result of storing a stream: the snapshot is visible and was read back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Id of the snapshot, 64 hex digits.
    pub snapshot: String,
    /// Bytes of the stream.
    pub bytes: u64,
    /// SHA-256 of the stream, 64 hex digits.
    pub digest: String,
    /// Bytes that the run added to the store.
    pub added_bytes: u64,
    /// How it was proven that the stream is complete.
    pub proof: Proof,
    /// Set if a block device has lost its content since its last good snapshot; see
    /// [`StoredFolder::shrunken`](crate::StoredFolder::shrunken).
    pub shrunken: Option<Shrunken>,
    /// Files of earlier runs that were missing from the repository, or could not be read, when the run began.
    pub lacking: Lacking,
}

impl Repository {
    /// Stores a stream as the only file of a new snapshot. The snapshot becomes visible only if the stream ended with
    /// [`StreamItem::End`], all its bytes arrived, and all files that the snapshot needs are in the store. The snapshot gets
    /// the identity's tags, and tags for digest and proof.
    ///
    /// Errors: [`RepositoryError::Stream`] with the stream's own failure; [`RepositoryError::CommitUnknown`] if the
    /// snapshot may be visible nevertheless. After any other error no snapshot is visible.
    pub async fn store_stream(
        &self,
        identity: &SnapshotIdentity,
        rules: &StoreRules,
        pieces: mpsc::Receiver<StreamItem>,
        progress: Arc<Progress>,
    ) -> Result<Stored, RepositoryError> {
        let stored = |run| async move { store_stream(self, &run, identity, rules, pieces, progress).await };
        self.with_lock(stored).await
    }
}

/// Runs a task that stores data, on a thread that may block, and converts its panics into errors. Returns the first
/// error of all tasks, because the later ones only report that the run has failed.
pub(super) async fn store_with<T: Send + 'static>(
    repository: &Repository,
    store: &Store,
    known: Arc<KnownBlobs>,
    (progress, first_error): (Arc<Progress>, Arc<FirstError>),
    task: impl FnOnce(&Arc<Packer>, Chunker) -> Result<T, RepositoryError> + Send + 'static,
) -> Result<T, RepositoryError> {
    let chunker = Chunker::new(repository.polynomial);
    let chunker = chunker.ok_or_else(|| store.damaged("the chunker polynomial in its config is invalid"))?;
    let context = PackerContext {
        store: store.clone(),
        cipher: repository.cipher.clone(),
        version: repository.version,
        progress,
        first_error: Arc::clone(&first_error),
    };
    let packer = Arc::new(Packer::new(context, known));
    let done = spawn_blocking(move || task(&packer, chunker)).await;
    let done = done.map_err(|panic| store.internal(panic)).flatten();
    if done.is_err() {
        // Uploads that are still running end.
        first_error.happened().cancel();
    }
    first_error.take().map_or(done, Err)
}

/// See [`Repository::store_stream`].
pub(super) async fn store_stream(
    repository: &Repository,
    store: &Store,
    identity: &SnapshotIdentity,
    rules: &StoreRules,
    pieces: mpsc::Receiver<StreamItem>,
    progress: Arc<Progress>,
) -> Result<Stored, RepositoryError> {
    checked_path(&identity.path)?;
    let (started, first_error) = (Timestamp::now(), Arc::new(FirstError::default()));
    let (snapshots, _) = repository.snapshot_files().await?;
    let known = KnownBlobs::read_to_store(&repository.cipher, store, &repository.damaged_packs, &snapshots).await?;
    let known = Arc::new(known);
    let last_good = match rules.device {
        Some(device) => {
            let fetcher = Fetcher::new(store, &repository.cipher).with_copies(&known);
            let found = LastGood::find(&snapshots, identity, rules.time, (known.as_ref(), &fetcher)).await?;
            found.map(|found| (found, device))
        }
        None => None,
    };
    drop(snapshots);
    let mut reader = StreamReader {
        pieces,
        runtime: Handle::current(),
        cancel: store.cancel().clone(),
        location: store.location().to_owned(),
        allow_empty: rules.allow_empty,
        progress: Arc::clone(&progress),
        first_error: Arc::clone(&first_error),
        hash: Sha256::default(),
        bytes: 0,
        is_blank: true,
    };
    let (path, time) = (identity.path.clone(), rules.time);
    let task = move |packer: &Arc<Packer>, chunker| {
        let (ended, content) = save_stream(packer, chunker, &mut reader)?;
        let (root, folders) = save_file(packer, &path, content, ended.end.bytes, time)?;
        Ok((ended, root, folders, packer.finish()?))
    };
    let stored = store_with(repository, store, Arc::clone(&known), (progress, first_error), task).await?;
    let lacking = known.lacking_now();
    let harmed = known.damaged_after_use();
    if !harmed.is_empty() {
        // A stream cannot be read a second time.
        return Err(known_blobs::used_damage(store, &harmed));
    }
    let (ended, root, folders, written) = stored;

    let mut found = SnapshotSummary::default();
    (found.files_new, found.total_files_processed, found.total_bytes_processed) = (1, 1, ended.end.bytes);
    (found.dirs_new, found.total_dirs_processed) = (folders, folders);
    found.total_dirsize_processed = written.trees.plain_bytes;
    let summary = commit::completed(found, &written, started);
    let added_bytes = summary.data_added_packed;
    let commit = Commit { repository, store, identity, time: rules.time };
    let mut snapshot = commit.labelled(root, summary);
    snapshot.tags.insert(format!("{}={}", SnapshotIdentity::DIGEST, ended.digest));
    snapshot.tags.insert(format!("{}={}", SnapshotIdentity::PROOF, ended.end.proof));
    if ended.end.proof == Proof::None {
        let is_accepted = rules.accept_unproven;
        let tag = if is_accepted { SnapshotIdentity::ACCEPTED_UNPROVEN } else { SnapshotIdentity::UNPROVEN };
        snapshot.tags.insert(tag.to_owned());
    }
    let shrunken = last_good.and_then(|(last_good, rules)| {
        // A blank device that was blank before has lost nothing.
        let extent = VolumeExtent { files: 1, folders: 0, bytes: ended.end.bytes };
        let extent = if ended.is_blank { VolumeExtent::default() } else { extent };
        last_good.compare(extent, rules.accept_shrunken).filter(|_| !last_good.has_digest(&ended.digest))
    });
    if let Some(shrunken) = &shrunken {
        shrunken.tag(&mut snapshot);
    }
    Ok(Stored {
        snapshot: commit.publish(&snapshot, &written).await?,
        bytes: ended.end.bytes,
        digest: ended.digest,
        added_bytes,
        proof: ended.end.proof,
        shrunken,
        lacking,
    })
}

/// Stores a stream until its successful end, and returns the ids of its chunks in order.
fn save_stream(
    packer: &Arc<Packer>,
    mut chunker: Chunker,
    reader: &mut StreamReader,
) -> Result<(Ended, Vec<DataId>), RepositoryError> {
    let mut content = Content::new(packer);
    loop {
        match reader.next()? {
            Next::Data(data) => content.add(&mut chunker, &data)?,
            Next::End(ended) => return Ok((ended, content.finish(&mut chunker)?)),
        }
    }
}
