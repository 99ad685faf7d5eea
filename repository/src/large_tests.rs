//! Tests that the memory of operations on a large repository, or on a folder with many entries, is bounded. A test
//! starts itself again in a process of its own, and measures that process's peak memory.

use std::{fs::File, io, path::Path, process::Command, sync::Arc};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    PruneRules, Repository, StoreRules, archive,
    commit::{self, Commit},
    create,
    fixtures::access,
    folder,
    format::{BlobKind, Id, IndexFile, IndexedPack, Metadata, Node, NodeType, PackedBlob, SnapshotSummary, TreeId},
    index::known_blobs::KnownBlobs,
    open_exclusively,
    pack::HEADER_BYTES,
    packer::Packer,
    store::Kind,
    trees::tree::{TreeWriter, folder_metadata},
};
use stowaway_model::stream::{End, StreamItem, pieces};
use stowaway_model::{DataPart, Proof, SnapshotIdentity, mounts};

const PACKS: u32 = 100_000;
const BLOBS_OF_A_PACK: u32 = 20;
const ENTRIES: u32 = 1_000_000;
/// The limit of the peak memory. A Job has 192 MiB, and the connections to pod, API server and store also need memory.
const MAX_BYTES: u64 = 144 << 20;
/// An environment variable that makes the process run only this test, with the folder that it names.
const ALONE: &str = "STOWAWAY_TEST_ALONE";

fn identity() -> SnapshotIdentity {
    SnapshotIdentity { host: "shop".into(), path: "/data".into(), tags: vec![] }
}

fn assert_low_peak(step: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    println!("{} MiB after {step}", peak >> 20);
    assert!(peak < MAX_BYTES, "{peak} bytes after {step}");
}

/// Stores a snapshot of a folder with many files of the same content, with the functions that a backup uses for trees.
async fn store_long_folder(repository: &Repository) -> String {
    let (sender, receiver) = pieces();
    sender.send(StreamItem::Data("content".into())).await.unwrap();
    sender.send(StreamItem::End(End { proof: Proof::Sealed, bytes: 7 })).await.unwrap();
    let rules = StoreRules { allow_empty: false, accept_unproven: false, time: Timestamp::UNIX_EPOCH, device: None };
    repository.store_stream(&identity(), &rules, receiver, Arc::default()).await.unwrap();

    let store = repository.store.clone();
    let known = Arc::new(KnownBlobs::read(&repository.cipher, &store).await.unwrap());
    let task = |packer: &Arc<Packer>, _| {
        let content = packer.save(BlobKind::Data, b"content")?;
        let mut tree = TreeWriter::new(packer.version());
        for number in 0..ENTRIES {
            // Metadata which differs between the entries of a real folder, too.
            let time = Timestamp::from_nanosecond(i128::from(number) * 7_919_000_000_017).unwrap();
            let metadata =
                Metadata { size: 7, inode: u64::from(number) * 7, ctime: Some(time), ..folder_metadata(time) };
            let mut node = Node::new_node(format!("{number:07}").as_ref(), NodeType::File, metadata);
            node.content = Some(vec![content.into()]);
            tree.add(&node)?;
        }
        let mut node = Node::new_node("data".as_ref(), NodeType::Dir, folder_metadata(Timestamp::UNIX_EPOCH));
        node.subtree = Some(TreeId::from(packer.save_tree(tree.finish()?)?));
        let mut root = TreeWriter::new(packer.version());
        root.add(&node)?;
        let root = TreeId::from(packer.save_tree(root.finish()?)?);
        Ok((root, packer.finish()?))
    };
    let stored = archive::store_with(repository, &store, known, (Arc::default(), Arc::default()), task).await;
    let (root, written) = stored.unwrap();
    let summary = commit::completed(SnapshotSummary::default(), &written, Timestamp::UNIX_EPOCH);
    let commit = Commit { repository, store: &store, identity: &identity(), time: Timestamp::UNIX_EPOCH };
    commit.publish(&commit.labelled(root, summary), &written).await.unwrap()
}

