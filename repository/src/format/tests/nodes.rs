//! Tests of nodes.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};

use super::{
    super::{Binary, Id, LinkTarget, Metadata, Node, NodeType, Tree},
    unchanged,
};

/// The tree of a folder, as restic 0.19 wrote it with the time zone of Berlin. The times of most nodes are shortened.
const OF_RESTIC: &str = concat!(
    r#"{"nodes":["#,
    r#"{"name":"cdev","type":"chardev","mode":69206436,"mtime":"2026-11-30T23:28:19.544834316+01:00","#,
    r#""atime":"2026-11-30T23:28:19.544834316+01:00","ctime":"2026-11-30T23:28:19.544834316+01:00","uid":0,"gid":0,"#,
    r#""user":"root","group":"root","inode":10807827,"device_id":65024,"links":1,"device":259,"content":null},"#,
    r#"{"name":"dev","type":"dev","mode":67109284,"uid":0,"gid":0,"user":"root","group":"root","inode":10807824,"#,
    r#""device_id":65024,"links":1,"device":1795,"content":null},"#,
    r#"{"name":"dir","type":"dir","mode":2155872749,"uid":0,"gid":0,"user":"root","group":"root","inode":10807701,"#,
    r#""device_id":65024,"content":null,"#,
    r#""subtree":"ac08ce34ba4f8123618661bef2425f7028ffb9ac740578a3ee88684d2523fee8"},"#,
    r#"{"name":"empty","type":"file","mtime":"1970-01-01T00:59:58.25+01:00","uid":0,"gid":0,"user":"root","#,
    r#""group":"root","inode":10807843,"device_id":65024,"links":1,"content":[]},"#,
    r#"{"name":"file","type":"file","mode":420,"mtime":"2024-05-04T05:02:01.5+02:00","uid":1000,"gid":4294967295,"#,
    r#""inode":18446744073709551615,"device_id":65024,"size":1,"links":2,"extended_attributes":"#,
    r#"[{"name":"user.a","value":"aGVsbG8="},{"name":"user.e","value":""},{"name":"user.n","value":null}],"#,
    r#""generic_attributes":{"windows.file_attributes":[34]},"#,
    r#""content":["ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"]},"#,
    r#"{"name":"link","type":"symlink","mode":134218239,"uid":0,"gid":0,"links":1,"linktarget":"/etc/x","#,
    r#""content":null},"#,
    r#"{"name":"odd\\x01 \\\"q\\\\ \\xff\\u200b\\n","type":"file","mode":420,"uid":0,"gid":0,"links":1,"#,
    r#""content":["3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"],"error":"x"},"#,
    r#"{"name":"pipe","type":"fifo","mode":33554852,"uid":0,"gid":0,"content":null},"#,
    r#"{"name":"rawlink","type":"symlink","mode":134218239,"uid":0,"gid":0,"links":1,"#,
    r#""linktarget":"bad\ufffd\u003c\u0026","linktarget_raw":"YmFk/zwm","content":null},"#,
    r#"{"name":"socket","type":"socket","uid":0,"gid":0,"linktarget_raw":null,"content":null}"#,
    "]}\n",
);

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn tree_of_restic_is_read() {
    let nodes = serde_json::from_str::<Tree<Node>>(OF_RESTIC).unwrap().nodes;
    let [character, block, folder, empty, file, link, odd, pipe, raw_link, socket] = &nodes[..] else { panic!() };
    let expected = Metadata {
        mode: Some(69_206_436),
        mtime: Some(time("2026-11-30T22:28:19.544834316Z")),
        atime: Some(time("2026-11-30T22:28:19.544834316Z")),
        ctime: Some(time("2026-11-30T22:28:19.544834316Z")),
        uid: Some(0),
        gid: Some(0),
        inode: 10_807_827,
        device_id: 65024,
        size: 0,
        links: 1,
        extended_attributes: vec![],
    };
    assert_eq!((&character.meta, &character.content), (&expected, &None));
    assert_eq!(character.kind, NodeType::Chardev { device: 259 });
    assert_eq!(block.kind, NodeType::Dev { device: 1795 });
    assert!(folder.is_dir() && folder.content.is_none() && !folder.is_file());
    assert_eq!(folder.subtree.unwrap().to_hex(), "ac08ce34ba4f8123618661bef2425f7028ffb9ac740578a3ee88684d2523fee8");
    assert_eq!((empty.meta.mtime, empty.meta.mode), (Some(time("1969-12-31T23:59:58.25Z")), None));
    assert_eq!(empty.content.as_deref(), Some(&[][..]));
    assert_eq!((file.meta.uid, file.meta.gid, file.meta.inode), (Some(1000), Some(u32::MAX), u64::MAX));
    assert_eq!((file.meta.mtime, file.meta.size, file.meta.links), (Some(time("2024-05-04T03:02:01.5Z")), 1, 2));
    let attributes = file.meta.extended_attributes.iter();
    let attributes: Vec<_> = attributes.map(|found| (found.name.as_str(), found.value.as_ref())).collect();
    let (hello, none) = (Binary(b"hello".to_vec()), Binary(vec![]));
    assert_eq!(attributes, [("user.a", Some(&hello)), ("user.e", Some(&none)), ("user.n", None)]);
    let ids: Vec<Id> = file.content.iter().flatten().map(|id| **id).collect();
    let id = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    assert_eq!(ids, [id.parse().unwrap()]);
    assert_eq!(link.kind, NodeType::Symlink(LinkTarget::new(Path::new("/etc/x"))));
    assert_eq!(odd.name().as_bytes(), b"odd\x01 \"q\\ \xff\xe2\x80\x8b\n");
    assert_eq!(pipe.kind, NodeType::Fifo);
    let NodeType::Symlink(target) = &raw_link.kind else { panic!("{raw_link:?}") };
    assert_eq!(target.path().as_os_str().as_bytes(), b"bad\xff<&");
    assert_eq!(socket.kind, NodeType::Socket);
    for node in &nodes {
        let again: Node = serde_json::from_str(&serde_json::to_string(node).unwrap()).unwrap();
        assert_eq!(again, *node);
    }
}

