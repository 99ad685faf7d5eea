//! The loops of exec over a WebSocket in memory.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use stowaway::{
    exec::{Dumped, FeedEnd, Pings, Session, websocket_session},
    model::{Proof, Reason},
    stream::{End, StreamItem},
};
use tokio::io::duplex;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{Handed, control, dump_over, feed_over, nonce};

/// A session over a WebSocket in memory, and the server's end.
async fn websocket(pings: Pings) -> (Session, WebSocketStream<tokio::io::DuplexStream>) {
    let (client_end, server_end) = duplex(16 * 1024);
    let client = WebSocketStream::from_raw_socket(client_end, Role::Client, None).await;
    let server = WebSocketStream::from_raw_socket(server_end, Role::Server, None).await;
    (websocket_session(client, pings), server)
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel][..], bytes].concat().into())
}

#[tokio::test]
async fn dump_over_a_websocket_is_read_and_acknowledged() {
    let (session, mut server) = websocket(Pings::default()).await;
    let serving = tokio::spawn(async move {
        let mut received = Vec::new();
        for message in [
            frame(1, b""),
            frame(1, format!("{} ready\n", nonce().as_str()).as_bytes()),
            frame(2, b"noise"),
            frame(1, &[9; 70_000]),
            frame(255, &[2]),
            frame(1, nonce().trailer(0).as_bytes()),
        ] {
            server.send(message).await.unwrap();
        }
        while received.len() < 66 {
            if let Some(Ok(Message::Binary(data))) = server.next().await {
                assert_eq!(data[0], 0);
                received.extend_from_slice(&data[1..]);
            }
        }
        server.send(frame(3, br#"{"metadata":{},"status":"Success"}"#)).await.unwrap();
        received
    });
    let (outcome, handed) = dump_over(session, &control()).await;
    assert!(matches!(outcome, Ok(Dumped::Whole(_))), "{outcome:?}");
    assert_eq!(handed, Handed::End(vec![9; 70_000], End { proof: Proof::Acknowledged, bytes: 70_000 }));
    assert_eq!(serving.await.unwrap(), nonce().line().repeat(2));
}

#[tokio::test]
async fn silent_server_is_a_cut_unless_it_has_input_to_read() {
    let pings = Pings { every: Duration::from_millis(10), within: Duration::from_millis(50) };
    let (session, _never_read) = websocket(pings).await;
    let (outcome, _) = dump_over(session, &control()).await;
    assert_eq!(outcome.unwrap_err().reason, Reason::StreamCut);

    // In a restore whose command reads nothing for a while, the pings are not read either, and that is no error.
    let (session, mut server) = websocket(pings).await;
    let serving = tokio::spawn(async move {
        server.send(frame(1, format!("{} ready\n", nonce().as_str()).as_bytes())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut received_input = Vec::new();
        let header = nonce().line_with_size(100_000).len();
        while let Some(Ok(message)) = server.next().await {
            match message {
                Message::Binary(data) if data[0] == 0 => received_input.extend_from_slice(&data[1..]),
                Message::Binary(data) => assert_eq!(&data[..], [255, 0]),
                _ => {}
            }
            let reply = match received_input.len() - header.min(received_input.len()) {
                100_000 => frame(2, format!("{} got\n", nonce().as_str()).as_bytes()),
                100_033 => frame(1, nonce().trailer(0).as_bytes()),
                _ => continue,
            };
            server.send(reply).await.unwrap();
        }
    });
    let end = End { proof: Proof::Acknowledged, bytes: 100_000 };
    let input = vec![StreamItem::Data(Bytes::from(vec![1; 100_000])), StreamItem::End(end)];
    assert_eq!(
        feed_over(session, 100_000, input, &control()).await,
        Ok(FeedEnd { exit_code: 0, proof: Proof::Acknowledged })
    );
    serving.abort();
}
