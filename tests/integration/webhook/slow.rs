//! Clients which are slow, silent, or too many: they are cut off in time, and other clients are not affected.

use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use stowaway::webhook::serve::Limits;
use tokio::{
    io::AsyncWriteExt,
    time::{interval, timeout},
};

use super::client::{Client, Server, config, connect, question};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_mins(1);

/// Limits in which all deadlines are long, except for those under test.
fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits =
        Limits { handshake: LONG, head: LONG, request: LONG, answer: LONG, idle: LONG, end: SHORT, connections: 256 };
    change(&mut limits);
    limits
}

async fn server(change: impl FnOnce(&mut Limits)) -> Server {
    Server::start(limits(change), Duration::ZERO).await
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut_off() {
    let server = server(|limits| limits.handshake = SHORT).await;
    let mut silent = Client(server.connect_raw().await);
    silent.closed().await;
    let mut half = Client(server.connect_raw().await);
    half.send(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    half.closed().await;
    let mut wrong = Client(server.connect_raw().await);
    wrong.send(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    wrong.closed().await;
    let (_, metrics) = server.health("/metrics").await;
    assert!(metrics.contains(r#"handshake_failures_total{reason="Timeout"} 2"#), "{metrics}");
    assert!(metrics.contains(r#"handshake_failures_total{reason="Refused"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_dribbled_head_is_cut_off_and_a_connection_that_waits_is_not() {
    let server = server(|limits| limits.head = SHORT).await;
    let mut waiting = server.connect().await;
    let mut unused = server.connect().await;
    assert_eq!(waiting.admit().await.unwrap().status, 200);
    let mut stuck = server.connect().await;
    stuck.send(b"POST /pods HTT").await.unwrap();
    // Sending single bytes does not extend the deadline.
    let (mut reader, mut writer) = tokio::io::split(server.connect().await.0);
    let dribble = async {
        let mut every = interval(Duration::from_millis(20));
        while writer.write_all(b"a").await.is_ok() && writer.flush().await.is_ok() {
            every.tick().await;
        }
    };
    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut rest);
    tokio::select! {
        () = dribble => {}
        _ = end => {}
    }
    stuck.closed().await;
    // By now these connections have been idle for longer than a head may take.
    assert_eq!(waiting.admit().await.unwrap().status, 200);
    assert_eq!(unused.admit().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_dribbled_body_gets_an_answer_and_no_further_request() {
    let server = server(|_| ()).await;
    let mut client = server.connect().await;
    let head = "POST /pods?timeout=200ms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let answer = client.exchange(head.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
    client.closed().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_its_time() {
    let server = server(|limits| limits.idle = SHORT).await;
    let mut client = server.connect().await;
    assert_eq!(client.admit().await.unwrap().status, 200);
    client.closed().await;
}

#[tokio::test]
async fn client_that_does_not_read_its_answers_is_cut_off() {
    let server = server(|limits| limits.answer = SHORT).await;
    let mut client = server.connect().await;
    let question = question();
    let flood = async { while client.send(&question).await.is_ok() {} };
    timeout(LONG, flood).await.expect("the connection is never closed");
}

#[tokio::test]
async fn slow_clients_have_no_effect_on_others() {
    let server = server(|_| ()).await;
    let mut slow = Vec::new();
    for index in 0..60 {
        let mut raw = Client(server.connect_raw().await);
        if index % 3 == 1 {
            raw.send(&[22, 3, 1]).await.unwrap();
        }
        slow.push(raw);
    }
    let mut half = Vec::new();
    for index in 0..60 {
        let mut client = server.connect().await;
        let part: &[u8] = match index % 3 {
            0 => b"",
            1 => b"POST /pods HTTP/1.1\r\nHo",
            _ => b"POST /pods HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 50000\r\n\r\n{",
        };
        client.send(part).await.unwrap();
        half.push(client);
    }
    let mut client = server.connect().await;
    for _ in 0..200 {
        assert_eq!(client.admit().await.unwrap().status, 200);
    }
    let (_, metrics) = server.health("/metrics").await;
    assert!(metrics.contains("stowaway_webhook_connections 121"), "{metrics}");
}

#[tokio::test]
async fn connections_without_a_request_are_closed_first_at_the_limit() {
    let server = server(|limits| limits.connections = 4).await;
    let mut active = server.connect().await;
    assert_eq!(active.admit().await.unwrap().status, 200);
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(Client(server.connect_raw().await));
    }
    let mut late = server.connect().await;
    assert_eq!(late.admit().await.unwrap().status, 200);
    assert_eq!(active.admit().await.unwrap().status, 200);
    silent[0].closed().await;
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken_and_no_name_is_needed() {
    let server = server(|_| ()).await;
    for version in [&TLS12, &TLS13] {
        let builder = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
        let trusting = config(&server.authority);
        let mut config = builder
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots(&server))
            .with_no_client_auth();
        config.alpn_protocols = trusting.alpn_protocols;
        config.enable_sni = false;
        let mut client = connect(server.port, config).await.unwrap();
        assert_eq!(client.0.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(client.admit().await.unwrap().status, 200);
    }
    let mut only_h2 = config(&server.authority);
    only_h2.alpn_protocols = vec![b"h2".to_vec()];
    assert!(connect(server.port, only_h2).await.is_err());
}

fn roots(server: &Server) -> rustls::RootCertStore {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.authority.certificate().as_bytes()).unwrap()).unwrap();
    roots
}

#[tokio::test]
async fn a_head_is_read_up_to_its_limit() {
    let server = server(|_| ()).await;
    let with_head = |bytes: usize| {
        let question = question();
        let end = question.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let filler = format!("\r\nX-Filler: {}", "x".repeat(bytes));
        [&question[..end], filler.as_bytes(), &question[end..]].concat()
    };
    let mut client = server.connect().await;
    assert_eq!(client.exchange(&with_head(15 * 1024)).await.unwrap().status, 200);
    // The request is smaller than one read, so that only the limit of the head applies. Unread bytes may cause a reset,
    // which can overtake the answer.
    if let Ok(answer) = client.exchange(&with_head(20 * 1024)).await {
        assert_eq!((answer.status, answer.closes), (431, true));
    }
    client.closed().await;
}

#[tokio::test]
async fn a_head_without_end_is_not_kept() {
    let server = server(|_| ()).await;
    let mut client = server.connect().await;
    let endless = async {
        let line = format!("X-{}: x\r\n", "y".repeat(1000));
        let mut sent = client.send(b"POST /pods HTTP/1.1\r\n").await;
        while sent.is_ok() {
            sent = client.send(line.as_bytes()).await;
        }
    };
    timeout(LONG, endless).await.expect("the connection is never closed");
}
