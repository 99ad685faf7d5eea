//! The protocol of a sidecar's supervisor: requests, replies and events as lines of text. The supervisor needs to
//! understand only the name of a run and whether it has ended.
//!
//! The lines of a run are numbered from 1, so that a reader whose connection broke can continue without losing or
//! duplicating a line. The report contains a digest over the run's name and the report, so a truncated line, or the
//! line of another run, is not accepted as a report.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

/// The maximum length of a line, including its newline.
pub const MAX_SIDECAR_LINE: usize = 16 * 1024;
/// The maximum length of a request's second line, the task. It fits into the buffer of a pipe that is not read yet.
pub const MAX_TASK: usize = 32 * 1024;

/// A request to a supervisor: its first line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// Start the run `id`. The task follows as the second line. `key` identifies what the run does: a run with the same
    /// key that is already in progress is used instead.
    Start {
        /// Name of the run.
        id: String,
        /// The run's key, which identifies what the run does.
        key: String,
    },
    /// Send all lines of the run from this number on, until its end.
    Watch {
        /// Name of the run.
        id: String,
        /// The first number.
        from: u64,
    },
    /// Cancel the run.
    Cancel {
        /// Name of the run.
        id: String,
    },
}

impl Request {
    /// The tokens of the line. `id` and `key` must be neither empty nor contain blanks.
    pub fn tokens(&self) -> Vec<String> {
        match self {
            Self::Start { id, key } => vec!["start".to_owned(), id.clone(), key.clone()],
            Self::Watch { id, from } => vec!["watch".to_owned(), id.clone(), from.to_string()],
            Self::Cancel { id } => vec!["cancel".to_owned(), id.clone()],
        }
    }

    /// Parses a request.
    pub fn parse(line: &str) -> Option<Self> {
        let tokens: Vec<&str> = line.split(' ').collect();
        if tokens.iter().any(|token| token.is_empty()) {
            return None;
        }
        match *tokens.as_slice() {
            ["start", id, key] => Some(Self::Start { id: id.to_owned(), key: key.to_owned() }),
            ["watch", id, from] => Some(Self::Watch { id: id.to_owned(), from: from.parse().ok()? }),
            ["cancel", id] => Some(Self::Cancel { id: id.to_owned() }),
            _ => None,
        }
    }
}

/// The reply to [`Request::Start`] and [`Request::Cancel`], and to a [`Request::Watch`] of an unknown run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// The run was started.
    Started(String),
    /// This run, which was started before, has the same key.
    Attached(String),
    /// Another run is in progress, and a supervisor has only one.
    Busy {
        /// Name of that run.
        id: String,
        /// The key of that run.
        key: String,
    },
    /// Nothing was started, and a retry would not help.
    Refused(String),
    /// No run with this name is known.
    Unknown,
    /// The request to end the run was accepted, or the run has already ended.
    Cancelled,
    /// No supervisor listens. The client itself prints this reply.
    NoSupervisor,
}

impl Reply {
    /// Parses a line without its newline.
    pub fn parse(line: &str) -> Option<Self> {
        let (token, rest) = line.split_once(' ').unwrap_or((line, ""));
        match token {
            "started" => Some(Self::Started(rest.to_owned())),
            "attached" => Some(Self::Attached(rest.to_owned())),
            "busy" => rest.split_once(' ').map(|(id, key)| Self::Busy { id: id.to_owned(), key: key.to_owned() }),
            "refused" => Some(Self::Refused(rest.to_owned())),
            "unknown" => Some(Self::Unknown),
            "cancelled" => Some(Self::Cancelled),
            "nobody" => Some(Self::NoSupervisor),
            _ => None,
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(id) => write!(formatter, "started {id}"),
            Self::Attached(id) => write!(formatter, "attached {id}"),
            Self::Busy { id, key } => write!(formatter, "busy {id} {key}"),
            Self::Refused(why) => write!(formatter, "refused {}", why.replace('\n', " ")),
            Self::Unknown => formatter.write_str("unknown"),
            Self::Cancelled => formatter.write_str("cancelled"),
            Self::NoSupervisor => formatter.write_str("nobody"),
        }
    }
}

/// An event of a run. The run's process prints `ready`, `connected` and `report` on stdout; its stderr is its log.
#[derive(Clone, Eq, PartialEq)]
pub enum Event {
    /// A line of the log.
    Log(String),
    /// The run waits for the helper at this socket. The helper must first send the token.
    Ready {
        /// The token, which no other process may see.
        token: String,
        /// Path of the socket.
        socket: String,
    },
    /// The helper has connected. The token of [`Event::Ready`] is no longer valid, and no longer sent.
    Connected,
    /// Replaces an event that is no longer sent.
    Passed,
    /// The end of the run, with its own report.
    Report {
        /// [`report_digest`] over the run's name and the report.
        digest: String,
        /// The report, on one line.
        text: String,
    },
    /// The end of a run that left no report, with the supervisor's reason.
    Lost(String),
}

