//! Real HTTP servers behind a proxy which loses, cuts and delays requests: no partial result is visible, no listing is
//! incomplete, and each failure is reported with its cause.

use std::time::Duration;

use stowaway::{
    model::{Connection, Reason, StoreLimits},
    repository::{RepositoryError, Timeouts, create, open, open_or_create},
};

use super::{
    servers::{
        self, Kind, Server,
        meddler::{Fault, MitmProxy},
    },
    *,
};

/// Many more faults than there are retries.
const ALWAYS: usize = usize::MAX;

/// How requests of a kind of store are recognised: the method of a write, and the parts of the URL of the config, of a
/// listing of snapshots, and of its next page. `page` is appended to the query of a listing to get small pages.
struct RequestPatterns {
    write: &'static str,
    config: &'static str,
    listing: &'static str,
    next: &'static str,
    page: &'static str,
}

const AZURE: RequestPatterns = RequestPatterns {
    write: "PUT",
    config: "/pre/fix/config",
    listing: "prefix=pre/fix/snapshots",
    next: "marker=",
    page: "&maxresults=2",
};
const GCS: RequestPatterns = RequestPatterns {
    write: "POST",
    config: "config",
    listing: "prefix=pre%2Ffix%2Fsnapshots",
    next: "pageToken=",
    page: "&maxResults=2",
};
const REST: RequestPatterns =
    RequestPatterns { write: "POST", config: "/config", listing: "/snapshots/", next: "no pages", page: "no pages" };

async fn proxied(mut server: Server) -> (Server, MitmProxy) {
    let timeouts =
        Timeouts { request: Duration::from_secs(2), retries: Duration::from_secs(3), outage: Duration::from_secs(3) };
    server.access.timeouts = timeouts;
    let proxy = MitmProxy::between(server.endpoint().unwrap()).await;
    (server, proxy)
}

async fn azure() -> (Server, MitmProxy) {
    proxied(servers::azure_with_sas().await).await
}

async fn gcs() -> (Server, MitmProxy) {
    proxied(Server::start(Kind::Gcs).await).await
}

async fn rest() -> (Server, MitmProxy) {
    proxied(Server::start(Kind::Rest).await).await
}

async fn lost_acknowledgement((server, proxy): (Server, MitmProxy), patterns: RequestPatterns) {
    proxy.fail(patterns.write, patterns.config, Fault::Unacknowledged, 1);
    let repository = create(server.access.clone(), never()).await.unwrap();
    assert!(proxy.requests(patterns.write, patterns.config) > 1, "the write is retried");
    // The acknowledgement of the snapshot is lost as well.
    proxy.fail(patterns.write, "snapshots", Fault::Unacknowledged, 1);
    proxy.fail(patterns.write, "data", Fault::Status(503), 1);
    let stored = store(&repository, "/db.sql", &noise(1 << 20, 4)).await;
    let snapshots = repository.snapshots().await.unwrap();
    assert_eq!(snapshots.iter().map(|snapshot| &snapshot.id).collect::<Vec<_>>(), [&stored.snapshot]);
}

#[tokio::test]
async fn creation_whose_acknowledgement_was_lost_is_a_creation() {
    lost_acknowledgement(azure().await, AZURE).await;
    lost_acknowledgement(gcs().await, GCS).await;
    lost_acknowledgement(rest().await, REST).await;
}

async fn failed_listing((server, proxy): (Server, MitmProxy), patterns: RequestPatterns) {
    let repository = create(server.access.clone(), never()).await.unwrap();
    store(&repository, "/db.sql", b"data").await;
    for fault in [Fault::Status(503), Fault::Status(403), Fault::Hang, Fault::Cut] {
        proxy.fail("GET", patterns.listing, fault, ALWAYS);
        let error = repository.snapshots().await.unwrap_err();
        assert_eq!(error.reason(), Reason::StoreUnavailable, "{fault:?}: {error}");
        proxy.heal();
        assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn failed_listing_of_a_real_server_is_no_empty_repository() {
    failed_listing(azure().await, AZURE).await;
    failed_listing(gcs().await, GCS).await;
    failed_listing(rest().await, REST).await;
}

#[tokio::test]
async fn server_without_the_folder_of_a_kind_has_none_of_it_only_beside_a_config() {
    let (server, proxy) = rest().await;
    let repository = create(server.access.clone(), never()).await.unwrap();
    proxy.fail("GET", "/snapshots/", Fault::Status(404), ALWAYS);
    assert!(repository.snapshots().await.unwrap().is_empty());
    proxy.fail("HEAD", "/config", Fault::Status(404), ALWAYS);
    let error = repository.snapshots().await.unwrap_err();
    assert_eq!(error.reason(), Reason::RepositoryNotFound, "a server that lost its volume: {error}");
}

async fn many_pages((server, proxy): (Server, MitmProxy), patterns: RequestPatterns) {
    let repository = create(server.access.clone(), never()).await.unwrap();
    for _ in 0..5 {
        store(&repository, "/db.sql", b"data").await;
    }
    proxy.set_page(patterns.page);
    assert_eq!(repository.snapshots().await.unwrap().len(), 5);
    assert!(proxy.requests("GET", patterns.next) >= 2, "three pages");
    proxy.fail("GET", patterns.next, Fault::Status(503), ALWAYS);
    let error = repository.snapshots().await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable, "{error}");
}

#[tokio::test]
async fn listing_of_many_pages_is_whole_or_an_error() {
    many_pages(azure().await, AZURE).await;
    many_pages(gcs().await, GCS).await;
}

#[tokio::test]
async fn redirected_write_is_no_success() {
    for status in [301, 302, 303, 307] {
        let (server, proxy) = rest().await;
        let repository = create(server.access.clone(), never()).await.unwrap();
        proxy.fail("POST", "/data/", Fault::Status(status), ALWAYS);
        let error = store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap_err();
        assert!(matches!(error, RepositoryError::StoreUnavailable { .. }), "{status}: {error}");
    }
}

#[tokio::test]
async fn no_more_requests_than_allowed_are_in_flight() {
    for allowed in [1, 2] {
        let (mut server, proxy) = rest().await;
        let limits = StoreLimits { connections: Some(allowed), ..StoreLimits::default() };
        server.access.connection = Connection { limits, ..server.access.connection };
        let repository = open_or_create(server.access.clone(), never()).await.unwrap();
        store(&repository, "/db.sql", &noise(60 << 20, 5)).await;
        assert!(proxy.max_in_flight() <= usize::from(allowed));
    }
}

#[tokio::test]
async fn message_about_a_token_in_a_url_does_not_hold_it() {
    let (server, proxy) = azure().await;
    create(server.access.clone(), never()).await.unwrap().close().await;
    let token = server.access.credentials.values().next().unwrap().expose().to_owned();
    let signature = token.rsplit_once("sig=").unwrap().1;
    for fault in [Fault::Status(403), Fault::Status(503), Fault::Cut, Fault::Hang] {
        proxy.fail("GET", "keys", fault, ALWAYS);
        let error = open(server.access.clone(), never()).await.unwrap_err();
        for text in [error.to_string(), format!("{error:?}"), format!("{:?}", server.access)] {
            assert!(!text.contains(signature) && !text.contains("sig="), "{text}");
        }
        proxy.heal();
    }
}
