//! Needed blobs out of packs that go into new ones. Each is verified on the way, and copied as it is sealed.
//!
//! It must not know why a pack goes.

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::index::Index,
    plan::{Fate, Plan},
};
use crate::repository::{
    Repository, RepositoryError,
    archive::internal,
    index_file::IndexedPack,
    pack::{BlobKind, Packing},
    part::{self, Fetcher, Part},
    store::{Kind, Store, Write},
};

/// How long a new pack gets. Two are in memory: one that is filled, and one that is written.
pub(super) const PACK_BYTES: usize = 8 << 20;
/// How many requests for blobs are under way; each is at most 4 MiB, but for a single blob.
const READ_AHEAD: usize = 3;

/// The new packs, which no index names yet.
#[derive(Debug, Default)]
pub(super) struct Repacked {
    pub packs: Vec<IndexedPack>,
    /// How long each of them is.
    pub sizes: Vec<u64>,
    /// All of them together.
    pub bytes: u64,
}

/// Packs anew what the plan says. What was written is in `repacked` after an error, too.
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
        let rows = index.rows().iter().enumerate();
        let due = rows.filter(|(place, row)| {
            row.blob.kind == kind && plan.fates[row.pack as usize] == Fate::Repack && plan.chosen.has(*place)
        });
        let requests = part::requests(due.map(|(_, row)| index.part(row)).collect());
        let mut reads = stream::iter(requests.into_iter().map(|parts| fetch(&fetcher, parts))).buffered(READ_AHEAD);
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

/// Blobs of one pack that are near to each other, as they are stored.
async fn fetch(fetcher: &Fetcher, parts: Vec<Part>) -> Result<Vec<(Part, Bytes)>, RepositoryError> {
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
    repacked.packs.push(IndexedPack { id: packed.id, blobs: packed.blobs });
    repacked.sizes.push(size);
    repacked.bytes += size;
    Ok(())
}
