//! Packs whose content is damaged at its full length: a run relies on none that a check has listed, readers find the
//! copy that is intact, and a prune keeps that copy.

use std::{fs, path::PathBuf};

use stowaway::{
    model::{DamagedPacks, DataPart, MaintenanceReport, Verdict},
    repository::{open, open_exclusively},
    runner::{BackupInput, maintenance},
    seal::ExecMode,
};

use super::{
    damage::{fill, packs, run_of},
    folders::{restore_folder, settled, store_folder},
    prune::{is_sound, none_unused},
    restic::newest,
    torture::{assert_same, folder_in},
    *,
};

/// Flips one bit in the middle of the file.
fn rot(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

fn distrusting(dir: &Path, damaged_packs: DamagedPacks) -> OpenOptions {
    OpenOptions { damaged_packs, ..folder(dir) }
}

/// What a check of all data lists, which the controller passes to later runs.
async fn found_by_a_check(dir: &Path) -> DamagedPacks {
    let report = maintenance::check(folder(dir), DataPart::ALL, &never()).await.unwrap();
    let report: stowaway::model::RunReport = serde_json::from_str(&report.to_termination_message()).unwrap();
    let Some(MaintenanceReport::Check { damaged_packs: Some(found), .. }) = report.maintenance else {
        panic!("{report:?}")
    };
    DamagedPacks::default().after_check(DataPart::ALL, found)
}

fn listed(packs: &[PathBuf]) -> DamagedPacks {
    let ids = packs.iter().map(|pack| pack.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    DamagedPacks { ids, more_in: None }
}

async fn read(repository: &Repository, snapshot: &str) -> Vec<u8> {
    collect(repository.read_file(snapshot, "/db.sql").await.unwrap()).await
}

#[tokio::test]
async fn stream_of_which_a_check_found_a_pack_damaged_is_stored_again_and_comes_back() {
    let data = noise(9 << 20, 1);
    for harmed in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(dir.path()).await;
        let first = store(&repository, "/db.sql", &data).await;
        repository.close().await;
        let pack = packs(dir.path())[harmed].clone();
        rot(&pack);
        let found = found_by_a_check(dir.path()).await;
        assert_eq!((found.ids.len(), found.more_in), (1, None), "{found:?}");
        // If a check finds more than it can list, the run reads the data itself.
        for found in [found, DamagedPacks::anywhere_in(DataPart::ALL)] {
            let copy = tempfile::tempdir().unwrap();
            assert!(
                std::process::Command::new("cp").arg("-aT").args([dir.path(), copy.path()]).status().unwrap().success()
            );
            let repository = open(distrusting(copy.path(), found), never()).await.unwrap();
            let second = store(&repository, "/db.sql", &data).await;
            assert_eq!((second.lacking.damaged, second.lacking.packs), (1, 0), "{second:?}");
            let third = store(&repository, "/db.sql", &data).await;
            assert!(third.added_bytes < 10_000, "nothing more is missing: {third:?}");
            assert_eq!(third.lacking.damaged, 1, "the damage is still reported");
            repository.close().await;
            // Readers have no list. They find the intact copy themselves.
            let repository = open(folder(copy.path()), never()).await.unwrap();
            for snapshot in [&first.snapshot, &second.snapshot, &third.snapshot] {
                assert!(read(&repository, snapshot).await == data, "{harmed}");
                repository.verify(snapshot).await.unwrap();
                assert_eq!(entries_of(&repository, snapshot).await.len(), 1);
            }
            repository.close().await;
            let restored = newest().ok(copy.path(), &["dump", &second.snapshot, "/db.sql"]);
            assert_eq!(restored.len(), data.len());
        }
    }
}

#[tokio::test]
async fn unchanged_files_of_which_a_check_found_a_pack_damaged_are_read_again_and_come_back() {
    for harmed in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("repository");
        let repository = new_repository(&at).await;
        let source = folder_in(dir.path(), "source");
        fill(&source);
        settled(&source.join("folder-0")).await;
        let first = store_folder(&repository, &source).await;
        repository.close().await;
        rot(&packs(&at)[harmed]);
        let found = found_by_a_check(&at).await;
        let repository = open(distrusting(&at, found), never()).await.unwrap();
        let second = store_folder(&repository, &source).await;
        assert_eq!(second.lacking.damaged, 1, "{harmed}");
        repository.close().await;
        let repository = open(folder(&at), never()).await.unwrap();
        for (number, snapshot) in [&first.snapshot, &second.snapshot].into_iter().enumerate() {
            let target = folder_in(dir.path(), &format!("target-{number}"));
            restore_folder(&repository, snapshot, &target).await;
            assert_same(&source, &target);
        }
    }
}

