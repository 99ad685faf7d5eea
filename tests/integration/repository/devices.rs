//! Block devices are stored as one file and come back onto devices, or as a file. The devices are loop devices: these tests
//! need root, as those that mount do.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
};

use stowaway::{
    model::{Reason, SourceReport, Verdict, VolumeRestore, WantedSnapshot},
    runner::{VolumeRun, backup_device, restore_volume},
};

use super::{
    folders::{PATH, claim, store_folder},
    restic::newest,
    torture::folder_in,
    *,
};

/// A loop device over a file of this length.
struct Loop(PathBuf);

impl Loop {
    fn new(place: &Path, name: &str, content: &[u8], length: u64) -> Self {
        let file = place.join(name);
        fs::write(&file, content).unwrap();
        File::options().write(true).open(&file).unwrap().set_len(length).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        assert!(made.status.success(), "this test makes loop devices, and needs root: {made:?}");
        Self(String::from_utf8(made.stdout).unwrap().trim().into())
    }

    /// What is on it, past the cache.
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

/// Something at both ends, and much of nothing.
fn image() -> Vec<u8> {
    let mut image = vec![0; 24 * MIB];
    image[..5 * MIB].copy_from_slice(&noise(5 * MIB, 1));
    image[24 * MIB - 512..].copy_from_slice(&noise(512, 2));
    image
}

struct Cellar {
    place: tempfile::TempDir,
    repository: Repository,
    image: Vec<u8>,
    stored: SourceReport,
}

async fn back_up(repository: &Repository, device: &Path) -> SourceReport {
    let mut identity = claim();
    identity.tags.push("pod=press-0".to_owned());
    let run = VolumeRun { identity, exclude: vec![], accept_shrunken: false, timeout: None };
    backup_device(repository, run, device, Arc::default()).await
}

impl Cellar {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let repository = new_repository(&place.path().join("repository")).await;
        let image = image();
        let device = Loop::new(place.path(), "source", &image, image.len() as u64);
        let stored = back_up(&repository, &device.0).await;
        assert_eq!((stored.verdict, stored.bytes), (Verdict::Succeeded, image.len() as u64), "{stored:?}");
        Self { place, repository, image, stored }
    }

    fn device(&self, name: &str, content: &[u8], length: usize) -> Loop {
        Loop::new(self.place.path(), name, content, length as u64)
    }

    async fn restore(&self, device: &Loop, overwrite: bool) -> SourceReport {
        let mut safety = claim();
        safety.tags.push(SnapshotIdentity::SAFETY.to_owned());
        let run = VolumeRestore { overwrite: overwrite.then_some(safety), device: true, ..run() };
        restore_volume(&self.repository, &run, &device.0, &never()).await
    }

