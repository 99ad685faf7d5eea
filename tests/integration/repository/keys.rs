//! Keys which Stowaway adds open a repository for restic, and keys of restic open it for Stowaway. No operation leaves
//! a repository without a key.

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

fn by(dir: &Path, password: &str) -> OpenOptions {
    OpenOptions { password: secret(password), ..folder(dir) }
}

/// A repository with a stored stream.
async fn fixture() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    store(&repository, "/db.sql", b"barrels").await;
    repository.close().await;
    dir
}

fn opens(restic: &Restic, dir: &Path, password: &str) -> bool {
    let output = restic.command(dir).env("RESTIC_PASSWORD", password).args(["cat", "config"]).output().unwrap();
    output.status.success()
}

async fn opens_for_us(dir: &Path, password: &str) -> bool {
    match open(by(dir, password), never()).await {
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
async fn restic_opens_the_repository_with_a_key_of_stowaway() {
    let dir = fixture().await;
    let id = add_key(folder(dir.path()), never(), secret("recovery ü\n ")).await.unwrap();
    for restic in both() {
        assert!(opens(&restic, dir.path(), "recovery ü\n "), "{restic:?}");
        assert!(opens(&restic, dir.path(), PASSWORD) && !opens(&restic, dir.path(), "another"), "{restic:?}");
        let listed = restic.json(dir.path(), &["key", "list", "--json"]);
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), 2, "{listed:?}");
        let added = listed.iter().find(|key| id.starts_with(key["id"].as_str().unwrap())).unwrap();
        assert_eq!(added["hostName"], "runner-1", "{added}");
        restic.check(dir.path());
    }
    remove_key(folder(dir.path()), never(), &id).await.unwrap();
    for restic in both() {
        assert!(opens(&restic, dir.path(), PASSWORD) && !opens(&restic, dir.path(), "recovery ü\n "), "{restic:?}");
    }
}

#[tokio::test]
async fn we_open_the_repository_with_a_key_of_restic() {
    for restic in both() {
        let dir = fixture().await;
        let file = dir.path().join("new-password");
        fs::write(&file, "of restic\n").unwrap();
        restic.ok(dir.path(), &["key", "add", "--new-password-file", file.to_str().unwrap()]);
        assert!(opens_for_us(dir.path(), "of restic").await, "{restic:?}");
        let keys = list_keys(by(dir.path(), "of restic"), never()).await.unwrap();
        assert_eq!(keys.len(), 2);
        let own = keys.iter().find(|key| key.in_use).unwrap();
        assert!(!own.user.is_empty() && own.created.is_some(), "{own:?}");
        // The first key was added by Stowaway. A client which uses restic's key may remove it.
        let first = keys.iter().find(|key| !key.in_use).unwrap();
        assert_eq!(first.host, "runner-1");
        remove_key(by(dir.path(), "of restic"), never(), &first.id[..8]).await.unwrap();
        assert!(!opens_for_us(dir.path(), PASSWORD).await && opens_for_us(dir.path(), "of restic").await);
        assert!(opens(&restic, dir.path(), "of restic"));
    }
}

#[tokio::test]
async fn key_in_use_and_the_last_one_stay() {
    let dir = fixture().await;
    let only = list_keys(folder(dir.path()), never()).await.unwrap().remove(0);
    let error = remove_key(folder(dir.path()), never(), &only.id).await.unwrap_err();
    assert!(error.to_string().contains("last"), "{error}");
    add_key(folder(dir.path()), never(), secret("recovery")).await.unwrap();
    let error = remove_key(folder(dir.path()), never(), &only.id).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    for wrong in ["", "1234567", "zzzzzzzz", "00000000"] {
        let error = remove_key(folder(dir.path()), never(), wrong).await.unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidRequest, "{wrong:?}: {error}");
    }
    assert_eq!(files_in(dir.path(), "keys").len(), 2);
    assert!(files_in(dir.path(), "locks").is_empty());
}

#[tokio::test]
async fn changed_password_opens_and_the_old_one_does_not() {
    let dir = fixture().await;
    let (new, old) = change_password(folder(dir.path()), never(), secret("changed")).await.unwrap();
    assert!(opens_for_us(dir.path(), "changed").await && !opens_for_us(dir.path(), PASSWORD).await);
    for restic in both() {
        assert!(opens(&restic, dir.path(), "changed") && !opens(&restic, dir.path(), PASSWORD), "{restic:?}");
    }
    let keys = list_keys(by(dir.path(), "changed"), never()).await.unwrap();
    assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), [new.as_str()]);
    assert_ne!(new, old);
}

#[tokio::test]
async fn wrong_password_changes_no_key() {
    let dir = fixture().await;
    let before = files_in(dir.path(), "keys");
    let wrong = || by(dir.path(), "wrong");
    assert!(add_key(wrong(), never(), secret("x")).await.is_err());
    assert!(change_password(wrong(), never(), secret("x")).await.is_err());
    assert!(list_keys(wrong(), never()).await.is_err());
    assert_eq!(files_in(dir.path(), "keys"), before);
}

#[tokio::test]
async fn command_line_takes_passwords_by_files_alone() {
    let dir = fixture().await;
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (old, new) = (file("old", PASSWORD), file("new", "recovery\n"));
    let call = |password: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stowaway"));
        command.arg("key").args(arguments).args(["--repository", dir.path().to_str().unwrap()]);
        command.args(["--password-file", password]).stdin(std::process::Stdio::null());
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!printed.contains("recovery\n") && !printed.contains(PASSWORD), "{printed}");
        (output.status.code(), printed)
    };
    let (code, printed) = call(&old, &["add"]);
    assert!(code == Some(2) && printed.contains("--new-password-file"), "{printed}");
    let (code, printed) = call(&old, &["add", "--new-password-file", &file("empty", "\n")]);
    assert!(code == Some(2) && printed.contains("empty"), "{printed}");
    let (code, printed) = call(&old, &["add", "--new-password-file", &new]);
    assert_eq!(code, Some(0), "{printed}");
    let (code, printed) = call(&new, &["list", "--output", "json"]);
    assert_eq!(code, Some(0), "{printed}");
    let listed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let first = listed.as_array().unwrap().iter().find(|key| key["inUse"] == false).unwrap();
    let (code, printed) = call(&new, &["remove", first["id"].as_str().unwrap()]);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(call(&old, &["list"]).0, Some(1));
    let (code, printed) = call(&new, &["passwd", "--new-password-file", &old]);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!((call(&old, &["list"]).0, call(&new, &["list"]).0), (Some(0), Some(1)));
}
