//! A fake remote side, which plays steps on a session's carrier that a real one would not play on demand.

use bytes::Bytes;
use stowaway::exec::{Carrier, ExecStatus, Input, Output, SessionCut};

use super::nonce;

pub fn stdout(text: impl Into<Bytes>) -> Result<Output, SessionCut> {
    Ok(Output::Stdout(text.into()))
}

pub fn stderr(text: impl Into<Bytes>) -> Result<Output, SessionCut> {
    Ok(Output::Stderr(text.into()))
}

pub fn status(status: ExecStatus) -> Result<Output, SessionCut> {
    Ok(Output::Status(status))
}

pub fn cut() -> Result<Output, SessionCut> {
    Err(SessionCut("reset by peer".into()))
}

pub fn ready() -> Result<Output, SessionCut> {
    stdout(format!("{} ready\n", nonce().as_str()))
}

pub fn got() -> Result<Output, SessionCut> {
    stderr(format!("{} got\n", nonce().as_str()))
}

pub fn trailer(status: u16) -> Result<Output, SessionCut> {
    stdout(nonce().trailer(status))
}

/// A step of a fake remote side.
pub enum Step {
    Emit(Result<Output, SessionCut>),
    /// Waits for exactly these bytes.
    Expect(Bytes),
    /// Stays connected and sends nothing.
    Stall,
}

/// Plays the steps. Returns whether the runner closed stdin during a stall or before an expected input.
pub async fn play(mut carrier: Carrier, steps: Vec<Step>) -> bool {
    let mut received_input = Vec::new();
    for step in steps {
        match step {
            Step::Emit(output) => {
                let _ = carrier.output.send(output).await;
            }
            Step::Expect(bytes) => {
                while received_input.len() < bytes.len() {
                    match carrier.input.recv().await {
                        Some(Input::Data(data)) => received_input.extend_from_slice(&data),
                        Some(Input::Close) | None => return true,
                    }
                }
                assert_eq!(received_input, bytes);
                received_input.clear();
            }
            Step::Stall => loop {
                match carrier.input.recv().await {
                    Some(Input::Data(_)) => {}
                    Some(Input::Close) => return true,
                    None => return false,
                }
            },
        }
    }
    false
}
