//! File systems which refuse an operation: the run names what the file system cannot hold, and still keeps the files.
//!
//! strace(1) injects errors of system calls. A file system without owners, modes, links and attributes is mounted if
//! the kernel or FUSE has one. A test which the machine cannot run is reported as SKIPPED.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use stowaway::{
    model::{BackendConfig, RunReport, mounts},
    repository::open,
};

use super::{
    file_systems::{Kind, Volume},
    folders::{claim, store_folder},
    system_calls::{ON_NFS, can_inject, failing, failing_at},
    torture::*,
    *,
};

/// A repository, a folder to store, and a folder to restore into.
pub struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        new_repository(&dir.path().join("repository")).await.close().await;
        for folder in ["root/dev", "root/data", "root/run/stowaway/password"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("root/run/stowaway/password/password"), PASSWORD).unwrap();
        // Runs restore into the volume that they store.
        symlink("data", dir.path().join("root/target")).unwrap();
        Self { dir }
    }

    /// The folder which is stored, and which is the volume of a run.
    pub fn source(&self) -> PathBuf {
        self.dir.path().join("root/data")
    }

    pub fn repository(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn run(&self, injected: Option<&str>, arguments: &[&OsStr]) {
        let program = env!("CARGO_BIN_EXE_stowaway");
        self.run_command(
            injected.map_or_else(|| Command::new(program), |injected| failing(injected, program)),
            arguments,
        );
    }

    fn run_command(&self, command: Command, arguments: &[&OsStr]) {
        let backup = serde_json::json!({
            "do": "backupClaim", "claim": "claim", "source": "pvc/claim", "identity": claim(), "timeout": null,
        });
        let output = self.task(command, &backup).args(arguments).output().unwrap();
        fs::write(self.dir.path().join("stdout"), &output.stdout).unwrap();
        fs::write(self.dir.path().join("stderr"), &output.stderr).unwrap();
    }

    /// The command with the environment of a run of this task.
    pub fn task(&self, command: Command, kind: &serde_json::Value) -> Command {
        self.task_created_at(command, kind, None)
    }

    /// Like [`Case::task`], for a run which the controller created at this time.
    pub fn task_created_at(
        &self,
        mut command: Command,
        kind: &serde_json::Value,
        not_before: Option<Timestamp>,
    ) -> Command {
        let backend = BackendConfig::Folder { path: self.repository().to_str().unwrap().into() };
        let mut task = serde_json::json!({ "backend": backend, "kind": kind });
        if let Some(time) = not_before {
            task["notBefore"] = serde_json::json!(time);
        }
        command
            .env("RESTIC_PASSWORD", PASSWORD)
            .env(mounts::ROOT_VARIABLE, self.dir.path().join("root"))
            .env(mounts::TASK_VARIABLE, task.to_string());
        command
    }

    /// Stores the folder as a run does, while system calls fail.
    pub fn store(&self, injected: Option<&str>) -> RunReport {
        self.run(injected, &["runner".as_ref()]);
        self.report()
    }

    /// Stores the folder as a run does, while the system calls which concern one of its entries fail. Calls for the
    /// names in a folder concern the folder, too.
    fn store_while_entry_fails(&self, injected: &str, entry: &str) -> RunReport {
        let entry = [self.source().join(entry)];
        self.run_command(failing_at(injected, &entry, env!("CARGO_BIN_EXE_stowaway")), &["runner".as_ref()]);
        self.report()
    }

    /// The report of the last run.
    pub fn report(&self) -> RunReport {
        let stdout = || fs::read_to_string(self.dir.path().join("stdout")).unwrap_or_default();
        let report = fs::read(self.dir.path().join("root/dev/termination-log"));
        serde_json::from_slice(&report.unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {}", stdout()))
    }

    /// Restores the folder, while system calls fail.
    fn restore(&self, injected: Option<&str>, target: &Path) -> RunReport {
        let repository = self.dir.path().join("repository");
        let arguments = ["restore", "--source", "pvc/claim", "--output", "json", "--repository"];
        let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        arguments.extend([repository.as_os_str(), "--target".as_ref(), target.as_os_str()]);
        self.run(injected, &arguments);
        let stdout = fs::read(self.dir.path().join("stdout")).unwrap();
        serde_json::from_slice(&stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(self.dir.path().join("stderr")).unwrap()))
    }
}

pub fn outcome(report: &RunReport) -> (String, String) {
    (report.verdict.to_string(), report.reason.to_string())
}

