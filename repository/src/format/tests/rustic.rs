//! Compares with `rustic_core`, a second implementation of the formats: both write the same bytes, and each reads what
//! the other wrote.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use jiff::{Timestamp, tz::TimeZone};
use proptest::{collection::vec, option, prelude::*};
use rustic_core::repofile;
use serde::{Serialize, de::DeserializeOwned};

use super::super::{
    Binary, BlobKind, ConfigFile, DataId, ExtendedAttribute, Id, IndexFile, IndexedPack, LinkTarget, MasterKey,
    Metadata, Node, NodeType, PackedBlob, SnapshotFile, SnapshotSummary, TreeId,
};

/// Asserts that `rustic_core` reads what Stowaway wrote, and writes the same.
fn is_same<Other: DeserializeOwned + Serialize>(own: &impl Serialize) -> Result<(), TestCaseError> {
    let json = serde_json::to_string(own).unwrap();
    let read: Other = serde_json::from_str(&json).map_err(|error| TestCaseError::fail(format!("{error}: {json}")))?;
    prop_assert_eq!(serde_json::to_string(&read).unwrap(), json);
    Ok(())
}

fn id() -> impl Strategy<Value = Id> {
    any::<[u8; 32]>().prop_map(Id::new)
}

fn time() -> impl Strategy<Value = Timestamp> {
    // From the year 1 to 9999, with a fraction of a second in most cases.
    (-62_000_000_000_i64..253_000_000_000, prop_oneof![Just(0), 0..1_000_000_000])
        .prop_map(|(seconds, nanoseconds)| Timestamp::new(seconds, nanoseconds).unwrap())
}

/// Bytes among which special ones are frequent.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let special = prop::sample::select(b"\\\"'`\x07\x08\x0c\n\r\t\x0b\x01\x7f\xff\xc2xu0<&".to_vec());
    let text = "\\PC{0,8}".prop_map(String::into_bytes);
    prop_oneof![vec(special, 0..8), text, vec(any::<u8>(), 0..8)]
}

fn attribute() -> impl Strategy<Value = ExtendedAttribute> {
    let value = option::of(vec(any::<u8>(), 0..9).prop_map(Binary));
    ("\\PC{0,8}", value).prop_map(|(name, value)| ExtendedAttribute { name, value })
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let number = || prop_oneof![Just(0), any::<u64>()];
    let times = [option::of(time()), option::of(time()), option::of(time())];
    let owner = (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u32>()));
    (owner, times, [number(), number(), number(), number()], vec(attribute(), 0..3)).prop_map(
        |((mode, uid, gid), [mtime, atime, ctime], [inode, device_id, size, links], extended_attributes)| Metadata {
            mode,
            mtime,
            atime,
            ctime,
            uid,
            gid,
            inode,
            device_id,
            size,
            links,
            extended_attributes,
        },
    )
}

