//! Blobs into packs, packs into the store, and index files that name what is there. A blob that is known is not stored again.
//!
//! A tree that is too long for memory comes in a file, and becomes a pack of its own. Several threads call a packer at once,
//! and may block. Until a snapshot names the blobs, nothing of them is visible. The first error ends the run. A packer does
//! not know what blobs hold.

use std::{
    collections::VecDeque,
    fs::File,
    mem,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustic_core::{DataId, Id};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    Progress, RepositoryError,
    archive::internal,
    blob_table::{KEY_BYTES, key},
    chunker::Chunker,
    crypto::{self, Cipher, Compressor, CryptoError, NONCE_BYTES, OVERHEAD_BYTES},
    engine::FirstError,
    index_file::{INDEX_BLOBS, IndexFile, IndexedPack},
    known::Known,
    long_blob::{LongBlob, SealError},
    pack::{BlobKind, Packing},
    scratch::{self, GrowingSet},
    store::{Kind, Store, Write},
    tree::FinishedTree,
};

/// A pack of that size is written. One of each kind is filled at a time; restic takes 4 MiB to 128 MiB.
const PACK_BYTES: usize = 4 << 20;
/// The most blobs of a pack: `rustic_core`'s own limit.
const PACK_BLOBS: usize = 10_000;
/// How many packs are on their way to the store at once: one that is far away answers late, and each pack is in memory.
const UPLOADS: u32 = 2;
/// Longer buffers are given back, since few chunks are as long: else each would in the end have room for the longest.
const KEPT_BYTES: usize = 2 << 20;
/// What was uploaded is named at least so often, so that a run that is killed was not all in vain.
const INDEX_EVERY: Duration = Duration::from_mins(5);

/// How many threads read, and how many seal: each has up to 8 MiB of content in its hands.
pub(super) fn workers() -> usize {
    available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, 4)
}

/// What a run added to the store.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Added {
    pub blobs: u64,
    pub plain_bytes: u64,
    /// As they are in their packs.
    pub packed_bytes: u64,
}

/// All that was written, once nothing is under way any more.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Which files, and how long they are.
    pub files: Vec<(Kind, Id, u64)>,
    /// Packs of earlier runs that hold what this one did not store again, and how long they are.
    pub used: Vec<(Id, u64)>,
    pub data: Added,
    pub trees: Added,
}

/// Where a packer works.
#[derive(Clone)]
pub(super) struct Place {
    pub store: Store,
    pub cipher: Cipher,
    /// Of the repository's format.
    pub version: u32,
    pub progress: Arc<Progress>,
    pub first_error: Arc<FirstError>,
}

/// See the module.
pub(super) struct Packer {
    place: Place,
    runtime: Handle,
    known: Arc<Known>,
    /// Idle ones: a sealer takes longer to make than a small blob to seal.
    idle: Mutex<Vec<Sealer>>,
    /// What chunks were in, for the next ones.
    buffers: Mutex<Vec<Vec<u8>>>,
    /// Blobs of this run, from when a thread began to seal them.
    taken: Mutex<GrowingSet<KEY_BYTES>>,
    filling: Mutex<Filling>,
    uploads: Arc<Semaphore>,
    sealers: Arc<Semaphore>,
    uploaded: Arc<Mutex<Uploaded>>,
}

/// The bytes of a pack.
enum PackContent {
    Memory(Bytes),
    File(Arc<File>),
}

/// Compresses and encrypts one blob after the other, all in one buffer.
struct Sealer {
    compressor: Compressor,
    buffer: Vec<u8>,
}

#[derive(Debug, Default)]
struct Filling {
    data: (Packing, Added),
    trees: (Packing, Added),
}

#[derive(Debug)]
struct Uploaded {
    files: Vec<(Kind, Id, u64)>,
    /// How many blobs the index files name that are written.
    named: usize,
    /// Packs that no index file names yet.
    index: IndexFile,
    since: Instant,
}

/// A blob that another thread seals.
#[derive(Debug)]
struct Saving(JoinHandle<Result<Id, RepositoryError>>);

