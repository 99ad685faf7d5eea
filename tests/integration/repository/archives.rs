//! Archives of snapshots: GNU tar makes of them what was stored, on each kind of store, and what fails leaves nothing.

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
    model::{ArchiveFormat, ArchiveRestore, Credential, Reason, SourceReport, Verdict, WantedSnapshot},
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
pub struct Cellar {
    pub place: tempfile::TempDir,
    pub repository: Repository,
    pub store: StoreAccess,
}

pub fn of(access: &Access) -> StoreAccess {
    StoreAccess {
        backend: access.backend.clone(),
        connection: access.connection.clone(),
        credentials: access.credentials.clone(),
        patience: access.patience,
    }
}

impl Cellar {
    pub async fn new(store: StoreAccess) -> Self {
        let place = tempfile::tempdir().unwrap();
        let repository = new_repository(&place.path().join("repository")).await;
        folder_in(place.path(), "source");
        Self { place, repository, store }
    }

    /// The archives are in a folder, too.
    async fn with_folder() -> Self {
        let mut cellar = Self::new(of(&folder(Path::new("/nowhere")))).await;
        cellar.store = of(&folder(&cellar.archives()));
        cellar
    }

    fn archives(&self) -> PathBuf {
        self.place.path().join("archives")
    }

    pub fn source(&self) -> PathBuf {
        self.place.path().join("source")
    }

    async fn run(&self, run: &ArchiveRestore) -> SourceReport {
        restore_archive(&self.repository, run, self.store.clone(), &self.archives(), &never()).await
    }

    pub async fn succeeds(&self, run: &ArchiveRestore) -> SourceReport {
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

    /// Nothing at all is in the folder of the archives.
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
        connection: store.connection,
        timeout: None,
    }
}

fn of_dump() -> ArchiveRestore {
    let from = WantedSnapshot { source: "deployment/shop/db".parse().unwrap(), ..run().from };
    ArchiveRestore { from, ..run() }
}

/// What the archive is once it is decompressed by the program that everybody has.
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

/// Unpacked by GNU tar, without a word of complaint.
fn unpacked(tar: &[u8], target: &Path) {
    let mut child = Command::new("tar")
        // It says so of every time before 1970.
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
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
    let cellar = Cellar::with_folder().await;
    fill(&cellar.source());
    let stored = store_folder(&cellar.repository, &cellar.source()).await;
    for format in ArchiveFormat::ALL {
        let name = format!("{NAME}.{format}");
        let report = cellar.succeeds(&ArchiveRestore { format, name: Some(name.clone()), ..run() }).await;
        let file = cellar.archives().join(&name);
        let archive = fs::read(&file).unwrap();
        let told = report.archive.unwrap();
        assert_eq!((told.location.as_str(), told.format), (name.as_str(), format));
        assert_eq!((told.bytes, told.sha256), (archive.len() as u64, sha256(&archive)));
        assert_eq!(report.snapshot.as_ref(), Some(&stored.snapshot));
        // It is not encrypted.
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let target = folder_in(cellar.place.path(), &format!("target-{format}"));
        unpacked(&decompressed(&archive, format), &target);
        assert_same(&cellar.source(), &target);
    }
    assert_eq!(files_in(&cellar.archives(), "").len(), 4, "and nothing else");
}

#[tokio::test]
async fn what_restic_stored_becomes_an_archive() {
    for restic in both() {
        let cellar = Cellar::with_folder().await;
        fill(&cellar.source());
        let source = cellar.source();
        let path = source.to_str().unwrap();
        restic.ok(
            &cellar.place.path().join("repository"),
            &["backup", "--host", "shop", "--tag", "source=pvc/claim", path],
        );
        cellar.succeeds(&run()).await;
        let target = folder_in(cellar.place.path(), "target");
        unpacked(&fs::read(cellar.archives().join(NAME)).unwrap(), &target);
        assert_same(&source, &target);
    }
}

