//! Hostile snapshots: whatever their trees contain, a restore touches nothing outside of the target.

use std::{fs, path::Path, sync::Arc};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    archive::store_with,
    commit::Commit,
    create, crypto,
    fixtures::access,
    format::{BlobKind, Id, LinkTarget, Metadata, Node, NodeType, SnapshotSummary, TreeId},
    packer::{Packer, Written},
    trees::tree::{FinishedTree, TreeWriter},
};
use stowaway_model::Reason;

fn node(name: &str, kind: NodeType, metadata: Metadata) -> Node {
    // The name is used as it is, without escaping or checks.
    Node { name: name.to_owned(), kind, meta: metadata, ..Node::default() }
}

fn file(name: &str) -> Node {
    Node { content: Some(vec![]), ..node(name, NodeType::File, Metadata { mode: Some(0o600), ..Metadata::default() }) }
}

fn link(name: &str, target: &Path) -> Node {
    node(name, NodeType::Symlink(LinkTarget::new(target)), Metadata::default())
}

fn folder(name: &str, tree: TreeId) -> Node {
    Node { subtree: Some(tree), ..node(name, NodeType::Dir, Metadata { mode: Some(0o700), ..Metadata::default() }) }
}

/// The JSON of a tree.
fn json(nodes: &[Node]) -> Vec<u8> {
    let mut writer = TreeWriter::new(2);
    for node in nodes {
        writer.add(node).unwrap();
    }
    match writer.finish().unwrap() {
        FinishedTree::Short(json) => json,
        FinishedTree::Long(_) => panic!("the tree is long"),
    }
}

fn id_of(nodes: &[Node]) -> TreeId {
    crypto::id_of(&json(nodes)).into()
}

/// A repository, with a folder to restore into and a folder which must stay untouched.
struct Case {
    directory: tempfile::TempDir,
    repository: Repository,
}

impl Case {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let access = access(&directory.path().join("repository"));
        let repository = create(access, CancellationToken::new()).await.unwrap();
        for folder in ["target", "outside"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        Self { directory, repository }
    }

    /// Stores trees. The last one is the root.
    async fn store(&self, trees: &[Vec<Node>]) -> String {
        let (repository, store) = (&self.repository, &self.repository.store);
        let trees: Vec<Vec<u8>> = trees.iter().map(|nodes| json(nodes)).collect();
        let save = move |packer: &Arc<Packer>, _| {
            let ids: Vec<Id> = trees.iter().map(|tree| packer.save(BlobKind::Tree, tree).unwrap()).collect();
            let root = TreeId::from(*ids.last().unwrap());
            Ok((root, packer.finish()?))
        };
        let (known, none) = (Arc::default(), (Arc::default(), Arc::default()));
        let (root, _) = store_with(repository, store, known, none, save).await.unwrap();
        let identity = SnapshotIdentity { host: "shop".into(), path: "/data/claim".into(), tags: vec![] };
        let commit = Commit { repository, store, identity: &identity, time: Timestamp::UNIX_EPOCH };
        commit.publish(&commit.labelled(root, SnapshotSummary::default()), &Written::default()).await.unwrap()
    }

    async fn restore(&self, trees: &[Vec<Node>]) -> Result<RestoredFolder, RepositoryError> {
        let snapshot = self.store(trees).await;
        let target = self.directory.path().join("target");
        fs::remove_dir_all(&target).unwrap();
        fs::create_dir(&target).unwrap();
        self.repository.restore_folder(&snapshot, "/", &target, Arc::default()).await
    }

