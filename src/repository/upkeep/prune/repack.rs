//! Needed blobs out of packs that go into new ones. Each is verified on the way, and copied as it is sealed.
//!
//! It must not know why a pack goes.

use std::pin::pin;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rustic_core::Id;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::index::Index,
    plan::{Fate, Plan},
};
use crate::repository::{
    Repository, RepositoryError,
    archive::internal,
    index_file::{INDEX_BLOBS, IndexFile, IndexedPack},
    pack::{BlobKind, Packing},
    pack_check::look_for,
    part::{self, Fetcher, Part},
    store::{Kind, Store, Write},
};

/// How long a new pack gets. Two are in memory: one that is filled, and one that is written.
pub(super) const PACK_BYTES: usize = 8 << 20;
/// How many requests for blobs are under way; each is at most 4 MiB, but for a single blob.
const READ_AHEAD: usize = 3;

/// The new packs.
#[derive(Debug, Default)]
pub(super) struct Repacked {
    /// Each with its length.
    pub packs: Vec<(Id, u64)>,
    /// The index files that name those of them that are not in `unnamed`.
    pub index_files: Vec<Id>,
    /// What no index file names yet; less than an index file names.
    pub unnamed: IndexFile,
    /// Bytes of all packs together.
    pub bytes: u64,
}

/// Packs again what the plan says. What was written is in `repacked` after an error, too.
pub(super) async fn repack(
    repository: &Repository,
    store: &Store,
    index: &Index,
    plan: &Plan,
    repacked: &mut Repacked,
) -> Result<(), RepositoryError> {
    let fetcher = Fetcher { store: store.clone(), cipher: repository.cipher.clone() };
    // restic wants packs of one kind.
    for kind in [BlobKind::Tree, BlobKind::Data] {
        let due = (0..).zip(&plan.fates).filter(|(_, fate)| **fate == Fate::Repack);
        let requests = due.flat_map(|(number, _)| match needed(index, plan, kind, number) {
            Ok(parts) => part::requests(parts).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let contents = stream::iter(requests).map(|parts| fetch(&fetcher, parts));
        let mut reads = pin!(contents.buffered(READ_AHEAD));
        let mut packing = Packing::default();
        while let Some(blobs) = reads.next().await {
            for (part, sealed) in blobs? {
                let plain_length = part.compressed.then_some(part.plain_length);
                packing.add(kind, part.id, &sealed, plain_length).map_err(|error| internal(store, error))?;
                if packing.bytes() >= PACK_BYTES {
                    write(repository, store, std::mem::take(&mut packing), repacked).await?;
                }
            }
        }
        write(repository, store, packing, repacked).await?;
    }
    Ok(())
}

/// The blobs of that kind that are needed of a pack.
fn needed(index: &Index, plan: &Plan, kind: BlobKind, pack: u32) -> Result<Vec<Part>, RepositoryError> {
    let id = index.packs[pack as usize].id;
    let blobs = index.blobs_in(pack)?.into_iter();
    let needed = blobs.filter(|placed| placed.blob.kind == kind && plan.chosen.has(placed.place));
    Ok(needed.map(|placed| placed.blob.part(id)).collect())
}

/// Blobs of one pack that are near to each other, as they are stored.
async fn fetch(
    fetcher: &Fetcher,
    parts: Result<Vec<Part>, RepositoryError>,
) -> Result<Vec<(Part, Bytes)>, RepositoryError> {
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
    // A task of its own, so that reading goes on while a pack is written; it ends with this future.
    AbortOnDropHandle::new(tokio::spawn(task)).await.map_err(|panic| internal(&fetcher.store, panic))?
}

impl Repacked {
    /// Writes an index file that names all packs that none names yet, and makes sure of the packs before and of the file after.
    pub async fn name(&mut self, repository: &Repository, store: &Store) -> Result<(), RepositoryError> {
        let count = self.unnamed.packs.len();
        // No index file may name a pack that is not there.
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
    let packed = packing.finish(&repository.cipher).map_err(|error| internal(store, error))?;
    let Some(packed) = packed else { return Ok(()) };
    let size = packed.content.len() as u64;
    store.write(Kind::Pack, &packed.id, vec![packed.content], Write::Replace).await?;
    repacked.packs.push((packed.id, size));
    repacked.bytes += size;
    repacked.unnamed.packs.push(IndexedPack { id: packed.id, blobs: packed.blobs });
    if repacked.unnamed.blobs() >= INDEX_BLOBS { repacked.name(repository, store).await } else { Ok(()) }
}
