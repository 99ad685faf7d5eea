//! Properties of every plan, for any index and store: no blob which a snapshot needs is removed, and the index files
//! which remain list exactly the packs which remain.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    format::{Id, IndexFile, IndexedPack, PackedBlob},
    maintenance::prune::rules::Unused,
    pack::HEADER_BYTES,
};

const BLOBS: u8 = 24;

/// A pack as it was written, and its state now.
#[derive(Clone, Debug)]
struct Written {
    blobs: Vec<(u8, u32)>,
    is_lost: bool,
    is_short: bool,
    /// The index files which list it, and whether each only marks it as removable.
    files: Vec<(usize, bool)>,
}

fn written() -> impl Strategy<Value = Written> {
    let blobs = vec((0..BLOBS, prop_oneof![4 => 1_u32..2000, 1 => 400_000_u32..2_000_000]), 0..6);
    let rare = || prop::bool::weighted(0.05);
    (blobs, rare(), rare(), vec((0..4_usize, prop::bool::weighted(0.1)), 0..3))
        .prop_map(|(blobs, is_lost, is_short, files)| Written { blobs, is_lost, is_short, files })
}

fn id(number: usize) -> Id {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Id::new(bytes)
}

/// Blobs of an even number are trees.
fn kind(blob: u8) -> BlobKind {
    if blob.is_multiple_of(2) { BlobKind::Tree } else { BlobKind::Data }
}

fn indexed(number: usize, pack: &Written) -> IndexedPack {
    let mut offset = 0;
    let blobs = pack.blobs.iter().map(|(blob, length)| {
        let packed = PackedBlob {
            id: id(usize::from(*blob)),
            kind: kind(*blob),
            offset,
            length: *length,
            uncompressed_length: None,
        };
        offset += length;
        packed
    });
    IndexedPack { id: id(1000 + number), blobs: blobs.collect() }
}

fn index_of(packs: &[Written]) -> Index {
    let mut files: Vec<IndexFile> = (0..4).map(|_| IndexFile::default()).collect();
    for (number, pack) in packs.iter().enumerate() {
        for (file, is_marked) in &pack.files {
            let file = &mut files[*file];
            let list = if *is_marked { &mut file.packs_to_delete } else { &mut file.packs };
            list.push(indexed(number, pack));
        }
    }
    let stored = packs.iter().enumerate().filter(|(_, pack)| !pack.is_lost).map(|(number, pack)| {
        let blobs = indexed(number, pack).blobs;
        let size: u64 = blobs.iter().map(|blob| u64::from(blob.length) + blob.entry_bytes()).sum();
        (id(1000 + number), HEADER_BYTES + size - u64::from(pack.is_short))
    });
    Index::of(files.into_iter().enumerate().map(|(number, file)| (id(2000 + number), file)), stored.collect())
}

fn rules() -> impl Strategy<Value = PruneRules> {
    let unused = prop_oneof![
        (0..100_u8).prop_map(Unused::Percent),
        (0..3_000_000_u64).prop_map(Unused::Bytes),
        Just(Unused::Unlimited)
    ];
    (unused, prop::option::of(prop_oneof![0..20_000_u64, 0..4_000_000_u64]))
        .prop_map(|(max_unused, max_repack)| PruneRules { max_unused, max_repack, ..PruneRules::default() })
}

#[test]
fn repacked_copy_without_unused_blobs_is_kept() {
    let pack = |blobs: &[(u8, u32)]| Written {
        blobs: blobs.to_vec(),
        is_lost: false,
        is_short: false,
        files: vec![(0, false)],
    };
    // The first pack has more needed bytes, but also unused ones.
    let packs =
        [pack(&[(1, 1000), (3, 1000), (5, 1000), (7, 9000)]), pack(&[(1, 1000), (3, 1000)]), pack(&[(5, 1000)])];
    let index = index_of(&packs);
    let mut used = Marks::new(index.len());
    for blob in [1, 3, 5] {
        used.set(index.copies(BlobKind::Data, id(blob)).unwrap()[0].row_number);
    }
    let plan = Plan::new(&index, &used, &Doubts::none(&index), &PruneRules::default()).unwrap();
    let action =
        |number: usize| plan.actions[index.packs.iter().position(|pack| pack.id == id(1000 + number)).unwrap()];
    assert_eq!([action(0), action(1), action(2)], [PackAction::Remove, PackAction::Keep, PackAction::Keep]);
    assert_eq!((plan.unused_bytes, plan.repacked_bytes), (0, 0));
}

