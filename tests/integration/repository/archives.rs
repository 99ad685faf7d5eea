//! Archives of snapshots: GNU tar extracts what was stored, from each kind of store, and a failed run leaves nothing
//! behind.

use std::{
    fmt::Write as _,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use sha2::{Digest, Sha256};
use stowaway::{
    model::{ArchiveFormat, ArchiveRestore, Credential, Reason, RunReport, Verdict, WantedSnapshot},
    repository::{StoreAccess, open},
    runner::restore_archive,
};

use super::{
    folders::{at, claim, store_folder},
    restic::both,
    servers::Server,
    torture::*,
    *,
};

pub const NAME: &str = "shop/data";

/// A repository in a folder, and a store for archives beside it.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub repository: Repository,
    pub store: StoreAccess,
}

pub fn of(access: &OpenOptions) -> StoreAccess {
    StoreAccess {
        backend: access.backend.clone(),
        connection: access.connection.clone(),
        credentials: access.credentials.clone(),
        timeouts: access.timeouts,
    }
}

impl Fixture {
    pub async fn new(store: StoreAccess) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(&dir.path().join("repository")).await;
        folder_in(dir.path(), "source");
        Self { dir, repository, store }
    }

    /// The store for archives is a folder as well.
    async fn with_folder() -> Self {
        let mut fixture = Self::new(of(&folder(Path::new("/nowhere")))).await;
        fixture.store = of(&folder(&fixture.archives()));
        fixture
    }

    fn archives(&self) -> PathBuf {
        self.dir.path().join("archives")
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    async fn run(&self, run: &ArchiveRestore) -> RunReport {
        restore_archive(&self.repository, run, self.store.clone(), &self.archives(), &never()).await
    }

    pub async fn succeeds(&self, run: &ArchiveRestore) -> RunReport {
        let report = self.run(run).await;
        assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed), "{}", report.message);
        report
    }

    pub async fn fails(&self, run: &ArchiveRestore, reason: Reason) -> String {
        let report = self.run(run).await;
        assert_eq!((report.verdict, report.reason), (Verdict::Failed, reason), "{}", report.message);
        assert_eq!(report.archive, None);
        report.message
    }

    /// Asserts that the folder of the archives contains no file.
    fn holds_nothing(&self) {
        assert_eq!(files_in(&self.archives(), ""), Vec::<PathBuf>::new());
    }
}

pub fn run() -> ArchiveRestore {
    let from = WantedSnapshot {
        source: "pvc/claim".parse().unwrap(),
        id: None,
        as_of: None,
        host: Some("shop".to_owned()),
        cluster: String::new(),
    };
    let store = of(&folder(Path::new("/nowhere")));
    ArchiveRestore {
        from,
        paths: vec![],
        format: ArchiveFormat::Tar,
        name: Some(NAME.to_owned()),
        overwrite: false,
        backend: store.backend,
        volume: String::new(),
        connection: store.connection,
        timeout: None,
    }
}

fn of_dump() -> ArchiveRestore {
    let from = WantedSnapshot { source: "deployment/shop/db".parse().unwrap(), ..run().from };
    ArchiveRestore { from, ..run() }
}

/// The archive, decompressed by the standard program of its format.
fn decompressed(archive: &[u8], format: ArchiveFormat) -> Vec<u8> {
    let program = match format {
        ArchiveFormat::Tar => return archive.to_vec(),
        ArchiveFormat::TarGzip => "gzip",
        ArchiveFormat::TarLz4 => "lz4",
        ArchiveFormat::TarZstd => "zstd",
    };
    let mut child =
        Command::new(program).args(["-d", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(archive).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program}: {}", output.status);
    output.stdout
}

/// Extracts with GNU tar, which must not print any warning.
fn unpacked(tar: &[u8], target: &Path) {
    let mut child = Command::new("tar")
        // tar would warn of every time before 1970.
        .args([
            "--extract",
            "--warning=no-timestamp",
            "--xattrs",
            "--xattrs-include=*",
            "--same-owner",
            "--preserve-permissions",
            "--directory",
        ])
        .arg(target)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(tar).unwrap());
        child.wait_with_output().unwrap()
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
}

pub fn sha256(content: &[u8]) -> String {
    let mut digits = String::new();
    for byte in Sha256::digest(content) {
        write!(digits, "{byte:02x}").unwrap();
    }
    digits
}

