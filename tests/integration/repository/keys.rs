//! Keys that we make open a repository for restic, and those that restic makes for us; and there is always one that opens it.

use std::{fs, path::Path, process::Command};

use stowaway::{
    model::{Reason, Secret},
    repository::{add_key, change_password, list_keys, open, remove_key},
};

use super::{
    restic::{Restic, both},
    *,
};

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn by(place: &Path, password: &str) -> Access {
    Access { password: secret(password), ..folder(place) }
}

/// A repository with a stored stream.
async fn cellar() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(place.path()).await;
    store(&repository, "/db.sql", b"barrels").await;
    repository.close().await;
    place
}

fn opens(restic: &Restic, place: &Path, password: &str) -> bool {
    let output = restic.command(place).env("RESTIC_PASSWORD", password).args(["cat", "config"]).output().unwrap();
    output.status.success()
}

async fn opens_for_us(place: &Path, password: &str) -> bool {
    match open(by(place, password), never()).await {
        Ok(repository) => {
            repository.close().await;
            true
        }
        Err(error) => {
            assert_eq!(error.reason(), Reason::WrongPassword, "{error}");
            false
        }
    }
}

#[tokio::test]
async fn restic_opens_the_repository_with_a_key_of_ours() {
    let place = cellar().await;
    let id = add_key(folder(place.path()), never(), secret("recovery ü\n ")).await.unwrap();
    for restic in both() {
        assert!(opens(&restic, place.path(), "recovery ü\n "), "{restic:?}");
        assert!(opens(&restic, place.path(), PASSWORD) && !opens(&restic, place.path(), "another"), "{restic:?}");
        let listed = restic.json(place.path(), &["key", "list", "--json"]);
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), 2, "{listed:?}");
        let ours = listed.iter().find(|key| id.starts_with(key["id"].as_str().unwrap())).unwrap();
        assert_eq!(ours["hostName"], "runner-1", "{ours}");
        restic.check(place.path());
    }
    remove_key(folder(place.path()), never(), &id).await.unwrap();
    for restic in both() {
        assert!(opens(&restic, place.path(), PASSWORD) && !opens(&restic, place.path(), "recovery ü\n "), "{restic:?}");
    }
}

#[tokio::test]
async fn we_open_the_repository_with_a_key_of_restic() {
    for restic in both() {
        let place = cellar().await;
        let file = place.path().join("new-password");
        fs::write(&file, "of restic\n").unwrap();
        restic.ok(place.path(), &["key", "add", "--new-password-file", file.to_str().unwrap()]);
        assert!(opens_for_us(place.path(), "of restic").await, "{restic:?}");
        let keys = list_keys(by(place.path(), "of restic"), never()).await.unwrap();
        assert_eq!(keys.len(), 2);
        let own = keys.iter().find(|key| key.in_use).unwrap();
        assert!(!own.user.is_empty() && own.created.is_some(), "{own:?}");
        // The first key is one of ours; whoever came in by restic's may remove it.
        let first = keys.iter().find(|key| !key.in_use).unwrap();
        assert_eq!(first.host, "runner-1");
        remove_key(by(place.path(), "of restic"), never(), &first.id[..8]).await.unwrap();
        assert!(!opens_for_us(place.path(), PASSWORD).await && opens_for_us(place.path(), "of restic").await);
        assert!(opens(&restic, place.path(), "of restic"));
    }
}

#[tokio::test]
async fn key_in_use_and_the_last_one_stay() {
    let place = cellar().await;
    let only = list_keys(folder(place.path()), never()).await.unwrap().remove(0);
    let error = remove_key(folder(place.path()), never(), &only.id).await.unwrap_err();
    assert!(error.to_string().contains("last"), "{error}");
    add_key(folder(place.path()), never(), secret("recovery")).await.unwrap();
    let error = remove_key(folder(place.path()), never(), &only.id).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    for wrong in ["", "1234567", "zzzzzzzz", "00000000"] {
        let error = remove_key(folder(place.path()), never(), wrong).await.unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidRequest, "{wrong:?}: {error}");
    }
    assert_eq!(files_in(place.path(), "keys").len(), 2);
    assert!(files_in(place.path(), "locks").is_empty());
}

#[tokio::test]
async fn changed_password_opens_and_the_old_one_does_not() {
    let place = cellar().await;
    let (new, old) = change_password(folder(place.path()), never(), secret("changed")).await.unwrap();
    assert!(opens_for_us(place.path(), "changed").await && !opens_for_us(place.path(), PASSWORD).await);
    for restic in both() {
        assert!(opens(&restic, place.path(), "changed") && !opens(&restic, place.path(), PASSWORD), "{restic:?}");
    }
    let keys = list_keys(by(place.path(), "changed"), never()).await.unwrap();
    assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), [new.as_str()]);
    assert_ne!(new, old);
}

#[tokio::test]
async fn wrong_password_changes_no_key() {
    let place = cellar().await;
    let before = files_in(place.path(), "keys");
    let wrong = || by(place.path(), "wrong");
    assert!(add_key(wrong(), never(), secret("x")).await.is_err());
    assert!(change_password(wrong(), never(), secret("x")).await.is_err());
    assert!(list_keys(wrong(), never()).await.is_err());
    assert_eq!(files_in(place.path(), "keys"), before);
}

#[tokio::test]
async fn command_line_takes_passwords_by_files_alone() {
    let place = cellar().await;
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (old, new) = (file("old", PASSWORD), file("new", "recovery\n"));
    let call = |password: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stowaway"));
        command.arg("key").args(arguments).args(["--repository", place.path().to_str().unwrap()]);
        command.args(["--password-file", password]).stdin(std::process::Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!said.contains("recovery\n") && !said.contains(PASSWORD), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = call(&old, &["add"]);
    assert!(code == Some(2) && said.contains("--new-password-file"), "{said}");
    let (code, said) = call(&old, &["add", "--new-password-file", &file("empty", "\n")]);
    assert!(code == Some(2) && said.contains("empty"), "{said}");
    let (code, said) = call(&old, &["add", "--new-password-file", &new]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = call(&new, &["list", "--output", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
    let first = listed.as_array().unwrap().iter().find(|key| key["inUse"] == false).unwrap();
    let (code, said) = call(&new, &["remove", first["id"].as_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(call(&old, &["list"]).0, Some(1));
    let (code, said) = call(&new, &["passwd", "--new-password-file", &old]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((call(&old, &["list"]).0, call(&new, &["list"]).0), (Some(0), Some(1)));
}
