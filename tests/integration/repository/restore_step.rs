//! The restore step as it runs in a pod: a process with volumes, mounted Secrets and an environment.

mod kept;
mod lost;
mod other_stores;
mod sources;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use stowaway::{
    model::{
        BackendConfig, Connection, Credential, Reason, RunReport, S3Config, SECRET_SOURCES_VARIABLE, Verdict, injected,
        mounts,
    },
    repository::{Unlock, remove_locks},
};

use super::{
    folders::{at, claim, store_folder},
    restic::newest,
    torture::*,
    *,
};

/// A pod with one empty volume, a repository, and the folder which is stored in the repository.
struct Pod {
    dir: tempfile::TempDir,
    backend: BackendConfig,
    connection: Connection,
}

impl Pod {
    /// A pod whose repository has no snapshot.
    async fn new() -> (Self, Repository) {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("repository");
        let repository = new_repository(&at).await;
        let backend = BackendConfig::Folder { path: at.to_str().unwrap().to_owned() };
        let pod = Self { backend, connection: Connection::default(), dir };
        fs::create_dir_all(pod.volume()).unwrap();
        fs::create_dir_all(pod.root().join("dev")).unwrap();
        fs::create_dir(pod.source()).unwrap();
        pod.give(mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE, PASSWORD);
        (pod, repository)
    }

    /// A pod whose repository has a snapshot of `source`, with some folders and files.
    async fn with_snapshot() -> Self {
        let (pod, repository) = Self::new().await;
        for folder in 0..20 {
            let folder = pod.source().join(format!("folder-{folder}"));
            fs::create_dir(&folder).unwrap();
            for file in 0..10 {
                fs::write(folder.join(format!("file-{file}")), noise(20_000, file)).unwrap();
            }
            fs::write(folder.with_extension("file"), "top").unwrap();
        }
        store_folder(&repository, &pod.source()).await;
        repository.close().await;
        pod
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn volume(&self) -> PathBuf {
        self.root().join(injected::VOLUMES_FOLDER.trim_start_matches('/')).join("data")
    }

    fn give(&self, folder: &str, file: &str, content: &str) {
        let folder = self.root().join(folder.trim_start_matches('/'));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(file), format!("{content}\n")).unwrap();
    }

