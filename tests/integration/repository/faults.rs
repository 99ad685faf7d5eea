//! A repository in an object store which misbehaves: no partial result is visible, every failure has a type, and every
//! run ends in time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use stowaway::{
    model::Reason,
    repository::{
        FolderRules, OpenOptions, Progress, Repository, RepositoryError, Timeouts, create, open, open_or_create,
        open_to_read,
    },
    stream::{StreamItem, pieces},
};

use super::{
    fake_s3::{FakeS3, Fault},
    *,
};
use crate::at_once;

/// Many more faults than there are retries.
const ALWAYS: usize = usize::MAX;

/// Gives up soon, so that a test with a dead store does not take a minute.
fn impatient(store: &FakeS3) -> OpenOptions {
    let timeouts =
        Timeouts { request: Duration::from_secs(5), retries: Duration::from_secs(3), outage: Duration::from_secs(3) };
    OpenOptions { timeouts, ..store.access() }
}

async fn repository_in(store: &FakeS3) -> Repository {
    create(store.access(), never()).await.unwrap().close().await;
    open(impatient(store), never()).await.unwrap()
}

async fn is_refused(repository: &Repository, reason: Reason) -> RepositoryError {
    let error = store_pieces(repository, "/db.sql", whole(&noise(20 << 20, 9))).await.unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
    error
}

#[tokio::test]
async fn stream_survives_passing_faults() {
    let store = FakeS3::start().await;
    let repository = open_or_create(store.access(), never()).await.unwrap();
    for part in ["data/", "index/", "snapshots/"] {
        store.fail("PUT", part, Fault::Status(503), 1);
        store.fail("PUT", part, Fault::Cut, 1);
    }
    let data = noise(20 << 20, 8);
    let stored = store_pieces(&repository, "/db.sql", whole(&data)).await.unwrap();
    store.fail("GET", "data/", Fault::Status(500), 1);
    assert!(collect(repository.read_file(&stored.snapshot, "/db.sql").await.unwrap()).await == data);
}

/// Does not retry a failure before the repository is open, and waits for an outage afterwards.
fn patient_once_open(store: &FakeS3) -> OpenOptions {
    let timeouts =
        Timeouts { request: Duration::from_secs(2), retries: Duration::ZERO, outage: Timeouts::default().outage };
    OpenOptions { timeouts, ..store.access() }
}

#[tokio::test]
async fn run_outlives_an_outage_of_its_store_for_which_no_first_request_is_repeated() {
    at_once([Fault::Status(503), Fault::Status(429), Fault::Cut, Fault::Hang], async |fault| {
        let store = FakeS3::start().await;
        create(store.access(), never()).await.unwrap().close().await;
        let repository = open(patient_once_open(&store), never()).await.unwrap();
        for part in ["data/", "index/", "snapshots/"] {
            store.fail("PUT", part, fault, 2);
        }
        // Requests which verify a written file or the lock.
        store.fail("HEAD", "", fault, 2);
        let data = b"an hour of work";
        let stored = store_pieces(&repository, "/db.sql", whole(data)).await.unwrap();
        store.fail("GET", "data/", fault, 2);
        assert!(collect(repository.read_file(&stored.snapshot, "/db.sql").await.unwrap()).await == data);
        assert_eq!(repository.store_wait(), None);
    })
    .await;
}

#[tokio::test]
async fn store_that_was_never_there_is_reported_without_the_patience_of_an_outage() {
    for method in ["GET", "PUT"] {
        let store = FakeS3::start().await;
        create(store.access(), never()).await.unwrap().close().await;
        store.fail(method, "", Fault::Status(503), ALWAYS);
        let error = open(patient_once_open(&store), never()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StoreUnavailable, "{method}: {error}");
    }
}

