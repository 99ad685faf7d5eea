//! Memory of a run: bounded, whatever the length of the stream. Alone in its process, whose peak it measures.

use std::sync::Arc;

use stowaway::{
    model::{ArchiveFormat, mounts},
    repository::{ArchivePlace, Progress, StoreAccess},
    stream::{Piece, pieces},
};

use super::*;

/// The highest resident set so far, in KiB.
fn peak_kibibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Tells the process that it runs this one test.
const ALONE: &str = "STOWAWAY_TEST_ALONE";
const MEBIBYTES: u64 = 512;

#[test]
fn long_stream_is_stored_and_read_back_in_little_memory() {
    if std::env::var_os(ALONE).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(store_and_read_back());
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let alone = std::process::Command::new(std::env::current_exe().unwrap())
        .env(ALONE, "1")
        .envs(mounts::ALLOCATOR)
        .args(["--exact", &format!("{module}::long_stream_is_stored_and_read_back_in_little_memory"), "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&alone.stderr));
}

async fn store_and_read_back() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(place.path()).await;
    println!("{} MiB after opening", peak_kibibytes() / 1024);
    let (sender, receiver) = pieces();
    tokio::spawn(async move {
        for mebibyte in 0..MEBIBYTES {
            let data: bytes::Bytes = noise(1 << 20, mebibyte).into();
            for part in 0..16 {
                sender.send(Piece::Data(data.slice(part << 16..(part + 1) << 16))).await.unwrap();
            }
        }
        sender.send(end(MEBIBYTES << 20)).await.unwrap();
    });
    let label = identity("/db.sql");
    let stored = repository.store_stream(&label, &rules(), receiver, Arc::new(Progress::default())).await.unwrap();
    assert_eq!(stored.bytes, MEBIBYTES << 20);
    println!("{} MiB after storing {MEBIBYTES} MiB", peak_kibibytes() / 1024);
    let mut file = repository.read_file(&stored.snapshot, "/db.sql").await.unwrap();
    let mut bytes = 0;
    let last = loop {
        match file.pieces.recv().await {
            Some(Piece::Data(data)) => bytes += data.len() as u64,
            other => break other,
        }
    };
    assert!(matches!(last, Some(Piece::End(_))), "{last:?}");
    assert_eq!(bytes, MEBIBYTES << 20);
    println!("{} MiB after reading it back", peak_kibibytes() / 1024);
    // Of the 192 MiB of a Job; the connections to pod and store need some, too.
    assert!(peak_kibibytes() < 144 * 1024, "{} KiB", peak_kibibytes());
    let to = ArchivePlace {
        store: StoreAccess {
            backend: folder(&place.path().join("archives")).backend,
            connection: Connection::default(),
            credentials: BTreeMap::new(),
            patience: Patience::default(),
        },
        name: "db.tar.zst".to_owned(),
        format: ArchiveFormat::TarZstd,
        overwrite: false,
        at_most: Some(stored.bytes),
    };
    let archived = repository.archive((&stored.snapshot, "/db.sql"), &[], &to, Arc::default()).await.unwrap();
    assert!(archived.bytes > MEBIBYTES << 20, "{archived:?}");
    println!("{} MiB after making an archive of it", peak_kibibytes() / 1024);
    // With all that the allocator has kept of the backup and the reading before, which the Job of an archive has not done.
    assert!(peak_kibibytes() < 176 * 1024, "{} KiB", peak_kibibytes());
}
