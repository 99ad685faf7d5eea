//! The lines which a command prints for users, with passwords in URLs redacted. Their number is bounded, so that they
//! never hold up the data.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::watch::lock;
use crate::model::{PIPEFAIL_MISSING, redact};

/// Longer lines are split.
const MAX_LINE: usize = 8 * 1024;
/// The number of lines that wait for a slow reader. Further lines are dropped and counted.
const WAITING: usize = 256;
/// The size of the end of stderr that is kept for the report.
const TAIL: usize = 4 * 1024;

/// The source of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LineSource {
    /// The command's stdout. Only restores have such lines.
    Stdout,
    /// The command's stderr.
    Stderr,
}

/// One redacted line without its newline.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The stream from which the line came.
    pub source: LineSource,
    /// The text. Bytes which are not UTF-8 are replaced.
    pub text: String,
}

/// Collects lines. Clones share one tail.
#[derive(Clone, Debug)]
pub struct Lines {
    sender: mpsc::Sender<Line>,
    tail: Arc<Mutex<String>>,
    dropped: Arc<AtomicU64>,
    pipefail_missing: Arc<AtomicBool>,
}

impl Lines {
    /// Creates the collector, and the receiver of its lines. The lines need not be read.
    pub fn new() -> (Self, mpsc::Receiver<Line>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let lines = Self { sender, tail: Arc::default(), dropped: Arc::default(), pipefail_missing: Arc::default() };
        (lines, receiver)
    }

    /// The last lines of stderr, at most 4 KiB, redacted. They include lines which were dropped.
    pub fn tail(&self) -> String {
        lock(&self.tail).clone()
    }

    /// Whether a script reported that its shell has no `pipefail`.
    pub fn is_pipefail_missing(&self) -> bool {
        self.pipefail_missing.load(Ordering::Relaxed)
    }

    /// The number of lines that were dropped because they were not read in time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn splitter(&self, source: LineSource) -> Splitter {
        Splitter { lines: self.clone(), source, begun: Vec::new() }
    }

    fn add(&self, source: LineSource, line: &[u8]) {
        let text = redact(&String::from_utf8_lossy(line));
        if source == LineSource::Stderr {
            self.pipefail_missing.fetch_or(text == PIPEFAIL_MISSING, Ordering::Relaxed);
            let mut tail = lock(&self.tail);
            tail.push_str(&text);
            tail.push('\n');
            let start = tail.ceil_char_boundary(tail.len().saturating_sub(TAIL));
            tail.drain(..start);
        }
        if self.sender.try_send(Line { source, text }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Splits one stream into lines. The rest at its end is a line, too.
pub(super) struct Splitter {
    lines: Lines,
    source: LineSource,
    begun: Vec<u8>,
}

impl Splitter {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.begun.len();
            let part = &bytes[..bytes.len().min(room)];
            if let Some(end) = part.iter().position(|byte| *byte == b'\n') {
                self.begun.extend_from_slice(&part[..end]);
                bytes = &bytes[end + 1..];
                self.flush();
            } else {
                self.begun.extend_from_slice(part);
                bytes = &bytes[part.len()..];
                if self.begun.len() == MAX_LINE {
                    self.flush();
                }
            }
        }
    }

    fn flush(&mut self) {
        let line = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
        self.lines.add(self.source, line);
        self.begun.clear();
    }
}

impl Drop for Splitter {
    fn drop(&mut self) {
        if !self.begun.is_empty() {
            self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_and_the_last_needs_no_end() {
        let (lines, mut receiver) = Lines::new();
        lines.splitter(LineSource::Stderr).push(&[&[b'x'; MAX_LINE + 1][..], b"\r\n\nmongodb://u:p@h"].concat());
        let texts: Vec<String> = std::iter::from_fn(|| receiver.try_recv().ok()).map(|line| line.text).collect();
        assert_eq!(texts, ["x".repeat(MAX_LINE), "x".into(), String::new(), "mongodb://u:***@h".into()]);
    }

    #[test]
    fn unread_lines_are_counted_and_their_end_is_kept() {
        let (lines, _receiver) = Lines::new();
        let mut splitter = lines.splitter(LineSource::Stderr);
        for number in 0..5000 {
            splitter.push(format!("line {number}\n").as_bytes());
        }
        assert_eq!(lines.dropped(), 5000 - WAITING as u64);
        assert!(lines.tail().ends_with("line 4998\nline 4999\n") && lines.tail().len() <= TAIL);
    }
}