#[tokio::test]
async fn gnu_tar_makes_of_each_format_what_was_stored() {
    let fixture = Fixture::with_folder().await;
    fill(&fixture.source());
    let stored = store_folder(&fixture.repository, &fixture.source()).await;
    for format in ArchiveFormat::ALL {
        let name = format!("{NAME}.{format}");
        let report = fixture.succeeds(&ArchiveRestore { format, name: Some(name.clone()), ..run() }).await;
        let file = fixture.archives().join(&name);
        let archive = fs::read(&file).unwrap();
        let reported = report.archive.unwrap();
        assert_eq!((reported.location.as_str(), reported.format), (name.as_str(), format));
        assert_eq!((reported.bytes, reported.sha256), (archive.len() as u64, sha256(&archive)));
        assert_eq!(report.snapshot.as_ref(), Some(&stored.snapshot));
        // The archive is not encrypted.
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let target = folder_in(fixture.dir.path(), &format!("target-{format}"));
        unpacked(&decompressed(&archive, format), &target);
        assert_same(&fixture.source(), &target);
    }
    assert_eq!(files_in(&fixture.archives(), "").len(), 4, "and nothing else");
}

#[tokio::test]
async fn snapshot_of_restic_becomes_an_archive() {
    for restic in both() {
        let fixture = Fixture::with_folder().await;
        fill(&fixture.source());
        let source = fixture.source();
        let path = source.to_str().unwrap();
        restic.ok(
            &fixture.dir.path().join("repository"),
            &["backup", "--host", "shop", "--tag", "source=pvc/claim", path],
        );
        fixture.succeeds(&run()).await;
        let target = folder_in(fixture.dir.path(), "target");
        unpacked(&fs::read(fixture.archives().join(NAME)).unwrap(), &target);
        assert_same(&source, &target);
    }
}

#[tokio::test]
async fn dump_is_one_file() {
    let fixture = Fixture::with_folder().await;
    let dump = noise(20 << 20, 4);
    store(&fixture.repository, "/dumps/db.sql", &dump).await;
    let report = fixture.succeeds(&ArchiveRestore { format: ArchiveFormat::TarGzip, name: None, ..of_dump() }).await;
    let name = format!("deployment/shop/db/20260504T030201Z-{}.tar.gz", &report.snapshot.unwrap()[..8]);
    assert_eq!(report.archive.unwrap().location, name);
    let target = folder_in(fixture.dir.path(), "target");
    unpacked(&decompressed(&fs::read(fixture.archives().join(name)).unwrap(), ArchiveFormat::TarGzip), &target);
    assert_eq!(names_in(&target), ["db.sql"]);
    assert!(fs::read(target.join("db.sql")).unwrap() == dump);
}

#[tokio::test]
async fn report_of_an_archive_on_a_claim_names_the_claim_and_the_path() {
    let fixture = Fixture::with_folder().await;
    store(&fixture.repository, "/dumps/db.sql", b"dump").await;
    let report = fixture.succeeds(&ArchiveRestore { volume: "pvc:handover".to_owned(), ..of_dump() }).await;
    let location = format!("pvc:handover/{NAME}");
    assert!(report.message.contains(&format!("as {location}")), "{}", report.message);
    assert_eq!(report.archive.unwrap().location, location);
}

#[tokio::test]
async fn only_some_paths_are_in_the_archive_and_missing_ones_leave_none() {
    let fixture = Fixture::with_folder().await;
    let source = fixture.source();
    for file in ["a/wanted", "a/other", "b/whole/1", "b/whole/2", "c"] {
        fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
        fs::write(source.join(file), file).unwrap();
    }
    store_folder(&fixture.repository, &source).await;
    let only = |paths: &[&str]| ArchiveRestore { paths: paths.iter().map(|&path| path.to_owned()).collect(), ..run() };
    let missing = fixture.fails(&only(&["a/wanted", "a/missing"]), Reason::SnapshotNotFound).await;
    assert!(missing.contains("a/missing"), "{missing}");
    fixture.fails(&only(&["../c"]), Reason::InvalidRequest).await;
    fixture.holds_nothing();
    fixture.succeeds(&only(&["a/wanted", "b/whole"])).await;
    let listed = Command::new("tar").arg("--list").arg("--file").arg(fixture.archives().join(NAME)).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["a/", "a/wanted", "b/", "b/whole/", "b/whole/1", "b/whole/2"]);
}

