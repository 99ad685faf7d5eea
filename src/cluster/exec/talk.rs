//! A small exec that is told one thing and answers in lines.
//!
//! It must not know what the lines mean. Their end is no proof of anything: each line has to speak for itself.

use std::ops::ControlFlow;

use bytes::Bytes;
use tokio::time::{Duration, timeout};

use super::{ExecStatus, Input, LineSource, Output, Session, lines::Lines};
use crate::model::{Failure, Reason};

/// A longer line is none of ours.
const LONGEST_LINE: usize = 64 * 1024;
/// How long the other side may say nothing at all.
const SILENT_FOR: Duration = Duration::from_secs(45);
/// How long it may take to end once its stdin has.
const END_WITHIN: Duration = Duration::from_secs(2);

/// How a talk ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Heard<T> {
    /// By our own wish.
    Enough(T),
    /// By the other side's, with what the carrier says of its end and it itself said on stderr.
    Ended {
        /// Its exit status, or why there is none.
        status: ExecStatus,
        /// Its last words, for people.
        stderr: String,
    },
}

/// Says `said`, and waits for the other side's end, however long that takes.
pub async fn tell(mut session: Session, said: Bytes) -> Result<Heard<()>, Failure> {
    let cut = |why: String| Failure::new(Reason::StreamCut, why);
    let (lines, _unread) = Lines::new();
    let mut stderr = lines.splitter(LineSource::Stderr);
    session.say(Input::Data(said)).await.map_err(|error| cut(error.to_string()))?;
    loop {
        match session.next().await {
            Some(Ok(Output::Stdout(_))) => {}
            Some(Ok(Output::Stderr(chunk))) => stderr.push(&chunk),
            Some(Ok(Output::Status(status))) => {
                drop(stderr);
                return Ok(Heard::Ended { status, stderr: lines.tail().trim_end().to_owned() });
            }
            Some(Err(error)) => return Err(cut(error.to_string())),
            None => return Err(cut("the connection ended".to_owned())),
        }
    }
}

/// Says `said`, and hands over each whole line that comes, until `take` breaks or the other side ends. A connection that
/// breaks, or is silent for too long, is an error; what was begun by `said` may go on then.
pub async fn talk<T>(
    mut session: Session,
    said: Bytes,
    mut take: impl FnMut(&str) -> ControlFlow<T>,
) -> Result<Heard<T>, Failure> {
    let cut = |why: String| Failure::new(Reason::StreamCut, why);
    let (lines, _unread) = Lines::new();
    let mut stderr = lines.splitter(LineSource::Stderr);
    let mut held = Vec::new();
    if !said.is_empty() {
        let saying = timeout(SILENT_FOR, session.say(Input::Data(said))).await;
        saying
            .map_err(|_| cut("the connection took nothing for too long".to_owned()))?
            .map_err(|error| cut(error.to_string()))?;
    }
    loop {
        let output = match timeout(SILENT_FOR, session.next()).await {
            Ok(Some(Ok(output))) => output,
            Ok(Some(Err(error))) => return Err(cut(error.to_string())),
            Ok(None) => return Err(cut("the connection ended".to_owned())),
            Err(_) => return Err(cut(format!("nothing was heard for {} s", SILENT_FOR.as_secs()))),
        };
        match output {
            Output::Stdout(chunk) => held.extend_from_slice(&chunk),
            Output::Stderr(chunk) => stderr.push(&chunk),
            Output::Status(status) => {
                drop(stderr);
                return Ok(Heard::Ended { status, stderr: lines.tail().trim_end().to_owned() });
            }
        }
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            if let ControlFlow::Break(enough) = take(&String::from_utf8_lossy(&line[..end])) {
                session.cancel(END_WITHIN, |output| matches!(output, Output::Status(_))).await;
                return Ok(Heard::Enough(enough));
            }
        }
        if held.len() > LONGEST_LINE {
            return Err(cut("what answers does not speak in lines".to_owned()));
        }
    }
}
