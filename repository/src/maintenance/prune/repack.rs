//! Copies needed blobs from old packs to new ones. Each blob is verified, and copied in its encrypted form.

use std::pin::pin;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::index::Index,
    plan::{PackAction, Plan},
};
use crate::{
    Repository, RepositoryError,
    format::{BlobKind, Id, IndexFile, IndexedPack},
    index::{
        blob_location::{self, BlobLocation},
        fetcher::Fetcher,
        index_file::INDEX_BLOBS,
        pack_check::look_for,
    },
    pack::Packing,
    store::{Kind, Store, Write},
};

/// The size of a new pack. Two of them are in memory: one which is being filled, and one which is being written.
pub(super) const PACK_BYTES: usize = 8 << 20;
/// How many requests for blobs run in parallel. Each reads at most 4 MiB, or a single blob.
const READ_AHEAD: usize = 3;

/// The packs and index files which were written so far.
#[derive(Debug, Default)]
pub(super) struct Repacked {
    /// The new packs with their lengths.
    pub packs: Vec<(Id, u64)>,
    /// The new index files. They list all new packs except those in `unnamed`.
    pub index_files: Vec<Id>,
    /// The new packs which no index file lists yet. They have fewer blobs than a full index file.
    pub unnamed: IndexFile,
    /// Bytes of all new packs.
    pub bytes: u64,
}

/// Repacks what the plan requires. After an error, `repacked` contains what was written so far.
pub(super) async fn repack(
    repository: &Repository,
    store: &Store,
    index: &Index,
    plan: &Plan,
    repacked: &mut Repacked,
) -> Result<(), RepositoryError> {
    let fetcher = Fetcher::new(store, &repository.cipher);
    // restic expects that all blobs of a pack have the same kind.
    for kind in [BlobKind::Tree, BlobKind::Data] {
        let due = (0..).zip(&plan.actions).filter(|(_, action)| **action == PackAction::Repack);
        let requests = due.flat_map(|(number, _)| match needed(index, plan, kind, number) {
            Ok(parts) => blob_location::requests(parts).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let contents = stream::iter(requests).map(|parts| fetch(&fetcher, parts));
        let mut reads = pin!(contents.buffered(READ_AHEAD));
        let mut packing = Packing::default();
        while let Some(blobs) = reads.next().await {
            for (part, sealed) in blobs? {
                let plain_length = part.compressed.then_some(part.plain_length);
                packing.add(kind, part.id, &sealed, plain_length).map_err(|error| store.internal(error))?;
                if packing.bytes() >= PACK_BYTES {
                    write(repository, store, std::mem::take(&mut packing), repacked).await?;
                }
            }
        }
        write(repository, store, packing, repacked).await?;
    }
    Ok(())
}

/// The blobs of a kind in a pack which are needed.
fn needed(index: &Index, plan: &Plan, kind: BlobKind, pack: u32) -> Result<Vec<BlobLocation>, RepositoryError> {
    let id = index.packs[pack as usize].id;
    let blobs = index.blobs_in(pack)?.into_iter();
    let needed = blobs.filter(|numbered| numbered.blob.kind == kind && plan.chosen.has(numbered.row_number));
    Ok(needed.map(|numbered| numbered.blob.part(id)).collect())
}

/// Reads and verifies blobs of one pack which are close to each other. Returns them in their encrypted form.
async fn fetch(
    fetcher: &Fetcher,
    parts: Result<Vec<BlobLocation>, RepositoryError>,
) -> Result<Vec<(BlobLocation, Bytes)>, RepositoryError> {
    let parts = parts?;
    let task = {
        let fetcher = fetcher.clone();
        async move {
            let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(Vec::new()) };
            let start = first.offset;
            let sealed = fetcher.store.read_range(&first.pack, start, last.end() - start).await?;
            let verified = parts.iter().map(|part| {
                fetcher.open_within(part, &sealed, start)?;
                let from = (part.offset - start) as usize;
                Ok((*part, sealed.slice(from..from + part.length as usize)))
            });
            verified.collect()
        }
    };
    // A separate task, so that reading continues while a pack is written. The task is aborted when this future is
    // dropped.
    AbortOnDropHandle::new(tokio::spawn(task)).await.map_err(|panic| fetcher.store.internal(panic))?
}

impl Repacked {
    /// Writes an index file for all new packs which no index file lists yet. Verifies before that the packs are in the
    /// store, and after it that the index file is.
    pub async fn write_index(&mut self, repository: &Repository, store: &Store) -> Result<(), RepositoryError> {
        let count = self.unnamed.packs.len();
        // An index file must not list a pack which is not in the store.
        let packs = self.packs[self.packs.len() - count..].iter().map(|(id, size)| (Kind::Pack, *id, *size));
        look_for(store, &packs.collect::<Vec<_>>()).await?;
        let index = std::mem::take(&mut self.unnamed);
        if index.packs.is_empty() {
            return Ok(());
        }
        let written = index.write((&repository.cipher, repository.version), store).await?;
        self.index_files.push(written.1);
        look_for(store, &[written]).await
    }
}

async fn write(
    repository: &Repository,
    store: &Store,
    packing: Packing,
    repacked: &mut Repacked,
) -> Result<(), RepositoryError> {
    let packed = packing.finish(&repository.cipher).map_err(|error| store.internal(error))?;
    let Some(packed) = packed else { return Ok(()) };
    let size = packed.content.len() as u64;
    store.write(Kind::Pack, &packed.id, vec![packed.content], Write::Replace).await?;
    repacked.packs.push((packed.id, size));
    repacked.bytes += size;
    repacked.unnamed.packs.push(IndexedPack { id: packed.id, blobs: packed.blobs });
    if repacked.unnamed.blobs() >= INDEX_BLOBS { repacked.write_index(repository, store).await } else { Ok(()) }
}