#[tokio::test]
async fn damaged_tree_of_the_parent_is_stored_again_even_before_a_check_has_found_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
    fs::create_dir(source.join("folder")).unwrap();
    fs::write(source.join("folder/file"), noise(100_000, 1)).unwrap();
    settled(&source.join("folder")).await;
    store_folder(&repository, &source).await;
    let [_, trees] = packs(&at);
    let whole = fs::read(&trees).unwrap();
    // The trees come first in the pack, and its header follows.
    for at_byte in [20, whole.len() / 2] {
        let mut broken = whole.clone();
        broken[at_byte] ^= 1;
        fs::write(&trees, broken).unwrap();
        let stored = store_folder(&repository, &source).await;
        let target = folder_in(dir.path(), &format!("target-{at_byte}"));
        restore_folder(&repository, &stored.snapshot, &target).await;
        assert_same(&source, &target);
    }
}

#[tokio::test]
async fn tree_that_the_run_relied_on_before_it_found_the_damage_is_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
    fs::create_dir(source.join("z")).unwrap();
    fs::write(source.join("z/file"), noise(100_000, 1)).unwrap();
    settled(&source.join("z")).await;
    store_folder(&repository, &source).await;
    // The tree of the folder is the first one of its pack.
    let [_, trees] = packs(&at);
    let mut broken = fs::read(&trees).unwrap();
    broken[20] ^= 1;
    fs::write(&trees, broken).unwrap();
    // Another folder has the same tree now. The run relies on the tree for this folder long before it reads the tree for
    // the comparison with the former folder, because the walk is at most some hundred entries ahead.
    fs::rename(source.join("z"), source.join("a")).unwrap();
    for folder in ["m", "z"] {
        fs::create_dir(source.join(folder)).unwrap();
    }
    for number in 0..1000 {
        std::os::unix::fs::symlink("target", source.join(format!("m/link-{number}"))).unwrap();
    }
    fs::write(source.join("z/other"), "other").unwrap();
    let second = store_folder(&repository, &source).await;
    assert_eq!(second.lacking.damaged, 1);
    let third = store_folder(&repository, &source).await;
    // The links were read for the first time, so that their trees have new access times. The file is not stored again.
    assert!(third.added_bytes < 50_000, "{third:?}");
    for (number, stored) in [second, third].into_iter().enumerate() {
        let target = folder_in(dir.path(), &format!("target-{number}"));
        restore_folder(&repository, &stored.snapshot, &target).await;
        assert_same(&source, &target);
    }
}

#[tokio::test]
async fn pack_that_is_listed_by_mistake_costs_only_storage() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let data = noise(3 << 20, 1);
    let first = store(&repository, "/db.sql", &data).await;
    repository.close().await;
    let list = listed(&files_in(dir.path(), "data"));
    let repository = open(distrusting(dir.path(), list.clone()), never()).await.unwrap();
    let second = store(&repository, "/db.sql", &data).await;
    assert!(second.added_bytes > 3 << 20, "{second:?}");
    repository.close().await;
    let repository = open_exclusively(distrusting(dir.path(), list), never()).await.unwrap();
    repository.prune(&none_unused()).await.unwrap();
    for snapshot in [&first.snapshot, &second.snapshot] {
        assert!(read(&repository, snapshot).await == data);
    }
    repository.close().await;
    is_sound(dir.path()).await;
    newest().check(dir.path());
}

