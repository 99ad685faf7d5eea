//! The blobs that a repository has, and their locations, from its index files and a listing of its packs.
//!
//! A blob whose pack is missing, or does not have the length that follows from the index, counts as missing, so that a
//! backup stores it again. The same applies to a blob whose pack is damaged, as far as that is known. A reader still
//! tries a damaged pack, if there is no other copy of the blob.

use std::collections::BTreeSet;

use super::{
    blob_location::BlobLocation,
    blob_table::{BlobTable, BlobTableBuilder, Copy, Row, SharedMarks},
    damaged_packs,
    lacking::Lacking,
    pack_check::{self, PackLength},
};
use crate::{
    RepositoryError,
    crypto::{Cipher, OVERHEAD_BYTES},
    format::{BlobKind, Id, IndexFile, IndexedPack, PackedBlob, SnapshotFile},
    store::{Kind, Store},
};
use stowaway_model::DamagedPacks;

/// The blobs of all packs that are in the store and not marked by a prune.
#[derive(Debug, Default)]
pub(crate) struct KnownBlobs {
    blobs: BlobTable,
    /// The packs that the index files list, by their numbers, with their lengths in the store. The length is none if
    /// the pack is missing, or if its length differs from the one that follows from the index file.
    packs: Vec<(Id, Option<u64>)>,
    /// The packs of which the caller uses a blob.
    used: SharedMarks,
    /// The packs whose content is damaged, as a check or a read has found.
    damaged: SharedMarks,
    /// Packs that are missing and index files that cannot be read. See also [`Self::lacking_now`].
    pub lacking: Lacking,
}

/// A blob that the repository has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownBlob {
    /// The blob's number: the index of its row in the table.
    pub number: usize,
    pub part: BlobLocation,
}

impl KnownBlobs {
    /// Reads all index files and lists all packs. Blobs of an index file that cannot be read, or of a pack that is
    /// missing or has another length, count as missing. Such files are reported in `lacking`; unreadable index files
    /// are also logged.
    pub async fn read(cipher: &Cipher, store: &Store) -> Result<Self, RepositoryError> {
        let mut building = Building::default();
        IndexFile::read_each(cipher, store, |id, read| {
            match read {
                Ok(file) => file.packs.into_iter().try_for_each(|pack| building.add(pack))?,
                Err(why) => {
                    let path = Kind::Index.path(&id);
                    tracing::warn!("{path} cannot be read, so the blobs that it lists count as missing: {why}");
                    building.lacking.add_index_file(path);
                }
            }
            Ok(())
        })
        .await?;
        // The packs are listed after the index files were read, because a pack is written before the index file that
        // lists it.
        let sizes = pack_check::sizes(store, &building.packs, &building.lengths).await?;
        building.finish(sizes)
    }

    /// As [`Self::read`], for a run that stores missing blobs again. `reported` are packs that a check found damaged.
    /// `snapshots` were read before, so that the index files of each of them were written before they are read here.
    /// Logs a warning if files are missing or damaged.
    pub async fn read_to_store(
        cipher: &Cipher,
        store: &Store,
        reported: &DamagedPacks,
        snapshots: &[SnapshotFile],
    ) -> Result<Self, RepositoryError> {
        let mut known = Self::read(cipher, store).await?;
        known.find_unlisted(snapshots)?;
        known.find_damaged(store, reported).await?;
        known.lacking = known.lacking_now();
        if !known.lacking.is_nothing() {
            tracing::warn!("{}", known.lacking);
        }
        Ok(known)
    }

    /// Counts the snapshots whose root tree is missing. Lost index files leave no other trace, because what they listed
    /// looks like data of failed runs.
    fn find_unlisted(&mut self, snapshots: &[SnapshotFile]) -> Result<(), RepositoryError> {
        for snapshot in snapshots {
            if self.find(BlobKind::Tree, *snapshot.tree)?.is_none() {
                self.lacking.add_snapshot(&snapshot.id);
            }
        }
        Ok(())
    }

    /// Marks the packs that a check found damaged, and reads the part of the data in which it found more.
    async fn find_damaged(&self, store: &Store, reported: &DamagedPacks) -> Result<(), RepositoryError> {
        for number in damaged_packs::listed(self.packs.iter().map(|(id, _)| id), reported) {
            self.damaged.set(number);
        }
        let Some(part) = reported.more_in else { return Ok(()) };
        let numbered = self.packs.iter().enumerate();
        let due: Vec<(usize, Id, u64)> = numbered
            .filter(|(number, (id, _))| !self.damaged.has(*number) && damaged_packs::is_in(id, part))
            .filter_map(|(number, (id, size))| Some((number, *id, (*size)?)))
            .collect();
        let count = due.len();
        tracing::info!(
            "a check found more damaged packs than it could list; part {part} of the data is read to find them: {count} \
             packs"
        );
        for number in damaged_packs::find(store, due).await? {
            self.damaged.set(number);
        }
        Ok(())
    }

