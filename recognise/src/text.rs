//! Dumps as SQL text: `pg_dump`, `pg_dumpall`, `mysqldump` and `mariadb-dump` begin and end with a comment.
//!
//! Dumps may be concatenated, and other text may follow the last dump. The end of each dump which began must be there.

use memchr::memmem::Finder;

use super::{Format, Recognised, missing, whole};

/// The meaning of a comment at the beginning of a line.
#[derive(Clone, Copy)]
enum Mark {
    Begin(Kind),
    End(Kind),
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Database,
    Cluster,
    Mysql,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Database => "PostgreSQL dump",
            Self::Cluster => "PostgreSQL cluster dump",
            Self::Mysql => "MySQL or MariaDB dump",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::Database => "-- PostgreSQL database dump complete",
            Self::Cluster => "-- PostgreSQL database cluster dump complete",
            Self::Mysql => "-- Dump completed",
        }
    }
}

/// Of marks with the same beginning, the longer mark comes first.
const MARKS: [(&[u8], Mark); 7] = [
    (b"-- PostgreSQL database dump complete", Mark::End(Kind::Database)),
    (b"-- PostgreSQL database dump", Mark::Begin(Kind::Database)),
    (b"-- PostgreSQL database cluster dump complete", Mark::End(Kind::Cluster)),
    (b"-- PostgreSQL database cluster dump", Mark::Begin(Kind::Cluster)),
    (b"-- Dump completed", Mark::End(Kind::Mysql)),
    (b"-- MySQL dump ", Mark::Begin(Kind::Mysql)),
    (b"-- MariaDB dump ", Mark::Begin(Kind::Mysql)),
];
const LONGEST_MARK: usize = 64;
const COMMENT: &[u8] = b"\n-- ";

fn mark_of(text: &[u8]) -> Option<Mark> {
    MARKS.iter().find(|(mark, _)| text.starts_with(mark)).map(|(_, mark)| *mark)
}

/// SQL as text.
pub(super) struct Text {
    kind: Kind,
    comments: Finder<'static>,
    held: Vec<u8>,
    /// The dumps which began and have not ended.
    open: Vec<Kind>,
}

impl Text {
    /// Creates the parser if the stream begins with one of the comments. `MariaDB` prints another line before its
    /// comment.
    pub fn of(head: &[u8]) -> Option<Self> {
        let is_sandbox = [&b"/*!999999\\-"[..], b"/*M!999999\\-"].iter().any(|line| head.starts_with(line));
        let line = if is_sandbox { head.iter().position(|byte| *byte == b'\n')? + 1 } else { 0 };
        let head = &head[line..];
        let Some(Mark::Begin(kind)) = mark_of(head.strip_prefix(b"--\n").unwrap_or(head)) else { return None };
        // The finder expects a newline before each comment, which the first line lacks.
        Some(Self { kind, comments: Finder::new(COMMENT), held: vec![b'\n'], open: Vec::new() })
    }

    /// Processes the comments which begin in the first `length` bytes.
    fn read(&mut self, length: usize) {
        let Self { comments, held, open, .. } = self;
        for at in comments.find_iter(held).take_while(|at| *at < length) {
            match mark_of(&held[at + 1..]) {
                Some(Mark::Begin(kind)) if !open.contains(&kind) => open.push(kind),
                Some(Mark::End(ended)) => open.retain(|kind| *kind != ended),
                _ => {}
            }
        }
        held.drain(..length);
    }
}

impl Format for Text {
    fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        self.read(self.held.len().saturating_sub(LONGEST_MARK));
    }

    fn finish(mut self: Box<Self>) -> Recognised {
        self.read(self.held.len());
        match self.open.last() {
            Some(kind) => missing(self.kind.name(), format!("the line {:?} at its end is missing", kind.end())),
            None => whole(self.kind.name()),
        }
    }
}