#[tokio::test]
async fn prune_removes_the_damaged_copy_and_keeps_the_intact_one() {
    let data = noise(9 << 20, 1);
    for harmed in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(dir.path()).await;
        store(&repository, "/db.sql", &data).await;
        repository.close().await;
        let pack = packs(dir.path())[harmed].clone();
        rot(&pack);
        let found = found_by_a_check(dir.path()).await;
        let repository = open(distrusting(dir.path(), found.clone()), never()).await.unwrap();
        let second = store(&repository, "/db.sql", &data).await;
        repository.repack(&std::collections::BTreeSet::new(), &none_unused()).await.unwrap();
        repository.close().await;
        let repository = open_exclusively(distrusting(dir.path(), found), never()).await.unwrap();
        repository.prune(&none_unused()).await.unwrap();
        assert!(!pack.exists(), "{harmed}");
        assert!(read(&repository, &second.snapshot).await == data, "{harmed}");
        repository.close().await;
        // The check that follows finds no damage, so that the list ends.
        is_sound(dir.path()).await;
        assert!(found_by_a_check(dir.path()).await.is_empty());
    }
}

#[tokio::test]
async fn prune_that_knows_of_no_damage_keeps_the_intact_one_of_two_copies() {
    let data = noise(9 << 20, 1);
    for harmed in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(dir.path()).await;
        store(&repository, "/db.sql", &data).await;
        repository.close().await;
        rot(&packs(dir.path())[harmed]);
        let found = found_by_a_check(dir.path()).await;
        let repository = open(distrusting(dir.path(), found), never()).await.unwrap();
        let second = store(&repository, "/db.sql", &data).await;
        repository.close().await;
        let repository = open_exclusively(folder(dir.path()), never()).await.unwrap();
        repository.prune(&none_unused()).await.unwrap();
        assert!(read(&repository, &second.snapshot).await == data, "{harmed}");
        repository.close().await;
    }
}

#[tokio::test]
async fn prune_gives_up_no_copy_for_one_that_it_has_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let data = noise(3 << 20, 1);
    store(&repository, "/db.sql", &data).await;
    repository.close().await;
    let intact = files_in(dir.path(), "data");
    // The list is wrong: what it names is intact, and the new copy gets damaged.
    let list = listed(&intact);
    let repository = open(distrusting(dir.path(), list.clone()), never()).await.unwrap();
    let second = store(&repository, "/db.sql", &data).await;
    repository.close().await;
    let new = files_in(dir.path(), "data").into_iter().filter(|pack| !intact.contains(pack));
    rot(&new.max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap());
    for list in [list, DamagedPacks::anywhere_in(DataPart::ALL)] {
        let repository = open_exclusively(distrusting(dir.path(), list), never()).await.unwrap();
        repository.prune(&none_unused()).await.unwrap();
        assert!(read(&repository, &second.snapshot).await == data);
        repository.close().await;
    }
}

#[tokio::test]
async fn run_in_a_damaged_repository_is_green_and_names_the_damage_and_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let command = vec!["seq".to_owned(), "200000".to_owned()];
    let run = async |access: OpenOptions, run: &str| {
        let repository = open(access, never()).await.unwrap();
        let mut label = identity("/db.sql");
        label.tags.push(format!("run={run}"));
        label.tags.retain(|tag| !tag.starts_with("run=42"));
        let from = BackupInput::Local(ExecMode::Shell, command.clone());
        let report = stowaway::runner::backup(&repository, run_of(label), from, Arc::default(), never()).await;
        repository.close().await;
        report
    };
    new_repository(dir.path()).await.close().await;
    let first = run(folder(dir.path()), "1").await;
    assert_eq!((first.verdict, first.message.as_str()), (Verdict::Succeeded, ""));
    rot(&packs(dir.path())[0]);
    let found = found_by_a_check(dir.path()).await;
    let second = run(distrusting(dir.path(), found), "2").await;
    assert_eq!(second.verdict, Verdict::Succeeded, "{second:?}");
    for text in ["the repository is not healthy: 1 of its packs", "stored the data", "restic repair packs"] {
        assert!(second.message.contains(text), "{}", second.message);
    }
    let repository = open(folder(dir.path()), never()).await.unwrap();
    let restored = read(&repository, second.snapshot.as_ref().unwrap()).await;
    assert!(restored.starts_with(b"1\n2\n") && restored.ends_with(b"\n200000\n"));
}
