//! The life of the server from not ready to ended: no request is lost, whatever changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use stowaway::webhook::serve::Limits;
use tokio::sync::Notify;

use super::client::{Client, Server, authority, config, connect, question};

async fn server(drain: Duration) -> Server {
    Server::start(Limits::default(), drain).await
}

#[tokio::test]
async fn readiness_is_proven_by_a_call_that_every_bundle_of_the_cluster_trusts() {
    let mut server = Server::without_certificate(Limits::default(), Duration::from_mins(1)).await;
    assert_eq!(server.health("/healthz").await, (200, "alive\n".to_owned()));
    assert_eq!(server.health("/readyz").await.0, 503);
    let bundle = |authority: &webhook_certs::Authority| authority.certificate().to_owned();
    let (own, other) = (bundle(&server.authority), bundle(&authority()));

    // The bundle arrives before the certificate.
    server.bundles.send_replace(vec![own.clone()]);
    assert_eq!(server.health("/readyz").await.0, 503);
    server.issue(&server.authority);
    server.becomes("/readyz", "the Repositories have not been listed").await;
    server.sync().await;
    server.becomes("/readyz", "ready\n").await;
    assert_eq!(server.health("/readyz").await.0, 200);

    // One entry which does not trust the certificate makes the server unready, also an empty one.
    for wrong in [vec![own.clone(), other.clone()], vec![String::new(), own.clone()], vec![other.clone()], Vec::new()] {
        server.bundles.send_replace(wrong);
        server.becomes("/readyz", "not ready: a call").await;
        server.bundles.send_replace(vec![own.clone(), format!("{other}{own}")]);
        server.becomes("/readyz", "ready\n").await;
        assert_eq!(server.health("/readyz").await.0, 200);
    }

    let mut client = server.connect().await;
    server.shut_down();
    server.becomes("/readyz", "shutting down").await;
    assert_eq!(server.health("/healthz").await.0, 200);
    // A request during the shutdown is answered, and the connection is closed.
    let answer = client.admit().await.unwrap();
    assert_eq!((answer.status, answer.closes), (200, true));
    client.closed().await;
    assert!(server.connect().await.admit().await.unwrap().closes);
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_old_ones_live_on() {
    let server = server(Duration::ZERO).await;
    let mut old = server.connect().await;
    assert_eq!(old.admit().await.unwrap().status, 200);
    let next = authority();
    server.issue(&next);
    assert_eq!(server.connect_trusting(&next).await.unwrap().admit().await.unwrap().status, 200);
    assert!(server.connect_trusting(&server.authority).await.is_err());
    assert_eq!(old.admit().await.unwrap().status, 200);
    // A certificate which cannot be used changes nothing.
    let leaf = next.issue_leaf(&["x".to_owned()], jiff::Timestamp::now()).unwrap();
    assert!(server.certificates.set(leaf.certificate(), b"no key").is_err());
    assert!(server.certificates.set(b"no certificate", leaf.key()).is_err());
    let other = server.authority.issue_leaf(&["x".to_owned()], jiff::Timestamp::now()).unwrap();
    assert!(server.certificates.set(leaf.certificate(), other.key()).is_err());
    assert_eq!(server.connect_trusting(&next).await.unwrap().admit().await.unwrap().status, 200);
    let expiry = format!("certificate_expiry_timestamp_seconds {}", server.certificates.not_after());
    assert!(server.certificates.not_after() > 0 && server.health("/metrics").await.1.contains(&expiry));
}

/// Counters of the clients of a load test.
#[derive(Default)]
struct Load {
    answered: AtomicUsize,
    closed: AtomicUsize,
    enough: Notify,
}

/// Sends reviews on one connection after the other, until the server accepts no connection. Every review must be
/// answered.
async fn load(port: u16, config: rustls::ClientConfig, load: Arc<Load>) {
    while let Ok(mut client) = connect(port, config.clone()).await {
        loop {
            let answer = client.admit().await.expect("a review was lost");
            assert_eq!(answer.status, 200);
            if load.answered.fetch_add(1, Ordering::Relaxed) == 300 {
                load.enough.notify_one();
            }
            if answer.closes {
                load.closed.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_under_load_loses_no_request() {
    for _ in 0..3 {
        let mut server = server(Duration::from_millis(100)).await;
        let seen = Arc::new(Load::default());
        let clients: Vec<_> =
            (0..16).map(|_| tokio::spawn(load(server.port, config(&server.authority), seen.clone()))).collect();
        seen.enough.notified().await;
        server.shut_down();
        for client in clients {
            client.await.unwrap();
        }
        assert!(seen.closed.load(Ordering::Relaxed) >= 16);
        server.ended().await;
    }
}

#[tokio::test]
async fn request_in_flight_at_the_end_is_finished() {
    let mut server = server(Duration::ZERO).await;
    let question = question();
    let (one, two) = question.split_at(question.len() - 5);
    let mut half = server.connect().await;
    half.send(one).await.unwrap();
    let mut new = server.connect().await;
    let mut idle = server.connect().await;
    assert_eq!(idle.admit().await.unwrap().status, 200);
    server.shut_down();
    // The idle connection has nothing to finish.
    idle.closed().await;
    let answer = half.exchange(two).await.unwrap();
    assert_eq!((answer.status, answer.closes), (200, true));
    let answer = new.admit().await.unwrap();
    assert_eq!((answer.status, answer.closes), (200, true));
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.is_err());
    server.ended().await;
}

#[tokio::test]
async fn unfinished_client_is_cut_off_at_the_end() {
    let limits = Limits { end: Duration::from_millis(200), ..Limits::default() };
    let mut server = Server::start(limits, Duration::ZERO).await;
    let mut silent = server.connect().await;
    let mut raw = Client(server.connect_raw().await);
    server.shut_down();
    server.ended().await;
    silent.closed().await;
    raw.closed().await;
}