    /// Returns which files are missing or damaged, with the packs that were found damaged since the index was read.
    pub fn lacking_now(&self) -> Lacking {
        let numbered = self.packs.iter().enumerate();
        let mut damaged = numbered.filter(|(number, (_, size))| size.is_some() && self.damaged.has(*number)).peekable();
        let first_damaged = damaged.peek().map_or_else(String::new, |(_, (id, _))| Kind::Pack.path(id));
        Lacking { damaged: damaged.count() as u64, first_damaged, ..self.lacking.clone() }
    }

    /// Returns the packs that the caller uses although a read has found them damaged. The caller took blobs of these
    /// packs before that, and the blobs may be damaged.
    pub fn damaged_after_use(&self) -> Vec<Id> {
        let numbered = self.packs.iter().enumerate();
        let both = numbered.filter(|(number, _)| self.used.has(*number) && self.damaged.has(*number));
        both.map(|(_, (id, _))| *id).collect()
    }

    /// Returns the other copies of a blob of which the copy at `part` is damaged, and marks the pack of that copy as
    /// damaged. The copies in packs that are not known to be damaged come first. Also returns whether the damage of the
    /// pack is new.
    pub fn other_copies(&self, part: &BlobLocation) -> Result<(Vec<BlobLocation>, bool), RepositoryError> {
        let (mut others, mut is_new) = (Vec::new(), false);
        // A blob's id is the hash of its content, so that a copy of another kind has the same content.
        for kind in [BlobKind::Data, BlobKind::Tree] {
            for Copy { row, .. } in self.blobs.copies(kind, part.id)? {
                let (number, (pack, size)) = (row.pack as usize, self.packs[row.pack as usize]);
                if pack == part.pack {
                    is_new |= self.damaged.set(number);
                } else if size.is_some() {
                    others.push((self.damaged.has(number), row.blob.part(pack)));
                }
            }
        }
        others.sort_by_key(|(is_damaged, _)| *is_damaged);
        Ok((others.into_iter().map(|(_, part)| part).collect(), is_new))
    }

    /// Returns how many copies of blobs the index files list. The number of a blob is less than that.
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Returns a blob for reading it, if the repository has it. It may be in a damaged pack, if there is no other copy.
    pub fn find(&self, kind: BlobKind, id: Id) -> Result<Option<KnownBlob>, RepositoryError> {
        Ok(self.best_copy(kind, id)?.map(|Copy { row_number: number, row }| {
            let (pack, _) = self.packs[row.pack as usize];
            KnownBlob { number, part: row.blob.part(pack) }
        }))
    }

    /// Returns a blob for relying on it, if the repository has it in a pack that is not known to be damaged, and adds
    /// its pack to [`Self::used_packs`].
    pub fn take(&self, kind: BlobKind, id: Id) -> Result<Option<KnownBlob>, RepositoryError> {
        let best = self.best_copy(kind, id)?.filter(|copy| !self.damaged.has(copy.row.pack as usize));
        let Some(Copy { row_number: number, row }) = best else { return Ok(None) };
        self.used.set(row.pack as usize);
        let (pack, _) = self.packs[row.pack as usize];
        Ok(Some(KnownBlob { number, part: row.blob.part(pack) }))
    }

    /// The first copy in a pack that is not known to be damaged, or else the first copy.
    fn best_copy(&self, kind: BlobKind, id: Id) -> Result<Option<Copy>, RepositoryError> {
        let copies = self.blobs.copies(kind, id)?.into_iter();
        let there = copies.filter(|copy| self.packs[copy.row.pack as usize].1.is_some());
        Ok(there.min_by_key(|copy| self.damaged.has(copy.row.pack as usize)))
    }

    /// Returns the location of the blob with this number.
    pub fn part_at(&self, number: usize) -> Result<BlobLocation, RepositoryError> {
        let row = self.blobs.row(number)?;
        let (pack, _) = self.packs[row.pack as usize];
        Ok(row.blob.part(pack))
    }

    /// Returns the packs of all blobs that [`Self::take`] returned, with their lengths.
    pub fn used_packs(&self) -> Vec<(Id, u64)> {
        let used = self.packs.iter().enumerate().filter(|(number, _)| self.used.has(*number));
        used.filter_map(|(_, (id, size))| Some((*id, (*size)?))).collect()
    }
}