    fn command(&self, volume: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stowaway"));
        command
            .env_clear()
            .env(mounts::ROOT_VARIABLE, self.root())
            .env(injected::BACKEND_VARIABLE, serde_json::to_string(&self.backend).unwrap())
            .env(SECRET_SOURCES_VARIABLE, sources::secret_sources())
            .env(injected::CONNECTION_VARIABLE, serde_json::to_string(&self.connection).unwrap())
            .envs([("POD_NAMESPACE", "shop"), ("POD_NAME", "app-0"), ("POD_UID", "6f9619ff")])
            .env(injected::CLUSTER_VARIABLE, "c-1")
            .envs(mounts::ALLOCATOR)
            .args(["restore-step", &format!("--volume={volume}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Child {
        self.command("data=pvc/claim").spawn().unwrap()
    }

    /// Runs the step to its end with these options of `setpriv`.
    fn run_by(&self, rights: &[&str]) -> Output {
        let program = self.dir.path().join("stowaway");
        fs::copy(env!("CARGO_BIN_EXE_stowaway"), &program).unwrap();
        let mut command = Command::new("setpriv");
        command.args(rights).arg(&program);
        let step = self.command("data=pvc/claim");
        command
            .args(step.get_args())
            .env_clear()
            .envs(step.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.output().unwrap()
    }

    /// Runs the step to its end. Returns the report which it left.
    fn run(&self) -> (Output, RunReport) {
        let output = self.start().wait_with_output().unwrap();
        (output, self.report())
    }

    fn report(&self) -> RunReport {
        serde_json::from_slice(&fs::read(self.root().join("dev/termination-log")).unwrap()).unwrap()
    }

    /// Runs the step, which must succeed.
    fn succeeds(&self) -> RunReport {
        let (output, report) = self.run();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed));
        report
    }

    /// Runs the step, which must fail for this reason, log the reason, and leave the volume empty.
    fn fails(&self, reason: Reason) -> String {
        let (output, report) = self.run();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!((report.verdict, report.reason), (Verdict::Failed, reason), "{}", report.message);
        assert!(String::from_utf8_lossy(&output.stdout).contains(&report.message), "the log contains the message");
        assert_eq!(names_in(&self.volume()), Vec::<std::ffi::OsString>::new(), "nothing is left");
        report.message
    }

    /// Asserts that the volume has the stored content, except for the times of its root folder, which a kill at the
    /// very end may change.
    fn is_restored(&self) {
        for folder in [self.source(), self.volume()] {
            fs::File::open(folder).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        assert_same(&self.source(), &self.volume());
    }
}

#[tokio::test]
async fn empty_volume_is_filled_and_no_temporary_file_is_left() {
    let (pod, repository) = Pod::new().await;
    fill(&pod.source());
    let stored = store_folder(&repository, &pod.source()).await;
    let rules = at("2020-01-01T00:00:00Z");
    let older = folder_in(pod.dir.path(), "older");
    repository.store_folder(&claim(), &rules, &older, Arc::default()).await.unwrap();
    repository.close().await;
    // A folder which the file system creates in a new volume is not data.
    let has_lost_and_found = make_lost_and_found(&pod.volume());
    let report = pod.succeeds();
    // A file of 6 bytes with three hard links is written once.
    assert_eq!((report.snapshot.as_ref(), report.bytes), (Some(&stored.snapshot), stored.bytes - 12));
    if has_lost_and_found {
        fs::remove_dir(pod.volume().join("lost+found")).unwrap();
    }
    let time = fs::metadata(pod.source()).unwrap().modified().unwrap();
    fs::File::open(pod.volume()).unwrap().set_modified(time).unwrap();
    assert_same(&pod.source(), &pod.volume());
}

#[tokio::test]
async fn volumes_own_folder_gets_its_owner_mode_and_time() {
    let pod = Pod::with_snapshot().await;
    pod.succeeds();
    assert_same(&pod.source(), &pod.volume());
}

#[tokio::test]
async fn snapshot_of_k8up_fills_a_volume() {
    let (pod, repository) = Pod::new().await;
    repository.close().await;
    // K8up mounts claims at /data/<claim>, and uses the namespace as the host.
    let data = folder_in(pod.dir.path(), "data");
    let claim = folder_in(&data, "claim");
    fs::write(claim.join("file"), "of K8up").unwrap();
    fs::copy(newest().path(), pod.dir.path().join("restic")).unwrap();
    folder_in(pod.dir.path(), "tmp");
    let stored = Command::new("chroot")
        .arg(pod.dir.path())
        .args(["/restic", "backup", "--no-cache", "--host", "shop", "/data/claim"])
        .envs([("RESTIC_REPOSITORY", "/repository"), ("RESTIC_PASSWORD", PASSWORD), ("TMPDIR", "/tmp")])
        .output()
        .unwrap();
    assert!(stored.status.success(), "{}", String::from_utf8_lossy(&stored.stderr));
    pod.succeeds();
    assert_eq!(fs::read(pod.volume().join("file")).unwrap(), b"of K8up");
}

#[tokio::test]
async fn volume_with_data_is_left_alone_even_without_a_store() {
    let (mut pod, repository) = Pod::new().await;
    repository.close().await;
    pod.backend = BackendConfig::Folder { path: "/nowhere".to_owned() };
    fs::write(pod.volume().join("data"), "the app's").unwrap();
    let before = fs::metadata(pod.volume()).unwrap();
    pod.succeeds();
    let after = fs::metadata(pod.volume()).unwrap();
    assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()), "nothing was written there");
    assert_eq!(fs::read(pod.volume().join("data")).unwrap(), b"the app's");
}

#[tokio::test]
async fn empty_start_beside_snapshots_of_another_namespace_is_a_warning_that_names_it() {
    let (pod, repository) = Pod::new().await;
    fs::write(pod.source().join("file"), "another's").unwrap();
    let other = stowaway::model::SnapshotIdentity { host: "other".to_owned(), ..claim() };
    repository.store_folder(&other, &at("2026-01-01T00:00:00Z"), &pod.source(), Arc::default()).await.unwrap();
    repository.close().await;
    let (output, report) = pod.run();
    assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed));
    assert!(report.message.contains("no snapshot of pvc/claim") && report.snapshot.is_none(), "{}", report.message);
    assert!(names_in(&pod.volume()).is_empty());
    let log = String::from_utf8_lossy(&output.stdout);
    let warning = log.lines().find(|line| line.contains("WARN")).unwrap_or_else(|| panic!("no warning: {log}"));
    for text in [warning, &report.message] {
        assert!(text.contains("starts empty") && text.contains("other (newest of 2026-01-01T00:00:00Z)"), "{text}");
        assert!(text.contains("--source pvc/claim --host other --claim claim"), "{text}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_the_store_holds_the_app_up() {
    let mut pod = Pod::with_snapshot().await;
    pod.give(mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE, "wrong");
    pod.fails(Reason::WrongPassword);
    fs::remove_file(pod.root().join(&mounts::PASSWORD_FOLDER[1..]).join(mounts::PASSWORD_FILE)).unwrap();
    let message = pod.fails(Reason::SecretMissing);
    assert!(message.contains("volume data") && message.contains("the repository's password"), "{message}");
    assert!(
        message.contains("Secret \"key\" does not exist in namespace \"shop\", or it has no key \"pass\""),
        "{message}"
    );
    pod.give(mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE, PASSWORD);
    pod.backend = BackendConfig::Folder { path: pod.dir.path().join("elsewhere").to_str().unwrap().to_owned() };
    let message = pod.fails(Reason::RepositoryNotFound);
    assert!(message.contains("the controller sets it up"), "{message}");
    let output = pod.command("data=pvc/claim").env_remove("POD_NAMESPACE").output().unwrap();
    assert_eq!((output.status.code(), pod.report().reason), (Some(1), Reason::InvalidRequest));
    let output = pod.command("data=pvc/claim").env_remove(injected::BACKEND_VARIABLE).output().unwrap();
    assert_eq!((output.status.code(), pod.report().reason), (Some(1), Reason::InvalidRequest));
}

#[tokio::test]
async fn unreachable_store_holds_the_app_up() {
    let (mut pod, repository) = Pod::new().await;
    repository.close().await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    pod.backend = BackendConfig::S3(S3Config {
        endpoint: format!("http://127.0.0.1:{}", socket.local_addr().unwrap().port()),
        bucket: "bucket".to_owned(),
        prefix: String::new(),
        region: "us-east-1".to_owned(),
        path_style: true,
    });
    drop(socket);
    for credential in [Credential::S3AccessKeyId, Credential::S3SecretAccessKey] {
        pod.connection.credentials.insert(credential);
    }
    pod.fails(Reason::SecretMissing);
    pod.give(mounts::CREDENTIALS_FOLDER, Credential::S3AccessKeyId.file(), "id");
    let message = pod.fails(Reason::SecretMissing);
    let missing =
        format!("Secret \"store\" in namespace \"shop\" has no key {:?}", Credential::S3SecretAccessKey.file());
    assert!(message.contains(&missing) && !message.contains("does not exist"), "{message}");
    pod.give(mounts::CREDENTIALS_FOLDER, Credential::S3SecretAccessKey.file(), "key");
    pod.fails(Reason::StoreUnavailable);
}

#[tokio::test]
async fn damaged_snapshot_holds_the_app_up() {
    let pod = Pod::with_snapshot().await;
    let BackendConfig::Folder { path } = &pod.backend else { unreachable!() };
    let largest =
        files_in(Path::new(path), "data").into_iter().max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let mut content = fs::read(&largest).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&largest, content).unwrap();
    pod.fails(Reason::RepositoryDamaged);
}