#[tokio::test]
async fn run_reports_what_it_waits_for_while_its_store_is_unavailable() {
    let store = FakeS3::start().await;
    create(store.access(), never()).await.unwrap().close().await;
    let repository = open(patient_once_open(&store), never()).await.unwrap();
    assert_eq!(repository.store_wait(), None);
    store.fail("PUT", "data/", Fault::Status(503), ALWAYS);
    let storing = async { store_pieces(&repository, "/db.sql", whole(b"data")).await };
    let watching = async {
        let wait = loop {
            match repository.store_wait() {
                Some(wait) => break wait,
                None => tokio::task::yield_now().await,
            }
        };
        store.heal();
        wait
    };
    let (stored, wait) = tokio::join!(storing, watching);
    assert!(wait.to_string().contains("503"), "{wait}");
    assert!(wait.since <= jiff::Timestamp::now(), "{wait}");
    stored.unwrap();
    assert_eq!(repository.store_wait(), None, "the wait has ended");
}

#[tokio::test]
async fn failure_that_is_no_outage_ends_a_run_at_once_however_patient_it_is() {
    for (status, reason) in [(403, Reason::StoreUnavailable), (507, Reason::StoreFull)] {
        let store = FakeS3::start().await;
        create(store.access(), never()).await.unwrap().close().await;
        let repository = open(patient_once_open(&store), never()).await.unwrap();
        store.fail("PUT", "data/", Fault::Status(status), ALWAYS);
        is_refused(&repository, reason).await;
        assert!(store.keys("snapshots").is_empty());
    }
}

#[tokio::test]
async fn nothing_is_stored_by_a_run_that_opened_the_repository_to_read() {
    let store = FakeS3::start().await;
    create(store.access(), never()).await.unwrap().close().await;
    let repository = open_to_read(store.access(), never()).await.unwrap();
    let error = store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::InternalError, "{error}");
    assert!(store.keys("snapshots").is_empty());
}

