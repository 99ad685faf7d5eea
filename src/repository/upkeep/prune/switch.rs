//! The switch from the old indexes to the new ones, and the removal of what nothing names any more; in an order that leaves
//! a sound repository wherever it ends.
//!
//! It must not know why a pack goes.

use std::collections::HashSet;

use rustic_core::Id;

use super::{
    super::{index::Index, remove},
    plan::{Fate, Plan},
    repack::Repacked,
};
use crate::repository::{
    Repository, RepositoryError,
    index_file::{INDEX_BLOBS, IndexFile, IndexedPack},
    pack_check::look_for,
    store::{Kind, Store},
};

/// Writes new indexes, makes sure of all that is new, and removes what is old.
pub(super) async fn switch(
    repository: &Repository,
    store: &Store,
    index: &Index,
    plan: &Plan,
    repacked: &Repacked,
) -> Result<(), RepositoryError> {
    let staying = (0..).zip(&index.packs).zip(&plan.fates).filter_map(|((number, pack), fate)| {
        let is_due = *fate == Fate::Keep && pack.files.iter().any(|file| plan.obsolete_files[*file as usize]);
        is_due.then(|| IndexedPack { id: pack.id, blobs: index.blobs_in(number).copied().collect() })
    });
    name(repository, store, repacked, staying).await?;

    let obsolete = index.files.iter().zip(&plan.obsolete_files).filter(|(_, is_obsolete)| **is_obsolete);
    let obsolete: Vec<Id> = obsolete.map(|(file, _)| file.id).collect();
    remove(repository, store, Kind::Index, &obsolete).await?;
    // A store that only claims to have removed an index would have it name packs that are gone.
    let removed: HashSet<&Id> = obsolete.iter().collect();
    let left = store.list(Kind::Index).await?;
    if let Some((id, _)) = left.iter().find(|(id, _)| removed.contains(id)) {
        return Err(store.damaged(format!("{} was removed and is still there", Kind::Index.path(id))));
    }

    let gone = index.packs.iter().zip(&plan.fates).filter(|(pack, fate)| pack.size.is_some() && **fate != Fate::Keep);
    let gone = gone.map(|(pack, _)| pack.id).collect();
    remove_packs(repository, store, gone).await
}

/// Removes packs that no index names.
pub(super) async fn remove_packs(
    repository: &Repository,
    store: &Store,
    packs: Vec<Id>,
) -> Result<(), RepositoryError> {
    remove(repository, store, Kind::Pack, &packs).await
}

/// Writes index files that name all new packs, and makes sure of both.
pub(super) async fn name_new(
    repository: &Repository,
    store: &Store,
    repacked: &Repacked,
) -> Result<(), RepositoryError> {
    name(repository, store, repacked, std::iter::empty()).await
}

/// The same, and those others beside them.
async fn name(
    repository: &Repository,
    store: &Store,
    repacked: &Repacked,
    others: impl Iterator<Item = IndexedPack>,
) -> Result<(), RepositoryError> {
    // No index may name a pack that is not there.
    let packs = repacked.packs.iter().zip(&repacked.sizes).map(|(pack, size)| (Kind::Pack, pack.id, *size));
    look_for(store, &packs.collect::<Vec<_>>()).await?;
    let new = repacked.packs.iter().map(|pack| IndexedPack { id: pack.id, blobs: pack.blobs.clone() });
    let mut written = Vec::new();
    let (mut file, mut blobs) = (IndexFile::default(), 0);
    for pack in new.chain(others) {
        blobs += pack.blobs.len();
        file.packs.push(pack);
        if blobs >= INDEX_BLOBS {
            written.push(file.write((&repository.cipher, repository.version), store).await?);
            (file, blobs) = (IndexFile::default(), 0);
        }
    }
    if !file.packs.is_empty() {
        written.push(file.write((&repository.cipher, repository.version), store).await?);
    }
    look_for(store, &written).await
}