fn node_type() -> impl Strategy<Value = NodeType> {
    let link = name().prop_map(|target| NodeType::Symlink(LinkTarget::new(Path::new(&OsString::from_vec(target)))));
    prop_oneof![
        Just(NodeType::File),
        Just(NodeType::Dir),
        link,
        any::<u64>().prop_map(|device| NodeType::Dev { device }),
        any::<u64>().prop_map(|device| NodeType::Chardev { device }),
        Just(NodeType::Fifo),
        Just(NodeType::Socket),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let content = option::of(vec(id().prop_map(DataId::from), 0..3));
    let subtree = option::of(id().prop_map(TreeId::from));
    (name(), node_type(), metadata(), content, subtree).prop_map(|(name, node_type, metadata, content, subtree)| Node {
        content,
        subtree,
        ..Node::new_node(OsStr::from_bytes(&name), node_type, metadata)
    })
}

fn snapshot() -> impl Strategy<Value = SnapshotFile> {
    let summary = (any::<[u64; 4]>(), time(), any::<u16>()).prop_map(|(counts, time, eighths)| SnapshotSummary {
        files_new: counts[0],
        total_bytes_processed: counts[1],
        dirs_unmodified: counts[2],
        data_added_trees_packed: counts[3],
        backup_start: time,
        backup_end: time,
        // Numbers which a parser of JSON need not round.
        backup_duration: f64::from(eighths) / 8.0,
        total_duration: f64::from(eighths),
        ..SnapshotSummary::default()
    });
    let texts = || prop::collection::btree_set("\\PC{0,8}", 0..3);
    let labels = ("\\PC{0,8}", "\\PC{0,8}", texts(), texts());
    (time(), option::of(id()), id(), labels, option::of(summary)).prop_map(
        |(time, parent, tree, (program_version, hostname, paths, tags), summary)| SnapshotFile {
            time,
            program_version,
            parent,
            tree: tree.into(),
            hostname,
            paths,
            tags,
            summary,
            ..SnapshotFile::default()
        },
    )
}

proptest! {
    #[test]
    fn nodes_are_those_of_rustic(node in node()) {
        is_same::<repofile::Node>(&node)?;
        let json = serde_json::to_string(&node).unwrap();
        let of_rustic: repofile::Node = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(of_rustic.name(), node.name());
        if let NodeType::Symlink(target) = &node.kind {
            prop_assert_eq!(of_rustic.node_type.to_link(), target.path());
        }
        prop_assert_eq!(of_rustic.meta.mtime, node.meta.mtime);
        prop_assert_eq!(serde_json::from_str::<Node>(&json).unwrap(), node);
    }

    #[test]
    fn names_are_those_of_rustic(bytes in name(), text in r#"(\\[xuUabfnrtv'"`\\]|[0-9a-f]|ü){0,12}"#) {
        let metadata = repofile::Metadata::default;
        let rustic = |name: &OsStr| repofile::Node::new_node(name, repofile::NodeType::File, metadata());
        let own = |name: &OsStr| Node::new_node(name, NodeType::File, Metadata::default());
        let name = OsStr::from_bytes(&bytes);
        let (node, of_rustic) = (own(name), rustic(name));
        prop_assert_eq!(&node.name, &of_rustic.name);
        prop_assert_eq!(node.name(), name);
        let node = Node { name: text.clone(), ..Node::default() };
        let of_rustic = repofile::Node { name: text, ..repofile::Node::default() };
        prop_assert_eq!(node.name(), of_rustic.name());
    }

    #[test]
    fn snapshots_are_those_of_rustic(snapshot in snapshot()) {
        is_same::<repofile::SnapshotFile>(&snapshot)?;
        let json = serde_json::to_string(&snapshot).unwrap();
        let of_rustic: repofile::SnapshotFile = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(of_rustic.time.timestamp(), snapshot.time);
        let again: SnapshotFile = serde_json::from_str(&json).unwrap();
        prop_assert_eq!((again.time, again.tree, again.summary), (snapshot.time, snapshot.tree, snapshot.summary));
    }

    #[test]
    fn configs_and_ids_are_those_of_rustic(id in id(), polynomial in 1_u64..) {
        is_same::<repofile::ConfigFile>(&ConfigFile::new(id, polynomial))?;
        prop_assert_eq!(rustic_core::Id::new(id.bytes()).to_hex().as_str().to_owned(), id.to_hex());
    }

    #[test]
    fn indexes_are_those_of_rustic(ids in vec(id(), 2..5), offset: u32, length: u32, plain in 1..u32::MAX) {
        let kind = if offset % 2 == 0 { BlobKind::Data } else { BlobKind::Tree };
        let blob = |id: &Id| PackedBlob { id: *id, kind, offset, length, uncompressed_length: Some(plain) };
        let pack = IndexedPack { id: ids[0], blobs: ids[1..].iter().map(blob).collect() };
        is_same::<repofile::IndexFile>(&IndexFile { packs: vec![pack], packs_to_delete: vec![] })?;
    }
}

#[test]
fn master_keys_are_those_of_rustic() {
    is_same::<repofile::MasterKey>(&MasterKey::new()).unwrap();
    let of_rustic = repofile::MasterKey::new();
    let own: MasterKey = serde_json::from_str(&serde_json::to_string(&of_rustic).unwrap()).unwrap();
    assert_eq!(own.bytes()[..], [of_rustic.encrypt, of_rustic.mac.k, of_rustic.mac.r].concat());
}

/// The values with which rustic fills a snapshot itself, and its own fields.
#[test]
fn snapshot_of_rustic_is_read() {
    let mut of_rustic = repofile::SnapshotFile {
        label: "label".into(),
        delete: repofile::DeleteOption::After(Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC)),
        description: Some("description".into()),
        summary: Some(repofile::SnapshotSummary::default()),
        ..repofile::SnapshotFile::default()
    };
    of_rustic.tags.add("b".into());
    let own: SnapshotFile = serde_json::from_str(&serde_json::to_string(&of_rustic).unwrap()).unwrap();
    assert_eq!(own.time, of_rustic.time.timestamp());
    assert_eq!(own.program_version, of_rustic.program_version);
    assert_eq!(own.summary.unwrap().backup_start, of_rustic.summary.unwrap().backup_start.timestamp());
    assert!(own.tags.iter().eq(["b"]) && own.paths.is_empty());
}