#[tokio::test]
async fn failed_listing_is_no_empty_repository() {
    // A failed listing must not look empty, because a prune would then delete everything.
    let faults = [Fault::Status(503), Fault::Status(403), Fault::Status(404), Fault::Hang, Fault::Cut];
    at_once(faults, async |fault| {
        let store = FakeS3::start().await;
        let repository = repository_in(&store).await;
        store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap();
        store.fail("GET", "prefix=pre%2Ffix%2Fsnapshots", fault, ALWAYS);
        store.fail("GET", "prefix=pre/fix/snapshots", fault, ALWAYS);
        let error = repository.snapshots().await.unwrap_err();
        assert_eq!(error.reason(), Reason::StoreUnavailable, "{fault:?}: {error}");
        store.heal();
        assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn listing_whose_second_page_fails_is_no_short_listing() {
    let store = FakeS3::start().await;
    let repository = repository_in(&store).await;
    for _ in 0..3 {
        store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap();
    }
    store.set_page(2);
    assert_eq!(repository.snapshots().await.unwrap().len(), 3);
    store.fail("GET", "continuation-token", Fault::Status(503), ALWAYS);
    let error = repository.snapshots().await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable, "{error}");
}

#[tokio::test]
async fn unreachable_store_is_neither_missing_nor_empty() {
    at_once([Fault::Status(503), Fault::Status(403), Fault::Hang, Fault::Cut], async |fault| {
        let store = FakeS3::start().await;
        for method in ["GET", "HEAD"] {
            store.fail(method, "", fault, ALWAYS);
        }
        let error = open_or_create(impatient(&store), never()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StoreUnavailable, "{fault:?}: {error}");
        store.heal();
        assert!(store.keys("").is_empty(), "nothing was created");
        let error = open(impatient(&store), never()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::NotFound { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn store_that_refuses_to_be_written_leaves_no_snapshot() {
    let faults = [
        (Fault::Status(503), Reason::StoreUnavailable),
        (Fault::Status(403), Reason::StoreUnavailable),
        (Fault::Status(507), Reason::StoreFull),
        (Fault::Hang, Reason::StoreUnavailable),
        (Fault::Cut, Reason::StoreUnavailable),
    ];
    let parts = ["data/", "index/", "snapshots/"];
    let cases = parts.into_iter().flat_map(|part| faults.map(|(fault, reason)| (part, fault, reason)));
    // The time limit of a pack grows by a second for each 128 KiB, which is too long for a test.
    let cases = cases.filter(|(part, fault, _)| (*part, *fault) != ("data/", Fault::Hang));
    at_once(cases, async |(part, fault, reason)| {
        let store = FakeS3::start().await;
        let repository = repository_in(&store).await;
        store.fail("PUT", part, fault, ALWAYS);
        is_refused(&repository, reason).await;
        assert!(store.keys("snapshots").is_empty(), "{part} {fault:?}");
        store.heal();
        store_pieces(&repository, "/db.sql", whole(b"next")).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn full_store_and_missing_rights_are_not_retried() {
    for status in [507, 403] {
        let store = FakeS3::start().await;
        create(store.access(), never()).await.unwrap().close().await;
        // With the default limits, retries would show in the number of requests.
        let repository = open(store.access(), never()).await.unwrap();
        let before = store.requests("PUT", "data/");
        store.fail("PUT", "data/", Fault::Status(status), ALWAYS);
        let error = store_pieces(&repository, "/db.sql", whole(&noise(1 << 20, 1))).await.unwrap_err();
        let is_typed = match status {
            507 => matches!(error, RepositoryError::StoreFull { .. }),
            _ => matches!(error, RepositoryError::AccessDenied { .. }),
        };
        assert!(is_typed, "{error}");
        // One pack of data and one of trees.
        let requests = store.requests("PUT", "data/") - before;
        assert!((1..=2).contains(&requests), "{status}: {requests}");
    }
}

#[tokio::test]
async fn pack_that_the_store_only_claims_to_have_leaves_no_snapshot() {
    for part in ["data/", "index/"] {
        let store = FakeS3::start().await;
        let repository = repository_in(&store).await;
        store.fail("PUT", part, Fault::Lie, 1);
        is_refused(&repository, Reason::RepositoryDamaged).await;
        assert!(store.keys("snapshots").is_empty());
    }
}

#[tokio::test]
async fn snapshot_that_the_store_only_claims_to_have_is_no_success() {
    let store = FakeS3::start().await;
    let repository = repository_in(&store).await;
    store.fail("PUT", "snapshots/", Fault::Lie, 1);
    is_refused(&repository, Reason::RepositoryDamaged).await;
}

#[tokio::test]
async fn snapshot_whose_acknowledgement_was_lost_is_found() {
    let store = FakeS3::start().await;
    let repository = repository_in(&store).await;
    store.fail("PUT", "snapshots/", Fault::Unacknowledged, ALWAYS);
    let stored = store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap();
    let snapshots = repository.snapshots().await.unwrap();
    assert_eq!(snapshots.len(), 1);
    assert_eq!(snapshots[0].id, stored.snapshot);
}

#[tokio::test]
async fn commit_that_cannot_be_verified_is_unknown() {
    let store = FakeS3::start().await;
    let repository = repository_in(&store).await;
    store.fail("PUT", "snapshots/", Fault::Unacknowledged, ALWAYS);
    // Requests for the object, and not for the list of the earlier snapshots.
    store.fail("GET", "bucket/pre/fix/snapshots/", Fault::Cut, ALWAYS);
    let error = is_refused(&repository, Reason::CommitUnknown).await;
    store.heal();
    // The retry finds the snapshot, which has become visible, by the run's tag.
    let snapshots = repository.snapshots().await.unwrap();
    let adopted = stowaway::repository::by_run(&snapshots, "42/deployment/shop/db").unwrap();
    assert!(error.to_string().contains(&adopted.id), "{error}");
}

#[tokio::test]
async fn cancel_ends_every_kind_of_waiting() {
    for part in ["data/", "index/", "snapshots/"] {
        let store = FakeS3::start().await;
        create(store.access(), never()).await.unwrap().close().await;
        let cancel = never();
        // With the default limits only the token ends the run in time.
        let repository = open(store.access(), cancel.clone()).await.unwrap();
        store.fail("PUT", part, Fault::Hang, ALWAYS);
        let watched = store.clone();
        tokio::spawn(async move {
            while watched.requests("PUT", part) == 0 {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        });
        let error = store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Cancelled, "{part}: {error}");
        assert!(store.keys("snapshots").is_empty());
        repository.close().await;
        assert!(store.keys("locks").is_empty(), "a cancelled run removes its lock");
    }
}

#[tokio::test]
async fn failed_upload_ends_a_stream_that_stays_silent() {
    let store = FakeS3::start().await;
    let repository = repository_in(&store).await;
    store.fail("PUT", "data/", Fault::Status(507), ALWAYS);
    let (sender, receiver) = pieces();
    let (label, rules) = (identity("/db.sql"), rules());
    let storing = repository.store_stream(&label, &rules, receiver, Arc::new(Progress::default()));
    let sending = async {
        // More than one pack, and then nothing: neither more bytes nor an end.
        for piece in noise(40 << 20, 7).chunks(64 * 1024) {
            if sender.send(StreamItem::Data(Bytes::copy_from_slice(piece))).await.is_err() {
                break;
            }
        }
        sender.closed().await;
    };
    let (stored, ()) = tokio::join!(storing, sending);
    assert_eq!(stored.unwrap_err().reason(), Reason::StoreFull);
}

#[tokio::test]
async fn failed_upload_ends_the_walk_of_a_folder_that_is_far_from_its_end() {
    let store = FakeS3::start().await;
    let repository = repository_in(&store).await;
    store.fail("PUT", "data/", Fault::Hang, ALWAYS);
    // When the upload fails, all readers wait for a free upload slot, and the walk waits for a free reader.
    let source = tempfile::tempdir().unwrap();
    for (number, content) in noise(40 << 20, 8).chunks(400_000).enumerate() {
        std::fs::write(source.path().join(format!("{number}")), content).unwrap();
    }
    let rules = FolderRules::whole(jiff::Timestamp::UNIX_EPOCH);
    let stored = repository.store_folder(&identity("/data/claim"), &rules, source.path(), Arc::default()).await;
    assert_eq!(stored.unwrap_err().reason(), Reason::StoreUnavailable);
    assert!(store.keys("snapshots").is_empty());
}

#[tokio::test]
async fn missing_pack_breaks_the_restore() {
    let store = FakeS3::start().await;
    let repository = repository_in(&store).await;
    let stored = store_pieces(&repository, "/db.sql", whole(&noise(1 << 20, 3))).await.unwrap();
    let before: Vec<String> = store.keys("data/");
    for key in &before {
        store.remove(key);
    }
    let error = repository.read_file(&stored.snapshot, "/db.sql").await.unwrap_err();
    assert_eq!(error.reason(), Reason::RepositoryDamaged, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_creations_in_a_bucket_leave_one_repository() {
    let store = FakeS3::start().await;
    let racers: Vec<_> = (0..6).map(|_| tokio::spawn(open_or_create(store.access(), never()))).collect();
    for racer in racers {
        let repository = racer.await.unwrap().unwrap();
        store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap();
        repository.close().await;
    }
    let repository = open(store.access(), never()).await.unwrap();
    assert_eq!(repository.snapshots().await.unwrap().len(), 6);
}

#[tokio::test]
async fn missing_bucket_is_named_with_what_to_do() {
    let store = FakeS3::start().await;
    let mut access = store.access();
    let BackendConfig::S3(config) = &mut access.backend else { unreachable!() };
    "absent".clone_into(&mut config.bucket);
    for error in [open(access.clone(), never()).await.unwrap_err(), open_or_create(access, never()).await.unwrap_err()]
    {
        assert_eq!(error.reason(), Reason::StoreUnavailable, "{error}");
        let text = error.to_string();
        assert!(text.contains("has no bucket \"absent\" (") && text.contains("NoSuchBucket"), "{text}");
        assert!(text.contains("): create it, or correct its name"), "{text}");
    }
}

#[tokio::test]
async fn no_message_holds_a_credential() {
    let store = FakeS3::start().await;
    let repository = repository_in(&store).await;
    store.fail("PUT", "data/", Fault::Status(403), ALWAYS);
    let error = is_refused(&repository, Reason::StoreUnavailable).await;
    for text in [error.to_string(), format!("{error:?}"), format!("{repository:?} {:?}", store.access())] {
        assert!(!text.contains("hush-hush") && !text.contains(PASSWORD), "{text}");
    }
}