#[test]
fn copy_in_a_damaged_pack_is_given_up_only_for_one_that_was_read() {
    let pack = |blobs: &[(u8, u32)]| Written {
        blobs: blobs.to_vec(),
        is_lost: false,
        is_short: false,
        files: vec![(0, false)],
    };
    // Without doubts, the first pack is kept, because it has more needed bytes.
    let packs = [pack(&[(1, 1000), (3, 1000)]), pack(&[(1, 1000)])];
    let index = index_of(&packs);
    let number = |number: usize| index.packs.iter().position(|pack| pack.id == id(1000 + number)).unwrap();
    let copies = |blob| index.copies(BlobKind::Data, id(blob)).unwrap();
    let row_in = |pack: usize| {
        let copy = copies(1).into_iter().find(|copy| copy.row.pack as usize == number(pack));
        copy.unwrap().row_number
    };
    let rules = PruneRules { max_unused: Unused::Bytes(0), ..PruneRules::default() };
    let planned = |needed: &[usize], doubts: &Doubts| {
        let mut used = Marks::new(index.len());
        for blob in needed {
            used.set(copies(*blob)[0].row_number);
        }
        let plan = Plan::new(&index, &used, doubts, &rules).unwrap();
        [plan.actions[number(0)], plan.actions[number(1)]]
    };
    assert_eq!(planned(&[1, 3], &Doubts::none(&index)), [PackAction::Keep, PackAction::Remove]);
    let both = [PackAction::Keep; 2];
    let damaged = Doubts::of(&index, &[number(0)], &[]);
    assert_eq!(planned(&[1, 3], &damaged), both, "it is not known which copy is intact");
    let verified = Doubts::of(&index, &[number(0)], &[row_in(1)]);
    assert_eq!(planned(&[1, 3], &verified), both, "the other blob of the damaged pack may be intact");
    assert_eq!(planned(&[1], &verified), [PackAction::Remove, PackAction::Keep]);
}

#[test]
fn pack_with_a_blob_that_is_too_long_for_memory_is_never_packed_again() {
    // The length includes the nonce and the tag.
    let long = LONGEST_REPACKED_BYTES + 33;
    let packs = [(long, PackAction::Keep), (1_000_000, PackAction::Repack)].map(|(length, action)| {
        // Tree 2 is needed, and tree 4 is not.
        let blobs = vec![(2, length), (4, 2_000_000)];
        let packs = [Written { blobs, is_lost: false, is_short: false, files: vec![(0, false)] }];
        (index_of(&packs), action)
    });
    for (index, expected) in packs {
        let mut used = Marks::new(index.len());
        used.set(index.copies(BlobKind::Tree, id(2)).unwrap()[0].row_number);
        let rules = PruneRules { max_unused: Unused::Bytes(0), ..PruneRules::default() };
        let doubts = Doubts::none(&index);
        let plan = Plan::new(&index, &used, &doubts, &rules).unwrap();
        assert_eq!(plan.actions, [expected]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn needed_blobs_are_never_removed(
        packs in vec(written(), 0..80),
        needed in vec(0..BLOBS, 0..24),
        damaged in vec(0..80_usize, 0..4),
        rules in rules(),
    ) {
        let index = index_of(&packs);
        let damaged: Vec<usize> = damaged.into_iter().filter(|pack| *pack < index.packs.len()).collect();
        let doubts = Doubts::of(&index, &damaged, &[]);
        let needed: BTreeSet<u8> = needed.into_iter().collect();
        let mut used = Marks::new(index.len());
        let mut is_there = true;
        for blob in &needed {
            let copies = index.copies(kind(*blob), id(usize::from(*blob))).unwrap();
            let whole = |copy: &Copy| {
                let pack = index.pack_of(copy);
                pack.size.is_some() && pack.size == pack.content.size
            };
            if copies.is_empty() {
                // The snapshot is already damaged; a prune ends before it makes a plan.
                continue;
            }
            is_there &= copies.iter().any(whole);
            used.set(copies[0].row_number);
        }
        let plan = Plan::new(&index, &used, &doubts, &rules);
        prop_assert_eq!(plan.is_ok(), is_there);
        let Ok(plan) = plan else { return Ok(()) };

        for blob in &needed {
            let copies = index.copies(kind(*blob), id(usize::from(*blob))).unwrap();
            let chosen: Vec<&Copy> = copies.iter().filter(|copy| plan.chosen.has(copy.row_number)).collect();
            let wanted = if doubts.concern(&copies) {
                copies.iter().filter(|copy| index.is_whole(copy)).count()
            } else {
                usize::from(!copies.is_empty())
            };
            prop_assert_eq!(chosen.len(), wanted);
            for copy in chosen {
                prop_assert_ne!(plan.actions[copy.row.pack as usize], PackAction::Remove);
                prop_assert!(index.pack_of(copy).size.is_some());
            }
        }
        let mut unused_bytes = 0;
        for (number, pack) in index.packs.iter().enumerate() {
            let stays = plan.actions[number] == PackAction::Keep;
            let is_named_by_what_stays =
                pack.files.iter().any(|file| !plan.obsolete_files[*file as usize]);
            // An index file which remains lists no removed pack. A kept pack is listed in an index file which remains,
            // or in an obsolete one from which its entry is copied.
            prop_assert!(stays || !is_named_by_what_stays);
            prop_assert!(!stays || !pack.files.is_empty());
            let mut blobs = index.blobs_in(u32::try_from(number).unwrap()).unwrap();
            let all = blobs.len();
            blobs.retain(|numbered| !plan.chosen.has(numbered.row_number));
            prop_assert!(!stays || blobs.len() < all, "nothing needs it");
            if stays {
                let bytes = blobs.iter().map(|numbered| u64::from(numbered.blob.length) + numbered.blob.entry_bytes());
                unused_bytes += bytes.sum::<u64>();
            }
        }
        prop_assert_eq!(plan.unused_bytes, unused_bytes);
        if let Some(most) = rules.max_repack {
            prop_assert!(plan.repacked_bytes <= most);
        }
    }
}
