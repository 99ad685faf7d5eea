//! A session over a WebSocket with the subprotocol `v5.channel.k8s.io`, in which each binary frame begins with its
//! channel's number.
//!
//! Reader and writer are tasks of their own, so that a stalled stdin does not stop stdout, and a stalled stdout does
//! not stop the pings. Source: `k8s.io/apimachinery/pkg/util/remotecommand`.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{
    Sink, SinkExt, Stream, StreamExt,
    stream::{SplitSink, SplitStream},
};
use kube::core::Status;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::JoinSet,
    time::{Duration, Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message},
};

use super::{
    ExecStatus, Input, Output, Session, SessionCut,
    session::{Carrier, IdleSince},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// The intervals of the checks that a connection is alive.
#[derive(Clone, Copy, Debug)]
pub struct Pings {
    /// The interval of pings.
    pub every: Duration,
    /// The time for which the other side may send nothing while it must answer a ping.
    pub within: Duration,
}

impl Default for Pings {
    /// Every 15 seconds. Three pings without an answer end the connection.
    fn default() -> Self {
        Self { every: Duration::from_secs(15), within: Duration::from_secs(45) }
    }
}

/// Bytes of stdin in one frame, as in kubectl.
const FRAME: usize = 32 * 1024;

/// Creates a session over an upgraded connection.
pub fn websocket_session<S>(stream: WebSocketStream<S>, pings: Pings) -> Session
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, source) = stream.split();
    let (session, Carrier { output, input, idle }) = Session::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(write(sink, input, idle.clone(), pings.every));
    tasks.spawn(read(source, output, idle, pings.within));
    session.carried_by(tasks)
}

/// Writes the input. Returns at the first error, because the reader sees the same connection break and reports it.
async fn write<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut input: mpsc::Receiver<Input>,
    idle: IdleSince,
    ping_every: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = interval(ping_every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            item = input.recv() => match item {
                None => return,
                Some(Input::Close) => sink.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await,
                Some(Input::Data(data)) => {
                    idle.sending(true);
                    let sent = send(&mut sink, data).await;
                    idle.sending(false);
                    sent
                }
            },
            _ = pings.tick() => sink.send(Message::Ping(Bytes::new())).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn send(sink: &mut (impl Sink<Message, Error = Error> + Unpin), mut data: Bytes) -> Result<(), Error> {
    while !data.is_empty() {
        let part = data.split_to(data.len().min(FRAME));
        let mut frame = BytesMut::with_capacity(part.len() + 1);
        frame.put_u8(STDIN);
        frame.put(part);
        sink.send(Message::Binary(frame.freeze())).await?;
    }
    Ok(())
}

async fn read<S>(
    mut source: SplitStream<WebSocketStream<S>>,
    output: mpsc::Sender<Result<Output, SessionCut>>,
    idle: IdleSince,
    within: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let output_or_cut = match next(&mut source, &idle, within).await {
            Ok(Some(Message::Binary(frame))) => match parse(frame) {
                Some(output) => Ok(output),
                None => continue,
            },
            // Text messages do not belong to this protocol, the library answers pings, and the stream ends after a
            // close.
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(cut) => Err(cut),
        };
        let is_last = output_or_cut.is_err();
        // While the output is not received, nothing is read from the connection, which makes the remote command wait.
        if output.send(output_or_cut).await.is_err() || is_last {
            return;
        }
    }
}

/// The next message, if the peer is alive. Only time in which this side was listening counts against the peer.
async fn next(
    source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    idle: &IdleSince,
    within: Duration,
) -> Result<Option<Message>, SessionCut> {
    let mut listening_since = Instant::now();
    loop {
        let idle_since = idle.since().map(|since| since.max(listening_since));
        let patience = idle_since.map_or(within, |since| within.saturating_sub(since.elapsed()));
        match timeout(patience, source.next()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(message))) => return Ok(Some(message)),
            Ok(Some(Err(error))) => return Err(SessionCut(format!("the connection to the API server broke: {error}"))),
            Err(_) => {
                let silent = idle.since().is_some_and(|since| since.max(listening_since).elapsed() >= within);
                if silent {
                    let message = format!("the API server answered no ping for {} seconds", within.as_secs_f32());
                    return Err(SessionCut(message));
                }
                if idle.since().is_none() {
                    listening_since = Instant::now();
                }
            }
        }
    }
}

fn parse(mut frame: Bytes) -> Option<Output> {
    // A frame of one byte only announces its channel.
    if frame.len() < 2 {
        return None;
    }
    match frame.split_to(1)[0] {
        STDOUT => Some(Output::Stdout(frame)),
        STDERR => Some(Output::Stderr(frame)),
        STATUS => Some(Output::Status(parse_status(&frame))),
        _ => None,
    }
}

/// Parses the `metav1.Status` which the kubelet's remotecommand server writes. The exit code is a cause with the reason
/// `ExitCode`.
fn parse_status(json: &[u8]) -> ExecStatus {
    let status: Status = match serde_json::from_slice(json) {
        Ok(status) => status,
        Err(error) => return ExecStatus::Refused(format!("the exec's status cannot be parsed: {error}")),
    };
    if status.is_success() {
        return ExecStatus::Exited(0);
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let code = causes.filter(|cause| cause.reason == "ExitCode").find_map(|cause| cause.message.parse().ok());
    match code {
        Some(0) | None => ExecStatus::Refused(status.message),
        Some(code) => ExecStatus::Exited(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_frames_are_read_by_their_causes() {
        let exited = br#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 7",
            "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(parse_status(exited), ExecStatus::Exited(7));
        assert_eq!(parse_status(br#"{"metadata":{},"status":"Success"}"#), ExecStatus::Exited(0));
        let refused = br#"{"status":"Failure","message":"no sh","reason":"InternalError","code":500}"#;
        assert_eq!(parse_status(refused), ExecStatus::Refused("no sh".into()));
        assert!(matches!(parse_status(b"{}"), ExecStatus::Refused(_)));
        assert!(matches!(parse_status(b"exit 0"), ExecStatus::Refused(_)));
    }
}
