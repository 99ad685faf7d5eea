//! Repositories, and what their tests share: access, streams, a store which misbehaves, and the real restic.

mod adopted;
mod ahead;
mod archive_faults;
mod archives;
mod cheap_key;
mod check;
mod clocks;
mod command_line;
mod damage;
mod devices;
mod discretion;
mod distrust;
mod doctor;
mod everywhere;
mod excludes;
mod fake_s3;
mod faults;
mod file_systems;
mod folders;
mod full;
mod gate;
mod identities;
mod interoperability;
mod interrupted;
mod keys;
mod killed;
mod locations;
mod locks;
mod lost_index;
mod maintenance;
mod manual_restore;
mod meddled;
mod memory;
mod prune;
mod read_only;
mod refusals;
pub mod restic;
mod restore_step;
mod restore_volume;
mod retention;
mod rustic;
mod servers;
mod streams;
mod suspect;
mod system_calls;
pub mod torture;
mod trust;
mod whole_dumps;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use stowaway::{
    model::{
        BackendConfig, Connection, DamagedPacks, Proof, Secret, SnapshotIdentity, SnapshotQuery, SnapshotRecord,
        SourceName, latest_restorable,
    },
    repository::{
        Entry, Forget, LockHolder, LockRules, OpenOptions, Progress, Repository, RepositoryError, SnapshotSummary,
        StoreRules, Stored, StoredFile, Timeouts, create, open,
    },
    stream::{End, StreamItem, pieces},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub const PASSWORD: &str = "correct horse";

/// Access to a repository in a folder.
pub fn folder(path: &Path) -> OpenOptions {
    OpenOptions {
        backend: BackendConfig::Folder { path: path.to_str().unwrap().to_owned() },
        password: Secret::new(PASSWORD.to_owned()),
        untrimmed_password: None,
        connection: Connection::default(),
        credentials: BTreeMap::new(),
        holder: LockHolder { host: "runner-1".to_owned(), user: "pod UID 6f9619ff".to_owned() },
        locks: LockRules::default(),
        timeouts: Timeouts::default(),
        expected_ids: Vec::new(),
        damaged_packs: DamagedPacks::default(),
    }
}

pub fn never() -> CancellationToken {
    CancellationToken::new()
}

/// The newest good snapshot of a source, as a restore without an id selects it.
pub fn newest_of<'a>(snapshots: &'a [SnapshotSummary], source: &SourceName) -> Option<&'a SnapshotSummary> {
    let records: Vec<SnapshotRecord<'_>> = snapshots.iter().map(SnapshotSummary::record).collect();
    let query = SnapshotQuery { source, host: None, as_of: None, cluster: "", now: Timestamp::now() };
    let id = latest_restorable(&records, &query).ok()?.snapshot.id;
    snapshots.iter().find(|snapshot| snapshot.id == id)
}

/// A new repository, which opens in no time.
pub async fn new_repository(path: &Path) -> Repository {
    cheap_key::write_repository(path);
    open(folder(path), never()).await.unwrap()
}

pub fn identity(path: &str) -> SnapshotIdentity {
    SnapshotIdentity {
        host: "shop".to_owned(),
        path: path.to_owned(),
        tags: vec!["source=deployment/shop/db".to_owned(), "run=42/deployment/shop/db".to_owned()],
    }
}

pub fn rules() -> StoreRules {
    StoreRules {
        allow_empty: false,
        accept_unproven: false,
        time: "2026-05-04T03:02:01Z".parse::<Timestamp>().unwrap(),
        device: None,
    }
}

/// A stream of these pieces, after which the sender is dropped.
pub fn stream_of(sent: Vec<StreamItem>) -> mpsc::Receiver<StreamItem> {
    let (sender, receiver) = pieces();
    tokio::spawn(async move {
        for piece in sent {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// The data as pieces, with a successful end.
pub fn whole(data: &[u8]) -> Vec<StreamItem> {
    let mut sent: Vec<StreamItem> =
        data.chunks(64 * 1024).map(|piece| StreamItem::Data(Bytes::copy_from_slice(piece))).collect();
    sent.push(end(data.len() as u64));
    sent
}

pub fn end(bytes: u64) -> StreamItem {
    StreamItem::End(End { proof: Proof::Acknowledged, bytes })
}

pub async fn store_pieces(
    repository: &Repository,
    path: &str,
    sent: Vec<StreamItem>,
) -> Result<Stored, RepositoryError> {
    repository.store_stream(&identity(path), &rules(), stream_of(sent), Arc::new(Progress::default())).await
}

pub async fn store(repository: &Repository, path: &str, data: &[u8]) -> Stored {
    store_pieces(repository, path, whole(data)).await.unwrap()
}

/// Forgets these snapshots. Returns their number.
pub async fn forget(repository: &Repository, forget: Forget) -> Result<u64, RepositoryError> {
    Ok(repository.forget(|_| Ok((forget, ()))).await?.0)
}

/// All entries of a snapshot.
pub async fn entries_of(repository: &Repository, snapshot: &str) -> Vec<Entry> {
    let (sender, batches) = std::sync::mpsc::channel();
    let hand_on = move |entries| {
        sender.send(entries).unwrap();
        std::ops::ControlFlow::Continue(())
    };
    repository.list(snapshot, hand_on).await.unwrap();
    batches.iter().flatten().collect()
}

pub async fn collect(mut file: StoredFile) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        match file.pieces.recv().await {
            Some(StreamItem::Data(data)) => content.extend_from_slice(&data),
            Some(StreamItem::End(end)) => {
                assert_eq!((end.bytes, file.size), (content.len() as u64, content.len() as u64));
                return content;
            }
            other => panic!("the stream broke: {other:?}"),
        }
    }
}

/// Bytes which do not compress, and which depend on the seed only.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// All files below a folder of the repository, sorted.
pub fn files_in(repository: &Path, folder: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![repository.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// The locks of a repository, without those that are still being written under another name.
pub fn locks_in(repository: &Path) -> Vec<std::path::PathBuf> {
    let mut locks = files_in(repository, "locks");
    locks.retain(|lock| lock.file_name().unwrap().len() == 64);
    locks
}
