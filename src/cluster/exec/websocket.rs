//! A session over a WebSocket of the protocol v5.channel.k8s.io: each binary frame begins with its channel's number.
//!
//! Reader and writer are tasks of their own, so that a stalled stdin stops neither stdout nor, at the other's stall, the
//! pings. It must not know what is said. Source: `k8s.io/apimachinery/pkg/util/remotecommand`.

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
    session::{Carrier, Quiet},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// How a connection is watched.
#[derive(Clone, Copy, Debug)]
pub struct Pings {
    /// How often we ask.
    pub every: Duration,
    /// How long the other side may say nothing at all while it owes an answer.
    pub within: Duration,
}

impl Default for Pings {
    /// Every 15 seconds; three without any answer are too many.
    fn default() -> Self {
        Self { every: Duration::from_secs(15), within: Duration::from_secs(45) }
    }
}

/// Bytes of stdin in one frame, as kubectl has it.
const FRAME: usize = 32 * 1024;

/// A session over an upgraded connection.
pub fn websocket_session<S>(stream: WebSocketStream<S>, pings: Pings) -> Session
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, source) = stream.split();
    let (session, Carrier { output, input, quiet }) = Session::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(write(sink, input, quiet.clone(), pings.every));
    tasks.spawn(read(source, output, quiet, pings.within));
    session.carried_by(tasks)
}

/// Ends at the first error: the reader sees the same connection break, and says so.
async fn write<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut input: mpsc::Receiver<Input>,
    quiet: Quiet,
    ping_every: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = interval(ping_every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            said = input.recv() => match said {
                None => return,
                Some(Input::Close) => sink.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await,
                Some(Input::Data(data)) => {
                    quiet.sending(true);
                    let sent = send(&mut sink, data).await;
                    quiet.sending(false);
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
    quiet: Quiet,
    within: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let said = match next(&mut source, &quiet, within).await {
            Ok(Some(Message::Binary(frame))) => match parse(frame) {
                Some(said) => Ok(said),
                None => continue,
            },
            // Text is not of this protocol; pings are answered by the library; what follows a close is the end.
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(cut) => Err(cut),
        };
        let is_last = said.is_err();
        // While nobody takes it, nothing is read: that is what makes the remote command wait.
        if output.send(said).await.is_err() || is_last {
            return;
        }
    }
}

/// The next message, if the other side lives. Only the time that was spent listening counts against it.
async fn next(
    source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    quiet: &Quiet,
    within: Duration,
) -> Result<Option<Message>, SessionCut> {
    let mut listening_since = Instant::now();
    loop {
        let quiet_since = quiet.since().map(|since| since.max(listening_since));
        let patience = quiet_since.map_or(within, |since| within.saturating_sub(since.elapsed()));
        match timeout(patience, source.next()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(message))) => return Ok(Some(message)),
            Ok(Some(Err(error))) => return Err(SessionCut(format!("the connection to the API server broke: {error}"))),
            Err(_) => {
                let silent = quiet.since().is_some_and(|since| since.max(listening_since).elapsed() >= within);
                if silent {
                    let message = format!("the API server answered no ping for {} seconds", within.as_secs_f32());
                    return Err(SessionCut(message));
                }
                if quiet.since().is_none() {
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

/// `metav1.Status` as the kubelet's remotecommand server writes it: the exit code is a cause named `ExitCode`.
fn parse_status(json: &[u8]) -> ExecStatus {
    let status: Status = match serde_json::from_slice(json) {
        Ok(status) => status,
        Err(error) => return ExecStatus::Refused(format!("the exec's status cannot be read: {error}")),
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