    fn is_unharmed(&self) {
        let names = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["outside", "repository", "target"]);
        assert_eq!(fs::read_dir(self.directory.path().join("outside")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let long = format!("{}x", "../".repeat(40));
    let case = Case::new().await;
    for name in [
        "..",
        ".",
        "",
        "../x",
        "/",
        "/tmp/stowaway-test-x",
        "a/b",
        "a/../../x",
        "\\x2e\\x2e",
        "\\x2fx",
        "a\\x00b",
        &long,
    ] {
        let below = vec![file("x")];
        for hostile in [file(name), link(name, Path::new("/")), folder(name, id_of(&below))] {
            let error = case.restore(&[below.clone(), vec![hostile]]).await.unwrap_err();
            assert_eq!(error.reason(), Reason::RepositoryDamaged, "{name:?}: {error}");
            case.is_unharmed();
        }
    }
}

#[tokio::test]
async fn restore_does_not_follow_a_link_of_the_snapshot() {
    let below = vec![file("x")];
    let case = Case::new().await;
    let outside = case.directory.path().join("outside");
    let meta = Metadata { links: 2, inode: 7, mode: Some(0o600), ..Metadata::default() };
    let first = Node { meta: meta.clone(), ..file("first") };
    for nodes in [
        // A folder whose name a link already has.
        vec![link("a", &outside), folder("a", id_of(&below))],
        // A file whose name a link already has. It would be written to the link's target.
        vec![link("a", &outside.join("x")), file("a")],
        vec![link("a", &outside.join("x")), node("a", NodeType::Fifo, Metadata::default())],
        // A hard link whose name a link already has.
        vec![first, link("a", &outside.join("x")), Node { meta, ..file("a") }],
    ] {
        let error = case.restore(&[below.clone(), nodes]).await.unwrap_err();
        assert_eq!(error.reason(), Reason::TargetUnwritable, "{error}");
        case.is_unharmed();
    }
}

/// A node with the same inode number as all others of this function.
fn numbered(name: &str, content: &[Id], modified: i64, size: u64) -> Node {
    let meta = Metadata {
        links: 2,
        inode: 7,
        device_id: 9,
        mode: Some(0o600),
        mtime: Some(Timestamp::from_second(modified).unwrap()),
        size,
        ..Metadata::default()
    };
    Node { content: Some(content.iter().map(|id| (*id).into()).collect()), ..node(name, NodeType::File, meta) }
}

#[tokio::test]
async fn file_whose_number_was_given_to_another_one_keeps_its_own_content() {
    use std::os::unix::fs::MetadataExt;
    let case = Case::new().await;
    let (repository, store) = (&case.repository, &case.repository.store);
    let save = move |packer: &Arc<Packer>, _| {
        let [old, new] = [b"OLD-A", b"NEW-Z"].map(|content| packer.save(BlobKind::Data, content).unwrap());
        let root = vec![
            numbered("a", &[old], 1, 5),
            numbered("a-again", &[old], 1, 5),
            // Files which were deleted and created again with the same inode number during the backup: with other
            // content, with nothing but another time, and with a second name.
            numbered("touched", &[old], 2, 5),
            numbered("z", &[new], 1, 5),
            numbered("z-again", &[new], 1, 5),
        ];
        let root = TreeId::from(packer.save(BlobKind::Tree, &json(&root)).unwrap());
        Ok((root, packer.finish()?))
    };
    let (root, written) =
        store_with(repository, store, Arc::default(), (Arc::default(), Arc::default()), save).await.unwrap();
    let identity = SnapshotIdentity { host: "shop".into(), path: "/data/claim".into(), tags: vec![] };
    let commit = Commit { repository, store, identity: &identity, time: Timestamp::UNIX_EPOCH };
    let snapshot = commit.publish(&commit.labelled(root, SnapshotSummary::default()), &written).await.unwrap();
    let target = case.directory.path().join("target");
    case.repository.restore_folder(&snapshot, "/", &target, Arc::default()).await.unwrap();
    for (name, content) in
        [("a", "OLD-A"), ("a-again", "OLD-A"), ("touched", "OLD-A"), ("z", "NEW-Z"), ("z-again", "NEW-Z")]
    {
        assert_eq!(fs::read_to_string(target.join(name)).unwrap(), content, "{name}");
    }
    let inode = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
    assert!(inode("a") == inode("a-again") && inode("z") == inode("z-again"), "names of one file stay one file");
    assert!(inode("a") != inode("touched") && inode("a") != inode("z"));
}

#[tokio::test]
async fn links_themselves_are_restored_wherever_they_lead() {
    let case = Case::new().await;
    let root = vec![link("a", Path::new("../outside")), link("b", Path::new("/etc"))];
    case.restore(&[root]).await.unwrap();
    case.is_unharmed();
    assert_eq!(fs::read_link(case.directory.path().join("target/a")).unwrap(), Path::new("../outside"));
}

#[tokio::test]
async fn tree_or_content_that_is_not_there_fails_the_restore() {
    let case = Case::new().await;
    let missing = Node { content: Some(vec![Id::new([7; 32]).into()]), ..file("x") };
    for root in
        [vec![missing], vec![folder("x", Id::new([7; 32]).into())], vec![node("x", NodeType::Dir, Metadata::default())]]
    {
        let error = case.restore(&[root]).await.unwrap_err();
        assert_eq!(error.reason(), Reason::RepositoryDamaged, "{error}");
    }
}

#[tokio::test]
async fn length_that_the_parts_do_not_have_fails_the_restore() {
    let case = Case::new().await;
    let wrong = Node { meta: Metadata { size: 5, ..Metadata::default() }, ..file("x") };
    let error = case.restore(&[vec![wrong]]).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RepositoryDamaged, "{error}");
}

#[tokio::test]
async fn target_that_is_not_empty_is_not_touched() {
    let case = Case::new().await;
    let target = case.directory.path().join("target");
    fs::write(target.join("data"), "the app's").unwrap();
    let snapshot = case.store(&[vec![file("x")]]).await;
    let error = case.repository.restore_folder(&snapshot, "/", &target, Arc::default()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::TargetUnwritable, "{error}");
    assert_eq!(fs::read_dir(target).unwrap().count(), 1);
}

#[tokio::test]
async fn folder_that_a_snapshot_does_not_have_is_reported_as_missing() {
    let case = Case::new().await;
    let snapshot = case.store(&[vec![file("data")]]).await;
    for path in ["/nothing", "/data", "/data/claim"] {
        let target = case.directory.path().join("target");
        let error = case.repository.restore_folder(&snapshot, path, &target, Arc::default()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::SnapshotNotFound, "{error}");
    }
}