/// Returns the error of a run that relied on these packs before it found them damaged.
pub(crate) fn used_damage(store: &Store, packs: &[Id]) -> RepositoryError {
    store.damaged(format!(
        "{} found to be damaged after this run had relied on the data in {}, so that no snapshot was stored: run it \
         again; if it fails again, let a check read all data (`check` of the Repository), because a backup stores the \
         data of packs that a check has listed again",
        were_packs(packs),
        if packs.len() == 1 { "it" } else { "them" },
    ))
}

/// The beginning of a sentence about what was done to these packs.
pub(crate) fn were_packs(packs: &[Id]) -> String {
    let first = packs.first().map_or_else(String::new, |id| Kind::Pack.path(id));
    if packs.len() == 1 { format!("{first} was") } else { format!("{} packs, such as {first}, were", packs.len()) }
}

/// The content of the index files, before the packs were listed.
#[derive(Default)]
struct Building {
    blobs: BlobTableBuilder,
    packs: Vec<Id>,
    lengths: Vec<PackLength>,
    lacking: Lacking,
}

impl Building {
    fn add(&mut self, pack: IndexedPack) -> Result<(), RepositoryError> {
        let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push(pack.id);
        self.lengths.push(PackLength::of(&pack.blobs));
        pack.blobs.into_iter().try_for_each(|blob| self.blobs.add(Row { blob, pack: number }))
    }

    fn finish(self, sizes: Vec<Option<u64>>) -> Result<KnownBlobs, RepositoryError> {
        let blobs = self.blobs.finish()?;
        let (used, damaged) = (SharedMarks::new(self.packs.len()), SharedMarks::new(self.packs.len()));
        let packs = self.packs.into_iter().zip(sizes).collect();
        let mut known = KnownBlobs { blobs, packs, used, damaged, lacking: self.lacking };
        known.report_lost()?;
        Ok(known)
    }
}

impl KnownBlobs {
    /// Adds to `lacking` each missing pack which contains a blob without another copy.
    fn report_lost(&mut self) -> Result<(), RepositoryError> {
        if self.packs.iter().all(|(_, size)| size.is_some()) {
            return Ok(());
        }
        let mut lost = BTreeSet::new();
        for copies in self.blobs.blobs() {
            let copies = copies?;
            if copies.iter().all(|copy| self.packs[copy.row.pack as usize].1.is_none()) {
                lost.extend(copies.iter().map(|copy| copy.row.pack));
            }
        }
        for pack in lost {
            self.lacking.add_pack(&self.packs[pack as usize].0);
        }
        Ok(())
    }
}

impl PackedBlob {
    /// Returns the blob's length before compression.
    pub fn plain_length(&self) -> u32 {
        let plain = self.length.saturating_sub(u32::try_from(OVERHEAD_BYTES).unwrap_or(0));
        self.uncompressed_length.unwrap_or(plain)
    }

