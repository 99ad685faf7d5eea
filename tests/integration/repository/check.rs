//! The check finds and names any damage, and reports nothing for a sound repository, whichever program wrote it.

use std::fs;

use stowaway::{
    model::DataPart,
    repository::{CheckReport, Finding, FolderRules},
};

use super::{
    fake_s3::{FakeS3, Fault},
    restic::both,
    *,
};

async fn check_all(repository: &Repository) -> CheckReport {
    repository.check(Some(DataPart::ALL)).await.unwrap()
}

/// Stores the content under another source.
async fn store_as(repository: &Repository, source: &str, path: &str, data: &[u8]) -> Stored {
    let mut identity = identity(path);
    identity.tags = vec![format!("source={source}")];
    repository.store_stream(&identity, &rules(), stream_of(whole(data)), Arc::default()).await.unwrap()
}

/// The content of a stored file, or `None` if it cannot be read.
async fn try_to_read(repository: &Repository, snapshot: &str) -> Option<Vec<u8>> {
    let mut file = repository.read_file(snapshot, "/db.sql").await.ok()?;
    let mut content = Vec::new();
    loop {
        match file.pieces.recv().await {
            Some(StreamItem::Data(data)) => content.extend_from_slice(&data),
            Some(StreamItem::End(_)) => return Some(content),
            _ => return None,
        }
    }
}

/// Every offset near both ends of a file, where the fields of the format are, and some offsets in between.
fn offsets(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |offset| *offset < 24 || *offset + 24 >= length || offset % 17 == 0)
}

#[tokio::test]
async fn any_flipped_byte_is_found_and_nothing_wrong_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let data = b"what was stored";
    let stored = store(&repository, "/db.sql", data).await;
    let report = check_all(&repository).await;
    assert!(report.is_sound(), "{}", report.findings);
    assert_eq!((report.snapshots, report.packs, report.packs_read), (1, 2, 2));
    for folder in ["data", "index", "snapshots"] {
        for file in files_in(dir.path(), folder) {
            let whole = fs::read(&file).unwrap();
            for at in offsets(whole.len()) {
                let mut broken = whole.clone();
                broken[at] ^= 1 << (at % 8);
                fs::write(&file, &broken).unwrap();
                let report = check_all(&repository).await;
                assert!(!report.is_sound(), "byte {at} of {}", file.display());
                if let Some(read) = try_to_read(&repository, &stored.snapshot).await {
                    assert_eq!(read, data, "byte {at} of {}", file.display());
                }
            }
            fs::write(&file, &whole[..whole.len() - 1]).unwrap();
            assert!(!check_all(&repository).await.is_sound(), "{} is too short", file.display());
            fs::write(&file, whole).unwrap();
        }
    }
    assert!(check_all(&repository).await.is_sound(), "all files are restored");
}

#[tokio::test]
async fn changed_key_and_config_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let key = files_in(dir.path(), "keys").remove(0);
    for (file, at) in [(key.clone(), 0), (key.clone(), 300), (dir.path().join("config"), 40)] {
        let whole = fs::read(&file).unwrap();
        let mut broken = whole.clone();
        broken[at] ^= 1;
        fs::write(&file, broken).unwrap();
        let error = stowaway::repository::open(folder(dir.path()), never()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
        assert_eq!(repository.check(None).await.unwrap().is_sound(), file != key);
        fs::write(&file, whole).unwrap();
    }
}

#[tokio::test]
async fn lost_pack_names_the_snapshots_that_need_it_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let harmed = store_as(&repository, "deployment/shop/db", "/db.sql", &noise(100_000, 1)).await;
    let first_packs = files_in(dir.path(), "data");
    let again = store_as(&repository, "deployment/shop/copy", "/copy.sql", &noise(100_000, 1)).await;
    store_as(&repository, "deployment/shop/other", "/db.sql", &noise(100_000, 2)).await;
    // The longer pack holds the data, the shorter one the tree.
    let data = first_packs.iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let whole = fs::read(data).unwrap();
    let expected = [(harmed.snapshot, "deployment/shop/db"), (again.snapshot, "deployment/shop/copy")];

    fs::remove_file(data).unwrap();
    let without = repository.check(None).await.unwrap();
    assert!(without.findings.first.iter().any(|finding| matches!(finding, Finding::MissingPack { .. })));
    let mut broken = whole.clone();
    broken[1000] ^= 1;
    fs::write(data, broken).unwrap();
    assert!(repository.check(None).await.unwrap().is_sound(), "the data is not read");
    let with_a_wrong_one = check_all(&repository).await;
    assert!(with_a_wrong_one.findings.first.iter().any(|finding| matches!(finding, Finding::DamagedPack { .. })));
    for report in [without, with_a_wrong_one] {
        let named: Vec<_> = report.harmed.iter().map(|one| (one.id.clone(), one.source.clone().unwrap())).collect();
        assert_eq!(report.harmed_snapshots, 2);
        for (id, source) in &expected {
            assert!(named.contains(&(id.clone(), (*source).to_owned())), "{source}: {named:?}");
        }
    }
}

