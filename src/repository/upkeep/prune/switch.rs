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
    pack::PackedBlob,
    pack_check::look_for,
    store::{Kind, Store},
};

/// Writes new indexes, makes sure of all that is new, and removes what is old.
pub(super) async fn switch(
    repository: &Repository,
    store: &Store,
    index: &Index,
    plan: &Plan,
    repacked: &mut Repacked,
) -> Result<(), RepositoryError> {
    repacked.name(repository, store).await?;
    name_staying(repository, store, index, plan).await?;

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

/// Removes what was packed again, and first the index files that name it.
pub(super) async fn take_back(
    repository: &Repository,
    store: &Store,
    repacked: Repacked,
) -> Result<(), RepositoryError> {
    remove(repository, store, Kind::Index, &repacked.index_files).await?;
    remove_packs(repository, store, repacked.packs.into_iter().map(|(id, _)| id).collect()).await
}

/// Writes index files that name the packs that stay, and that an index file names which goes; and makes sure of the files.
async fn name_staying(
    repository: &Repository,
    store: &Store,
    index: &Index,
    plan: &Plan,
) -> Result<(), RepositoryError> {
    let staying = (0..).zip(&index.packs).zip(&plan.fates).filter(|((_, pack), fate)| {
        **fate == Fate::Keep && pack.files.iter().any(|file| plan.obsolete_files[*file as usize])
    });
    let mut written = Vec::new();
    let (mut file, mut blobs) = (IndexFile::default(), 0);
    for ((number, pack), _) in staying {
        let content: Vec<PackedBlob> = index.blobs_in(number)?.into_iter().map(|placed| placed.blob).collect();
        blobs += content.len();
        file.packs.push(IndexedPack { id: pack.id, blobs: content });
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
