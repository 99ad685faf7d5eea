//! Block devices are stored as one file, and are restored to devices or to a file. The tests use loop devices, so they
//! need root.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
};

use stowaway::{
    model::{Reason, RunReport, Verdict, VolumeRestore, WantedSnapshot},
    runner::{VolumeRun, backup_device, restore_volume},
};

use super::{
    folders::{PATH, claim, store_folder},
    restic::newest,
    torture::folder_in,
    *,
};

/// A loop device on a file of this length.
struct Loop(PathBuf);

impl Loop {
    fn new(dir: &Path, name: &str, content: &[u8], length: u64) -> Self {
        let file = dir.join(name);
        fs::write(&file, content).unwrap();
        File::options().write(true).open(&file).unwrap().set_len(length).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        assert!(made.status.success(), "this test makes loop devices, and needs root: {made:?}");
        Self(String::from_utf8(made.stdout).unwrap().trim().into())
    }

    /// The content of the device, past the page cache.
    fn content(&self) -> Vec<u8> {
        assert!(Command::new("blockdev").arg("--flushbufs").arg(&self.0).status().unwrap().success());
        fs::read(&self.0).unwrap()
    }

    fn write(&self, at: u64, content: &[u8]) {
        let mut device = File::options().write(true).open(&self.0).unwrap();
        device.seek(SeekFrom::Start(at)).unwrap();
        device.write_all(content).unwrap();
        device.sync_all().unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

const MIB: usize = 1 << 20;

/// An image with data at both ends and zeros in between.
fn image() -> Vec<u8> {
    let mut image = vec![0; 24 * MIB];
    image[..5 * MIB].copy_from_slice(&noise(5 * MIB, 1));
    image[24 * MIB - 512..].copy_from_slice(&noise(512, 2));
    image
}

struct Fixture {
    dir: tempfile::TempDir,
    repository: Repository,
    image: Vec<u8>,
    stored: RunReport,
}

async fn back_up(repository: &Repository, device: &Path) -> RunReport {
    let mut identity = claim();
    identity.tags.push("pod=press-0".to_owned());
    let run = VolumeRun { identity, exclude: vec![], accept_shrunken: false, timeout: None };
    backup_device(repository, run, device, Arc::default()).await
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(&dir.path().join("repository")).await;
        let image = image();
        let device = Loop::new(dir.path(), "source", &image, image.len() as u64);
        let stored = back_up(&repository, &device.0).await;
        assert_eq!((stored.verdict, stored.bytes), (Verdict::Succeeded, image.len() as u64), "{stored:?}");
        Self { dir, repository, image, stored }
    }

    fn device(&self, name: &str, content: &[u8], length: usize) -> Loop {
        Loop::new(self.dir.path(), name, content, length as u64)
    }

    async fn restore(&self, device: &Loop, overwrite: bool) -> RunReport {
        let mut safety = claim();
        safety.tags.push(SnapshotIdentity::SAFETY.to_owned());
        let run = VolumeRestore { overwrite: overwrite.then_some(safety), device: true, ..run() };
        restore_volume(&self.repository, &run, &device.0, &never()).await
    }

    async fn fails(&self, device: &Loop, reason: Reason) -> RunReport {
        let before = device.content();
        let report = self.restore(device, false).await;
        assert_eq!((report.verdict, report.reason), (Verdict::Failed, reason), "{report:?}");
        assert!(device.content() == before, "something was changed");
        report
    }
}

fn run() -> VolumeRestore {
    let from = WantedSnapshot {
        source: "pvc/claim".parse().unwrap(),
        id: None,
        as_of: None,
        host: None,
        cluster: String::new(),
    };
    VolumeRestore { from, paths: vec![], folder: String::new(), overwrite: None, device: false, timeout: None }
}

#[tokio::test]
async fn device_is_one_file_that_restic_dumps_and_that_comes_back_onto_a_blank_device() {
    let fixture = Fixture::new().await;
    // The message names the pod which uses the device.
    assert!(fixture.stored.message.contains("press-0"), "{:?}", fixture.stored);
    let blank = fixture.device("blank", &[], fixture.image.len());
    let report = fixture.restore(&blank, false).await;
    assert_eq!((report.verdict, report.bytes), (Verdict::Succeeded, fixture.image.len() as u64), "{report:?}");
    assert!(blank.content() == fixture.image);
    // On a larger device the rest is filled with zeros.
    let bigger = fixture.device("bigger", &[], 32 * MIB);
    assert_eq!(fixture.restore(&bigger, false).await.verdict, Verdict::Succeeded);
    let content = bigger.content();
    assert!(content[..24 * MIB] == fixture.image && content[24 * MIB..].iter().all(|byte| *byte == 0));

    let at = fixture.dir.path().join("repository");
    fixture.repository.close().await;
    newest().check(&at);
    assert!(newest().ok(&at, &["dump", fixture.stored.snapshot.as_deref().unwrap(), PATH]) == fixture.image);
}

#[tokio::test]
async fn devices_are_tagged_as_such_and_files_are_not() {
    let fixture = Fixture::new().await;
    let device = fixture.device("old", &noise(MIB, 9), 24 * MIB);
    let safety = fixture.restore(&device, true).await.safety_snapshot.unwrap();
    let folder = folder_in(fixture.dir.path(), "folder");
    fs::write(folder.join("file"), "content").unwrap();
    let files = store_folder(&fixture.repository, &folder).await.snapshot;
    for (id, expected) in [(fixture.stored.snapshot.clone().unwrap(), true), (safety, true), (files, false)] {
        let snapshots = fixture.repository.snapshots().await.unwrap();
        let identity = &snapshots.iter().find(|snapshot| snapshot.id == id).unwrap().identity;
        assert_eq!(identity.has_tag(SnapshotIdentity::DEVICE), expected, "{identity:?}");
    }
}

#[tokio::test]
async fn device_comes_back_as_a_file_into_a_folder() {
    let fixture = Fixture::new().await;
    let volume = folder_in(fixture.dir.path(), "volume");
    let report = restore_volume(&fixture.repository, &run(), &volume, &never()).await;
    assert_eq!(report.verdict, Verdict::Succeeded, "{report:?}");
    assert!(fs::read(volume.join("claim")).unwrap() == fixture.image);
}

#[tokio::test]
async fn device_that_is_too_small_or_not_blank_anywhere_is_not_touched() {
    let fixture = Fixture::new().await;
    let small = fixture.device("small", &[], 24 * MIB - 512);
    let report = fixture.fails(&small, Reason::TargetUnwritable).await;
    assert!(report.message.contains("25165824 bytes"), "{report:?}");
    for (name, at) in [("begin", 0), ("middle", 11 * MIB + 7), ("end", 24 * MIB - 1)] {
        let device = fixture.device(name, &[], 24 * MIB);
        device.write(at as u64, b"x");
        fixture.fails(&device, Reason::TargetNotEmpty).await;
    }
}

#[tokio::test]
async fn device_is_overwritten_only_on_request_and_backed_up_first() {
    let fixture = Fixture::new().await;
    let old = noise(30 * MIB, 9);
    let device = fixture.device("old", &old, old.len());
    let report = fixture.restore(&device, true).await;
    assert_eq!(report.verdict, Verdict::Succeeded, "{report:?}");
    let content = device.content();
    // No old data is left, neither inside of the image nor behind it.
    assert!(content[..24 * MIB] == fixture.image && content[24 * MIB..].iter().all(|byte| *byte == 0));
    let safety = report.safety_snapshot.unwrap();
    let kept = fixture.repository.read_file(&safety, PATH).await.unwrap();
    assert!(collect(kept).await == old);
    // The content of a device which is too small is not even backed up first.
    let small = fixture.device("small", &old[..MIB], MIB);
    let report = fixture.restore(&small, true).await;
    assert_eq!((report.reason, report.safety_snapshot.is_none()), (Reason::TargetUnwritable, true));
    assert!(small.content() == old[..MIB]);
}

#[tokio::test]
async fn files_are_not_written_onto_a_device_and_a_device_in_use_or_read_only_is_left_alone() {
    let fixture = Fixture::new().await;
    let device = fixture.device("blank", &[], 24 * MIB);
    let folder = folder_in(fixture.dir.path(), "folder");
    fs::write(folder.join("file"), "content").unwrap();
    let stored = store_folder(&fixture.repository, &folder).await;
    let from = WantedSnapshot { id: Some(stored.snapshot), ..run().from };
    let files = VolumeRestore { from, device: true, ..run() };
    let report = restore_volume(&fixture.repository, &files, &device.0, &never()).await;
    assert_eq!(report.reason, Reason::InvalidRequest, "{report:?}");
    assert!(report.message.contains("contains files"), "{report:?}");
    assert!(device.content().iter().all(|byte| *byte == 0));

    assert!(Command::new("blockdev").arg("--setro").arg(&device.0).status().unwrap().success());
    fixture.fails(&device, Reason::TargetUnwritable).await;
    assert!(Command::new("blockdev").arg("--setrw").arg(&device.0).status().unwrap().success());

    assert!(Command::new("mkfs.ext4").arg("-q").arg(&device.0).status().unwrap().success());
    let mounted = folder_in(fixture.dir.path(), "mounted");
    assert!(Command::new("mount").arg(&device.0).arg(&mounted).status().unwrap().success());
    let report = fixture.restore(&device, true).await;
    assert!(Command::new("umount").arg(&mounted).status().unwrap().success());
    assert_eq!((report.reason, report.safety_snapshot), (Reason::TargetInUse, None));
}

#[tokio::test]
async fn device_that_is_not_there_or_ends_early_makes_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let report = back_up(&repository, &dir.path().join("nothing")).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::SourceUnreadable));
    assert!(report.message.contains("root"), "{report:?}");
    // The file below the device is truncated, so the end of the device cannot be read.
    let device = Loop::new(dir.path(), "cut", &noise(8 * MIB, 3), 8 * MIB as u64);
    File::options().write(true).open(dir.path().join("cut")).unwrap().set_len(MIB as u64).unwrap();
    assert!(Command::new("blockdev").arg("--flushbufs").arg(&device.0).status().unwrap().success());
    let report = back_up(&repository, &device.0).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::SourceUnreadable), "{report:?}");
    assert!(repository.snapshots().await.unwrap().is_empty());
}