#[tokio::test]
async fn volume_too_small_holds_the_app_up() {
    let pod = Pod::with_snapshot().await;
    let _small = Mounted::tmpfs(&pod.volume(), "size=2m");
    let message = pod.fails(Reason::TargetUnwritable);
    assert!(message.contains("No space left"), "{message}");
}

#[tokio::test]
async fn snapshots_none_of_which_is_complete_hold_the_app_up() {
    let (pod, repository) = Pod::new().await;
    let mut identity = claim();
    identity.tags.push("incomplete".to_owned());
    repository.store_folder(&identity, &at("2026-01-01T00:00:00Z"), &pod.source(), Arc::default()).await.unwrap();
    repository.close().await;
    let message = pod.fails(Reason::SnapshotNotFound);
    assert!(message.contains("none of its snapshots is proven and complete"), "{message}");
}

/// The number of entries which are in their final location, whether the mark of a complete restore exists, and a
/// measure of the progress.
fn progress(volume: &Path) -> (usize, bool, usize) {
    let names = names_in(volume);
    let is_internal = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(injected::RESTORE_PREFIX);
    let moved = names.iter().filter(|name| !is_internal(name)).count();
    let is_marked = names.iter().any(|name| name == ".stowaway-restore.whole");
    let part = fs::read_dir(volume.join(".stowaway-restore.part")).map_or(0, Iterator::count);
    // Entries are moved quickly, so each moved entry and the mark count as well.
    (moved, is_marked, part + 2 * moved + usize::from(is_marked))
}

