//! Tests of ids and files.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    super::{
        BlobKind, ConfigFile, Id, IndexFile, IndexedPack, KeyFile, LockFile, MasterKey, PackedBlob, SnapshotFile,
        SnapshotSummary,
    },
    unchanged,
};

const ID: &str = "364d6232c2cb4053b419e4c7e66beeffdc2d5e7086eef2750471cad6fdcdbe6e";

#[test]
fn ids_are_hex_digits() {
    let id: Id = ID.parse().unwrap();
    assert_eq!((id.to_hex().as_str(), format!("{id:?}").as_str()), (ID, ID));
    assert_eq!(id.bytes()[..3], [0x36, 0x4d, 0x62]);
    assert_eq!(ID.to_uppercase().parse::<Id>(), Ok(id));
    unchanged::<Id>(&format!("{ID:?}"));
    assert_eq!(serde_json::from_reader::<_, Id>(format!("{ID:?}").as_bytes()).unwrap(), id);
    assert_ne!(Id::random(), Id::random());
    let replaced = [("3", "g"), ("36", "ü"), ("3", "+")].map(|(from, to)| ID.replace(from, to));
    let long = format!("{ID}00");
    for text in ["", &ID[1..], &long].into_iter().chain(replaced.iter().map(String::as_str)) {
        assert!(text.parse::<Id>().is_err(), "{text}");
        assert!(serde_json::from_value::<Id>(text.into()).is_err(), "{text}");
    }
}