#[tokio::test]
async fn dump_is_one_file() {
    let cellar = Cellar::with_folder().await;
    let dump = noise(20 << 20, 4);
    store(&cellar.repository, "/dumps/db.sql", &dump).await;
    let report = cellar.succeeds(&ArchiveRestore { format: ArchiveFormat::TarGzip, name: None, ..of_dump() }).await;
    let name = format!("deployment/shop/db/20260504T030201Z-{}.tar.gz", &report.snapshot.unwrap()[..8]);
    assert_eq!(report.archive.unwrap().location, name);
    let target = folder_in(cellar.place.path(), "target");
    unpacked(&decompressed(&fs::read(cellar.archives().join(name)).unwrap(), ArchiveFormat::TarGzip), &target);
    assert_eq!(names_in(&target), ["db.sql"]);
    assert!(fs::read(target.join("db.sql")).unwrap() == dump);
}

#[tokio::test]
async fn only_some_paths_are_in_the_archive_and_missing_ones_leave_none() {
    let cellar = Cellar::with_folder().await;
    let source = cellar.source();
    for file in ["a/wanted", "a/other", "b/whole/1", "b/whole/2", "c"] {
        fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
        fs::write(source.join(file), file).unwrap();
    }
    store_folder(&cellar.repository, &source).await;
    let only = |paths: &[&str]| ArchiveRestore { paths: paths.iter().map(|&path| path.to_owned()).collect(), ..run() };
    let missing = cellar.fails(&only(&["a/wanted", "a/missing"]), Reason::SnapshotNotFound).await;
    assert!(missing.contains("a/missing"), "{missing}");
    cellar.fails(&only(&["../c"]), Reason::InvalidRequest).await;
    cellar.holds_nothing();
    cellar.succeeds(&only(&["a/wanted", "b/whole"])).await;
    let listed = Command::new("tar").arg("--list").arg("--file").arg(cellar.archives().join(NAME)).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["a/", "a/wanted", "b/", "b/whole/", "b/whole/1", "b/whole/2"]);
}

#[tokio::test]
async fn sockets_are_left_out_and_told() {
    let cellar = Cellar::with_folder().await;
    let source = cellar.source();
    fs::write(source.join("file"), "file").unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    fs::hard_link(source.join("socket"), source.join("socket-too")).unwrap();
    store_folder(&cellar.repository, &source).await;
    let report = cellar.succeeds(&run()).await;
    assert!(report.message.contains("2 sockets (socket, socket-too)"), "{}", report.message);
    let target = folder_in(cellar.place.path(), "target");
    unpacked(&fs::read(cellar.archives().join(NAME)).unwrap(), &target);
    assert_eq!(names_in(&target), ["file"]);
}

#[tokio::test]
async fn what_is_there_is_replaced_only_when_told() {
    let cellar = Cellar::with_folder().await;
    fs::write(cellar.source().join("file"), "new").unwrap();
    store_folder(&cellar.repository, &cellar.source()).await;
    let file = cellar.archives().join(NAME);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "somebody's").unwrap();
    let message = cellar.fails(&run(), Reason::TargetNotEmpty).await;
    assert!(message.contains(NAME), "{message}");
    assert_eq!(fs::read(&file).unwrap(), b"somebody's");
    let report = cellar.succeeds(&ArchiveRestore { overwrite: true, ..run() }).await;
    assert_eq!(report.archive.unwrap().sha256, sha256(&fs::read(&file).unwrap()));
    // What looks like a file of a repository never is.
    fs::write(cellar.archives().join("config"), "precious").unwrap();
    let run = ArchiveRestore { overwrite: true, name: Some("config".to_owned()), ..run() };
    cellar.fails(&run, Reason::InvalidRequest).await;
    assert_eq!(fs::read(cellar.archives().join("config")).unwrap(), b"precious");
}

/// Changes one byte in the middle of each pack of data.
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
    let cellar = Cellar::with_folder().await;
    // Some of it is sent before the damage is met.
    for number in 0..5 {
        fs::write(cellar.source().join(format!("{number}")), noise(20 << 20, number)).unwrap();
    }
    store_folder(&cellar.repository, &cellar.source()).await;
    damage_packs(&cellar.place.path().join("repository"));
    cellar.fails(&run(), Reason::RepositoryDamaged).await;
    cellar.holds_nothing();
}

