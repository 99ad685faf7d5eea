//! The document on restoring by hand: each of its commands does what the document states, with a repository which
//! Stowaway wrote.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use stowaway::model::SnapshotIdentity;

use super::{folders::at, restic::newest, *};

const DUMP: &[u8] = b"CREATE TABLE barrels (litres int);\n";

/// The commands of the document, in order.
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

/// Stores the claim and the dump which the document uses, and similar snapshots which must not be taken for them.
async fn fill(dir: &Path) {
    let repository = new_repository(&dir.join("repository")).await;
    let store_folder = async |source: &str, text: &str| {
        let folder = dir.join(source.replace('/', "-"));
        fs::create_dir_all(folder.join("deep/er")).unwrap();
        fs::write(folder.join("numbers"), text).unwrap();
        fs::write(folder.join("deep/er/life"), text).unwrap();
        let path = source.replace("pvc", "/data");
        let rules = at("2026-05-04T03:02:01Z");
        repository.store_folder(&labelled(source, &path), &rules, &folder, Arc::default()).await.unwrap();
    };
    let store_dump = async |source: &str, dump: &[u8]| {
        let identity = labelled(source, "/shop-postgres.sql");
        repository.store_stream(&identity, &rules(), stream_of(whole(dump)), Arc::default()).await.unwrap();
    };
    store_folder("pvc/cask", "of cask").await;
    store_dump("deployment/shop/postgres", DUMP).await;
    store_folder("pvc/vat", "of vat").await;
    store_dump("deployment/other/postgres", b"of others").await;
    repository.close().await;
}

/// `restic mount`, which is killed at the end of the test in any case.
struct Mounted(Child);

impl Mounted {
    /// Starts the command, and waits until the folder appears.
    fn start(mut line: Command, folder: &Path) -> Self {
        let mut mounted = Self(line.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_mins(1);
        while !folder.exists() {
            assert!(mounted.0.try_wait().unwrap().is_none(), "restic ended, and nothing is mounted");
            assert!(Instant::now() < deadline, "nothing is mounted");
            thread::sleep(Duration::from_millis(50));
        }
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After `umount` it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn each_command_of_the_page_restores_what_it_states() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/manual-restore.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let work = dir.path().join("work");
    fs::create_dir_all(work.join("mounted")).unwrap();
    fs::write(work.join("password"), format!("{PASSWORD}\n")).unwrap();
    let restic = newest();
    let path = format!("{}:{}", restic.path().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let has_fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    let mut ran = 0;
    let mut mounting = None;
    for command in commands(&page) {
        if command.contains("mount") && !has_fuse {
            crate::skipped(&format!("this machine has no FUSE: {command}"));
            continue;
        }
        let mut line = Command::new("bash");
        line.args(["-e", "-o", "pipefail", "-c", command])
            .current_dir(&work)
            .env("PATH", &path)
            .env("RESTIC_REPOSITORY", dir.path().join("repository"))
            .env("RESTIC_PASSWORD_FILE", "password")
            .env("RESTIC_CACHE_DIR", dir.path().join("cache"));
        ran += 1;
        if command.starts_with("restic mount") {
            mounting = Some(Mounted::start(line, &work.join("mounted/hosts/shop")));
            continue;
        }
        let output = line.output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {}{stdout}", String::from_utf8_lossy(&output.stderr));
        // Snapshots of other sources are neither shown nor restored.
        let is_of_one = command.contains("source=pvc/cask") || command.contains("ls ");
        assert!(!(is_of_one && stdout.contains("vat")), "{command}: {stdout}");
        if command.contains(" ls ") || command.starts_with("ls ") {
            assert!(stdout.contains("numbers"), "{command}: {stdout}");
        }
    }
    drop(mounting);
    assert!(ran >= 9, "{ran} commands");
    for file in ["restored/data/cask/numbers", "volume/numbers", "volume/deep/er/life", "part/deep/er/life"] {
        assert_eq!(fs::read_to_string(work.join(file)).unwrap(), "of cask", "{file}");
    }
    assert!(!work.join("part/numbers").exists(), "more than the requested part");
    assert_eq!(fs::read(work.join("shop.sql")).unwrap(), DUMP);
}
