//! Archives on stores that misbehave: they are there as they should be, or not at all, and that is told.

use std::{fs, time::Duration};

use stowaway::model::{ArchiveFormat, ArchiveRestore, Reason};

use super::{
    archives::{Cellar, NAME, of, read_back, run, sha256},
    fake_s3::{self, FakeS3},
    folders::store_folder,
    servers::{
        self, Server,
        meddler::{Fault, Meddler},
    },
    *,
};

/// A cellar whose archives go to a real S3 server, through what meddles.
async fn meddled() -> (Cellar, Server, Meddler) {
    let real = servers::s3_for_parts();
    let mut access = real.access.clone();
    access.patience =
        Patience { request: Duration::from_secs(2), retries: Duration::from_secs(3), outage: Duration::from_secs(3) };
    let BackendConfig::S3(config) = &mut access.backend else { panic!("{:?}", access.backend) };
    let meddler = Meddler::between(&mut config.endpoint).await;
    let cellar = Cellar::new(of(&access)).await;
    fs::write(cellar.source().join("file"), noise(30 << 20, 8)).unwrap();
    store_folder(&cellar.repository, &cellar.source()).await;
    (cellar, real, meddler)
}

const ALWAYS: usize = usize::MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connection_leaves_no_object_and_takes_back_its_parts() {
    // The third part, the end of all parts, and all that there is.
    for (method, part) in [("PUT", "partNumber=3"), ("POST", "uploadId="), ("POST", "uploads")] {
        for fault in [Fault::Status(503), Fault::Status(403)] {
            let (cellar, server, meddler) = meddled().await;
            meddler.fail(method, part, fault, ALWAYS);
            cellar.fails(&run(), Reason::StoreUnavailable).await;
            assert_eq!(read_back(&server, NAME), None, "{method} {part} {fault:?}");
            let taken_back = meddler.requests("DELETE", "uploadId=");
            assert_eq!(taken_back, usize::from(part != "uploads"), "{method} {part} {fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_faults_leave_the_archive_as_it_should_be() {
    let (mut cellar, server, meddler) = meddled().await;
    // However long a request takes here, it is tried again.
    cellar.store.patience = Patience::default();
    for (method, part) in [("POST", "uploads"), ("PUT", "partNumber=1"), ("PUT", "partNumber=3"), ("POST", "uploadId=")]
    {
        meddler.fail(method, part, Fault::Status(503), 1);
        // Carried out, and not acknowledged: also the very last request.
        meddler.fail(method, part, Fault::Unacknowledged, 1);
    }
    let report = cellar.succeeds(&run()).await;
    assert_eq!(report.archive.unwrap().sha256, sha256(&read_back(&server, NAME).unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archive_that_cannot_be_looked_for_is_unknown() {
    let (cellar, _server, meddler) = meddled().await;
    let watched = meddler.clone();
    tokio::spawn(async move {
        while watched.requests("PUT", "partNumber=2") == 0 {
            tokio::task::yield_now().await;
        }
        // From here on, nobody learns what is there.
        watched.fail("POST", "uploadId=", Fault::Unacknowledged, ALWAYS);
        watched.fail("HEAD", "", Fault::Status(503), ALWAYS);
    });
    let overwriting = ArchiveRestore { overwrite: true, ..run() };
    let message = cellar.fails(&overwriting, Reason::OutcomeUnknown).await;
    assert!(message.contains(NAME), "{message}");
    assert!(!message.contains("hush-hush"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_that_is_taken_is_refused_before_anything_is_sent() {
    let (cellar, _server, meddler) = meddled().await;
    cellar.succeeds(&run()).await;
    let sent = || [("POST", ""), ("PUT", "")].map(|(method, part)| meddler.requests(method, part));
    let before = sent();
    cellar.fails(&run(), Reason::TargetNotEmpty).await;
    assert_eq!(sent(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_archive_that_appears_before_the_end_is_not_ours_however_long_it_is() {
    let (cellar, server, meddler) = meddled().await;
    let bytes = cellar.succeeds(&run()).await.archive.unwrap().bytes;
    let other = ArchiveRestore { name: Some("shop/other".to_owned()), ..run() };
    meddler.fail("HEAD", "shop/other", Fault::Status(404), 1);
    meddler.fail("HEAD", "shop/other", Fault::There(bytes), ALWAYS);
    cellar.fails(&other, Reason::TargetNotEmpty).await;
    assert_eq!(read_back(&server, "shop/other"), None);
    assert_eq!(meddler.requests("DELETE", "uploadId="), 1);
}

/// A cellar whose archives are sent in one part.
async fn with_short_archives() -> (Cellar, FakeS3) {
    let store = FakeS3::start().await;
    let cellar = Cellar::new(of(&store.access())).await;
    fs::write(cellar.source().join("file"), "short").unwrap();
    store_folder(&cellar.repository, &cellar.source()).await;
    (cellar, store)
}

#[tokio::test]
async fn other_archive_of_the_same_length_is_not_ours() {
    let (cellar, store) = with_short_archives().await;
    store.fail("PUT", "", fake_s3::Fault::Rival, 1);
    cellar.fails(&run(), Reason::TargetNotEmpty).await;
    assert_eq!(store.keys(NAME).len(), 1);
}

#[tokio::test]
async fn store_that_does_not_keep_what_it_acknowledged_is_found_out() {
    let (cellar, store) = with_short_archives().await;
    store.fail("PUT", "", fake_s3::Fault::Lie, 1);
    let message = cellar.fails(&run(), Reason::StoreUnavailable).await;
    assert!(message.contains("has 0 bytes"), "{message}");
    cellar.succeeds(&run()).await;
    store.fail("PUT", "", fake_s3::Fault::Lie, ALWAYS);
    let shorter = ArchiveRestore { overwrite: true, format: ArchiveFormat::TarGzip, ..run() };
    cellar.fails(&shorter, Reason::StoreUnavailable).await;
    // What is there may be somebody's.
    assert_eq!(store.keys(NAME).len(), 1);
}

#[tokio::test]
async fn lost_acknowledgement_of_a_whole_archive_is_no_failure() {
    let (cellar, store) = with_short_archives().await;
    // The second try finds what the first one has made, and must not take it for somebody else's.
    store.fail("PUT", "", fake_s3::Fault::Unacknowledged, 1);
    cellar.succeeds(&run()).await;
    cellar.fails(&run(), Reason::TargetNotEmpty).await;
}

#[tokio::test]
async fn server_of_repositories_takes_no_archive() {
    let server = Server::start(servers::Kind::Rest).await;
    let cellar = Cellar::new(of(&server.access)).await;
    fs::write(cellar.source().join("file"), noise(20 << 20, 8)).unwrap();
    store_folder(&cellar.repository, &cellar.source()).await;
    cellar.fails(&run(), Reason::StoreUnavailable).await;
}