#[tokio::test]
async fn file_system_that_answers_no_attributes_is_stored_whole_and_green() {
    if !can_inject() {
        return;
    }
    for error in ["EIO", "EINVAL", "EPERM", "ENOSYS", "ENODATA", "EOPNOTSUPP", "EACCES"] {
        let case = Case::new().await;
        fs::write(case.source().join("file"), "content").unwrap();
        symlink("file", case.source().join("link")).unwrap();
        let report = case.store(Some(&format!("flistxattr,listxattr,llistxattr:error={error}")));
        assert_eq!(outcome(&report), ("Succeeded".into(), "Completed".into()), "{error}: {}", report.message);
        let is_named = report.message.contains("no attributes are stored");
        assert_eq!(is_named, !matches!(error, "ENOSYS" | "ENODATA" | "EOPNOTSUPP"), "{error}: {}", report.message);
        case.restore(None, &case.target());
        assert_eq!(fs::read(case.target().join("file")).unwrap(), b"content", "{error}");
    }
}

#[tokio::test]
async fn attributes_that_some_files_do_not_give_are_named_and_cost_nothing_else() {
    if !can_inject() {
        return;
    }
    let case = Case::new().await;
    for name in ["a", "b", "c"] {
        fs::write(case.source().join(name), name).unwrap();
        xattr::set(case.source().join(name), "user.mark", name.as_bytes()).unwrap();
    }
    let report = case.store_while_entry_fails("flistxattr:error=EIO", "b");
    assert_eq!(outcome(&report), ("Incomplete".into(), "MetadataNotKept".into()), "{}", report.message);
    assert!(report.message.contains("attributes of 1 entry"), "{}", report.message);
    // The snapshot still counts as the newest, because all contents are complete.
    let report = case.restore(None, &case.target());
    assert_eq!(report.verdict.to_string(), "Succeeded", "{}", report.message);
    for name in ["a", "b", "c"] {
        assert_eq!(fs::read(case.target().join(name)).unwrap(), name.as_bytes());
    }
}

#[tokio::test]
async fn stale_handle_is_looked_for_by_its_name() {
    if !can_inject() {
        return;
    }
    let with_files = async || {
        let case = Case::new().await;
        for number in 0..20 {
            fs::write(case.source().join(format!("file-{number:02}")), format!("content {number}")).unwrap();
        }
        case
    };
    // The file is opened again by its name, and is found.
    let case = with_files().await;
    let report = case.store_while_entry_fails("pread64:error=ESTALE:when=1", "file-07");
    assert_eq!(report.verdict.to_string(), "Succeeded", "{}", report.message);
    assert!(report.message.contains("another file replaced it"), "{}", report.message);
    case.restore(None, &case.target());
    assert_eq!(names_in(&case.target()).len(), 20);
    // A file whose handle is stale every time is not a file which vanished, so it is named.
    let report = with_files().await.store_while_entry_fails("pread64:error=ESTALE", "file-07");
    assert_eq!(outcome(&report), ("Incomplete".into(), "SourceUnreadable".into()), "{}", report.message);
}

#[tokio::test]
async fn file_whose_reads_end_early_is_read_again_and_never_stored_shorter() {
    if !can_inject() {
        return;
    }
    let with_file = async || {
        let case = Case::new().await;
        fs::write(case.source().join("file"), noise(8 << 20, 1)).unwrap();
        fs::write(case.source().join("other"), "other").unwrap();
        case
    };
    // The first reading of the long file ends in its middle. The second one is whole.
    let case = with_file().await;
    let report = case.store_while_entry_fails("pread64:retval=0:when=1", "file");
    assert_eq!(report.verdict.to_string(), "Succeeded", "{}", report.message);
    assert!(report.message.contains("file (its first reading ended after"), "{}", report.message);
    case.restore(None, &case.target());
    assert_eq!(fs::read(case.target().join("file")).unwrap(), noise(8 << 20, 1));
    // The second reading ends early, too.
    let case = with_file().await;
    let report = case.store_while_entry_fails("pread64:retval=0", "file");
    assert_eq!(outcome(&report), ("Incomplete".into(), "SourceUnreadable".into()), "{}", report.message);
    assert!(report.message.contains("file (failed to read: its content ended after 0 of the 8388608 bytes"));
}