    async fn fails(&self, device: &Loop, reason: Reason) -> SourceReport {
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
    let cellar = Cellar::new().await;
    // Who was at it is said.
    assert!(cellar.stored.message.contains("press-0"), "{:?}", cellar.stored);
    let blank = cellar.device("blank", &[], cellar.image.len());
    let report = cellar.restore(&blank, false).await;
    assert_eq!((report.verdict, report.bytes), (Verdict::Succeeded, cellar.image.len() as u64), "{report:?}");
    assert!(blank.content() == cellar.image);
    // A bigger one has zeros behind it.
    let bigger = cellar.device("bigger", &[], 32 * MIB);
    assert_eq!(cellar.restore(&bigger, false).await.verdict, Verdict::Succeeded);
    let content = bigger.content();
    assert!(content[..24 * MIB] == cellar.image && content[24 * MIB..].iter().all(|byte| *byte == 0));

    let at = cellar.place.path().join("repository");
    cellar.repository.close().await;
    newest().check(&at);
    assert!(newest().ok(&at, &["dump", cellar.stored.snapshot.as_deref().unwrap(), PATH]) == cellar.image);
}

#[tokio::test]
async fn devices_are_tagged_as_such_and_files_are_not() {
    let cellar = Cellar::new().await;
    let device = cellar.device("old", &noise(MIB, 9), 24 * MIB);
    let safety = cellar.restore(&device, true).await.safety_snapshot.unwrap();
    let folder = folder_in(cellar.place.path(), "folder");
    fs::write(folder.join("file"), "content").unwrap();
    let files = store_folder(&cellar.repository, &folder).await.snapshot;
    for (id, expected) in [(cellar.stored.snapshot.clone().unwrap(), true), (safety, true), (files, false)] {
        let snapshots = cellar.repository.snapshots().await.unwrap();
        let identity = &snapshots.iter().find(|snapshot| snapshot.id == id).unwrap().identity;
        assert_eq!(identity.has_tag(SnapshotIdentity::DEVICE), expected, "{identity:?}");
    }
}

#[tokio::test]
async fn device_comes_back_as_a_file_into_a_folder() {
    let cellar = Cellar::new().await;
    let volume = folder_in(cellar.place.path(), "volume");
    let report = restore_volume(&cellar.repository, &run(), &volume, &never()).await;
    assert_eq!(report.verdict, Verdict::Succeeded, "{report:?}");
    assert!(fs::read(volume.join("claim")).unwrap() == cellar.image);
}

#[tokio::test]
async fn device_that_is_too_small_or_not_blank_anywhere_is_not_touched() {
    let cellar = Cellar::new().await;
    let small = cellar.device("small", &[], 24 * MIB - 512);
    let report = cellar.fails(&small, Reason::TargetUnwritable).await;
    assert!(report.message.contains("25165824 bytes"), "{report:?}");
    for (name, at) in [("begin", 0), ("middle", 11 * MIB + 7), ("end", 24 * MIB - 1)] {
        let device = cellar.device(name, &[], 24 * MIB);
        device.write(at as u64, b"x");
        cellar.fails(&device, Reason::TargetNotEmpty).await;
    }
}

#[tokio::test]
async fn device_is_overwritten_only_when_told_and_kept_first() {
    let cellar = Cellar::new().await;
    let old = noise(30 * MIB, 9);
    let device = cellar.device("old", &old, old.len());
    let report = cellar.restore(&device, true).await;
    assert_eq!(report.verdict, Verdict::Succeeded, "{report:?}");
    let content = device.content();
    // Old data is neither between nor behind.
    assert!(content[..24 * MIB] == cellar.image && content[24 * MIB..].iter().all(|byte| *byte == 0));
    let safety = report.safety_snapshot.unwrap();
    let kept = cellar.repository.read_file(&safety, PATH).await.unwrap();
    assert!(collect(kept).await == old);
    // One that is too small is not even kept.
    let small = cellar.device("small", &old[..MIB], MIB);
    let report = cellar.restore(&small, true).await;
    assert_eq!((report.reason, report.safety_snapshot.is_none()), (Reason::TargetUnwritable, true));
    assert!(small.content() == old[..MIB]);
}

#[tokio::test]
async fn files_are_not_written_onto_a_device_and_a_device_in_use_or_read_only_is_left_alone() {
    let cellar = Cellar::new().await;
    let device = cellar.device("blank", &[], 24 * MIB);
    let folder = folder_in(cellar.place.path(), "folder");
    fs::write(folder.join("file"), "content").unwrap();
    let stored = store_folder(&cellar.repository, &folder).await;
    let from = WantedSnapshot { id: Some(stored.snapshot), ..run().from };
    let files = VolumeRestore { from, device: true, ..run() };
    let report = restore_volume(&cellar.repository, &files, &device.0, &never()).await;
    assert_eq!(report.reason, Reason::InvalidRequest, "{report:?}");
    assert!(report.message.contains("of files"), "{report:?}");
    assert!(device.content().iter().all(|byte| *byte == 0));

    assert!(Command::new("blockdev").arg("--setro").arg(&device.0).status().unwrap().success());
    cellar.fails(&device, Reason::TargetUnwritable).await;
    assert!(Command::new("blockdev").arg("--setrw").arg(&device.0).status().unwrap().success());

    assert!(Command::new("mkfs.ext4").arg("-q").arg(&device.0).status().unwrap().success());
    let mounted = folder_in(cellar.place.path(), "mounted");
    assert!(Command::new("mount").arg(&device.0).arg(&mounted).status().unwrap().success());
    let report = cellar.restore(&device, true).await;
    assert!(Command::new("umount").arg(&mounted).status().unwrap().success());
    assert_eq!((report.reason, report.safety_snapshot), (Reason::TargetInUse, None));
}

#[tokio::test]
async fn device_that_is_not_there_or_ends_early_makes_no_snapshot() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(&place.path().join("repository")).await;
    let report = back_up(&repository, &place.path().join("nothing")).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::SourceUnreadable));
    assert!(report.message.contains("root"), "{report:?}");
    // The file under the device is cut: its end cannot be read.
    let device = Loop::new(place.path(), "cut", &noise(8 * MIB, 3), 8 * MIB as u64);
    File::options().write(true).open(place.path().join("cut")).unwrap().set_len(MIB as u64).unwrap();
    assert!(Command::new("blockdev").arg("--flushbufs").arg(&device.0).status().unwrap().success());
    let report = back_up(&repository, &device.0).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::SourceUnreadable), "{report:?}");
    assert!(repository.snapshots().await.unwrap().is_empty());
}
