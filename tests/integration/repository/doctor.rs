//! The doctor: what it says of a repository that is broken, and that its own steps mend it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use stowaway::{
    model::{DataPart, Secret},
    repository::{FolderRules, Forget, add_key},
    runner::doctor::{Complaint, Diagnosis, Weight, examine},
};

use super::{folders::claim, restic::newest, *};

async fn diagnosis(place: &Path) -> Diagnosis {
    examine(folder(place), &never(), Some(DataPart::ALL)).await.unwrap()
}

fn broken(diagnosis: &Diagnosis) -> Option<&Complaint> {
    diagnosis.complaints.iter().find(|complaint| complaint.weight == Weight::Broken)
}

async fn store_files(place: &Path, source: &Path) {
    let repository = stowaway::repository::open(folder(place), never()).await.unwrap();
    let rules = FolderRules::whole(Timestamp::now());
    repository.store_folder(&claim(), &rules, source, Arc::default()).await.unwrap();
    repository.close().await;
}

/// A repository of two keys, with two snapshots of a folder whose files never change.
async fn cellar() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let (place, source) = (temporary.path().join("repository"), temporary.path().join("source"));
    new_repository(&place).await.close().await;
    add_key(folder(&place), never(), Secret::new("recovery".to_owned())).await.unwrap();
    fs::create_dir(&source).unwrap();
    fs::write(source.join("kept"), noise(3 << 20, 1)).unwrap();
    store_files(&place, &source).await;
    fs::write(source.join("later"), noise(3 << 20, 2)).unwrap();
    store_files(&place, &source).await;
    (temporary, place, source)
}

/// Carries out the steps that are commands, as they are printed; a backup of all is the test's own.
async fn follow(complaint: &Complaint, place: &Path, source: &Path) {
    let restic = newest();
    for step in &complaint.remedy {
        let command = step.split("   (").next().unwrap();
        if let Some(arguments) = command.strip_prefix("restic ") {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            // What it cannot mend it says by its exit status, too. It leaves copies of harmed packs where it stands.
            let mut repairing = restic.command(place);
            repairing.current_dir(source.parent().unwrap());
            let output = repairing.args(&arguments).output().unwrap();
            assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        } else if step.starts_with("back up all sources") {
            store_files(place, source).await;
        } else if let Some(file) = step.strip_prefix("remove the file ") {
            fs::remove_file(place.join(file.split([' ', ':', ',']).next().unwrap())).unwrap();
        }
    }
}

/// Does that to a repository.
fn harm(place: &Path, how: &str) {
    let pack = longest_pack(place);
    let mut content = fs::read(&pack).unwrap();
    match how {
        "a lost pack" => fs::remove_file(pack).unwrap(),
        "a flipped bit" => {
            content[1000] ^= 1;
            fs::write(pack, content).unwrap();
        }
        "a short pack" => fs::write(pack, &content[..content.len() - 500]).unwrap(),
        "a lost index" => fs::remove_file(files_in(place, "index").remove(0)).unwrap(),
        "a spoilt index" => fs::write(files_in(place, "index").remove(0), "spoilt").unwrap(),
        "a spoilt snapshot" => fs::write(files_in(place, "snapshots").remove(0), "spoilt").unwrap(),
        _ => panic!("{how}"),
    }
}

fn longest_pack(place: &Path) -> PathBuf {
    let packs = files_in(place, "data");
    packs.into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_repository_has_no_complaint() {
    let (_temporary, place, _) = cellar().await;
    let diagnosis = diagnosis(&place).await;
    assert_eq!(diagnosis.complaints, Vec::new(), "{diagnosis:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_steps_mend_a_repository_as_long_as_the_sources_are_there() {
    for name in ["a lost pack", "a flipped bit", "a short pack", "a lost index", "a spoilt index", "a spoilt snapshot"]
    {
        let (_temporary, place, source) = cellar().await;
        harm(&place, name);
        let before = diagnosis(&place).await;
        let complaint = broken(&before).unwrap_or_else(|| panic!("{name}: {before:?}"));
        follow(complaint, &place, &source).await;
        let after = diagnosis(&place).await;
        assert_eq!(broken(&after), None, "{name}: after {:?}", complaint.remedy);
        newest().check(&place);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_mended_is_named_and_can_be_forgotten() {
    let (_temporary, place, source) = cellar().await;
    fs::remove_file(longest_pack(&place)).unwrap();
    // The sources are gone, too.
    for file in files_in(&source, "") {
        fs::write(file, "another").unwrap();
    }
    follow(broken(&diagnosis(&place).await).unwrap(), &place, &source).await;
    let after = diagnosis(&place).await;
    let last = broken(&after).unwrap().remedy.last().unwrap().clone();
    let ids: Vec<&str> = last.split("stowaway forget ").nth(1).unwrap().split(' ').collect();
    let repository = stowaway::repository::open_exclusively(folder(&place), never()).await.unwrap();
    let all = repository.snapshots().await.unwrap();
    let whole = |id: &&str| all.iter().find(|snapshot| snapshot.id.starts_with(*id)).unwrap().id.clone();
    let forget = Forget { snapshots: ids.iter().map(whole).collect(), last_of_source: true, ..Forget::default() };
    repository.forget(&forget).await.unwrap();
    repository.close().await;
    let finally = diagnosis(&place).await;
    assert_eq!(broken(&finally), None, "{finally:?}");
    newest().check(&place);
}

#[tokio::test]
async fn repository_that_cannot_be_opened_is_a_diagnosis_too() {
    let (_temporary, place, _) = cellar().await;
    let wrong = Access { password: Secret::new("wrong".to_owned()), ..folder(&place) };
    let diagnosis = examine(wrong, &never(), None).await.unwrap();
    assert!(diagnosis.complaints[0].what.contains("password opens no key"), "{diagnosis:?}");
    let nowhere = examine(folder(&place.join("none")), &never(), None).await.unwrap();
    assert!(nowhere.complaints[0].what.contains("there is no repository"), "{nowhere:?}");
    fs::write(place.join("config"), "spoilt").unwrap();
    let spoilt = examine(folder(&place), &never(), None).await.unwrap();
    assert!(spoilt.complaints[0].remedy[0].contains("`config`"), "{spoilt:?}");
}

#[tokio::test]
async fn lock_of_somebody_else_is_told_and_stays() {
    let (_temporary, place, _) = cellar().await;
    let other = stowaway::repository::open(folder(&place), never()).await.unwrap();
    let diagnosis = diagnosis(&place).await;
    assert!(diagnosis.complaints.iter().any(|complaint| complaint.what.contains("holds a lock")), "{diagnosis:?}");
    assert_eq!(files_in(&place, "locks").len(), 1);
    other.close().await;
}