impl Packer {
    /// Within a runtime, which does the uploads.
    pub fn new(place: Place, known: Arc<Known>) -> Self {
        let uploaded = Uploaded { files: Vec::new(), named: 0, index: IndexFile::default(), since: Instant::now() };
        Self {
            place,
            runtime: Handle::current(),
            known,
            idle: Mutex::default(),
            buffers: Mutex::default(),
            taken: Mutex::default(),
            filling: Mutex::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS as usize)),
            sealers: Arc::new(Semaphore::new(workers())),
            uploaded: Arc::new(Mutex::new(uploaded)),
        }
    }

    /// Stores a blob that is not known yet, and tells its id. Whoever gets the same blob to store may rely on it: an error
    /// ends the run, for all.
    pub fn save(&self, kind: BlobKind, plain: &[u8]) -> Result<Id, RepositoryError> {
        self.try_save(kind, plain).map_err(|error| self.fail(error))
    }

    fn try_save(&self, kind: BlobKind, plain: &[u8]) -> Result<Id, RepositoryError> {
        let id = crypto::id_of(plain);
        if !self.is_new(kind, id)? {
            return Ok(id);
        }
        let broken = |error| self.internal(error);
        let idle = lock(&self.idle).pop();
        let mut sealer = idle.map_or_else(Sealer::new, Ok).map_err(broken)?;
        let (blob, plain_length) = sealer.seal(&self.place, plain).map_err(broken)?;
        let full = {
            let mut filling = lock(&self.filling);
            let (packing, added) = filling.of(kind);
            packing.add(kind, id, blob, plain_length).map_err(broken)?;
            added.blobs += 1;
            added.plain_bytes += plain.len() as u64;
            added.packed_bytes += blob.len() as u64;
            let is_full = packing.bytes() >= PACK_BYTES || packing.blobs() >= PACK_BLOBS;
            is_full.then(|| mem::take(packing))
        };
        if sealer.buffer.len() <= KEPT_BYTES {
            lock(&self.idle).push(sealer);
        }
        full.map_or(Ok(()), |full| self.upload(full))?;
        Ok(id)
    }

    /// Stores a tree that is not known yet, as [`Self::save`] does.
    pub fn save_tree(&self, tree: FinishedTree) -> Result<Id, RepositoryError> {
        match tree {
            FinishedTree::Short(json) => self.save(BlobKind::Tree, &json),
            FinishedTree::Long(blob) => self.save_long(BlobKind::Tree, blob).map_err(|error| self.fail(error)),
        }
    }

    fn save_long(&self, kind: BlobKind, blob: LongBlob) -> Result<Id, RepositoryError> {
        let (id, plain_bytes) = (blob.id, blob.length);
        if !self.is_new(kind, id)? {
            return Ok(id);
        }
        let pack = blob.seal(&self.place.cipher, kind).map_err(|error| match error {
            SealError::Scratch(error) => scratch::failed(error),
            SealError::Crypto(error) => self.internal(error),
        })?;
        {
            let mut filling = lock(&self.filling);
            let (_, added) = filling.of(kind);
            added.blobs += 1;
            added.plain_bytes += plain_bytes;
            added.packed_bytes += u64::from(pack.blob.length);
        }
        self.send(IndexedPack { id: pack.id, blobs: vec![pack.blob] }, PackContent::File(pack.content), pack.size)?;
        Ok(id)
    }

    /// Whether the blob is neither stored nor being stored; then the caller stores it.
    fn is_new(&self, kind: BlobKind, id: Id) -> Result<bool, RepositoryError> {
        if self.known.take(kind, id)?.is_some() {
            return Ok(false);
        }
        lock(&self.taken).insert(key(kind, id)).map_err(scratch::failed)
    }

    /// The version of the repository's format.
    pub fn version(&self) -> u32 {
        self.place.version
    }

    /// The same on another thread, once one is free.
    fn save_beside(self: &Arc<Self>, kind: BlobKind, plain: Vec<u8>) -> Result<Saving, RepositoryError> {
        let place = self.runtime.block_on(Arc::clone(&self.sealers).acquire_owned());
        let place = place.map_err(|error| self.internal(error))?;
        self.check()?;
        let packer = Arc::clone(self);
        let _within = self.runtime.enter();
        Ok(Saving(spawn_blocking(move || {
            let saved = packer.save(kind, &plain);
            if plain.capacity() <= KEPT_BYTES {
                lock(&packer.buffers).push(plain);
            }
            drop(place);
            saved
        })))
    }

    /// The id of what is saved beside.
    fn saved(&self, saving: Saving) -> Result<Id, RepositoryError> {
        self.runtime.block_on(saving.0).map_err(|panic| self.fail(self.internal(panic)))?
    }

    /// Whether it is worth going on.
    pub fn check(&self) -> Result<(), RepositoryError> {
        let Place { store, first_error, .. } = &self.place;
        let is_over = store.cancel().is_cancelled() || first_error.happened().is_cancelled();
        if is_over { Err(self.cancelled()) } else { Ok(()) }
    }

    /// What whoever is stopped by somebody else's error says.
    pub fn cancelled(&self) -> RepositoryError {
        RepositoryError::Cancelled { place: self.place.store.place().to_owned() }
    }

    /// Something that should not be possible.
    pub fn internal(&self, what: impl std::fmt::Display) -> RepositoryError {
        internal(&self.place.store, what)
    }

    fn fail(&self, error: RepositoryError) -> RepositoryError {
        self.place.first_error.set(error);
        self.cancelled()
    }

    /// Writes what is left, and waits until all is there. Nobody saves any more.
    pub fn finish(&self) -> Result<Written, RepositoryError> {
        let Filling { data, trees } = mem::take(&mut *lock(&self.filling));
        self.upload(data.0)?;
        self.upload(trees.0)?;
        // The semaphore is never closed, and has as many places.
        let all = self.runtime.block_on(self.uploads.acquire_many(UPLOADS));
        drop(all.map_err(|error| self.internal(error))?);
        self.check()?;
        let (mut files, index, named) = {
            let mut uploaded = lock(&self.uploaded);
            (mem::take(&mut uploaded.files), mem::take(&mut uploaded.index), uploaded.named)
        };
        // An upload that panicked has told nobody.
        let (blobs, taken) = (named + index.blobs(), lock(&self.taken).len());
        if blobs != taken {
            return Err(self.internal(format!("{blobs} of {taken} blobs were written")));
        }
        if !index.packs.is_empty() {
            files.push(self.runtime.block_on(self.place.write_index(&index))?);
        }
        Ok(Written { files, used: self.known.used_packs(), data: data.1, trees: trees.1 })
    }

    /// Ends a pack and uploads it.
    fn upload(&self, packing: Packing) -> Result<(), RepositoryError> {
        let packed = packing.finish(&self.place.cipher).map_err(|error| self.internal(error))?;
        let Some(packed) = packed else { return Ok(()) };
        let size = packed.content.len() as u64;
        self.send(IndexedPack { id: packed.id, blobs: packed.blobs }, PackContent::Memory(packed.content), size)
    }

    /// Waits until fewer packs are under way, and uploads one without waiting for it.
    fn send(&self, pack: IndexedPack, content: PackContent, size: u64) -> Result<(), RepositoryError> {
        let free = self.runtime.block_on(Arc::clone(&self.uploads).acquire_owned());
        let free = free.map_err(|error| self.internal(error))?;
        self.check()?;
        let (place, uploaded) = (self.place.clone(), Arc::clone(&self.uploaded));
        self.runtime.spawn(async move {
            let write = async {
                match content {
                    PackContent::Memory(content) => {
                        place.store.write(Kind::Pack, &pack.id, vec![content], Write::Replace).await?;
                    }
                    PackContent::File(file) => place.store.write_file(Kind::Pack, &pack.id, &file, size).await?,
                }
                place.progress.uploaded.fetch_add(size, Ordering::Relaxed);
                let due = lock(&uploaded).add(pack, size);
                if let Some(index) = due {
                    let written = place.write_index(&index).await?;
                    let mut uploaded = lock(&uploaded);
                    uploaded.files.push(written);
                    uploaded.named += index.blobs();
                }
                Ok(())
            };
            let ended = tokio::select! {
                ended = write => ended,
                // The run has failed; nobody needs this any more.
                () = place.first_error.happened().cancelled() => return,
            };
            if let Err(error) = ended {
                place.first_error.set(error);
            }
            drop(free);
        });
        Ok(())
    }
}

