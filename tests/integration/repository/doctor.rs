//! The doctor: its diagnosis of a broken repository, and that the steps which it proposes repair the repository.

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

async fn diagnosis(location: &Path) -> Diagnosis {
    examine(folder(location), &never(), Some(DataPart::ALL)).await.unwrap()
}

fn broken(diagnosis: &Diagnosis) -> Option<&Complaint> {
    diagnosis.complaints.iter().find(|complaint| complaint.weight == Weight::Broken)
}

async fn store_files(location: &Path, source: &Path) {
    let repository = stowaway::repository::open(folder(location), never()).await.unwrap();
    let rules = FolderRules::whole(Timestamp::now());
    repository.store_folder(&claim(), &rules, source, Arc::default()).await.unwrap();
    repository.close().await;
}

/// A repository with two keys and two snapshots of a folder whose files never change.
async fn fixture() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let (location, source) = (temporary.path().join("repository"), temporary.path().join("source"));
    new_repository(&location).await.close().await;
    add_key(folder(&location), never(), Secret::new("recovery".to_owned())).await.unwrap();
    fs::create_dir(&source).unwrap();
    fs::write(source.join("kept"), noise(3 << 20, 1)).unwrap();
    store_files(&location, &source).await;
    fs::write(source.join("later"), noise(3 << 20, 2)).unwrap();
    store_files(&location, &source).await;
    (temporary, location, source)
}

/// Executes the printed steps which are commands. The step "back up all sources" is done by the test itself.
async fn follow(complaint: &Complaint, location: &Path, source: &Path) {
    let restic = newest();
    for step in &complaint.remedy {
        let command = step.split("   (").next().unwrap();
        if let Some(arguments) = command.strip_prefix("restic ") {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            // restic's exit status also reports what it could not repair. It writes copies of damaged packs to its
            // working directory.
            let mut repairing = restic.command(location);
            repairing.current_dir(source.parent().unwrap());
            let output = repairing.args(&arguments).output().unwrap();
            assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        } else if step.starts_with("back up all sources") {
            store_files(location, source).await;
        } else if let Some(file) = step.strip_prefix("remove the file ") {
            fs::remove_file(location.join(file.split([' ', ':', ',']).next().unwrap())).unwrap();
        }
    }
}

/// Damages a repository as `how` describes.
fn harm(location: &Path, how: &str) {
    let pack = longest_pack(location);
    let mut content = fs::read(&pack).unwrap();
    match how {
        "a lost pack" => fs::remove_file(pack).unwrap(),
        "a flipped bit" => {
            content[1000] ^= 1;
            fs::write(pack, content).unwrap();
        }
        "a short pack" => fs::write(pack, &content[..content.len() - 500]).unwrap(),
        "a lost index" => fs::remove_file(files_in(location, "index").remove(0)).unwrap(),
        "a spoilt index" => fs::write(files_in(location, "index").remove(0), "spoilt").unwrap(),
        "a spoilt snapshot" => fs::write(files_in(location, "snapshots").remove(0), "spoilt").unwrap(),
        _ => panic!("{how}"),
    }
}

fn longest_pack(location: &Path) -> PathBuf {
    let packs = files_in(location, "data");
    packs.into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_repository_has_no_complaint() {
    let (_temporary, location, _) = fixture().await;
    let diagnosis = diagnosis(&location).await;
    assert_eq!(diagnosis.complaints, Vec::new(), "{diagnosis:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_steps_mend_a_repository_as_long_as_the_sources_are_there() {
    for name in ["a lost pack", "a flipped bit", "a short pack", "a lost index", "a spoilt index", "a spoilt snapshot"]
    {
        let (_temporary, location, source) = fixture().await;
        harm(&location, name);
        let before = diagnosis(&location).await;
        let complaint = broken(&before).unwrap_or_else(|| panic!("{name}: {before:?}"));
        follow(complaint, &location, &source).await;
        let after = diagnosis(&location).await;
        assert_eq!(broken(&after), None, "{name}: after {:?}", complaint.remedy);
        newest().check(&location);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_cannot_be_repaired_is_named_and_can_be_forgotten() {
    let (_temporary, location, source) = fixture().await;
    fs::remove_file(longest_pack(&location)).unwrap();
    // The sources are lost as well.
    for file in files_in(&source, "") {
        fs::write(file, "another").unwrap();
    }
    follow(broken(&diagnosis(&location).await).unwrap(), &location, &source).await;
    let after = diagnosis(&location).await;
    let last = broken(&after).unwrap().remedy.last().unwrap().clone();
    let ids: Vec<&str> = last.split("stowaway forget --repository REPOSITORY ").nth(1).unwrap().split(' ').collect();
    let repository = stowaway::repository::open_exclusively(folder(&location), never()).await.unwrap();
    let all = repository.snapshots().await.unwrap();
    let whole = |id: &&str| all.iter().find(|snapshot| snapshot.id.starts_with(*id)).unwrap().id.clone();
    let forget = Forget { snapshots: ids.iter().map(whole).collect(), last_of_source: true };
    super::forget(&repository, forget).await.unwrap();
    repository.close().await;
    let finally = diagnosis(&location).await;
    assert_eq!(broken(&finally), None, "{finally:?}");
    newest().check(&location);
}

#[tokio::test]
async fn repository_that_cannot_be_opened_is_a_diagnosis_too() {
    let (_temporary, location, _) = fixture().await;
    let wrong = OpenOptions { password: Secret::new("wrong".to_owned()), ..folder(&location) };
    let diagnosis = examine(wrong, &never(), None).await.unwrap();
    assert!(diagnosis.complaints[0].what.contains("password opens no key"), "{diagnosis:?}");
    let nowhere = examine(folder(&location.join("none")), &never(), None).await.unwrap();
    assert!(nowhere.complaints[0].what.contains("there is no repository"), "{nowhere:?}");
    fs::write(location.join("config"), "spoilt").unwrap();
    let spoilt = examine(folder(&location), &never(), None).await.unwrap();
    assert!(spoilt.complaints[0].remedy[0].contains("`config`"), "{spoilt:?}");
}

#[tokio::test]
async fn lock_of_another_client_is_reported_and_stays() {
    let (_temporary, location, _) = fixture().await;
    let other = stowaway::repository::open(folder(&location), never()).await.unwrap();
    let diagnosis = diagnosis(&location).await;
    assert!(diagnosis.complaints.iter().any(|complaint| complaint.what.contains("holds a lock")), "{diagnosis:?}");
    assert_eq!(files_in(&location, "locks").len(), 1);
    other.close().await;
}