#[tokio::test]
async fn full_disk_leaves_no_archive() {
    assert!(is_root(), "this test mounts");
    let cellar = Cellar::with_folder().await;
    fs::write(cellar.source().join("file"), noise(40 << 20, 1)).unwrap();
    store_folder(&cellar.repository, &cellar.source()).await;
    fs::create_dir(cellar.archives()).unwrap();
    let _small = Mounted::tmpfs(&cellar.archives(), "size=20m");
    cellar.fails(&run(), Reason::StoreFull).await;
    cellar.holds_nothing();
}

#[tokio::test]
async fn ended_run_leaves_no_archive() {
    let cellar = Cellar::with_folder().await;
    fs::write(cellar.source().join("file"), noise(40 << 20, 1)).unwrap();
    store_folder(&cellar.repository, &cellar.source()).await;
    cellar.repository.close().await;
    let cancel = never();
    let repository = open(folder(&cellar.place.path().join("repository")), cancel.clone()).await.unwrap();
    // So slow that it is cut off in the middle.
    let mut store = cellar.store.clone();
    store.connection.limits.upload_bytes_per_second = Some(1 << 20);
    let timed = ArchiveRestore { timeout: Some(Duration::from_secs(2)), ..run() };
    let report = restore_archive(&repository, &timed, store, &cellar.place.path().join("archives"), &cancel).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::Timeout), "{}", report.message);
    assert_eq!(files_in(&cellar.place.path().join("archives"), ""), Vec::<PathBuf>::new());
}

/// Makes a test of each of these functions on each store that archives can be in.
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

on_every_store!(long_and_short_archives_are_there_as_told, what_is_there_is_left_alone);

/// What another program finds at that name of the server.
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
        BackendConfig::Rest(_) => panic!("no archives are there"),
    };
    let output = curl.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("404"), "{said}");
    output.status.success().then_some(output.stdout)
}

async fn long_and_short_archives_are_there_as_told(server: Server) {
    let cellar = Cellar::new(of(&server.access)).await;
    for (name, bytes) in [("short", 1 << 20), ("long", 40 << 20)] {
        let source = cellar.source();
        fs::write(source.join(name), noise(bytes, 5)).unwrap();
        let later = at(if name == "long" { "2026-05-05T03:02:01Z" } else { "2026-05-04T03:02:01Z" });
        cellar.repository.store_folder(&claim(), &later, &source, Arc::default()).await.unwrap();
        let object = format!("shop/{name}.tar.zst");
        let format = ArchiveFormat::TarZstd;
        let report = cellar.succeeds(&ArchiveRestore { name: Some(object.clone()), format, ..run() }).await;
        let archive = read_back(&server, &object).unwrap();
        let told = report.archive.unwrap();
        assert_eq!((told.bytes, told.sha256), (archive.len() as u64, sha256(&archive)));
        let target = folder_in(cellar.place.path(), name);
        unpacked(&decompressed(&archive, format), &target);
        assert_same(&source, &target);
    }
}

async fn what_is_there_is_left_alone(server: Server) {
    let cellar = Cellar::new(of(&server.access)).await;
    fs::write(cellar.source().join("file"), noise(20 << 20, 6)).unwrap();
    store_folder(&cellar.repository, &cellar.source()).await;
    let first = cellar.succeeds(&run()).await;
    let before = read_back(&server, NAME);
    cellar.fails(&ArchiveRestore { format: ArchiveFormat::TarZstd, ..run() }, Reason::TargetNotEmpty).await;
    assert!(read_back(&server, NAME) == before);
    let run = ArchiveRestore { format: ArchiveFormat::TarZstd, overwrite: true, ..run() };
    let second = cellar.succeeds(&run).await;
    assert_ne!(first.archive, second.archive);
    assert_eq!(sha256(&read_back(&server, NAME).unwrap()), second.archive.unwrap().sha256);
}
