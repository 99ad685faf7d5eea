//! What a sidecar's supervisor is asked, and what it tells: lines of text, so that the supervisor needs to understand no
//! more of a run than its name and whether it has ended.
//!
//! It must not know what a run does. Each line of a run has a number, from 1, so that a reader that was cut off goes on
//! where it stopped, and misses or doubles none unseen. The report names its digest over run and report: a line that was
//! shortened, or of another run, is none.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

/// No line is longer, with its newline.
pub const LONGEST_SIDECAR_LINE: usize = 16 * 1024;
/// No request's second line, the task, is longer: it fits into a pipe that nobody reads yet.
pub const LONGEST_TASK: usize = 32 * 1024;

/// What a supervisor is asked for, as its first line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// Begin the run `id`; the task follows as a second line. `key` says what it does: one of the same key that is under way
    /// is taken for it.
    Start {
        /// Which run.
        id: String,
        /// What it does.
        key: String,
    },
    /// Tell all lines of the run from this number on, as they come, up to its end.
    Watch {
        /// Which run.
        id: String,
        /// The first number.
        from: u64,
    },
    /// End the run.
    Cancel {
        /// Which run.
        id: String,
    },
}

impl Request {
    /// Its words; none of them is empty or has blanks in it if id and key are so.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Start { id, key } => vec!["start".to_owned(), id.clone(), key.clone()],
            Self::Watch { id, from } => vec!["watch".to_owned(), id.clone(), from.to_string()],
            Self::Cancel { id } => vec!["cancel".to_owned(), id.clone()],
        }
    }

    /// Reads its words.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        if words.iter().any(|word| word.is_empty()) {
            return None;
        }
        match *words.as_slice() {
            ["start", id, key] => Some(Self::Start { id: id.to_owned(), key: key.to_owned() }),
            ["watch", id, from] => Some(Self::Watch { id: id.to_owned(), from: from.parse().ok()? }),
            ["cancel", id] => Some(Self::Cancel { id: id.to_owned() }),
            _ => None,
        }
    }
}

/// What a supervisor answers to [`Request::Start`] and [`Request::Cancel`], and to a [`Request::Watch`] of a run that it does
/// not know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// The run began just now.
    Started(String),
    /// This one is it; it was begun before.
    Attached(String),
    /// Another one is under way, and there is only room for one.
    Busy {
        /// Which.
        id: String,
        /// What it does.
        key: String,
    },
    /// Nothing began, and will not.
    Refused(String),
    /// No run of that name is known.
    Unknown,
    /// The run was told to end, or has ended.
    Cancelled,
    /// No supervisor listens: whoever would have asked it says so.
    Nobody,
}

impl Reply {
    /// Reads a line without its newline.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "started" => Some(Self::Started(rest.to_owned())),
            "attached" => Some(Self::Attached(rest.to_owned())),
            "busy" => rest.split_once(' ').map(|(id, key)| Self::Busy { id: id.to_owned(), key: key.to_owned() }),
            "refused" => Some(Self::Refused(rest.to_owned())),
            "unknown" => Some(Self::Unknown),
            "cancelled" => Some(Self::Cancelled),
            "nobody" => Some(Self::Nobody),
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
            Self::Nobody => formatter.write_str("nobody"),
        }
    }
}

/// What happens in a run. A run's own process says `ready`, `connected` and `report` on its stdout; its stderr is its log.
#[derive(Clone, Eq, PartialEq)]
pub enum Event {
    /// A line of its log.
    Log(String),
    /// It waits for the helper at this socket, which has to give this word first.
    Ready {
        /// The word, which nobody else must see.
        token: String,
        /// The socket.
        socket: String,
    },
    /// The helper came; the word of [`Event::Ready`] is worth nothing any more, and stands there no longer.
    Connected,
    /// The place of an event that is not told any more.
    Passed,
    /// Its end, in its own words.
    Report {
        /// [`report_digest`] over run and report.
        digest: String,
        /// The report, on one line.
        text: String,
    },
    /// Its end, in the supervisor's words: it left no report.
    Lost(String),
}

impl Event {
    /// Reads a line without its newline and number.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, rest.split_once(' ')) {
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

    /// Whether nothing follows it.
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
            // It goes where errors and asserts go.
            Self::Ready { socket, .. } => write!(formatter, "ready (hidden) {socket}"),
            other => fmt::Display::fmt(other, formatter),
        }
    }
}

/// A line of a run as its watchers get it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// The event of this number.
    Event(u64, Event),
    /// Nothing new; still here.
    Beat,
}

/// What stands for [`Told::Beat`].
pub const BEAT: &str = "beat";

impl Told {
    /// Reads a line without its newline.
    pub fn parse(line: &str) -> Option<Self> {
        if line == BEAT {
            return Some(Self::Beat);
        }
        let (number, event) = line.split_once(' ')?;
        Some(Self::Event(number.parse().ok()?, Event::parse(event)?))
    }
}

/// SHA-256 over a run's name and its report, 64 hex digits.
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
    fn lines_are_read_as_they_were_said() {
        let (id, key) = ("nightly-0123456789".to_owned(), "uid/deployment/shop/db".to_owned());
        for request in [
            Request::Start { id: id.clone(), key: key.clone() },
            Request::Watch { id: id.clone(), from: u64::MAX },
            Request::Cancel { id: id.clone() },
        ] {
            assert_eq!(Request::parse(&request.words().join(" ")), Some(request));
        }
        for reply in [
            Reply::Started(id.clone()),
            Reply::Attached(id.clone()),
            Reply::Busy { id: id.clone(), key },
            Reply::Refused("for a reason".to_owned()),
            Reply::Unknown,
            Reply::Cancelled,
            Reply::Nobody,
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
            assert_eq!(Told::parse(&line), Some(Told::Event(7, event)));
        }
        assert_eq!(Told::parse(BEAT), Some(Told::Beat));
    }

    #[test]
    fn other_lines_are_not_taken_for_ours() {
        for line in ["", "start", "start a", "start a ", "start a b c", "watch a", "watch a -1", "cancel", "cancel a b"]
        {
            assert_eq!(Request::parse(line), None, "{line:?}");
        }
        for line in
            ["", "log x", "x log x", "1", "1 x", "1 ready", "1 ready x", "1 report x", "1 connected x", "beat x"]
        {
            assert_eq!(Told::parse(line), None, "{line:?}");
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
