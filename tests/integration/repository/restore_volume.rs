//! Restores into volumes which contain data are complete or change nothing, and the entries of a hostile volume lead
//! nowhere else.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use stowaway::{
    model::{Reason, RunReport, SnapshotIdentity, Verdict, VolumeRestore, WantedSnapshot},
    repository::{StoredFolder, open},
    runner::restore_volume,
};

use super::{
    folders::{at, claim, store_folder},
    torture::*,
    *,
};

/// A repository with a snapshot of a folder, and a volume.
struct Fixture {
    dir: tempfile::TempDir,
    repository: Repository,
    stored: String,
}

impl Fixture {
    async fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(&dir.path().join("repository")).await;
        let source = folder_in(dir.path(), "source");
        write(&source, files);
        folder_in(dir.path(), "volume");
        let stored = store_folder(&repository, &source).await.snapshot;
        Self { dir, repository, stored }
    }

    /// Stores the source again with a later time.
    async fn store_later(&self) -> StoredFolder {
        let later = at("2026-05-05T03:02:01Z");
        self.repository.store_folder(&claim(), &later, &self.source(), Arc::default()).await.unwrap()
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    async fn restore(&self, run: &VolumeRestore) -> RunReport {
        restore_volume(&self.repository, run, &self.volume(), &never()).await
    }

    async fn succeeds(&self, run: &VolumeRestore) -> RunReport {
        let report = self.restore(run).await;
        assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed), "{}", report.message);
        self.holds_no_internal_files();
        report
    }

    /// Asserts that the restore fails for this reason, and leaves the volume unchanged.
    async fn fails(&self, run: &VolumeRestore, reason: Reason) -> String {
        let before = seen(&self.volume());
        let report = self.restore(run).await;
        assert_eq!((report.verdict, report.reason), (Verdict::Failed, reason), "{}", report.message);
        assert_eq!(seen(&self.volume()), before);
        report.message
    }

    fn holds_no_internal_files(&self) {
        let is_internal = |name: &OsString| name.to_string_lossy().starts_with(".stowaway");
        assert!(!names_in(&self.volume()).iter().any(is_internal), "{:?}", names_in(&self.volume()));
    }
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// The state of a folder as `find` and `sha256sum` report it.
fn seen(folder: &Path) -> String {
    let listed = Command::new("find").arg(folder).args(["-printf", "%P %y %m %U:%G %s %T@ %l\n"]).output().unwrap();
    let contents = Command::new("sh")
        .args(["-c", "find . -type f -print0 | sort -z | xargs -0 -r sha256sum"])
        .current_dir(folder)
        .output()
        .unwrap();
    let mut lines: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines.join("\n") + &String::from_utf8_lossy(&contents.stdout)
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

fn run() -> VolumeRestore {
    let from = WantedSnapshot {
        source: "pvc/claim".parse().unwrap(),
        id: None,
        as_of: None,
        host: Some("shop".to_owned()),
        cluster: String::new(),
    };
    VolumeRestore { from, paths: vec![], folder: String::new(), overwrite: None, device: false, timeout: None }
}

fn overwriting() -> VolumeRestore {
    let identity = SnapshotIdentity { tags: [claim().tags, vec!["safety".to_owned()]].concat(), ..claim() };
    VolumeRestore { overwrite: Some(identity), ..run() }
}

fn only(paths: &[&str], run: VolumeRestore) -> VolumeRestore {
    VolumeRestore { paths: paths.iter().map(|&path| path.to_owned()).collect(), ..run }
}

#[tokio::test]
async fn empty_volume_becomes_what_was_stored() {
    let fixture = Fixture::new(&[]).await;
    fill(&fixture.source());
    let stored = fixture.store_later().await;
    // File systems create this folder in a new volume.
    let has_lost_and_found = make_lost_and_found(&fixture.volume());
    let report = fixture
        .succeeds(&VolumeRestore { from: WantedSnapshot { id: Some(stored.snapshot.clone()), ..run().from }, ..run() })
        .await;
    assert_eq!(report.snapshot.as_ref(), Some(&stored.snapshot));
    if has_lost_and_found {
        fs::remove_dir(fixture.volume().join("lost+found")).unwrap();
    }
    for folder in [fixture.source(), fixture.volume()] {
        fs::File::open(folder).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    assert_same(&fixture.source(), &fixture.volume());
}

#[tokio::test]
async fn volume_with_something_in_it_is_refused_and_left_as_it_is() {
    let fixture = Fixture::new(&[("file", "stored")]).await;
    write(&fixture.volume(), &[("other", "the app's")]);
    assert!(fixture.fails(&run(), Reason::TargetNotEmpty).await.contains("overwrite"));
    fs::remove_file(fixture.volume().join("other")).unwrap();
    write(&fixture.volume(), &[("lost+found/#12", "found")]);
    fixture.fails(&run(), Reason::TargetNotEmpty).await;
    assert_eq!(fixture.repository.snapshots().await.unwrap().len(), 1, "nothing was stored of it");
}

#[tokio::test]
async fn overwritten_volume_is_a_snapshot_first_and_that_is_never_the_newest() {
    let fixture = Fixture::new(&[("a/file", "stored"), ("b/new", "stored"), ("was-folder", "stored")]).await;
    let before = [("a/file", "present"), ("a/kept", "present"), ("was-folder/x", "present")];
    write(&fixture.volume(), &before);
    symlink("nowhere", fixture.volume().join("link")).unwrap();
    let present = seen(&fixture.volume());
    let report = fixture.succeeds(&overwriting()).await;
    for (path, content) in [("a/file", "stored"), ("a/kept", "present"), ("b/new", "stored"), ("was-folder", "stored")]
    {
        assert_eq!(text(fixture.volume().join(path)), content, "{path}");
    }
    let safety = report.safety_snapshot.unwrap();
    assert!(report.message.contains(&safety[..8]), "{}", report.message);
    let snapshots = fixture.repository.snapshots().await.unwrap();
    let (source, newest) = ("pvc/claim".parse().unwrap(), &fixture.stored);
    assert_eq!(&newest_of(&snapshots, &source).unwrap().id, newest, "the safety copy is younger");

    // The safety snapshot restores the previous state.
    fs::remove_dir_all(fixture.volume()).unwrap();
    fs::create_dir(fixture.volume()).unwrap();
    let back = VolumeRestore { from: WantedSnapshot { id: Some(safety), ..run().from }, ..run() };
    fixture.succeeds(&back).await;
    assert_eq!(seen(&fixture.volume()), present);
}

#[tokio::test]
async fn nothing_is_overwritten_that_could_not_be_kept() {
    let fixture = Fixture::new(&[("file", "stored")]).await;
    // A file which reports a size smaller than its content cannot be stored whole, not even by root.
    let lying = folder_in(&fixture.volume(), "lying");
    fs::write(fixture.volume().join("file"), "present").unwrap();
    let mounted = Command::new("mount").args(["--bind", "/proc/sys/kernel"]).arg(&lying).status();
    assert!(mounted.unwrap().success(), "this test mounts, and needs root");
    let beside = restore_volume(&fixture.repository, &overwriting(), &fixture.volume(), &never()).await;
    let there = restore_volume(&fixture.repository, &overwriting(), &lying, &never()).await;
    let _ = Command::new("umount").arg("--lazy").arg(&lying).status();
    assert_eq!((beside.verdict, beside.reason), (Verdict::Failed, Reason::SourceUnreadable), "{}", beside.message);
    assert_eq!(there.verdict, Verdict::Failed, "{}", there.message);
    assert_eq!(text(fixture.volume().join("file")), "present");
}

#[tokio::test]
async fn nothing_is_overwritten_beside_a_file_system_that_could_not_be_kept() {
    assert!(is_root(), "this test mounts, and needs root");
    let fixture = Fixture::new(&[("was-folder", "stored")]).await;
    let there = folder_in(&folder_in(&fixture.volume(), "was-folder"), "mounted");
    let _mounted = Mounted::tmpfs(&there, "size=1m");
    fs::write(there.join("file"), "elsewhere").unwrap();
    let message = fixture.fails(&overwriting(), Reason::SourceUnreadable).await;
    assert!(message.contains("was-folder/mounted"), "{message}");
}

#[tokio::test]
async fn single_paths_come_back_alone_and_their_folders_stay_as_they_are() {
    let files = [("a/b/wanted", "stored"), ("a/b/other", "stored"), ("a/tree/x/y", "stored"), ("top", "stored")];
    let fixture = Fixture::new(&files).await;
    fixture.succeeds(&only(&["a/b/wanted", "a/tree"], run())).await;
    let names = |path: &str| names_in(&fixture.volume().join(path));
    assert_eq!(
        (names(""), names("a"), names("a/b")),
        (vec!["a".into()], vec!["b".into(), "tree".into()], vec!["wanted".into()],)
    );
    assert_eq!(text(fixture.volume().join("a/tree/x/y")), "stored");

    write(&fixture.volume(), &[("a/b/wanted", "present"), ("a/b/other", "present")]);
    let mode = |path: &str| fs::metadata(fixture.volume().join(path)).unwrap().mode() & 0o777;
    for path in ["a", "a/b"] {
        let closed = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
        fs::set_permissions(fixture.volume().join(path), closed).unwrap();
    }
    fixture.succeeds(&only(&["a/b/wanted"], overwriting())).await;
    let (wanted, other) = (text(fixture.volume().join("a/b/wanted")), text(fixture.volume().join("a/b/other")));
    assert_eq!((wanted.as_str(), other.as_str(), mode("a"), mode("a/b")), ("stored", "present", 0o711, 0o711));
}

#[tokio::test]
async fn path_that_is_not_in_the_snapshot_fails_before_anything_is_written() {
    let fixture = Fixture::new(&[("a/file", "stored")]).await;
    let message = fixture.fails(&only(&["a/file", "a/missing"], run()), Reason::SnapshotNotFound).await;
    assert!(message.contains("a/missing"), "{message}");
    for path in ["../a", "a/../../x", "/../a", "//a", "/", "a//file", ""] {
        fixture.fails(&only(&[path], run()), Reason::InvalidRequest).await;
    }
    fixture
        .fails(&VolumeRestore { folder: "new".to_owned(), ..only(&["a/missing"], run()) }, Reason::SnapshotNotFound)
        .await;
}

#[tokio::test]
async fn path_is_taken_as_it_is_listed_and_relative_to_the_volume() {
    for path in ["a/file", "/a/file", "/data/claim/a/file"] {
        let fixture = Fixture::new(&[("a/file", "stored"), ("other", "stored")]).await;
        fixture.succeeds(&only(&[path], run())).await;
        assert_eq!(
            (text(fixture.volume().join("a/file")).as_str(), names_in(&fixture.volume()).len()),
            ("stored", 1),
            "{path}"
        );
    }
}

#[tokio::test]
async fn nothing_is_kept_of_a_volume_for_a_path_that_is_not_in_the_snapshot() {
    let fixture = Fixture::new(&[("a/file", "stored")]).await;
    write(&fixture.volume(), &[("a/file", "present")]);
    let run = only(&["a/file", "a/missing"], overwriting());
    let message = fixture.fails(&run, Reason::SnapshotNotFound).await;
    assert!(message.contains("a/missing"), "{message}");
    let snapshots = fixture.repository.snapshots().await.unwrap();
    assert_eq!(snapshots.len(), 1, "no safety snapshot: {snapshots:?}");
}

#[tokio::test]
async fn dump_of_a_command_lands_as_a_file() {
    let fixture = Fixture::new(&[]).await;
    let data = noise(3 << 20, 1);
    store(&fixture.repository, "/a/db.sql", &data).await;
    let from = WantedSnapshot { source: "deployment/shop/db".parse().unwrap(), ..run().from };
    fixture.succeeds(&VolumeRestore { from, folder: "dumps/today".to_owned(), ..run() }).await;
    assert!(fs::read(fixture.volume().join("dumps/today/db.sql")).unwrap() == data);
    assert_eq!(names_in(&fixture.volume().join("dumps/today")), [OsString::from("db.sql")]);
}

#[tokio::test]
async fn as_of_a_time_the_newest_of_then_comes_back() {
    let fixture = Fixture::new(&[("file", "monday")]).await;
    fs::write(fixture.source().join("file"), "tuesday").unwrap();
    fixture.store_later().await;
    for (time, expected) in [("2026-05-05T03:02:00Z", "monday"), ("2026-05-06T00:00:00Z", "tuesday")] {
        let from = WantedSnapshot { as_of: Some(time.parse().unwrap()), ..run().from };
        fixture.succeeds(&VolumeRestore { from, folder: expected.to_owned(), ..run() }).await;
        assert_eq!(text(fixture.volume().join(expected).join("file")), expected);
    }
    let from = WantedSnapshot { as_of: Some("2026-05-03T00:00:00Z".parse().unwrap()), ..run().from };
    fixture.fails(&VolumeRestore { from, folder: "monday".to_owned(), ..run() }, Reason::SnapshotNotFound).await;
}

#[tokio::test]
async fn links_of_a_hostile_volume_lead_nowhere() {
    let fixture = Fixture::new(&[("folder/file", "stored"), ("file", "stored")]).await;
    let outside = folder_in(fixture.dir.path(), "outside");
    write(&outside, &[("file", "foreign")]);
    let untouched = seen(&outside);
    let volume = fixture.volume();
    for name in ["folder", ".stowaway-restore.part", "elsewhere"] {
        symlink(&outside, volume.join(name)).unwrap();
    }
    symlink(outside.join("file"), volume.join("file")).unwrap();
    symlink(outside.join("mark"), volume.join(".stowaway-restore.whole.new")).unwrap();
    fixture.succeeds(&overwriting()).await;
    assert_eq!(seen(&outside), untouched);
    assert_eq!(text(volume.join("folder/file")), "stored");
    assert_eq!(text(volume.join("file")), "stored");
    // Links on the path to the target are not followed either.
    for folder in ["elsewhere", "elsewhere/below", "../outside"] {
        let report = fixture.restore(&VolumeRestore { folder: folder.to_owned(), ..overwriting() }).await;
        assert_eq!(report.verdict, Verdict::Failed, "{folder}: {}", report.message);
    }
    // A lock file which is a link is not followed, and one which is a pipe does not block the restore.
    symlink(outside.join("lock"), volume.join(".stowaway-restore.lock")).unwrap();
    assert_eq!(fixture.restore(&overwriting()).await.reason, Reason::TargetUnwritable);
    fs::remove_file(volume.join(".stowaway-restore.lock")).unwrap();
    assert!(Command::new("mkfifo").arg(volume.join(".stowaway-restore.lock")).status().unwrap().success());
    assert_eq!(fixture.restore(&overwriting()).await.reason, Reason::TargetUnwritable);
    assert_eq!(seen(&outside), untouched);
}

#[tokio::test]
async fn forged_mark_of_a_whole_restore_is_no_success() {
    let fixture = Fixture::new(&[("file", "stored")]).await;
    write(&fixture.volume(), &[(".stowaway-restore.part/file", "forged")]);
    let mark = format!(r#"{{"snapshot":"{}","own":null}}"#, fixture.stored);
    fs::write(fixture.volume().join(".stowaway-restore.whole"), mark).unwrap();
    fixture.fails(&run(), Reason::TargetNotEmpty).await;
    fixture.succeeds(&overwriting()).await;
    assert_eq!(text(fixture.volume().join("file")), "stored");
}

#[tokio::test]
async fn full_volume_is_reported_and_its_content_stays() {
    let fixture = Fixture::new(&[]).await;
    fs::write(fixture.source().join("large"), noise(5 << 20, 1)).unwrap();
    fixture.store_later().await;
    let _mounted = Mounted::tmpfs(&fixture.volume(), "size=4m");
    assert!(fixture.fails(&run(), Reason::TargetUnwritable).await.contains("No space left"));
    write(&fixture.volume(), &[("large", "present")]);
    fixture.fails(&overwriting(), Reason::TargetUnwritable).await;
    assert_eq!(text(fixture.volume().join("large")), "present");
}

#[tokio::test]
async fn pack_that_cannot_be_read_fails_and_leaves_the_volume_as_it_was() {
    let fixture = Fixture::new(&[]).await;
    fs::write(fixture.source().join("large"), noise(20 << 20, 1)).unwrap();
    fixture.store_later().await;
    write(&fixture.volume(), &[("large", "present")]);
    let packs = files_in(&fixture.dir.path().join("repository"), "data");
    let largest = packs.iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut content = fs::read(largest).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(largest, content).unwrap();
    // The safety snapshot is stored, and then the wanted snapshot cannot be read.
    fixture.fails(&overwriting(), Reason::RepositoryDamaged).await;
    fs::remove_file(largest).unwrap();
    fixture.fails(&overwriting(), Reason::RepositoryDamaged).await;
}

#[tokio::test]
async fn names_of_one_file_come_back_as_one_file_over_others() {
    let fixture = Fixture::new(&[("a/first", "stored")]).await;
    fs::hard_link(fixture.source().join("a/first"), fixture.source().join("second")).unwrap();
    fixture.store_later().await;
    let volume = fixture.volume();
    write(&volume, &[("a/first", "present")]);
    for name in ["second", "third"] {
        fs::hard_link(volume.join("a/first"), volume.join(name)).unwrap();
    }
    fixture.succeeds(&overwriting()).await;
    let inode = |path: &str| fs::metadata(volume.join(path)).unwrap().ino();
    assert_eq!(inode("a/first"), inode("second"));
    assert_eq!((text(volume.join("second")), text(volume.join("third"))), ("stored".into(), "present".into()));
}

#[tokio::test]
async fn timeout_ends_a_restore_and_leaves_nothing_of_it() {
    let fixture = Fixture::new(&[("file", "stored")]).await;
    let hurried = VolumeRestore { timeout: Some(std::time::Duration::ZERO), ..run() };
    let at = fixture.dir.path().join("repository");
    let cancel = never();
    let repository = open(folder(&at), cancel.clone()).await.unwrap();
    let report = restore_volume(&repository, &hurried, &fixture.volume(), &cancel).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::Timeout), "{}", report.message);
    assert_eq!(names_in(&fixture.volume()), Vec::<OsString>::new());
}

#[tokio::test]
async fn command_line_restores_a_volume_into_a_folder() {
    let fixture = Fixture::new(&[("a/file", "stored"), ("other", "stored")]).await;
    let at = fixture.dir.path().join("repository");
    let target = fixture.dir.path().join("new/target");
    let call = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_stowaway"))
            .env("RESTIC_PASSWORD", PASSWORD)
            .args(["restore", "--source", "pvc/claim", "--repository", at.to_str().unwrap()])
            .args(["--target", target.to_str().unwrap()])
            .args(more)
            .output()
            .unwrap()
    };
    let output = call(&["--path", "a", "--as-of", "2026-05-04T03:02:01Z"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((text(target.join("a/file")).as_str(), names_in(&target).len()), ("stored", 1));
    let again = call(&[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("TargetNotEmpty"));
}

/// The variable which makes this process run only the one test, in this folder.
const WITHOUT_RIGHTS: &str = "STOWAWAY_TEST_RESTORES_WITHOUT_RIGHTS";

#[test]
fn owners_that_could_not_be_kept_make_a_restore_incomplete_and_are_reported() {
    if let Some(dir) = std::env::var_os(WITHOUT_RIGHTS) {
        return tokio::runtime::Runtime::new().unwrap().block_on(restore_without_rights(Path::new(&dir)));
    }
    assert!(is_root(), "this test gives up being root");
    let fixture = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let fixture = Fixture::new(&[("file", "stored"), ("of-root", "stored")]).await;
        // The first file and the volume belong to the runner's user; the second file does not.
        for path in ["source", "source/file"] {
            let owned = Command::new("chown").arg("65532:65532").arg(fixture.dir.path().join(path)).status();
            assert!(owned.unwrap().success());
        }
        fixture.store_later().await;
        let Fixture { dir, repository, .. } = fixture;
        repository.close().await;
        dir
    });
    let dir = fixture.path();
    let program = dir.join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for name in ["repository", "volume", "tests"] {
        assert!(Command::new("chown").args(["-R", "65532:65532"]).arg(dir.join(name)).status().unwrap().success());
    }
    fs::set_permissions(dir, <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755)).unwrap();
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::owners_that_could_not_be_kept_make_a_restore_incomplete_and_are_reported");
    let alone = Command::new("setpriv")
        .args(["--reuid", "65532", "--regid", "65532", "--clear-groups"])
        .arg(&program)
        .args(["--exact", &test, "--nocapture"])
        .env(WITHOUT_RIGHTS, dir)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&alone.stdout);
    assert!(
        alone.status.success() && stdout.contains("1 passed"),
        "{stdout}{}",
        String::from_utf8_lossy(&alone.stderr)
    );
}

async fn restore_without_rights(dir: &Path) {
    let repository = open(folder(&dir.join("repository")), never()).await.unwrap();
    let volume = dir.join("volume");
    let own = VolumeRestore { folder: "own".to_owned(), ..only(&["file"], run()) };
    let report = restore_volume(&repository, &own, &volume, &never()).await;
    assert_eq!(report.verdict, Verdict::Succeeded, "the runner's user owns all of it: {}", report.message);
    let all = VolumeRestore { folder: "all".to_owned(), ..run() };
    let report = restore_volume(&repository, &all, &volume, &never()).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Incomplete, Reason::MetadataNotKept), "{}", report.message);
    assert!(report.message.contains("of-root: its owner 0:0"), "{}", report.message);
    assert_eq!(text(volume.join("all/of-root")), "stored");
}
