//! Packs blobs, uploads the packs, and writes index files which list the uploaded packs. A blob that the repository
//! already has is not stored again.
//!
//! A tree that is too long for memory is in a temporary file, and becomes a pack of its own. Several threads call a
//! packer at the same time; the calls block. The blobs are not visible until a snapshot refers to them. The first error
//! ends the run.

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
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    Progress, RepositoryError,
    chunker::Chunker,
    crypto::{self, Cipher, Compressor, CryptoError, OVERHEAD_BYTES},
    crypto_stream::NONCE_BYTES,
    first_error::FirstError,
    format::{BlobKind, DataId, Id, IndexFile, IndexedPack},
    index::{
        blob_table::{KEY_BYTES, key},
        index_file::INDEX_BLOBS,
        known_blobs::KnownBlobs,
    },
    long_blob::{LongBlob, SealError},
    pack::Packing,
    scratch::{self, GrowingSet},
    store::{Kind, Store, Write},
    trees::tree::FinishedTree,
};

/// A pack is uploaded when it has this size. One pack of each kind is filled at a time. restic accepts 4 MiB to 128
/// MiB.
const PACK_BYTES: usize = 4 << 20;
/// The maximum number of blobs in a pack: the limit of rustic.
const PACK_BLOBS: usize = 10_000;
/// How many packs are uploaded in parallel. More than one, because a distant store answers late; few, because each pack
/// is in memory.
const UPLOADS: u32 = 2;
/// Longer buffers are freed instead of reused. Few chunks are longer, and otherwise every buffer would grow to the
/// length of the longest chunk.
const KEPT_BYTES: usize = 2 << 20;
/// An index file is written at least this often, so that the next run can use the uploads of a run that was killed.
const INDEX_EVERY: Duration = Duration::from_mins(5);

/// How many threads read, and how many compress and encrypt. Each of them has up to 8 MiB of content in memory.
pub(super) fn workers() -> usize {
    available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, 4)
}

/// The data that a run added to the store.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Added {
    pub blobs: u64,
    pub plain_bytes: u64,
    /// Bytes in the packs.
    pub packed_bytes: u64,
}

/// The files that a run wrote, after all uploads have finished.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The files and their lengths.
    pub files: Vec<(Kind, Id, u64)>,
    /// Packs of earlier runs which contain blobs that this run did not store again, and their lengths.
    pub used: Vec<(Id, u64)>,
    pub data: Added,
    pub trees: Added,
}

/// The repository and the run for which a packer stores blobs.
#[derive(Clone)]
pub(super) struct PackerContext {
    pub store: Store,
    pub cipher: Cipher,
    /// The version of the repository's format.
    pub version: u32,
    pub progress: Arc<Progress>,
    pub first_error: Arc<FirstError>,
}

/// Stores blobs; see the module.
pub(super) struct Packer {
    context: PackerContext,
    runtime: Handle,
    known: Arc<KnownBlobs>,
    /// Idle sealers, which are reused because creating one takes longer than sealing a small blob.
    idle: Mutex<Vec<Sealer>>,
    /// Buffers of former chunks, for reuse.
    buffers: Mutex<Vec<Vec<u8>>>,
    /// The blobs which threads of this run have stored or are storing.
    taken: Mutex<GrowingSet<KEY_BYTES>>,
    filling: Mutex<Filling>,
    uploads: Arc<Semaphore>,
    sealers: Arc<Semaphore>,
    uploaded: Arc<Mutex<Uploaded>>,
}

/// The content of a pack.
enum PackContent {
    Memory(Bytes),
    File(Arc<File>),
}

/// Compresses and encrypts blobs, one at a time, in one buffer.
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
    /// How many blobs the written index files list.
    indexed: usize,
    /// Packs that no written index file lists yet.
    index: IndexFile,
    since: Instant,
}

/// A blob that another thread is storing.
#[derive(Debug)]
struct Saving(JoinHandle<Result<Id, RepositoryError>>);