impl Sealer {
    fn new() -> Result<Self, CryptoError> {
        Ok(Self { compressor: Compressor::new()?, buffer: Vec::new() })
    }

    /// Seals a blob; where the format has compression, its length before that comes with it.
    fn seal(&mut self, place: &Place, plain: &[u8]) -> Result<(&[u8], Option<u32>), CryptoError> {
        let bound = crypto::compressed_bound(plain.len());
        if self.buffer.len() < bound + OVERHEAD_BYTES {
            self.buffer.resize(bound + OVERHEAD_BYTES, 0);
        }
        let (room, is_compressed) = (&mut self.buffer[NONCE_BYTES..], place.version >= 2);
        let length = if is_compressed {
            self.compressor.compress_into(plain, &mut room[..bound])?
        } else {
            room[..plain.len()].copy_from_slice(plain);
            plain.len()
        };
        let plain_length = u32::try_from(plain.len()).map_err(|error| CryptoError::Format(error.to_string()))?;
        let sealed = &mut self.buffer[..length + OVERHEAD_BYTES];
        place.cipher.encrypt_within(sealed)?;
        Ok((sealed, is_compressed.then_some(plain_length)))
    }
}

impl Place {
    async fn write_index(&self, index: &IndexFile) -> Result<(Kind, Id, u64), RepositoryError> {
        let written = index.write((&self.cipher, self.version), &self.store).await?;
        self.progress.uploaded.fetch_add(written.2, Ordering::Relaxed);
        Ok(written)
    }
}