#[tokio::test]
async fn killed_at_any_moment_and_run_again_it_ends_whole() {
    let pod = Pod::with_snapshot().await;
    for point in 0..20 {
        let mut step = pod.start();
        let ended = loop {
            let (_, _, far) = progress(&pod.volume());
            if far > point * 4 {
                break false;
            }
            if step.try_wait().unwrap().is_some() {
                break true;
            }
            std::thread::yield_now();
        };
        step.kill().unwrap();
        step.wait().unwrap();
        let (moved, is_marked, _) = progress(&pod.volume());
        assert!(moved == 0 || moved == 40 || is_marked, "{point}: {moved} entries could be taken for the app's data");
        assert!(!ended || moved == 40, "{point}");
        pod.succeeds();
        pod.is_restored();
        fs::remove_dir_all(pod.volume()).unwrap();
        fs::create_dir(pod.volume()).unwrap();
    }
}

#[tokio::test]
async fn lock_names_pod_namespace_and_cluster_so_that_other_clients_can_check_its_holder() {
    let pod = Pod::with_snapshot().await;
    let BackendConfig::Folder { path } = &pod.backend else { unreachable!() };
    // A read of a pipe without a writer never returns.
    for pack in files_in(Path::new(path), "data") {
        fs::remove_file(&pack).unwrap();
        assert!(Command::new("mkfifo").arg(&pack).status().unwrap().success());
    }
    for (cluster, expected) in [(Some("c-1"), "pod UID 6f9619ff in shop of cluster c-1"), (None, "pod UID 6f9619ff")] {
        let mut command = pod.command("data=pvc/claim");
        if cluster.is_none() {
            command.env_remove(injected::CLUSTER_VARIABLE);
        }
        let mut step = command.spawn().unwrap();
        while locks_in(Path::new(path)).is_empty() {
            assert!(step.try_wait().unwrap().is_none(), "it ended without a lock");
            std::thread::yield_now();
        }
        step.kill().unwrap();
        step.wait().unwrap();
        let removed = remove_locks(folder(Path::new(path)), never(), Unlock::All).await.unwrap();
        let holders: Vec<_> = removed.removed.into_iter().map(|lock| lock.holder).collect();
        assert_eq!(holders, [LockHolder { host: "app-0".to_owned(), user: expected.to_owned() }]);
    }
}

#[tokio::test]
async fn volume_that_was_stored_empty_is_filled_from_the_snapshot_before() {
    let pod = Pod::with_snapshot().await;
    let repository = stowaway::repository::open(folder(&pod.dir.path().join("repository")), never()).await.unwrap();
    let rules = at("2026-05-05T03:02:01Z");
    let emptied = repository.store_folder(&claim(), &rules, &pod.volume(), Arc::default()).await.unwrap();
    assert!(emptied.shrunken.is_some(), "{emptied:?}");
    repository.close().await;
    let report = pod.succeeds();
    assert!(
        report.message.contains(&format!("{} of 2026-05-05T03:02:01Z is suspect", &emptied.snapshot[..8])),
        "{report:?}"
    );
    pod.is_restored();
}

