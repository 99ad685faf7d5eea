//! Archives on stores which misbehave: an archive is complete, or it does not exist and the run reports that.

use std::{fs, time::Duration};

use stowaway::model::{ArchiveFormat, ArchiveRestore, Reason};

use super::{
    archives::{Fixture, NAME, of, read_back, run, sha256},
    fake_s3::{self, FakeS3},
    folders::store_folder,
    servers::{
        self, Server,
        meddler::{Fault, MitmProxy},
    },
    *,
};

/// A fixture whose archives are sent to a real S3 server through a proxy which injects faults.
async fn proxied() -> (Fixture, Server, MitmProxy) {
    let real = servers::s3_for_parts();
    let mut access = real.access.clone();
    access.timeouts =
        Timeouts { request: Duration::from_secs(2), retries: Duration::from_secs(3), outage: Duration::from_secs(3) };
    let BackendConfig::S3(config) = &mut access.backend else { panic!("{:?}", access.backend) };
    let proxy = MitmProxy::between(&mut config.endpoint).await;
    let fixture = Fixture::new(of(&access)).await;
    fs::write(fixture.source().join("file"), noise(30 << 20, 8)).unwrap();
    store_folder(&fixture.repository, &fixture.source()).await;
    (fixture, real, proxy)
}

const ALWAYS: usize = usize::MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connection_leaves_no_object_and_takes_back_its_parts() {
    // The third part, the completion of the upload, and the start of the upload.
    for (method, part) in [("PUT", "partNumber=3"), ("POST", "uploadId="), ("POST", "uploads")] {
        for fault in [Fault::Status(503), Fault::Status(403)] {
            let (fixture, server, proxy) = proxied().await;
            proxy.fail(method, part, fault, ALWAYS);
            fixture.fails(&run(), Reason::StoreUnavailable).await;
            assert_eq!(read_back(&server, NAME), None, "{method} {part} {fault:?}");
            let taken_back = proxy.requests("DELETE", "uploadId=");
            assert_eq!(taken_back, usize::from(part != "uploads"), "{method} {part} {fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_faults_leave_the_archive_as_it_should_be() {
    let (mut fixture, server, proxy) = proxied().await;
    // A request is retried however long it takes.
    fixture.store.timeouts = Timeouts::default();
    for (method, part) in [("POST", "uploads"), ("PUT", "partNumber=1"), ("PUT", "partNumber=3"), ("POST", "uploadId=")]
    {
        proxy.fail(method, part, Fault::Status(503), 1);
        // Executed but not acknowledged, including the last request of the upload.
        proxy.fail(method, part, Fault::Unacknowledged, 1);
    }
    let report = fixture.succeeds(&run()).await;
    assert_eq!(report.archive.unwrap().sha256, sha256(&read_back(&server, NAME).unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archive_that_cannot_be_looked_for_is_unknown() {
    let (fixture, _server, proxy) = proxied().await;
    let watched = proxy.clone();
    tokio::spawn(async move {
        while watched.requests("PUT", "partNumber=2") == 0 {
            tokio::task::yield_now().await;
        }
        // From here on, no client can find out whether the archive exists.
        watched.fail("POST", "uploadId=", Fault::Unacknowledged, ALWAYS);
        watched.fail("HEAD", "", Fault::Status(503), ALWAYS);
    });
    let overwriting = ArchiveRestore { overwrite: true, ..run() };
    let message = fixture.fails(&overwriting, Reason::OutcomeUnknown).await;
    assert!(message.contains(NAME), "{message}");
    assert!(!message.contains("hush-hush"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_that_is_taken_is_refused_before_anything_is_sent() {
    let (fixture, _server, proxy) = proxied().await;
    fixture.succeeds(&run()).await;
    let sent = || [("POST", ""), ("PUT", "")].map(|(method, part)| proxy.requests(method, part));
    let before = sent();
    fixture.fails(&run(), Reason::TargetNotEmpty).await;
    assert_eq!(sent(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_archive_that_appears_before_the_end_is_never_taken_for_the_own_one() {
    let (fixture, server, proxy) = proxied().await;
    let bytes = fixture.succeeds(&run()).await.archive.unwrap().bytes;
    let other = ArchiveRestore { name: Some("shop/other".to_owned()), ..run() };
    proxy.fail("HEAD", "shop/other", Fault::Status(404), 1);
    proxy.fail("HEAD", "shop/other", Fault::There(bytes), ALWAYS);
    fixture.fails(&other, Reason::TargetNotEmpty).await;
    assert_eq!(read_back(&server, "shop/other"), None);
    assert_eq!(proxy.requests("DELETE", "uploadId="), 1);
}

/// A fixture whose archives are sent in one part.
async fn with_short_archives() -> (Fixture, FakeS3) {
    let store = FakeS3::start().await;
    let fixture = Fixture::new(of(&store.access())).await;
    fs::write(fixture.source().join("file"), "short").unwrap();
    store_folder(&fixture.repository, &fixture.source()).await;
    (fixture, store)
}

#[tokio::test]
async fn other_archive_of_the_same_length_is_not_taken_for_the_own_one() {
    let (fixture, store) = with_short_archives().await;
    store.fail("PUT", "", fake_s3::Fault::Rival, 1);
    fixture.fails(&run(), Reason::TargetNotEmpty).await;
    assert_eq!(store.keys(NAME).len(), 1);
}

#[tokio::test]
async fn store_that_does_not_keep_what_it_acknowledged_is_found_out() {
    let (fixture, store) = with_short_archives().await;
    store.fail("PUT", "", fake_s3::Fault::Lie, 1);
    let message = fixture.fails(&run(), Reason::StoreUnavailable).await;
    assert!(message.contains("has 0 bytes"), "{message}");
    fixture.succeeds(&run()).await;
    store.fail("PUT", "", fake_s3::Fault::Lie, ALWAYS);
    let shorter = ArchiveRestore { overwrite: true, format: ArchiveFormat::TarGzip, ..run() };
    fixture.fails(&shorter, Reason::StoreUnavailable).await;
    // The existing object may belong to another client, so it is not removed.
    assert_eq!(store.keys(NAME).len(), 1);
}

#[tokio::test]
async fn lost_acknowledgement_of_a_whole_archive_is_no_failure() {
    let (fixture, store) = with_short_archives().await;
    // The retry finds the object of the first attempt, and must not take it for another client's object.
    store.fail("PUT", "", fake_s3::Fault::Unacknowledged, 1);
    fixture.succeeds(&run()).await;
    fixture.fails(&run(), Reason::TargetNotEmpty).await;
}

#[tokio::test]
async fn server_of_repositories_takes_no_archive() {
    let server = Server::start(servers::Kind::Rest).await;
    let fixture = Fixture::new(of(&server.access)).await;
    fs::write(fixture.source().join("file"), noise(20 << 20, 8)).unwrap();
    store_folder(&fixture.repository, &fixture.source()).await;
    fixture.fails(&run(), Reason::StoreUnavailable).await;
}