#[tokio::test]
async fn lost_index_harms_all_that_it_named() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    store(&repository, "/db.sql", &noise(3 << 20, 1)).await;
    fs::remove_file(files_in(dir.path(), "index").remove(0)).unwrap();
    let report = check_all(&repository).await;
    assert_eq!(report.harmed_snapshots, 1);
    assert!(report.unreferenced_packs > 0);
    assert!(report.findings.first.iter().any(|finding| matches!(finding, Finding::Missing { .. })));
}

#[tokio::test]
async fn findings_are_counted_and_only_the_first_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    store(&repository, "/db.sql", b"x").await;
    let snapshots = dir.path().join("snapshots");
    let copied = files_in(dir.path(), "snapshots").remove(0);
    for number in 0..150 {
        fs::copy(&copied, snapshots.join(format!("{number:064x}"))).unwrap();
    }
    let report = check_all(&repository).await;
    assert_eq!((report.findings.count, report.findings.first.len()), (150, 100));
    assert!(report.findings.to_string().ends_with("; and 50 more"), "{}", report.findings);
}

#[tokio::test]
async fn all_packs_are_read_in_as_many_times_as_there_are_parts() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    for number in 0..20 {
        store(&repository, "/db.sql", &noise(10_000, number)).await;
    }
    let all = check_all(&repository).await;
    let mut read = (0, 0);
    for number in 1..=7 {
        let report = repository.check(Some(DataPart::new(number, 7).unwrap())).await.unwrap();
        read = (read.0 + report.packs_read, read.1 + report.bytes_read);
    }
    assert_eq!(read, (all.packs, all.bytes_read));
    assert_eq!(repository.check(None).await.unwrap().packs_read, 0);
}

#[tokio::test]
async fn repository_of_restic_is_sound_in_both_formats() {
    for restic in both() {
        for version in ["1", "2"] {
            let dir = tempfile::tempdir().unwrap();
            let (source, path) = (dir.path().join("source"), dir.path().join("repository"));
            fs::create_dir_all(source.join("a/b")).unwrap();
            for number in 0..50 {
                fs::write(source.join("a").join(number.to_string()), noise(number * 1000, 7)).unwrap();
                fs::write(source.join("a/b").join(number.to_string()), number.to_string()).unwrap();
            }
            restic.ok(&path, &["init", "--repository-version", version]);
            let source = source.to_str().unwrap();
            restic.ok(&path, &["backup", source]);
            fs::remove_file(format!("{source}/a/7")).unwrap();
            restic.ok(&path, &["backup", source]);
            let repository = stowaway::repository::open(folder(&path), never()).await.unwrap();
            let report = check_all(&repository).await;
            assert!(report.is_sound(), "{}", report.findings);
            assert_eq!(report.snapshots, 2);
            assert_eq!((report.packs_read, report.unreferenced_packs), (report.packs, 0));
        }
    }
}

#[tokio::test]
async fn folder_that_stowaway_stored_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("empty/folder")).unwrap();
    fs::write(source.join("empty/file"), "").unwrap();
    fs::write(source.join("long"), noise(9 << 20, 1)).unwrap();
    std::os::unix::fs::symlink("nowhere", source.join("link")).unwrap();
    let rules = FolderRules::whole(Timestamp::UNIX_EPOCH);
    repository.store_folder(&identity("/data/x"), &rules, &source, Arc::default()).await.unwrap();
    let report = check_all(&repository).await;
    assert!(report.is_sound(), "{}", report.findings);
}

#[tokio::test]
async fn store_that_does_not_answer_is_an_error_and_no_finding() {
    let files = ["snapshots/", "index/", "data/"].map(|part| [part, part]);
    // The slash may be percent-encoded.
    let listings =
        [["prefix=pre%2Ffix%2Fdata", "prefix=pre/fix/data"], ["prefix=pre%2Ffix%2Findex", "prefix=pre/fix/index"]];
    for parts in files.into_iter().chain(listings) {
        let store = FakeS3::start().await;
        let timeouts = Timeouts {
            request: std::time::Duration::from_secs(2),
            retries: std::time::Duration::ZERO,
            outage: std::time::Duration::ZERO,
        };
        let access = OpenOptions { timeouts, ..store.access() };
        let repository = create(access, never()).await.unwrap();
        store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap();
        assert!(check_all(&repository).await.is_sound());
        for part in parts {
            store.fail("GET", part, Fault::Status(503), usize::MAX);
        }
        let error = repository.check(Some(DataPart::ALL)).await.unwrap_err();
        assert!(matches!(error, RepositoryError::StoreUnavailable { .. }), "{parts:?}: {error}");
    }
}