    /// Returns the blob's location, for fetching it from `pack`.
    pub fn part(&self, pack: Id) -> BlobLocation {
        BlobLocation {
            id: self.id,
            pack,
            offset: self.offset,
            length: self.length,
            plain_length: self.plain_length(),
            compressed: self.uncompressed_length.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(kind: BlobKind, id: u8) -> PackedBlob {
        PackedBlob { id: Id::new([id; 32]), kind, offset: 7, length: 40, uncompressed_length: None }
    }

    fn known_of(packs: impl IntoIterator<Item = (u8, Vec<PackedBlob>)>, sizes: &[Option<u64>]) -> KnownBlobs {
        let mut building = Building::default();
        for (pack, blobs) in packs {
            building.add(IndexedPack { id: Id::new([pack; 32]), blobs }).unwrap();
        }
        building.finish(sizes.to_vec()).unwrap()
    }

    fn known(sizes: &[Option<u64>]) -> KnownBlobs {
        let packs = [(9, vec![blob(BlobKind::Data, 3), blob(BlobKind::Data, 1)]), (8, vec![blob(BlobKind::Tree, 2)])];
        known_of(packs, sizes)
    }

    fn length(known: &KnownBlobs, kind: BlobKind, id: u8) -> Option<u32> {
        known.take(kind, Id::new([id; 32])).unwrap().map(|blob| blob.part.plain_length)
    }

    #[test]
    fn blobs_are_known_by_kind_and_id() {
        let known = known(&[Some(70), Some(71)]);
        let has = |kind, id| length(&known, kind, id) == Some(8);
        assert!(has(BlobKind::Data, 1) && has(BlobKind::Data, 3) && has(BlobKind::Tree, 2));
        assert!(!has(BlobKind::Tree, 1) && !has(BlobKind::Data, 2));
        let tree = known.find(BlobKind::Tree, Id::new([2; 32])).unwrap().unwrap().part;
        assert_eq!((tree.pack, tree.offset, tree.length, tree.plain_length), (Id::new([8; 32]), 7, 40, 8));
    }

    #[test]
    fn blobs_of_a_missing_pack_are_not_known() {
        let known = known(&[None, Some(71)]);
        assert_eq!(length(&known, BlobKind::Data, 1), None);
        assert_eq!(length(&known, BlobKind::Tree, 2), Some(8));
        assert_eq!((known.lacking.packs, known.lacking.index_files), (1, 0));
        assert!(known.lacking.to_string().contains(&Kind::Pack.path(&Id::new([9; 32]))), "{}", known.lacking);
    }

    #[test]
    fn missing_pack_whose_blobs_have_other_copies_is_not_lacking() {
        let packs = [4, 5].map(|pack| (pack, vec![blob(BlobKind::Data, 1), blob(BlobKind::Tree, 2)]));
        let known = known_of(packs, &[None, Some(71)]);
        assert!(known.lacking.is_nothing(), "{}", known.lacking);
        assert_eq!(length(&known, BlobKind::Data, 1), Some(8));
        assert_eq!(known.find(BlobKind::Tree, Id::new([2; 32])).unwrap().unwrap().part.pack, Id::new([5; 32]));
        assert_eq!(known.used_packs(), [(Id::new([5; 32]), 71)]);
    }

    #[test]
    fn blob_of_a_damaged_pack_is_relied_on_only_in_another_pack_and_read_there_first() {
        let packs = [4, 5].map(|pack| (pack, vec![blob(BlobKind::Data, 1), blob(BlobKind::Tree, 2)]));
        let known = known_of(packs, &[Some(71), Some(71)]);
        let [data, tree] = [(BlobKind::Data, 1), (BlobKind::Tree, 2)];
        let pack_of = |part: BlobLocation| part.pack;
        let found = |(kind, id): (BlobKind, u8)| known.find(kind, Id::new([id; 32])).unwrap().unwrap().part;
        let first = found(data);
        let (others, is_new) = known.other_copies(&first).unwrap();
        assert_eq!((others.into_iter().map(pack_of).collect::<Vec<_>>(), is_new), (vec![Id::new([5; 32])], true));
        assert!(!known.other_copies(&first).unwrap().1, "the damage is known");
        assert_eq!(pack_of(found(tree)), Id::new([5; 32]), "the whole pack counts as damaged");
        assert_eq!(length(&known, BlobKind::Data, 1), Some(8));
        assert_eq!(known.used_packs(), [(Id::new([5; 32]), 71)]);

        known.other_copies(&found(data)).unwrap();
        assert_eq!(length(&known, BlobKind::Data, 1), None, "no copy is intact");
        assert_eq!(pack_of(found(data)), Id::new([4; 32]), "a reader tries it nevertheless");
        let lacking = known.lacking_now();
        assert_eq!((lacking.damaged, &lacking.first_damaged), (2, &Kind::Pack.path(&Id::new([4; 32]))));
        let message = lacking.to_string();
        assert!(message.starts_with("the repository is not healthy: 2 of its packs"), "{message}");
        assert!(message.contains("restic repair packs"), "{message}");
    }

    #[test]
    fn pack_that_is_found_damaged_after_a_blob_of_it_was_taken_is_reported() {
        let tree = |id| blob(BlobKind::Tree, id);
        let known = known_of([(4, vec![tree(1), tree(2)]), (5, vec![tree(3)])], &[Some(71), Some(71)]);
        let damage = |id| {
            let found = known.find(BlobKind::Tree, Id::new([id; 32])).unwrap().unwrap();
            known.other_copies(&found.part).unwrap();
        };
        damage(3);
        assert_eq!(length(&known, BlobKind::Tree, 3), None);
        assert_eq!(known.damaged_after_use(), [], "nothing relies on the damaged pack");
        assert_eq!(length(&known, BlobKind::Tree, 1), Some(8));
        assert_eq!(known.damaged_after_use(), []);
        damage(2);
        assert_eq!(known.damaged_after_use(), [Id::new([4; 32])]);
        assert_eq!(were_packs(&known.damaged_after_use()), format!("{} was", Kind::Pack.path(&Id::new([4; 32]))));
        assert!(were_packs(&[Id::new([4; 32]); 2]).starts_with("2 packs, such as data/04/0404"));
    }

    #[test]
    fn only_packs_of_blobs_that_were_taken_are_used() {
        let known = known(&[Some(70), Some(71)]);
        assert_eq!(known.used_packs(), []);
        known.take(BlobKind::Tree, Id::new([2; 32])).unwrap();
        assert_eq!(known.used_packs(), [(Id::new([8; 32]), 71)]);
    }
}
