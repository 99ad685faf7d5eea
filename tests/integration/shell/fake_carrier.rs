//! A fake remote side: plays steps over a session's carrier, as no real one would on demand. It knows no loop of ours.

use bytes::Bytes;
use stowaway::cluster::exec::{Carrier, ExecStatus, Input, Output, SessionCut};

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
    Say(Result<Output, SessionCut>),
    /// Waits for exactly these bytes.
    Hear(Bytes),
    /// Stays, and says nothing.
    Stall,
}

/// Plays the steps, and ends; gives whether our side closed stdin while it stalled.
pub async fn play(mut carrier: Carrier, steps: Vec<Step>) -> bool {
    let mut heard = Vec::new();
    for step in steps {
        match step {
            Step::Say(said) => {
                let _ = carrier.output.send(said).await;
            }
            Step::Hear(bytes) => {
                while heard.len() < bytes.len() {
                    match carrier.input.recv().await {
                        Some(Input::Data(data)) => heard.extend_from_slice(&data),
                        Some(Input::Close) | None => return true,
                    }
                }
                assert_eq!(heard, bytes);
                heard.clear();
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