#[tokio::test]
async fn sockets_are_left_out_and_reported() {
    let fixture = Fixture::with_folder().await;
    let source = fixture.source();
    fs::write(source.join("file"), "file").unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    fs::hard_link(source.join("socket"), source.join("socket-too")).unwrap();
    store_folder(&fixture.repository, &source).await;
    let report = fixture.succeeds(&run()).await;
    assert!(report.message.contains("2 sockets (socket, socket-too)"), "{}", report.message);
    let target = folder_in(fixture.dir.path(), "target");
    unpacked(&fs::read(fixture.archives().join(NAME)).unwrap(), &target);
    assert_eq!(names_in(&target), ["file"]);
}

#[tokio::test]
async fn existing_archive_is_replaced_only_on_request() {
    let fixture = Fixture::with_folder().await;
    fs::write(fixture.source().join("file"), "new").unwrap();
    store_folder(&fixture.repository, &fixture.source()).await;
    let file = fixture.archives().join(NAME);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "another client's").unwrap();
    let message = fixture.fails(&run(), Reason::TargetNotEmpty).await;
    assert!(message.contains(NAME), "{message}");
    assert_eq!(fs::read(&file).unwrap(), b"another client's");
    let report = fixture.succeeds(&ArchiveRestore { overwrite: true, ..run() }).await;
    assert_eq!(report.archive.unwrap().sha256, sha256(&fs::read(&file).unwrap()));
    // An object with the name of a repository's file is never overwritten.
    fs::write(fixture.archives().join("config"), "precious").unwrap();
    let run = ArchiveRestore { overwrite: true, name: Some("config".to_owned()), ..run() };
    fixture.fails(&run, Reason::InvalidRequest).await;
    assert_eq!(fs::read(fixture.archives().join("config")).unwrap(), b"precious");
}

/// Changes one byte in the middle of each data pack.
fn damage_packs(repository: &Path) {
    for pack in files_in(repository, "data") {
        let mut content = fs::read(&pack).unwrap();
        if content.len() > 1 << 20 {
            let middle = content.len() / 2;
            content[middle] ^= 1;
            fs::write(&pack, content).unwrap();
        }
    }
}

#[tokio::test]
async fn damaged_pack_leaves_no_archive() {
    let fixture = Fixture::with_folder().await;
    // Some of the archive is sent before the damage is read.
    for number in 0..5 {
        fs::write(fixture.source().join(format!("{number}")), noise(20 << 20, number)).unwrap();
    }
    store_folder(&fixture.repository, &fixture.source()).await;
    damage_packs(&fixture.dir.path().join("repository"));
    fixture.fails(&run(), Reason::RepositoryDamaged).await;
    fixture.holds_nothing();
}

#[tokio::test]
async fn full_disk_leaves_no_archive() {
    assert!(is_root(), "this test mounts");
    let fixture = Fixture::with_folder().await;
    fs::write(fixture.source().join("file"), noise(40 << 20, 1)).unwrap();
    store_folder(&fixture.repository, &fixture.source()).await;
    fs::create_dir(fixture.archives()).unwrap();
    let _small = Mounted::tmpfs(&fixture.archives(), "size=20m");
    fixture.fails(&run(), Reason::StoreFull).await;
    fixture.holds_nothing();
}

#[tokio::test]
async fn ended_run_leaves_no_archive() {
    let fixture = Fixture::with_folder().await;
    fs::write(fixture.source().join("file"), noise(40 << 20, 1)).unwrap();
    store_folder(&fixture.repository, &fixture.source()).await;
    fixture.repository.close().await;
    let cancel = never();
    let repository = open(folder(&fixture.dir.path().join("repository")), cancel.clone()).await.unwrap();
    // The upload is so slow that the timeout interrupts it.
    let mut store = fixture.store.clone();
    store.connection.limits.upload_bytes_per_second = Some(1 << 20);
    let timed = ArchiveRestore { timeout: Some(Duration::from_secs(2)), ..run() };
    let report = restore_archive(&repository, &timed, store, &fixture.dir.path().join("archives"), &cancel).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::Timeout), "{}", report.message);
    assert_eq!(files_in(&fixture.dir.path().join("archives"), ""), Vec::<PathBuf>::new());
}

