//! The page on restoring by hand: each of its commands does what it says, on a repository of ours.

use std::{fs, path::Path, process::Command};

use sha2::{Digest, Sha256};
use stowaway::model::SnapshotIdentity;

use super::{folders::at, restic::newest, *};

const DUMP: &[u8] = b"CREATE TABLE barrels (litres int);\n";

/// The commands of the page, in its order.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .flat_map(str::lines)
        .map(|line| line.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {line}")))
        .collect()
}

fn labelled(source: &str, path: &str) -> SnapshotIdentity {
    SnapshotIdentity { host: "shop".into(), path: path.into(), tags: vec![format!("source={source}")] }
}

/// What the page speaks of: a claim and a dump, and others beside them that must not be taken for them.
async fn fill(place: &Path) {
    let repository = new_repository(&place.join("repository")).await;
    let store_folder = async |source: &str, text: &str| {
        let folder = place.join(source.replace('/', "-"));
        fs::create_dir_all(folder.join("deep/er")).unwrap();
        fs::write(folder.join("numbers"), text).unwrap();
        fs::write(folder.join("deep/er/life"), text).unwrap();
        let path = source.replace("pvc", "/data");
        let rules = at("2026-05-04T03:02:01Z");
        repository.store_folder(&labelled(source, &path), &rules, &folder, Arc::default()).await.unwrap();
    };
    let store_dump = async |source: &str, dump: &[u8]| {
        let mut identity = labelled(source, "/shop-postgres.sql");
        let digest: String = Sha256::digest(dump).iter().map(|byte| format!("{byte:02x}")).collect();
        identity.push_tag(SnapshotIdentity::DIGEST, &digest).unwrap();
        repository.store_stream(&identity, &rules(), stream_of(whole(dump)), Arc::default()).await.unwrap();
    };
    store_folder("pvc/cask", "of cask").await;
    store_dump("deployment/shop/postgres", DUMP).await;
    store_folder("pvc/vat", "of vat").await;
    store_dump("deployment/other/postgres", b"of others").await;
    repository.close().await;
}

#[tokio::test]
async fn each_command_of_the_page_brings_back_what_it_says() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/manual-restore.md")).unwrap();
    let place = tempfile::tempdir().unwrap();
    fill(place.path()).await;
    let work = place.path().join("work");
    fs::create_dir_all(work.join("mounted")).unwrap();
    fs::write(work.join("password"), format!("{PASSWORD}\n")).unwrap();
    let restic = newest();
    let path = format!("{}:{}", restic.path().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let has_fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    let mut ran = 0;
    for command in commands(&page) {
        if command.contains("mount") && !has_fuse {
            eprintln!("SKIPPED: this machine has no FUSE: {command}");
            continue;
        }
        let output = Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", command])
            .current_dir(&work)
            .env("PATH", &path)
            .env("RESTIC_REPOSITORY", place.path().join("repository"))
            .env("RESTIC_PASSWORD_FILE", "password")
            .env("RESTIC_CACHE_DIR", place.path().join("cache"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {}{said}", String::from_utf8_lossy(&output.stderr));
        // What belongs to others is neither shown nor restored.
        let is_of_one = command.contains("source=pvc/cask") || command.contains("ls ");
        assert!(!(is_of_one && said.contains("vat")), "{command}: {said}");
        if command.contains(" ls ") || command.starts_with("ls ") || command.contains("mount") {
            assert!(said.contains("numbers"), "{command}: {said}");
        }
        ran += 1;
    }
    assert!(ran >= 9, "{ran} commands");
    for file in ["restored/data/cask/numbers", "volume/numbers", "volume/deep/er/life", "part/deep/er/life"] {
        assert_eq!(fs::read_to_string(work.join(file)).unwrap(), "of cask", "{file}");
    }
    assert!(!work.join("part/numbers").exists(), "more than the part that was asked for");
    assert_eq!(fs::read(work.join("shop.sql")).unwrap(), DUMP);
}