impl Event {
    /// Parses a line without its newline and number.
    pub fn parse(line: &str) -> Option<Self> {
        let (token, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (token, rest.split_once(' ')) {
            ("log", _) => Some(Self::Log(rest.to_owned())),
            ("ready", Some((token, socket))) => {
                Some(Self::Ready { token: token.to_owned(), socket: socket.to_owned() })
            }
            ("connected", None) if rest.is_empty() => Some(Self::Connected),
            ("passed", None) if rest.is_empty() => Some(Self::Passed),
            ("report", Some((digest, text))) => Some(Self::Report { digest: digest.to_owned(), text: text.to_owned() }),
            ("lost", _) => Some(Self::Lost(rest.to_owned())),
            _ => None,
        }
    }

    /// Whether this is the last event of a run.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Report { .. } | Self::Lost(_))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(text) => write!(formatter, "log {text}"),
            Self::Ready { token, socket } => write!(formatter, "ready {token} {socket}"),
            Self::Connected => formatter.write_str("connected"),
            Self::Passed => formatter.write_str("passed"),
            Self::Report { digest, text } => write!(formatter, "report {digest} {text}"),
            Self::Lost(why) => write!(formatter, "lost {}", why.replace('\n', " ")),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Errors and assertions print events.
            Self::Ready { socket, .. } => write!(formatter, "ready (hidden) {socket}"),
            other => fmt::Display::fmt(other, formatter),
        }
    }
}

/// A line of a run as a watcher receives it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WatchLine {
    /// The event with this number.
    Event(u64, Event),
    /// No new event; the run is still in progress.
    Heartbeat,
}

/// The line of [`WatchLine::Heartbeat`].
pub const HEARTBEAT: &str = "beat";

impl WatchLine {
    /// Parses a line without its newline.
    pub fn parse(line: &str) -> Option<Self> {
        if line == HEARTBEAT {
            return Some(Self::Heartbeat);
        }
        let (number, event) = line.split_once(' ')?;
        Some(Self::Event(number.parse().ok()?, Event::parse(event)?))
    }
}

/// SHA-256 over a run's name and its report, as 64 hex digits.
pub fn report_digest(id: &str, report: &str) -> String {
    let digest = Sha256::new().chain_update(id).chain_update("\n").chain_update(report).finalize();
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed_as_they_were_written() {
        let (id, key) = ("nightly-0123456789".to_owned(), "uid/deployment/shop/db".to_owned());
        for request in [
            Request::Start { id: id.clone(), key: key.clone() },
            Request::Watch { id: id.clone(), from: u64::MAX },
            Request::Cancel { id: id.clone() },
        ] {
            assert_eq!(Request::parse(&request.tokens().join(" ")), Some(request));
        }
        for reply in [
            Reply::Started(id.clone()),
            Reply::Attached(id.clone()),
            Reply::Busy { id: id.clone(), key },
            Reply::Refused("for a reason".to_owned()),
            Reply::Unknown,
            Reply::Cancelled,
            Reply::NoSupervisor,
        ] {
            assert_eq!(Reply::parse(&reply.to_string()), Some(reply));
        }
        for event in [
            Event::Log("  two  blanks ".to_owned()),
            Event::Log(String::new()),
            Event::Ready { token: "00".to_owned(), socket: "/a b/c".to_owned() },
            Event::Connected,
            Event::Passed,
            Event::Report { digest: "00".to_owned(), text: "{\"a\": 1}".to_owned() },
            Event::Lost("signal 9".to_owned()),
        ] {
            let line = format!("7 {event}");
            assert_eq!(WatchLine::parse(&line), Some(WatchLine::Event(7, event)));
        }
        assert_eq!(WatchLine::parse(HEARTBEAT), Some(WatchLine::Heartbeat));
    }

    #[test]
    fn other_lines_are_refused() {
        for line in ["", "start", "start a", "start a ", "start a b c", "watch a", "watch a -1", "cancel", "cancel a b"]
        {
            assert_eq!(Request::parse(line), None, "{line:?}");
        }
        for line in
            ["", "log x", "x log x", "1", "1 x", "1 ready", "1 ready x", "1 report x", "1 connected x", "beat x"]
        {
            assert_eq!(WatchLine::parse(line), None, "{line:?}");
        }
        assert_eq!(Reply::parse("busy x"), None);
    }

    #[test]
    fn digest_is_of_run_and_report_and_no_token_is_printed() {
        assert_ne!(report_digest("a", "b"), report_digest("b", "b"));
        assert_ne!(report_digest("a", "b"), report_digest("a", "c"));
        let ready = Event::Ready { token: "canary".to_owned(), socket: "/s".to_owned() };
        assert!(!format!("{ready:?}").contains("canary"));
    }
}
