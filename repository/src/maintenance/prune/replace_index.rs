//! Replaces old index files by new ones, and removes the packs which no index lists any more. The order of the steps
//! leaves a sound repository if the process ends at any point.

use std::collections::HashSet;

use super::{
    super::{index::Index, remove},
    plan::{PackAction, Plan},
    repack::Repacked,
};
use crate::{
    Repository, RepositoryError,
    format::{Id, IndexFile, IndexedPack, PackedBlob},
    index::{index_file::INDEX_BLOBS, pack_check::look_for},
    store::{Kind, Store},
};

/// Writes the new index files, verifies that all new files are in the store, and removes the old files.
pub(super) async fn replace_indexes(
    repository: &Repository,
    store: &Store,
    index: &Index,
    plan: &Plan,
    repacked: &mut Repacked,
) -> Result<(), RepositoryError> {
    repacked.write_index(repository, store).await?;
    index_kept_packs(repository, store, index, plan).await?;

    let obsolete = index.files.iter().zip(&plan.obsolete_files).filter(|(_, is_obsolete)| **is_obsolete);
    let obsolete: Vec<Id> = obsolete.map(|(file, _)| file.id).collect();
    remove(repository, store, Kind::Index, &obsolete).await?;
    // If the store reported the removal of an index file but kept it, that file would list packs which are removed
    // next.
    let removed: HashSet<&Id> = obsolete.iter().collect();
    let left = store.list(Kind::Index).await?;
    if let Some((id, _)) = left.iter().find(|(id, _)| removed.contains(id)) {
        return Err(store.damaged(format!("{} was removed, but the store still lists it", Kind::Index.path(id))));
    }

    let obsolete_packs = index
        .packs
        .iter()
        .zip(&plan.actions)
        .filter(|(pack, action)| pack.size.is_some() && **action != PackAction::Keep);
    let obsolete_packs = obsolete_packs.map(|(pack, _)| pack.id).collect();
    remove_packs(repository, store, obsolete_packs).await
}

/// Removes packs which no index lists.
pub(super) async fn remove_packs(
    repository: &Repository,
    store: &Store,
    packs: Vec<Id>,
) -> Result<(), RepositoryError> {
    remove(repository, store, Kind::Pack, &packs).await
}

/// Removes the new packs, and before them the index files which list them.
pub(super) async fn remove_repacked(
    repository: &Repository,
    store: &Store,
    repacked: Repacked,
) -> Result<(), RepositoryError> {
    remove(repository, store, Kind::Index, &repacked.index_files).await?;
    remove_packs(repository, store, repacked.packs.into_iter().map(|(id, _)| id).collect()).await
}

/// Writes index files for the kept packs which obsolete index files list, and verifies that the new files are in the
/// store.
async fn index_kept_packs(
    repository: &Repository,
    store: &Store,
    index: &Index,
    plan: &Plan,
) -> Result<(), RepositoryError> {
    let kept = (0..).zip(&index.packs).zip(&plan.actions).filter(|((_, pack), action)| {
        **action == PackAction::Keep && pack.files.iter().any(|file| plan.obsolete_files[*file as usize])
    });
    let mut written = Vec::new();
    let (mut file, mut blobs) = (IndexFile::default(), 0);
    for ((number, pack), _) in kept {
        let content: Vec<PackedBlob> = index.blobs_in(number)?.into_iter().map(|numbered| numbered.blob).collect();
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
