//! Short exchanges with a remote program which answers in lines. The end of the lines proves nothing, so that each line
//! must be meaningful by itself.

use std::ops::ControlFlow;

use bytes::Bytes;
use tokio::time::{Duration, timeout};

use super::{ExecStatus, Input, LineSource, Output, Session, lines::Lines};
use crate::model::{Failure, Reason};

/// A longer line is an error.
const MAX_LINE: usize = 64 * 1024;
/// The time for which the other side may send nothing.
const SILENT_FOR: Duration = Duration::from_secs(45);
/// The time that the other side may take to end after its stdin was closed.
const END_WITHIN: Duration = Duration::from_secs(2);

/// The end of an exchange.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ExchangeOutcome<T> {
    /// The caller's closure ended the exchange.
    Complete(T),
    /// The remote command ended.
    RemoteEnded {
        /// Its exit status, or why there is none.
        status: ExecStatus,
        /// The last lines of its stderr, for users.
        stderr: String,
    },
}

/// Sends `line`, and waits for the remote command's end, however long that takes.
pub async fn send_line(mut session: Session, line: Bytes) -> Result<ExchangeOutcome<()>, Failure> {
    let cut = |why: String| Failure::new(Reason::StreamCut, why);
    let (lines, _unread) = Lines::new();
    let mut stderr = lines.splitter(LineSource::Stderr);
    session.send(Input::Data(line)).await.map_err(|error| cut(error.to_string()))?;
    loop {
        match session.next().await {
            Some(Ok(Output::Stdout(_))) => {}
            Some(Ok(Output::Stderr(chunk))) => stderr.push(&chunk),
            Some(Ok(Output::Status(status))) => {
                drop(stderr);
                return Ok(ExchangeOutcome::RemoteEnded { status, stderr: lines.tail().trim_end().to_owned() });
            }
            Some(Err(error)) => return Err(cut(error.to_string())),
            None => return Err(cut("the connection ended".to_owned())),
        }
    }
}

/// Sends `request`, and passes each complete line of the response to `take`, until `take` breaks or the remote command
/// ends. A connection which breaks, or is silent for too long, is an error. The action which `request` began may
/// continue after such an error.
pub async fn exchange_lines<T>(
    mut session: Session,
    request: Bytes,
    mut take: impl FnMut(&str) -> ControlFlow<T>,
) -> Result<ExchangeOutcome<T>, Failure> {
    let cut = |why: String| Failure::new(Reason::StreamCut, why);
    let (lines, _unread) = Lines::new();
    let mut stderr = lines.splitter(LineSource::Stderr);
    let mut held = Vec::new();
    if !request.is_empty() {
        let sending = timeout(SILENT_FOR, session.send(Input::Data(request))).await;
        sending
            .map_err(|_| cut("the connection accepted no data for too long".to_owned()))?
            .map_err(|error| cut(error.to_string()))?;
    }
    loop {
        let output = match timeout(SILENT_FOR, session.next()).await {
            Ok(Some(Ok(output))) => output,
            Ok(Some(Err(error))) => return Err(cut(error.to_string())),
            Ok(None) => return Err(cut("the connection ended".to_owned())),
            Err(_) => return Err(cut(format!("nothing was received for {} s", SILENT_FOR.as_secs()))),
        };
        match output {
            Output::Stdout(chunk) => held.extend_from_slice(&chunk),
            Output::Stderr(chunk) => stderr.push(&chunk),
            Output::Status(status) => {
                drop(stderr);
                return Ok(ExchangeOutcome::RemoteEnded { status, stderr: lines.tail().trim_end().to_owned() });
            }
        }
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            if let ControlFlow::Break(enough) = take(&String::from_utf8_lossy(&line[..end])) {
                session.cancel(END_WITHIN, |output| matches!(output, Output::Status(_))).await;
                return Ok(ExchangeOutcome::Complete(enough));
            }
        }
        if held.len() > MAX_LINE {
            return Err(cut("the response is not made of lines".to_owned()));
        }
    }
}