impl Packer {
    /// Must be called within a runtime, on which the uploads run.
    pub fn new(context: PackerContext, known: Arc<KnownBlobs>) -> Self {
        let uploaded = Uploaded { files: Vec::new(), indexed: 0, index: IndexFile::default(), since: Instant::now() };
        Self {
            context,
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

    /// Stores a blob, unless the repository has it or another thread is storing it, and returns its id. The caller may
    /// rely on a blob which another thread stores, because an error ends the run for all threads.
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
        let (blob, plain_length) = sealer.seal(&self.context, plain).map_err(broken)?;
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

    /// Stores a tree, as [`Self::save`] does.
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
        let pack = blob.seal(&self.context.cipher, kind).map_err(|error| match error {
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

    /// Whether the blob is neither stored nor being stored. If so, the caller must store it.
    fn is_new(&self, kind: BlobKind, id: Id) -> Result<bool, RepositoryError> {
        if self.known.take(kind, id)?.is_some() {
            return Ok(false);
        }
        lock(&self.taken).insert(key(kind, id)).map_err(scratch::failed)
    }

    /// The version of the repository's format.
    pub fn version(&self) -> u32 {
        self.context.version
    }

    /// As [`Self::save`], on another thread, when a thread is free.
    fn save_in_background(self: &Arc<Self>, kind: BlobKind, plain: Vec<u8>) -> Result<Saving, RepositoryError> {
        let permit = self.runtime.block_on(Arc::clone(&self.sealers).acquire_owned());
        let permit = permit.map_err(|error| self.internal(error))?;
        self.check()?;
        let packer = Arc::clone(self);
        let _within = self.runtime.enter();
        Ok(Saving(spawn_blocking(move || {
            let saved = packer.save(kind, &plain);
            if plain.capacity() <= KEPT_BYTES {
                lock(&packer.buffers).push(plain);
            }
            drop(permit);
            saved
        })))
    }

    /// Waits for a blob that another thread stores, and returns its id.
    fn wait_for(&self, saving: Saving) -> Result<Id, RepositoryError> {
        self.runtime.block_on(saving.0).map_err(|panic| self.fail(self.internal(panic)))?
    }

    /// Fails if the run was cancelled or another task has failed.
    pub fn check(&self) -> Result<(), RepositoryError> {
        let PackerContext { store, first_error, .. } = &self.context;
        let is_over = store.cancel().is_cancelled() || first_error.happened().is_cancelled();
        if is_over { Err(self.cancelled()) } else { Ok(()) }
    }

    /// The error of a task that ends because another task has failed.
    pub fn cancelled(&self) -> RepositoryError {
        RepositoryError::Cancelled { location: self.context.store.location().to_owned() }
    }

    /// The error for a defect in this program.
    pub fn internal(&self, what: impl std::fmt::Display) -> RepositoryError {
        self.context.store.internal(what)
    }

    fn fail(&self, error: RepositoryError) -> RepositoryError {
        self.context.first_error.set(error);
        self.cancelled()
    }

    /// Uploads the remaining packs, waits for all uploads and writes the last index file. No thread may save a blob
    /// after that.
    pub fn finish(&self) -> Result<Written, RepositoryError> {
        let Filling { data, trees } = mem::take(&mut *lock(&self.filling));
        self.upload(data.0)?;
        self.upload(trees.0)?;
        // All permits are free once all uploads have finished. The semaphore is never closed.
        let all = self.runtime.block_on(self.uploads.acquire_many(UPLOADS));
        drop(all.map_err(|error| self.internal(error))?);
        self.check()?;
        let (mut files, index, indexed) = {
            let mut uploaded = lock(&self.uploaded);
            (mem::take(&mut uploaded.files), mem::take(&mut uploaded.index), uploaded.indexed)
        };
        // An upload that panicked reports no error, but its blobs are missing from the index.
        let (blobs, taken) = (indexed + index.blobs(), lock(&self.taken).len());
        if blobs != taken {
            return Err(self.internal(format!("only {blobs} of {taken} blobs were written")));
        }
        if !index.packs.is_empty() {
            files.push(self.runtime.block_on(self.context.write_index(&index))?);
        }
        Ok(Written { files, used: self.known.used_packs(), data: data.1, trees: trees.1 })
    }

    /// Finishes a pack and uploads it.
    fn upload(&self, packing: Packing) -> Result<(), RepositoryError> {
        let packed = packing.finish(&self.context.cipher).map_err(|error| self.internal(error))?;
        let Some(packed) = packed else { return Ok(()) };
        let size = packed.content.len() as u64;
        self.send(IndexedPack { id: packed.id, blobs: packed.blobs }, PackContent::Memory(packed.content), size)
    }

    /// Waits until an upload may start, and uploads a pack in the background.
    fn send(&self, pack: IndexedPack, pack_content: PackContent, size: u64) -> Result<(), RepositoryError> {
        let permit = self.runtime.block_on(Arc::clone(&self.uploads).acquire_owned());
        let permit = permit.map_err(|error| self.internal(error))?;
        self.check()?;
        let (context, uploaded) = (self.context.clone(), Arc::clone(&self.uploaded));
        self.runtime.spawn(async move {
            let write = async {
                match pack_content {
                    PackContent::Memory(bytes) => {
                        context.store.write(Kind::Pack, &pack.id, vec![bytes], Write::Replace).await?;
                    }
                    PackContent::File(file) => context.store.write_file(Kind::Pack, &pack.id, &file, size).await?,
                }
                context.progress.uploaded.fetch_add(size, Ordering::Relaxed);
                let due = lock(&uploaded).add(pack, size);
                if let Some(index) = due {
                    let written = context.write_index(&index).await?;
                    let mut uploaded = lock(&uploaded);
                    uploaded.files.push(written);
                    uploaded.indexed += index.blobs();
                }
                Ok(())
            };
            let ended = tokio::select! {
                ended = write => ended,
                // The run has failed, so the upload is not needed any more.
                () = context.first_error.happened().cancelled() => return,
            };
            if let Err(error) = ended {
                context.first_error.set(error);
            }
            drop(permit);
        });
        Ok(())
    }
}

impl Sealer {
    fn new() -> Result<Self, CryptoError> {
        Ok(Self { compressor: Compressor::new()?, buffer: Vec::new() })
    }

    /// Compresses and encrypts a blob. Also returns its uncompressed length if the repository's format has compression.
    fn seal(&mut self, context: &PackerContext, plain: &[u8]) -> Result<(&[u8], Option<u32>), CryptoError> {
        let bound = crypto::compressed_bound(plain.len());
        if self.buffer.len() < bound + OVERHEAD_BYTES {
            self.buffer.resize(bound + OVERHEAD_BYTES, 0);
        }
        let (room, is_compressed) = (&mut self.buffer[NONCE_BYTES..], context.version >= 2);
        let length = if is_compressed {
            self.compressor.compress_into(plain, &mut room[..bound])?
        } else {
            room[..plain.len()].copy_from_slice(plain);
            plain.len()
        };
        let plain_length = u32::try_from(plain.len()).map_err(|error| CryptoError::Format(error.to_string()))?;
        let sealed = &mut self.buffer[..length + OVERHEAD_BYTES];
        context.cipher.encrypt_within(sealed)?;
        Ok((sealed, is_compressed.then_some(plain_length)))
    }
}

impl PackerContext {
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
    /// Records an uploaded pack. Returns the index if it is due to be written.
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

/// Stores a content that may have several chunks. Several threads compress and encrypt the chunks; the ids are in
/// order.
pub(super) struct Content<'a> {
    packer: &'a Arc<Packer>,
    ids: Vec<DataId>,
    saving: VecDeque<Saving>,
}

impl<'a> Content<'a> {
    pub fn new(packer: &'a Arc<Packer>) -> Self {
        Self { packer, ids: Vec::new(), saving: VecDeque::new() }
    }

    /// Appends the next bytes.
    pub fn add(&mut self, chunker: &mut Chunker, mut bytes: &[u8]) -> Result<(), RepositoryError> {
        while !bytes.is_empty() {
            if let Some(chunk) = chunker.take(&mut bytes) {
                chunker.fill(lock(&self.packer.buffers).pop().unwrap_or_default());
                self.save(chunk)?;
            }
        }
        Ok(())
    }

    /// Returns the ids of the chunks, in order.
    pub fn finish(mut self, chunker: &mut Chunker) -> Result<Vec<DataId>, RepositoryError> {
        if let Some(chunk) = chunker.rest() {
            self.save(chunk)?;
        }
        while self.take_oldest()? {}
        Ok(mem::take(&mut self.ids))
    }

    fn save(&mut self, chunk: Vec<u8>) -> Result<(), RepositoryError> {
        self.saving.push_back(self.packer.save_in_background(BlobKind::Data, chunk)?);
        while self.saving.len() > workers() {
            self.take_oldest()?;
        }
        Ok(())
    }

    /// Waits for the oldest chunk that is being stored. Returns false if there is none.
    fn take_oldest(&mut self) -> Result<bool, RepositoryError> {
        let Some(saving) = self.saving.pop_front() else { return Ok(false) };
        self.ids.push(self.packer.wait_for(saving)?.into());
        Ok(true)
    }
}

/// Waits for chunks that are still being stored, because the packer must not be finished before. This happens if a file
/// could not be read to its end.
impl Drop for Content<'_> {
    fn drop(&mut self) {
        for saving in mem::take(&mut self.saving) {
            // An error is already recorded as the error of the run.
            let _ = self.packer.wait_for(saving);
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