/// Adds unused packs and the index files that list them. The packs are sparse files, because no test reads them.
async fn add_packs(repository: &Repository, root: &Path) {
    let id = |kind: u8, number: u32| {
        let mut id = super::crypto::hash(&number.to_le_bytes());
        id[31] = kind;
        Id::new(id)
    };
    let mut index = IndexFile::default();
    for pack in 0..PACKS {
        let blobs: Vec<PackedBlob> = (0..BLOBS_OF_A_PACK)
            .map(|blob| PackedBlob {
                id: id(0, pack * BLOBS_OF_A_PACK + blob),
                kind: BlobKind::Data,
                offset: blob * 100,
                length: 100,
                uncompressed_length: None,
            })
            .collect();
        let size: u64 = blobs.iter().map(|blob| u64::from(blob.length) + blob.entry_bytes()).sum();
        let pack = id(1, pack);
        let path = root.join(Kind::Pack.path(&pack));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().set_len(size + HEADER_BYTES).unwrap();
        index.packs.push(IndexedPack { id: pack, blobs });
        if index.blobs() >= super::index::index_file::INDEX_BLOBS {
            let full = std::mem::take(&mut index);
            full.write((&repository.cipher, 2), &repository.store).await.unwrap();
        }
    }
}

#[test]
fn two_million_blobs_and_a_folder_of_a_million_entries_take_little_memory() {
    let wait_for = |folder: &Path, is_alone: bool| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let root = folder.join("repository");
            if is_alone {
                return work(&root).await;
            }
            let repository = create(access(&root), CancellationToken::new()).await.unwrap();
            add_packs(&repository, &root).await;
            repository.close().await;
        });
    };
    if let Some(folder) = std::env::var_os(ALONE) {
        return wait_for(folder.as_ref(), true);
    }
    let folder = tempfile::tempdir().unwrap();
    wait_for(folder.path(), false);
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = "two_million_blobs_and_a_folder_of_a_million_entries_take_little_memory";
    let alone = Command::new(std::env::current_exe().unwrap())
        .env(ALONE, folder.path())
        .envs(mounts::ALLOCATOR)
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&alone.stdout);
    assert!(
        alone.status.success() && output.contains("1 passed"),
        "{output}{}",
        String::from_utf8_lossy(&alone.stderr)
    );
}

async fn work(root: &Path) {
    let repository = open_exclusively(access(root), CancellationToken::new()).await.unwrap();
    let snapshot = store_long_folder(&repository).await;
    assert_low_peak("a long folder was stored");
    repository.verify(&snapshot).await.unwrap();
    assert_low_peak("it was verified");
    let report = repository.check(None).await.unwrap();
    assert!(report.is_sound(), "{}", report.findings);
    assert!(report.blobs > u64::from(PACKS * BLOBS_OF_A_PACK) && report.packs > u64::from(PACKS), "{report:?}");
    assert_low_peak("a check");
    let output = (io::sink(), |_| Ok(()));
    let store = repository.store.clone();
    let content = folder::write_tar(&repository, &store, (&snapshot, "/data"), &[], output, Arc::default()).await;
    assert_eq!(content.unwrap().files, u64::from(ENTRIES));
    assert_low_peak("it was restored as a tar");
    assert_eq!(repository.read_file(&snapshot, "/data/0999999").await.unwrap().size, 7);
    assert_low_peak("one file of it was read");
    let report = repository.prune(&PruneRules::default()).await.unwrap();
    assert_eq!(report.packs_removed, u64::from(PACKS), "{report:?}");
    assert_low_peak("a prune");
    let report = repository.check(Some(DataPart::ALL)).await.unwrap();
    assert!(report.is_sound() && report.packs_read > 3, "{report:?}");
    assert_low_peak("a check of all data");
    repository.close().await;
}