#[tokio::test]
async fn hole_that_cannot_be_read_to_its_end_is_no_zeros() {
    if !can_inject() {
        return;
    }
    // The server of a network file system does not have the end of a file which the client still has.
    let case = Case::new().await;
    fs::File::create(case.source().join("file")).unwrap().set_len(256 << 10).unwrap();
    let report = case.store_while_entry_fails("pread64:retval=0", "file");
    assert_eq!(outcome(&report), ("Incomplete".into(), "SourceUnreadable".into()), "{}", report.message);
    assert!(report.message.contains("after 0 of the 262144 bytes that its file system reports"), "{}", report.message);
}

#[tokio::test]
async fn folder_that_cannot_be_listed_to_its_end_is_named_and_never_green() {
    if !can_inject() {
        return;
    }
    let case = Case::new().await;
    for folder in ["a", "b", "c"] {
        fs::create_dir(case.source().join(folder)).unwrap();
        fs::write(case.source().join(folder).join("file"), "content").unwrap();
    }
    // Readers of the C library take this error for the end of the listing.
    let report = case.store_while_entry_fails("getdents64:error=ENOENT:when=2+", "b");
    assert_eq!(outcome(&report), ("Incomplete".into(), "SourceUnreadable".into()), "{}", report.message);
    assert!(report.message.contains("(failed to list the folder to its end: "), "{}", report.message);
    assert!(!report.message.contains("deleted before"), "{}", report.message);
}

/// Makes a folder `links` in the case's source, with this number of links.
fn add_links(case: &Case, count: u32) {
    let folder = folder_in(&case.source(), "links");
    for number in 0..count {
        symlink("target", folder.join(format!("link-{number:02}"))).unwrap();
    }
}

#[tokio::test]
async fn name_of_a_deleted_entry_that_only_the_cache_of_the_client_has_makes_no_run_incomplete() {
    if !can_inject() {
        return;
    }
    let case = Case::new().await;
    add_links(&case, 60);
    // The first listing takes two calls. A listing after that has no name any more.
    let missing = "readlinkat:error=ENOENT:when=11+";
    let report = case.store_while_entry_fails(&format!("{missing} getdents64:retval=0:when=3+"), "links");
    assert_eq!(report.verdict.to_string(), "Succeeded", "{}", report.message);
    assert!(report.message.contains("50 entries were deleted before they were read"), "{}", report.message);
    // A listing that fails proves nothing.
    let report = case.store_while_entry_fails(&format!("{missing} getdents64:error=EIO:when=3"), "links");
    assert_eq!(outcome(&report), ("Incomplete".into(), "SourceUnreadable".into()), "{}", report.message);
    assert!(report.message.contains("50 of the volume's entries could not be read"), "{}", report.message);
    assert!(!report.message.contains("deleted before"), "{}", report.message);
}

#[tokio::test]
async fn entry_that_its_folder_has_is_never_taken_for_a_deleted_one() {
    if !can_inject() {
        return;
    }
    // The handle of the folder is not stale, and the folder has all of the links.
    for error in ["ENOENT", "ESTALE"] {
        let case = Case::new().await;
        add_links(&case, 40);
        let report = case.store_while_entry_fails(&format!("readlinkat:error={error}:when=11+"), "links");
        assert_eq!(outcome(&report), ("Incomplete".into(), "SourceUnreadable".into()), "{error}: {}", report.message);
        assert!(report.message.contains("30 of the volume's entries could not be read"), "{}", report.message);
        assert!(!report.message.contains("deleted before"), "{error}: {}", report.message);
    }
}

#[tokio::test]
async fn volume_whose_server_is_lost_midway_has_no_deleted_files() {
    if !can_inject() {
        return;
    }
    // All handles become stale, that of the root as well, as if the server had been replaced.
    let case = Case::new().await;
    for number in 0..300 {
        fs::write(case.source().join(format!("file-{number:03}")), "content").unwrap();
    }
    let report = case.store(Some("statx:error=ESTALE:when=200+"));
    assert_eq!(outcome(&report), ("Incomplete".into(), "SourceUnreadable".into()), "{}", report.message);
    assert!(!report.message.contains("deleted before"), "{}", report.message);
}