/// A change of these bytes would store the trees of all unchanged folders again.
#[test]
fn nodes_are_written_as_before() {
    let file: Node = unchanged(concat!(
        r#"{"name":"a\\n","type":"file","mode":384,"uid":0,"gid":7,"inode":9,"device_id":8,"size":5,"links":2,"#,
        r#""extended_attributes":[{"name":"user.a","value":"aGVsbG8="},{"name":"user.n","value":null}],"#,
        r#""content":["ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"]}"#,
    ));
    assert_eq!(file.name(), OsStr::new("a\n"));
    for json in [
        r#"{"name":"","type":"file","content":[]}"#,
        concat!(
            r#"{"name":"a","type":"dir","mode":2147484141,"content":null,"#,
            r#""subtree":"ac08ce34ba4f8123618661bef2425f7028ffb9ac740578a3ee88684d2523fee8"}"#
        ),
        r#"{"name":"a","type":"symlink","linktarget":"/etc/<x>","mode":134218239,"content":null}"#,
        r#"{"name":"a","type":"symlink","linktarget":"bad�","linktarget_raw":"YmFk/w==","links":1,"content":null}"#,
        r#"{"name":"a","type":"dev","device":1795,"uid":3,"content":null}"#,
        r#"{"name":"a","type":"chardev","device":0,"content":null}"#,
        r#"{"name":"a","type":"fifo","content":null}"#,
        r#"{"name":"a","type":"socket","content":null}"#,
    ] {
        unchanged::<Node>(json);
    }
    let raw = Node::new_node(
        OsStr::from_bytes(b"\xff"),
        NodeType::Symlink(LinkTarget::new(Path::new(OsStr::from_bytes(b"bad\xff")))),
        Metadata::default(),
    );
    let expected =
        r#"{"name":"\\xff","type":"symlink","linktarget":"bad�","linktarget_raw":"YmFk/w==","content":null}"#;
    assert_eq!(serde_json::to_string(&raw).unwrap(), expected);
}

#[test]
fn times_are_written_with_the_offset_of_the_time_zone() {
    for (text, in_utc) in [
        ("2026-05-04T03:02:01Z", "2026-05-04T03:02:01+00:00"),
        ("2026-05-04T05:02:01.5+02:00", "2026-05-04T03:02:01.5+00:00"),
        ("2026-11-30T22:28:19.000000001Z", "2026-11-30T22:28:19.000000001+00:00"),
        ("1969-12-31T23:59:58.25Z", "1969-12-31T23:59:58.25+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("9999-12-30T21:59:59Z", "9999-12-30T21:59:59+00:00"),
    ] {
        let metadata = Metadata { mtime: Some(time(text)), ..Metadata::default() };
        let json = serde_json::to_value(&metadata).unwrap();
        assert_eq!(serde_json::from_value::<Metadata>(json.clone()).unwrap(), metadata);
        if TimeZone::system().to_offset(metadata.mtime.unwrap()) == Offset::UTC {
            assert_eq!(json, serde_json::json!({ "mtime": in_utc }));
        }
    }
}

#[test]
fn json_that_is_no_node_is_an_error() {
    for json in [
        r#"{"type":"file","content":[]}"#,
        r#"{"name":"a","content":[]}"#,
        r#"{"name":"a","type":"irregular","content":null}"#,
        r#"{"name":"a","type":"symlink","content":null}"#,
        r#"{"name":"a","type":"symlink","linktarget":"a","linktarget_raw":"*","content":null}"#,
        r#"{"name":"a","type":"file","content":["ca97"]}"#,
        r#"{"name":"a","type":"file","size":-1,"content":[]}"#,
        r#"{"name":"a","type":"file","mtime":"yesterday","content":[]}"#,
    ] {
        assert!(serde_json::from_str::<Node>(json).is_err(), "{json}");
    }
    let lenient = r#"{"name":"a\\q","type":"dev","extended_attributes":null,"more":[{"a":1}]}"#;
    let node: Node = serde_json::from_str(lenient).unwrap();
    assert_eq!((node.name().as_bytes(), &node.kind), (&b"a\\q"[..], &NodeType::Dev { device: 0 }));
    assert!(serde_json::from_str::<Tree<Node>>(r#"{"nodes":null}"#).unwrap().nodes.is_empty());
}