#[test]
fn config_is_read_and_written() {
    let json = format!(r#"{{"version":2,"id":"{ID}","chunker_polynomial":"30641e895b5ed9"}}"#);
    let config: ConfigFile = unchanged(&json);
    assert_eq!((config.version, config.id.to_hex().as_str()), (2, ID));
    assert_eq!(config.polynomial(), Some(0x30_641E_895B_5ED9));
    assert_eq!(ConfigFile::new(config.id, 0x30_641E_895B_5ED9), config);
    let of_rustic = format!(
        r#"{{"version":1,"id":"{ID}","chunker_polynomial":"x","is_hot":true,"compression":3,"treepack_size":4194304}}"#
    );
    let config: ConfigFile = serde_json::from_str(&of_rustic).unwrap();
    assert_eq!((config.version, config.polynomial()), (1, None));
}

#[test]
fn key_files_are_read_and_written() {
    let of_restic = concat!(
        r#"{"created":"2026-11-30T23:28:55.998148559+01:00","username":"root","hostname":"vm","kdf":"scrypt","#,
        r#""N":32768,"r":8,"p":3,"salt":"j++C1O6ZuBT3t9D3MaWlVw==","data":"HgShe7uUYWG0FEFnNT36/6g="}"#
    );
    let key: KeyFile = serde_json::from_str(of_restic).unwrap();
    assert_eq!(key.created, Some("2026-11-30T22:28:55.998148559Z".parse().unwrap()));
    assert_eq!((key.hostname.as_deref(), key.username.as_deref()), (Some("vm"), Some("root")));
    assert_eq!((key.kdf.as_str(), key.n, key.r, key.p), ("scrypt", 32768, 8, 3));
    assert_eq!((key.salt.0.len(), key.data.0[0]), (16, 0x1e));
    let written = concat!(
        r#"{"hostname":"vm","username":"root","created":"2026-11-30T22:28:55.998148559+00:00","kdf":"scrypt","#,
        r#""N":32768,"r":8,"p":3,"data":"HgShe7uUYWG0FEFnNT36/6g=","salt":"j++C1O6ZuBT3t9D3MaWlVw=="}"#
    );
    assert_eq!(serde_json::to_string(&key).unwrap(), written);
    unchanged::<KeyFile>(written);
    unchanged::<KeyFile>(r#"{"kdf":"scrypt","N":2,"r":1,"p":1,"data":"","salt":""}"#);
}

#[test]
fn master_keys_are_read_and_written() {
    let json = concat!(
        r#"{"mac":{"k":"TZmvW7H8o6MRY5WjwO3izg==","r":"Ay0CCeDKZAxA6wAORMihBg=="},"#,
        r#""encrypt":"TWKTaZ0He7UNUveU21HYllxrS8LeuMqwxaHJPUEYd/o="}"#
    );
    let key: MasterKey = unchanged(json);
    let bytes = key.bytes();
    assert_eq!((bytes[0], bytes[31], bytes[32], bytes[47], bytes[48], bytes[63]), (0x4d, 0xfa, 0x4d, 0xce, 0x03, 0x06));
    assert!(MasterKey::new() != MasterKey::new());
    assert_eq!(format!("{key:?}"), "MasterKey");
    for (from, to) in [("TZmv", ""), ("Ay0C", "Ay0CAy0C"), ("TWKT", ""), ("==", "=")] {
        assert!(serde_json::from_str::<MasterKey>(&json.replace(from, to)).is_err(), "{from}");
    }
}

#[test]
fn indexes_are_read_and_written() {
    let json = format!(r#"{{"packs":[{{"id":"{ID}","blobs":[{{"id":"{ID}","type":"data","offset":0,"length":42,"#)
        + &format!(r#""uncompressed_length":1}},{{"id":"{ID}","type":"tree","offset":42,"length":7}}]}},"#)
        + &format!(r#"{{"id":"{ID}","blobs":[]}}]}}"#);
    let index: IndexFile = unchanged(&json);
    let id = ID.parse().unwrap();
    let data = PackedBlob { id, kind: BlobKind::Data, offset: 0, length: 42, uncompressed_length: Some(1) };
    let tree = PackedBlob { id, kind: BlobKind::Tree, offset: 42, length: 7, uncompressed_length: None };
    assert_eq!(index.packs[0].blobs, [data, tree]);
    assert_eq!((index.blobs(), tree.end(), index.packs_to_delete.len()), (2, 49, 0));
    let of_rustic = format!(
        r#"{{"supersedes":["{ID}"],"packs":null,"packs_to_delete":[{{"id":"{ID}","blobs":null,"time":"x","size":3}}]}}"#
    );
    let index: IndexFile = serde_json::from_str(&of_rustic).unwrap();
    let [IndexedPack { id: pack, blobs }] = &index.packs_to_delete[..] else { panic!("{index:?}") };
    assert_eq!((*pack, blobs.len(), index.blobs()), (id, 0, 0));
    assert!(serde_json::from_str::<IndexFile>("{}").unwrap().packs.is_empty());
}

#[test]
fn snapshots_of_other_programs_are_read() {
    let of_restic_0_14 = format!(
        r#"{{"time":"2026-11-30T23:28:26.677055034+01:00","tree":"{ID}","paths":["/tmp/fm/src"],"hostname":"h","#
    ) + r#""username":"root","excludes":["*.tmp"],"tags":["b","a","b"]}"#;
    let snapshot: SnapshotFile = serde_json::from_str(&of_restic_0_14).unwrap();
    assert_eq!(snapshot.time, "2026-11-30T22:28:26.677055034Z".parse::<Timestamp>().unwrap());
    assert_eq!(snapshot.tree.to_hex(), ID);
    assert!(snapshot.paths.iter().eq(["/tmp/fm/src"]) && snapshot.tags.iter().eq(["a", "b"]));
    assert_eq!((snapshot.hostname.as_str(), snapshot.program_version.as_str(), snapshot.parent), ("h", "", None));
    assert!(snapshot.summary.is_none() && snapshot.id == Id::default());

    let of_restic_0_19 = format!(
        r#"{{"time":"2026-11-30T22:28:49.694987731Z","parent":"{ID}","tree":"{ID}","paths":["/b","/a"],"hostname":"h","#
    ) + concat!(
        r#""username":"root","uid":1000,"gid":1000,"original":"x","program_version":"restic 0.19.1","summary":{"#,
        r#""backup_start":"2026-11-30T22:28:49.694987731Z","backup_end":"2026-11-30T22:28:51.087127402Z","#,
        r#""files_new":4,"files_changed":1,"files_unmodified":2,"dirs_new":4,"dirs_changed":0,"dirs_unmodified":0,"#,
        r#""data_blobs":2,"tree_blobs":5,"data_added":4357,"data_added_packed":1971,"total_files_processed":7,"#,
        r#""total_bytes_processed":3}}"#
    );
    let snapshot: SnapshotFile = serde_json::from_str(&of_restic_0_19).unwrap();
    assert_eq!(snapshot.parent, Some(ID.parse().unwrap()));
    assert_eq!((snapshot.uid, snapshot.gid, snapshot.program_version.as_str()), (1000, 1000, "restic 0.19.1"));
    let summary = snapshot.summary.unwrap();
    assert_eq!((summary.files_new, summary.files_changed, summary.files_unmodified), (4, 1, 2));
    assert_eq!((summary.total_files_processed, summary.total_bytes_processed, summary.data_added_packed), (7, 3, 1971));
    assert_eq!(summary.total_dirs_processed, 0);

    let of_rustic = format!(
        r#"{{"time":"2026-11-30T23:28:49.5+01:00[Europe/Berlin]","program_version":"rustic 0.13.0","tree":"{ID}","#
    ) + &format!(
        r#""label":"l","paths":["/a"],"tags":[],"original":"{ID}","delete":"Never","id":"{ID}","summary":{{"#
    ) + r#""total_bytes_processed":3,"command":"rustic backup","backup_duration":0.5}}"#;
    let snapshot: SnapshotFile = serde_json::from_str(&of_rustic).unwrap();
    assert_eq!(snapshot.time, "2026-11-30T22:28:49.5Z".parse::<Timestamp>().unwrap());
    assert_eq!((snapshot.hostname.as_str(), snapshot.summary.unwrap().total_bytes_processed), ("", 3));

    for json in ["{}", r#"{"time":"2026-11-30T22:28:49Z","paths":[]}"#, &of_rustic.replace("2026-11", "2026-13")] {
        assert!(serde_json::from_str::<SnapshotFile>(json).is_err(), "{json}");
    }
}

#[test]
fn snapshots_are_written_with_the_fields_of_restic_and_rustic() {
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let snapshot = SnapshotFile {
        time: time("2026-05-04T03:02:01.5Z"),
        program_version: "stowaway 0.1.0".into(),
        tree: ID.parse::<Id>().unwrap().into(),
        paths: BTreeSet::from(["/data".into()]),
        hostname: "shop".into(),
        tags: BTreeSet::from(["b".into(), "a=1".into()]),
        summary: Some(SnapshotSummary {
            backup_start: time("2026-05-04T03:02:01Z"),
            backup_end: time("2026-05-04T03:02:02.25Z"),
            backup_duration: 1.25,
            files_new: 1,
            ..SnapshotSummary::default()
        }),
        ..SnapshotFile::default()
    };
    let summary = concat!(
        r#""summary":{"files_new":1,"files_changed":0,"files_unmodified":0,"total_files_processed":0,"#,
        r#""total_bytes_processed":0,"dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,"total_dirs_processed":0,"#,
        r#""total_dirsize_processed":0,"data_blobs":0,"tree_blobs":0,"data_added":0,"data_added_packed":0,"#,
        r#""data_added_files":0,"data_added_files_packed":0,"data_added_trees":0,"data_added_trees_packed":0,"#,
        r#""command":"","backup_start":"2026-05-04T03:02:01+00:00","backup_end":"2026-05-04T03:02:02.25+00:00","#,
        r#""backup_duration":1.25,"total_duration":0.0}"#
    );
    let expected = format!(
        r#"{{"time":"2026-05-04T03:02:01.5+00:00","program_version":"stowaway 0.1.0","tree":"{ID}","paths":["/data"],"#
    ) + r#""hostname":"shop","username":"","uid":0,"gid":0,"tags":["a=1","b"],"#
        + summary
        + "}";
    assert_eq!(serde_json::to_string(&snapshot).unwrap(), expected);
    unchanged::<SnapshotFile>(&expected);
    let parent = Some(ID.parse().unwrap());
    let snapshot = SnapshotFile { parent, excludes: vec!["*.tmp".into()], summary: None, ..snapshot };
    let expected = format!(
        r#"{{"time":"2026-05-04T03:02:01.5+00:00","program_version":"stowaway 0.1.0","parent":"{ID}","tree":"{ID}","#
    ) + r#""paths":["/data"],"excludes":["*.tmp"],"hostname":"shop","username":"","uid":0,"gid":0,"tags":["a=1","b"]}"#;
    assert_eq!(serde_json::to_string(&snapshot).unwrap(), expected);
}

#[test]
fn locks_are_read_and_written() {
    let of_restic = concat!(
        r#"{"time":"2026-11-30T23:28:26.677055034+01:00","exclusive":false,"hostname":"vm","username":"root","#,
        r#""pid":4711,"uid":1000,"gid":1000}"#
    );
    let lock: LockFile = serde_json::from_str(of_restic).unwrap();
    assert_eq!(lock.time, "2026-11-30T22:28:26.677055034Z".parse::<Timestamp>().unwrap());
    assert_eq!((lock.hostname.as_str(), lock.pid, lock.uid, lock.lease_seconds), ("vm", 4711, 1000, None));
    unchanged::<LockFile>(&of_restic.replace("23:28", "22:28").replace("+01:00", "Z"));
    let leased: LockFile = unchanged(concat!(
        r#"{"time":"2026-11-30T22:28:26Z","exclusive":true,"hostname":"h","username":"u","pid":0,"uid":0,"gid":0,"#,
        r#""stowaway_lease_seconds":60}"#
    ));
    assert_eq!((leased.exclusive, leased.lease_seconds), (true, Some(60)));
    let short: LockFile = serde_json::from_str(r#"{"time":"2026-11-30T22:28:26Z","more":1}"#).unwrap();
    assert!(!short.exclusive && short.hostname.is_empty());
}