impl Filling {
    fn of(&mut self, kind: BlobKind) -> (&mut Packing, &mut Added) {
        let (packing, added) = match kind {
            BlobKind::Data => &mut self.data,
            BlobKind::Tree => &mut self.trees,
        };
        (packing, added)
    }
}

impl Uploaded {
    /// Notes a pack that is there, and gives the index that is to be written, if it is time.
    fn add(&mut self, pack: IndexedPack, size: u64) -> Option<IndexFile> {
        self.files.push((Kind::Pack, pack.id, size));
        self.index.packs.push(pack);
        if self.index.blobs() < INDEX_BLOBS && self.since.elapsed() < INDEX_EVERY {
            return None;
        }
        self.since = Instant::now();
        Some(mem::take(&mut self.index))
    }
}

/// A content that is longer than a chunk: its chunks are sealed by several threads, and named in order.
pub(super) struct Content<'a> {
    packer: &'a Arc<Packer>,
    ids: Vec<DataId>,
    saving: VecDeque<Saving>,
}

impl<'a> Content<'a> {
    pub fn new(packer: &'a Arc<Packer>) -> Self {
        Self { packer, ids: Vec::new(), saving: VecDeque::new() }
    }

    /// The next bytes of it.
    pub fn add(&mut self, chunker: &mut Chunker, mut bytes: &[u8]) -> Result<(), RepositoryError> {
        while !bytes.is_empty() {
            if let Some(chunk) = chunker.take(&mut bytes) {
                chunker.fill(lock(&self.packer.buffers).pop().unwrap_or_default());
                self.save(chunk)?;
            }
        }
        Ok(())
    }

    /// What its chunks are called, in order.
    pub fn finish(mut self, chunker: &mut Chunker) -> Result<Vec<DataId>, RepositoryError> {
        if let Some(chunk) = chunker.rest() {
            self.save(chunk)?;
        }
        while self.take_oldest()? {}
        Ok(mem::take(&mut self.ids))
    }

    fn save(&mut self, chunk: Vec<u8>) -> Result<(), RepositoryError> {
        self.saving.push_back(self.packer.save_beside(BlobKind::Data, chunk)?);
        while self.saving.len() > workers() {
            self.take_oldest()?;
        }
        Ok(())
    }

    /// The id of the oldest chunk that has none yet, if there is one.
    fn take_oldest(&mut self) -> Result<bool, RepositoryError> {
        let Some(saving) = self.saving.pop_front() else { return Ok(false) };
        self.ids.push(self.packer.saved(saving)?.into());
        Ok(true)
    }
}

/// A file that could not be read to its end: nobody may end the packer before what it has begun to store is stored.
impl Drop for Content<'_> {
    fn drop(&mut self) {
        for saving in mem::take(&mut self.saving) {
            // Its error is the run's already.
            let _ = self.packer.saved(saving);
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
