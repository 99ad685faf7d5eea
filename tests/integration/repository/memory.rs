//! The memory of a run is bounded, whatever the size of its data. Each test runs in a process of its own, because it
//! measures the peak of the process.

use std::sync::Arc;

use stowaway::{
    model::{ArchiveFormat, DataPart, mounts},
    repository::{ArchiveTarget, Progress, StoreAccess, open},
    stream::{StreamItem, pieces},
};

use super::{
    prune::{forget_and_prune, none_unused, store_folder},
    *,
};

/// The peak resident set size so far, in KiB.
fn peak_kibibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The variable which makes this process run only the one test, in this folder.
const ALONE: &str = "STOWAWAY_TEST_ALONE";
const MEBIBYTES: u64 = 512;

/// Runs a test of this module again, in a process of its own with the environment of a Job.
fn run_alone(test: &str, folder: &Path) {
    let (_, module) = module_path!().split_once("::").unwrap();
    let alone = std::process::Command::new(std::env::current_exe().unwrap())
        .env(ALONE, folder)
        .envs(mounts::ALLOCATOR)
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&alone.stdout);
    assert!(
        alone.status.success() && stdout.contains("1 passed"),
        "{stdout}{}",
        String::from_utf8_lossy(&alone.stderr)
    );
}

fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

#[test]
fn long_stream_is_stored_and_read_back_in_little_memory() {
    match std::env::var_os(ALONE) {
        Some(folder) => wait_for(store_and_read_back(folder.as_ref())),
        None => {
            let dir = tempfile::tempdir().unwrap();
            run_alone("long_stream_is_stored_and_read_back_in_little_memory", dir.path());
        }
    }
}

#[test]
fn much_data_is_checked_pruned_and_restored_in_little_memory() {
    if let Some(folder) = std::env::var_os(ALONE) {
        return wait_for(check_prune_and_restore(folder.as_ref()));
    }
    let dir = tempfile::tempdir().unwrap();
    wait_for(async {
        let repository = new_repository(&dir.path().join("repository")).await;
        let source = dir.path().join("source");
        for state in 0..2 {
            for number in 0..6000_u64 {
                let seed = if number % 2 == 0 { number } else { 10_000 * (state + 1) + number };
                std::fs::create_dir_all(source.join((number % 60).to_string())).unwrap();
                std::fs::write(source.join((number % 60).to_string()).join(number.to_string()), noise(3000, seed))
                    .unwrap();
            }
            for long in 0..2 {
                let content: Vec<u8> =
                    (0..96).flat_map(|part| noise(1 << 20, 1000 * long + 100 * state + part)).collect();
                std::fs::write(source.join(format!("long-{long}")), content).unwrap();
            }
            store_folder(&repository, &source).await;
        }
        repository.close().await;
    });
    run_alone("much_data_is_checked_pruned_and_restored_in_little_memory", dir.path());
}

/// Asserts that the peak leaves enough of a Job's 192 MiB for the connections to the pod, the API server and the store.
fn is_little(step: &str) {
    println!("{} MiB after {step}", peak_kibibytes() / 1024);
    assert!(peak_kibibytes() < 144 * 1024, "{} KiB after {step}", peak_kibibytes());
}

async fn check_prune_and_restore(folder_of_all: &Path) {
    let path = folder_of_all.join("repository");
    let repository = open(folder(&path), never()).await.unwrap();
    let all = repository.snapshots().await.unwrap();
    let [first, second] = &all[..] else { panic!("{} snapshots", all.len()) };
    let report = repository.check(Some(DataPart::ALL)).await.unwrap();
    assert!(report.is_sound(), "{}", report.findings);
    is_little("a check of all data");
    let going = [first.id.clone()].into();
    let ahead = repository.repack(&going, &none_unused()).await.unwrap();
    assert!(ahead.new_bytes > 5 << 20, "{ahead:?}");
    is_little("repacking");
    repository.close().await;
    forget_and_prune(folder(&path), &[&first.id], &none_unused()).await;
    is_little("a prune");
    let repository = open(folder(&path), never()).await.unwrap();
    let target = folder_of_all.join("target");
    std::fs::create_dir(&target).unwrap();
    repository.restore_folder(&second.id, "/data/x", &target, Arc::default()).await.unwrap();
    is_little("a restore");
    repository.close().await;
}

async fn store_and_read_back(dir: &Path) {
    let repository = new_repository(dir).await;
    println!("{} MiB after opening", peak_kibibytes() / 1024);
    let (sender, receiver) = pieces();
    tokio::spawn(async move {
        for mebibyte in 0..MEBIBYTES {
            let data: bytes::Bytes = noise(1 << 20, mebibyte).into();
            for part in 0..16 {
                sender.send(StreamItem::Data(data.slice(part << 16..(part + 1) << 16))).await.unwrap();
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
            Some(StreamItem::Data(data)) => bytes += data.len() as u64,
            other => break other,
        }
    };
    assert!(matches!(last, Some(StreamItem::End(_))), "{last:?}");
    assert_eq!(bytes, MEBIBYTES << 20);
    is_little("reading it back");
    let to = ArchiveTarget {
        store: StoreAccess {
            backend: folder(&dir.join("archives")).backend,
            connection: Connection::default(),
            credentials: BTreeMap::new(),
            timeouts: Timeouts::default(),
        },
        name: "db.tar.zst".to_owned(),
        format: ArchiveFormat::TarZstd,
        overwrite: false,
        at_most: Some(stored.bytes),
    };
    let archived = repository.archive((&stored.snapshot, "/db.sql"), &[], &to, Arc::default()).await.unwrap();
    assert!(archived.bytes > MEBIBYTES << 20, "{archived:?}");
    println!("{} MiB after making an archive of it", peak_kibibytes() / 1024);
    // This includes what the allocator kept from the backup and the read before, which the Job of an archive does not
    // run.
    assert!(peak_kibibytes() < 176 * 1024, "{} KiB", peak_kibibytes());
}