#[tokio::test]
async fn directories_of_snapshots_are_stored_unless_the_file_system_has_such() {
    if !can_inject() {
        return;
    }
    let case = Case::new().await;
    let names = [".snapshot/daily.0", ".zfs/snapshot/daily.0", "~snapshot/daily.0"];
    for name in names {
        fs::create_dir_all(case.source().join(name)).unwrap();
        fs::write(case.source().join(name).join("file"), name).unwrap();
    }
    fs::write(case.source().join("file"), "content").unwrap();
    let report = case.store(None);
    assert_eq!(outcome(&report), ("Succeeded".into(), "Completed".into()), "{}", report.message);
    assert_eq!(report.message, "");
    case.restore(None, &case.target());
    for name in names {
        assert_eq!(fs::read_to_string(case.target().join(name).join("file")).unwrap(), name);
    }
    // The same volume on NFS. The former snapshot has more files, which makes the smaller one no loss.
    let report = case.store(Some(ON_NFS));
    assert_eq!(outcome(&report), ("Succeeded".into(), "Completed".into()), "{}", report.message);
    assert!(report.message.contains("2 entries of the storage system are skipped: .snapshot ("), "{}", report.message);
    let target = case.dir.path().join("of-nfs");
    case.restore(None, &target);
    assert_eq!(names_in(&target), ["file", "~snapshot"]);
}