/// Makes a test of each of these functions on each store which can hold archives.
macro_rules! on_every_store {
    ($($test:ident),+) => {
        $(mod $test {
            use super::{super::servers::{Kind, Server, azure_with_sas, s3_for_parts}, $test};
            on_every_store!(@stores $test; folder: Server::start(Kind::Folder).await, s3: s3_for_parts(),
                azure: azure_with_sas().await, gcs: Server::start(Kind::Gcs).await, sftp: Server::start(Kind::Sftp).await);
        })+
    };
    (@stores $test:ident; $($store:ident: $server:expr),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $store() {
                $test($server).await;
            }
        )+
    };
}

on_every_store!(
    long_and_short_archives_are_stored_as_reported,
    existing_archive_is_left_alone_unless_it_may_be_overwritten
);

/// The content of an object of the server, as another program reads it.
pub fn read_back(server: &Server, name: &str) -> Option<Vec<u8>> {
    let credential = |credential| server.access.credentials[&credential].expose().to_owned();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail"]);
    match &server.access.backend {
        BackendConfig::Folder { path } => return fs::read(Path::new(path).join(name)).ok(),
        BackendConfig::Sftp(config) => return fs::read(Path::new(&config.path).join(name)).ok(),
        BackendConfig::S3(config) => {
            let keys = format!("key:{}", credential(Credential::S3SecretAccessKey));
            curl.args(["--aws-sigv4", &format!("aws:amz:{}:s3", config.region), "--user", &keys])
                .args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
                .arg(format!("{}/{}/{}/{name}", config.endpoint, config.bucket, config.prefix))
        }
        BackendConfig::Azure(config) => {
            let token = credential(Credential::AzureSasToken);
            curl.arg(format!("{}/{}/{}/{name}{token}", config.endpoint, config.container, config.prefix))
        }
        BackendConfig::Gcs(config) => {
            let object = format!("{}/{name}", config.prefix).replace('/', "%2F");
            curl.arg(format!("{}/storage/v1/b/{}/o/{object}?alt=media", config.endpoint, config.bucket))
        }
        BackendConfig::Rest(_) => panic!("a REST server holds no archives"),
    };
    let output = curl.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || stderr.contains("404"), "{stderr}");
    output.status.success().then_some(output.stdout)
}

async fn long_and_short_archives_are_stored_as_reported(server: Server) {
    let fixture = Fixture::new(of(&server.access)).await;
    for (name, bytes) in [("short", 1 << 20), ("long", 40 << 20)] {
        let source = fixture.source();
        fs::write(source.join(name), noise(bytes, 5)).unwrap();
        let later = at(if name == "long" { "2026-05-05T03:02:01Z" } else { "2026-05-04T03:02:01Z" });
        fixture.repository.store_folder(&claim(), &later, &source, Arc::default()).await.unwrap();
        let object = format!("shop/{name}.tar.zst");
        let format = ArchiveFormat::TarZstd;
        let report = fixture.succeeds(&ArchiveRestore { name: Some(object.clone()), format, ..run() }).await;
        let archive = read_back(&server, &object).unwrap();
        let reported = report.archive.unwrap();
        assert_eq!((reported.bytes, reported.sha256), (archive.len() as u64, sha256(&archive)));
        let target = folder_in(fixture.dir.path(), name);
        unpacked(&decompressed(&archive, format), &target);
        assert_same(&source, &target);
    }
}

async fn existing_archive_is_left_alone_unless_it_may_be_overwritten(server: Server) {
    let fixture = Fixture::new(of(&server.access)).await;
    fs::write(fixture.source().join("file"), noise(20 << 20, 6)).unwrap();
    store_folder(&fixture.repository, &fixture.source()).await;
    let first = fixture.succeeds(&run()).await;
    let before = read_back(&server, NAME);
    fixture.fails(&ArchiveRestore { format: ArchiveFormat::TarZstd, ..run() }, Reason::TargetNotEmpty).await;
    assert!(read_back(&server, NAME) == before);
    let run = ArchiveRestore { format: ArchiveFormat::TarZstd, overwrite: true, ..run() };
    let second = fixture.succeeds(&run).await;
    assert_ne!(first.archive, second.archive);
    assert_eq!(sha256(&read_back(&server, NAME).unwrap()), second.archive.unwrap().sha256);
}