#[tokio::test]
async fn snapshots_of_which_none_is_good_hold_the_pod_back_with_the_reason() {
    for (tag, time) in
        [("suspect", "2026-05-04T03:02:01Z"), ("unproven", "2026-05-04T03:02:01Z"), ("x", "2199-01-01T00:00:00Z")]
    {
        let (pod, repository) = Pod::new().await;
        fs::write(pod.source().join("file"), "content").unwrap();
        let mut label = claim();
        label.tags.push(tag.to_owned());
        let stored = repository.store_folder(&label, &at(time), &pod.source(), Arc::default()).await.unwrap();
        repository.close().await;
        let message = pod.fails(Reason::SnapshotNotFound);
        let why = if tag == "x" { "dated in the future" } else { tag };
        assert!(message.contains(why) && message.contains(&stored.snapshot[..8]), "{message}");
    }
}

#[tokio::test]
async fn snapshots_of_the_own_cluster_come_first_and_anothers_are_reported() {
    for (own, expected) in [(Some("c-1"), "own"), (None, "other")] {
        let (pod, repository) = Pod::new().await;
        for (cluster, content, time) in
            [(own, "own", "2026-05-04T03:02:01Z"), (Some("c-2"), "other", "2026-05-05T03:02:01Z")]
        {
            let Some(cluster) = cluster else { continue };
            fs::write(pod.source().join("file"), content).unwrap();
            let mut label = claim();
            label.push_tag(SnapshotIdentity::CLUSTER, cluster).unwrap();
            repository.store_folder(&label, &at(time), &pod.source(), Arc::default()).await.unwrap();
        }
        repository.close().await;
        let report = pod.succeeds();
        assert_eq!(fs::read_to_string(pod.volume().join("file")).unwrap(), expected);
        assert_eq!(report.message.contains("another cluster (c-2)"), expected == "other", "{}", report.message);
    }
}

#[tokio::test]
async fn half_restored_folder_is_no_data_and_starts_over() {
    let pod = Pod::with_snapshot().await;
    let part = folder_in(&pod.volume(), ".stowaway-restore.part");
    fs::write(part.join("folder-1"), "half").unwrap();
    fs::write(pod.volume().join(".stowaway-restore.whole.new"), "{").unwrap();
    pod.succeeds();
    pod.is_restored();
}

#[tokio::test]
async fn leftovers_beside_data_are_removed_and_the_data_stays() {
    let pod = Pod::with_snapshot().await;
    let part = folder_in(&pod.volume(), ".stowaway-restore.part");
    fs::write(part.join("folder-1"), "half").unwrap();
    fs::write(pod.volume().join("data"), "the app's").unwrap();
    pod.succeeds();
    assert_eq!(names_in(&pod.volume()), ["data"]);
}

#[tokio::test]
async fn two_at_once_restore_once() {
    let pod = Pod::with_snapshot().await;
    let steps = [pod.start(), pod.start(), pod.start()];
    let logs = steps.map(|step| {
        let output = step.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).unwrap()
    });
    assert_eq!(logs.iter().filter(|log| log.contains("restored snapshot")).count(), 1, "{logs:#?}");
    pod.is_restored();
}

#[tokio::test]
async fn termination_ends_it_and_leaves_nothing_half() {
    let pod = Pod::with_snapshot().await;
    let mut step = pod.start();
    while progress(&pod.volume()).2 == 0 && step.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&step), rustix::process::Signal::TERM).unwrap();
    let output = step.wait_with_output().unwrap();
    if output.status.success() {
        // The step ended before the signal.
        pod.is_restored();
    } else {
        assert_eq!(pod.report().reason, Reason::Cancelled, "{}", pod.report().message);
        assert!(names_in(&pod.volume()).is_empty());
    }
}