#[tokio::test]
async fn attributes_and_entries_that_a_target_refuses_are_named_and_all_contents_are_there() {
    if !can_inject() {
        return;
    }
    assert!(is_root(), "this test gives files away");
    let case = Case::new().await;
    let source = case.source();
    fs::write(source.join("first"), noise(300_000, 1)).unwrap();
    fs::hard_link(source.join("first"), source.join("second")).unwrap();
    symlink("first", source.join("link")).unwrap();
    fs::hard_link(source.join("link"), source.join("link-2")).unwrap();
    mknodat(CWD, source.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    mknodat(CWD, source.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
    xattr::set(source.join("first"), "user.mark", b"mark").unwrap();
    std::os::unix::fs::chown(source.join("first"), Some(7), Some(8)).unwrap();
    let stored = case.store(None);
    assert_eq!(stored.verdict.to_string(), "Succeeded", "{}", stored.message);
    for (injected, named) in [
        ("linkat:error=EOPNOTSUPP", "second: the hard link to first, of which it is a copy"),
        ("linkat:error=EPERM", "second: the hard link to first, of which it is a copy"),
        ("linkat:error=EMLINK", "second: the hard link to first, of which it is a copy"),
        ("linkat:error=EXDEV", "second: the hard link to first, of which it is a copy"),
        ("mknodat,mknod:error=EPERM", "pipe: the pipe, which cannot be made here"),
        ("mknodat,mknod:error=EOPNOTSUPP", "socket: the socket, which cannot be made here"),
        ("mknodat,mknod:error=EIO", "socket: the socket, which cannot be made here"),
        ("symlinkat,symlink:error=EOPNOTSUPP", "link: the symbolic link, which cannot be made here"),
        ("symlinkat,symlink:error=ENOSYS", "link-2: the symbolic link, which cannot be made here"),
        ("fsetxattr,setxattr,lsetxattr:error=EINVAL", "first: its attribute user.mark"),
        ("fsetxattr,setxattr,lsetxattr:error=ENOSPC", "first: its attribute user.mark"),
        ("fsetxattr,setxattr,lsetxattr:error=E2BIG", "first: its attribute user.mark"),
        ("fsetxattr,setxattr,lsetxattr:error=EACCES", "first: its attribute user.mark"),
        ("fchown,fchownat:error=EOPNOTSUPP", "first: its owner 7:8"),
        ("fchown,fchownat:error=EINVAL", "first: its owner 7:8"),
        ("fchmod,fchmodat:error=EOPNOTSUPP", "first: its mode 644"),
        ("utimensat:error=EPERM", "first: its times"),
    ] {
        let _ = fs::remove_dir_all(case.target());
        let report = case.restore(Some(injected), &case.target());
        assert_eq!(outcome(&report), ("Incomplete".into(), "MetadataNotKept".into()), "{injected}: {}", report.message);
        assert!(report.message.contains(named), "{injected}: {}", report.message);
        for name in ["first", "second"] {
            assert_eq!(fs::read(case.target().join(name)).unwrap(), noise(300_000, 1), "{injected}: {name}");
        }
    }
    // An error which affects contents fails the restore.
    for injected in ["fchmod:error=EROFS", "utimensat:error=EIO", "linkat:error=ENOSPC", "pwrite64:error=ENOSPC"] {
        let _ = fs::remove_dir_all(case.target());
        let report = case.restore(Some(injected), &case.target());
        assert_eq!(report.verdict.to_string(), "Failed", "{injected}: {}", report.message);
    }
}

#[tokio::test]
async fn file_system_without_owners_links_and_attributes_gets_all_contents() {
    let Some(volume) = [Kind::Vfat, Kind::Exfat].into_iter().find_map(Volume::mount) else {
        return crate::skipped("neither vfat nor exfat can be mounted here: no file system that refuses was tried");
    };
    let case = Case::new().await;
    let source = case.source();
    fs::create_dir(source.join("folder")).unwrap();
    for (name, content) in [("file", "content"), ("folder/inside", "inside")] {
        fs::write(source.join(name), content).unwrap();
        xattr::set(source.join(name), "user.mark", b"mark").unwrap();
        std::os::unix::fs::chown(source.join(name), Some(7), Some(8)).unwrap();
    }
    fs::hard_link(source.join("file"), source.join("other-name")).unwrap();
    symlink("file", source.join("link")).unwrap();
    mknodat(CWD, source.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    mknodat(CWD, source.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
    case.store(None);
    let target = volume.path().join("target");
    let report = case.restore(None, &target);
    assert_eq!(outcome(&report), ("Incomplete".into(), "MetadataNotKept".into()), "{}", report.message);
    for (name, content) in [("file", "content"), ("other-name", "content"), ("folder/inside", "inside")] {
        assert_eq!(fs::read_to_string(target.join(name)).unwrap(), content);
    }
    for name in ["link", "pipe", "socket"] {
        assert!(target.join(name).symlink_metadata().is_err(), "{name}: nothing is created instead");
    }
}

#[tokio::test]
async fn names_that_are_no_text_are_listed_dumped_and_restored_singly() {
    let case = Case::new().await;
    let names: [&[u8]; 6] = [b"caf\xe9.txt", b"caf\xe8.txt", b"new\nline", b"\x1b[31mred", b"a\\x41", b"-rf"];
    for name in names {
        fs::write(case.source().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let set_user = case.source().join("program");
    fs::write(&set_user, "p").unwrap();
    fs::set_permissions(&set_user, <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o6755)).unwrap();
    let repository = open(folder(&case.dir.path().join("repository")), never()).await.unwrap();
    let id = store_folder(&repository, &case.source()).await.snapshot;
    repository.close().await;
    let call = |arguments: &[&OsStr]| {
        let at = case.dir.path().join("repository");
        let verb = [arguments[0], "--repository".as_ref(), at.as_os_str()];
        let mut command = Command::new(env!("CARGO_BIN_EXE_stowaway"));
        command.env("RESTIC_PASSWORD", PASSWORD).args(verb).args(&arguments[1..]).output().unwrap()
    };
    let listed = String::from_utf8(call(&["ls".as_ref(), id.as_ref()]).stdout).unwrap();
    assert!(!listed.contains('\u{1b}') && listed.contains("6755"), "{listed}");
    for (name, form) in
        names.iter().zip([r"caf\xe9.txt", r"caf\xe8.txt", r"new\x0aline", r"\x1b[31mred", r"a\\x41", "-rf"])
    {
        assert!(listed.lines().any(|line| line.ends_with(&format!("/data/claim/{form}"))), "{form}: {listed}");
        // The path in its own bytes, and in the form in which it is listed.
        for path in [[b"/data/claim/", *name].concat(), format!("/data/claim/{form}").into_bytes()] {
            let dumped = call(&["dump".as_ref(), id.as_ref(), OsStr::from_bytes(&path)]);
            assert_eq!(dumped.stdout.escape_ascii().to_string(), name.escape_ascii().to_string(), "{form}");
        }
        for path in [name.to_vec(), form.as_bytes().to_vec()] {
            let _ = fs::remove_dir_all(case.target());
            let option = [b"--path=", &path[..]].concat();
            let target = case.target();
            let arguments: [&OsStr; 6] = [
                "restore".as_ref(),
                "--source".as_ref(),
                "pvc/claim".as_ref(),
                "--target".as_ref(),
                target.as_ref(),
                OsStr::from_bytes(&option),
            ];
            let restored = call(&arguments);
            assert!(restored.status.success(), "{form}: {}", String::from_utf8_lossy(&restored.stderr));
            assert_eq!(names_in(&target), [OsStr::from_bytes(name)]);
        }
    }
}
