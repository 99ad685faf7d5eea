//! Lost index files: the snapshots that rely on them are reported by each run, with the next step, until restic has
//! written the index again.

use std::fs;

use stowaway::repository::{PruneRules, open, open_exclusively};

use super::{folders::store_folder, restic::newest, torture::folder_in, *};

const NEXT_STEP: &str = "`restic repair index`";

fn remove_index(repository: &Path) {
    for file in files_in(repository, "index") {
        fs::remove_file(file).unwrap();
    }
}

#[tokio::test]
async fn snapshots_whose_index_files_are_lost_are_reported_until_the_index_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let monday = noise(1 << 20, 1);
    let first = store(&repository, "/db.sql", &monday).await;
    assert!(first.lacking.is_nothing());
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("file"), "monday").unwrap();
    assert!(store_folder(&repository, &source).await.lacking.is_nothing());
    remove_index(&at);

    let second = store(&repository, "/db.sql", b"tuesday").await;
    assert_eq!(second.lacking.snapshots, 2);
    let message = second.lacking.to_string();
    assert!(message.starts_with("2 earlier snapshots cannot be restored, such as snapshots/"), "{message}");
    assert!(message.contains(NEXT_STEP), "{message}");
    fs::write(source.join("file"), "tuesday").unwrap();
    let volume = store_folder(&repository, &source).await;
    assert_eq!(volume.lacking.snapshots, 2);
    let error = repository.read_file(&first.snapshot, "/db.sql").await.err().unwrap().to_string();
    assert!(error.contains(NEXT_STEP), "{error}");
    repository.close().await;
    let repository = open_exclusively(folder(&at), never()).await.unwrap();
    let error = repository.prune(&PruneRules::default()).await.unwrap_err().to_string();
    assert!(error.contains("nothing was pruned") && error.contains(NEXT_STEP), "{error}");
    repository.close().await;

    newest().ok(&at, &["repair", "index"]);
    let repository = open(folder(&at), never()).await.unwrap();
    assert!(store(&repository, "/db.sql", b"wednesday").await.lacking.is_nothing());
    let content = collect(repository.read_file(&first.snapshot, "/db.sql").await.unwrap()).await;
    assert!(content == monday);
    repository.close().await;
}

#[tokio::test]
async fn one_lost_index_file_makes_only_its_own_snapshots_reported() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    store(&repository, "/monday.sql", b"monday").await;
    let before = files_in(dir.path(), "index");
    let second = store(&repository, "/tuesday.sql", b"tuesday").await;
    for file in files_in(dir.path(), "index").iter().filter(|file| !before.contains(file)) {
        fs::remove_file(file).unwrap();
    }
    let third = store(&repository, "/wednesday.sql", b"wednesday").await;
    assert_eq!(third.lacking.snapshots, 1);
    assert_eq!(third.lacking.first_snapshot, format!("snapshots/{}", second.snapshot));
}
