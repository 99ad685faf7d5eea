//! Dumps as SQL text: `pg_dump`, `pg_dumpall`, `mysqldump` and `mariadb-dump` begin and end with a comment, and `.dump`
//! of `sqlite3` is a transaction.
//!
//! Dumps may be concatenated, and other text may follow the last dump; `preamble` reads text before the first dump.
//! Each dump which begins must end before the next dump of its kind begins. A table may contain the text of a dump, so
//! that a header within the data begins no dump. An end is recognised in any line, because a missed end would fail a
//! complete dump.

use memchr::{memchr, memmem};

use super::{Format, Recognised, missing, quotes::Quotes, take, whole};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Database,
    Cluster,
    Mysql,
    Sqlite,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Database => "PostgreSQL dump",
            Self::Cluster => "PostgreSQL cluster dump",
            Self::Mysql => "MySQL or MariaDB dump",
            Self::Sqlite => "SQLite dump",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::Database => "-- PostgreSQL database dump complete",
            Self::Cluster => "-- PostgreSQL database cluster dump complete",
            Self::Mysql => "-- Dump completed",
            Self::Sqlite => "COMMIT;",
        }
    }
}

/// The kinds which end with a comment.
const COMMENTED: [Kind; 3] = [Kind::Database, Kind::Cluster, Kind::Mysql];
const POSTGRES: [(Kind, &[u8]); 2] = [
    (Kind::Database, b"-- PostgreSQL database dump\n--\n"),
    (Kind::Cluster, b"-- PostgreSQL database cluster dump\n--\n"),
];
const MYSQL: [&[u8]; 2] = [b"-- MySQL dump ", b"-- MariaDB dump "];
/// The lines after the first line of a dump of `MySQL`.
const MYSQL_HOST: &[u8] = b"--\n-- Host: ";
const SQLITE: [&[u8]; 2] = [b"PRAGMA foreign_keys=OFF;\n", b"BEGIN TRANSACTION;\n"];
/// Lines of `sqlite3` about rows which it could not read. It then exits with 0.
const SQLITE_ERRORS: [&[u8]; 3] =
    [b"ROLLBACK; -- due to errors", b"/**** ERROR: (", b"/****** CORRUPTION ERROR *******/"];
/// The line after the header of a dump of `PostgreSQL`. In data its backslash is doubled.
const RESTRICT: &[u8] = b"\n\\restrict ";
/// The number of bytes before a line, and from its beginning, that determine its meaning.
const BEFORE: usize = 256;
const LINE: usize = 128;
/// The longest line with `COPY` which is read. It names each column of a table.
const MAX_COPY: usize = 256 * 1024;

/// Lines which are no statements of their own.
#[derive(Eq, PartialEq)]
enum Block {
    None,
    /// The rows of a table of `PostgreSQL`, one in each line: whether a row has several columns, and the dump which a
    /// row seems to end.
    Rows {
        has_columns: bool,
        ended: Option<Kind>,
    },
    /// The text of a function of `PostgreSQL`, with the line end which closes it.
    Function(Vec<u8>),
    /// Routines of `MySQL`, which have another delimiter.
    Routines,
}

/// A header which may be part of a text in quotes.
struct Candidate {
    kind: Kind,
    /// Whether a dump of the kind before it has not ended.
    was_open: bool,
    has_ended: bool,
    quotes: Quotes,
    /// The index in the held bytes of the first byte which `quotes` has not processed.
    at: usize,
}

/// SQL as text.
pub(super) struct Text {
    kind: Kind,
    /// The number of bytes that belong to the header which was recognised first.
    header: u64,
    /// The bytes which were not read, after at most `BEFORE` bytes which precede these bytes.
    held: Vec<u8>,
    /// The index in `held` of the first byte which was not read.
    at: usize,
    is_line_start: bool,
    /// The dumps which began and have not ended.
    open: Vec<Kind>,
    /// The number of dumps that have begun.
    begun: u64,
    block: Block,
    candidate: Option<Candidate>,
    failure: Option<String>,
}

/// The kind of the dump which begins here, and the length of the part of its header which determines the kind.
fn begin_of(head: &[u8]) -> Option<(Kind, usize)> {
    // MariaDB prints another line before its comment, and sqlite3 a comment about the import.
    let is_before = |line: &&[u8]| head.starts_with(line);
    let before = [&b"/*!999999\\-"[..], b"/*M!999999\\-", b"/* WARNING: Script requires "].iter().any(is_before);
    let line = if before { memchr(b'\n', head)? + 1 } else { 0 };
    let text = &head[line..];
    if text.starts_with(&SQLITE.concat()) {
        return Some((Kind::Sqlite, line + SQLITE[0].len() + SQLITE[1].len()));
    }
    let line = if text.starts_with(b"--\n") { line + 3 } else { line };
    let text = &head[line..];
    let is_begin = |begin: &[u8]| text.starts_with(begin);
    let postgres =
        POSTGRES.iter().find(|(kind, begin)| is_begin(first_line(begin)) && !is_begin(kind.end().as_bytes()));
    let kind = match postgres {
        Some((kind, _)) => *kind,
        None if MYSQL.iter().any(|begin| is_begin(begin)) => Kind::Mysql,
        None => return None,
    };
    Some((kind, line + memchr(b'\n', text).map_or(text.len(), |end| end + 1)))
}

fn first_line(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// Whether this line with `COPY` is followed by rows, and whether a row has several columns.
fn rows_of(line: &[u8]) -> Option<Block> {
    let mut is_quoted = false;
    let is_separator = |byte: &u8| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    };
    line.ends_with(b" FROM stdin;").then(|| Block::Rows { has_columns: line.iter().any(is_separator), ended: None })
}

impl Text {
    /// Creates the parser if the stream begins with the header of a dump.
    pub fn of(head: &[u8]) -> Option<Self> {
        begin_of(head).map(|(kind, header)| Self::begun(kind, header))
    }

    /// Creates the parser if the line contains the header of a dump, after other text which ends with `before`.
    pub fn after(before: &[u8], line: &[u8], is_end: bool) -> Option<Self> {
        if line.starts_with(SQLITE[1]) && before.ends_with(SQLITE[0]) {
            return Some(Self::begun(Kind::Sqlite, SQLITE[1].len()));
        }
        begin_in(before, line, is_end).map(|(kind, header)| Self::begun(kind, header))
    }

    fn begun(kind: Kind, header: usize) -> Self {
        Self {
            kind,
            header: header as u64,
            held: Vec::new(),
            at: 0,
            is_line_start: true,
            open: vec![kind],
            begun: 1,
            block: Block::None,
            candidate: None,
            failure: None,
        }
    }

    /// Reads all lines whose meaning the held bytes determine.
    fn read(&mut self, is_end: bool) {
        loop {
            if self.is_line_start {
                if !is_end && self.needs_more() {
                    break;
                }
                self.read_line(is_end);
                self.is_line_start = false;
            }
            let Some(length) = memchr(b'\n', &self.held[self.at..]) else {
                self.at = self.held.len();
                break;
            };
            self.at += length;
            if let Block::Function(end) = &self.block
                && self.held[..self.at].ends_with(end)
            {
                self.block = Block::None;
            }
            self.at += 1;
            self.is_line_start = true;
        }
        self.decide(self.held.len());
        let read = self.at.saturating_sub(BEFORE);
        self.held.drain(..read);
        self.at -= read;
        if let Some(candidate) = &mut self.candidate {
            candidate.at -= read;
        }
    }

    fn needs_more(&self) -> bool {
        let line = &self.held[self.at..];
        match line.first() {
            None => true,
            Some(b'C') if line.starts_with(b"COPY ") && line.len() < MAX_COPY => memchr(b'\n', line).is_none(),
            Some(b'-' | b'C' | b'B' | b'R' | b'/' | b'\\' | b' ' | b'D') => line.len() < LINE,
            _ => false,
        }
    }

    fn read_line(&mut self, is_end: bool) {
        let (before, line) = self.held.split_at(self.at);
        let starts_with = |text: &[u8]| line.starts_with(text);
        match line.first() {
            Some(b'-') => {
                if let Some(kind) = COMMENTED.into_iter().find(|kind| starts_with(kind.end().as_bytes())) {
                    self.end(kind);
                } else if let Some((kind, header)) = begin_in(before, line, is_end) {
                    // A row with several columns contains a tab, and a row never the backslash of this line.
                    let is_row = match self.block {
                        Block::Rows { has_columns, .. } => {
                            !has_columns && line.get(header..).is_none_or(|rest| !rest.starts_with(RESTRICT))
                        }
                        Block::Function(_) | Block::Routines => true,
                        Block::None => false,
                    };
                    if !is_row {
                        self.begin(kind);
                    }
                }
            }
            Some(b'B') if starts_with(SQLITE[1]) && before.ends_with(SQLITE[0]) && self.block == Block::None => {
                self.begin(Kind::Sqlite);
            }
            Some(b'C') if is_whole_line(line, Kind::Sqlite.end().as_bytes(), is_end) => self.end(Kind::Sqlite),
            Some(b'C') if self.block == Block::None && starts_with(b"COPY ") => {
                self.block = rows_of(first_line(line)).unwrap_or(Block::None);
            }
            Some(b'R' | b'/') if self.is_in_sqlite() && SQLITE_ERRORS.into_iter().any(starts_with) => {
                let what = "it contains an error of sqlite3, which could not read the whole database";
                self.failure.get_or_insert_with(|| what.to_owned());
                self.end(Kind::Sqlite);
            }
            Some(b'\\') if matches!(self.block, Block::Rows { .. }) && is_whole_line(line, b"\\.", is_end) => {
                // The end was a row, because the rows are complete.
                if let Block::Rows { ended: Some(kind), has_columns: false } = self.block {
                    self.open.push(kind);
                }
                self.block = Block::None;
            }
            Some(b' ') if self.block == Block::None => {
                let tag = line
                    .strip_prefix(b"    AS $")
                    .and_then(|rest| rest[..rest.len().min(LINE)].split(|byte| *byte == b'$').next());
                let is_tag = |tag: &&[u8]| tag.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
                if let Some(tag) = tag.filter(is_tag) {
                    self.block = Block::Function([b"$", tag, b"$;"].concat());
                }
            }
            Some(b'D') if starts_with(b"DELIMITER ") && matches!(self.block, Block::None | Block::Routines) => {
                self.block = if starts_with(b"DELIMITER ;\n") { Block::None } else { Block::Routines };
            }
            _ => {}
        }
    }

    fn is_in_sqlite(&self) -> bool {
        let is_candidate = |candidate: &Candidate| candidate.kind == Kind::Sqlite && !candidate.has_ended;
        self.open.contains(&Kind::Sqlite) || self.candidate.as_ref().is_some_and(is_candidate)
    }

    /// A dump begins in the line, unless its header is part of a text in quotes.
    fn begin(&mut self, kind: Kind) {
        self.decide(self.at);
        let is_open = |candidate: &Candidate| candidate.kind == kind && !candidate.has_ended;
        let was_open = self.open.contains(&kind) || self.candidate.as_ref().is_some_and(is_open);
        self.block = Block::None;
        let quotes = Quotes::default();
        self.candidate = Some(Candidate { kind, was_open, has_ended: false, quotes, at: self.at });
    }

    /// Decides by the held bytes up to this index whether the candidate begins a dump.
    fn decide(&mut self, end: usize) {
        let Some(candidate) = &mut self.candidate else { return };
        let bytes = self.held.get(candidate.at..end).unwrap_or_default();
        candidate.at = end;
        if let Some(is_begun) = candidate.quotes.push(bytes) {
            self.apply(is_begun);
        }
    }

    fn apply(&mut self, is_begun: bool) {
        let Some(candidate) = self.candidate.take().filter(|_| is_begun) else { return };
        let kind = candidate.kind;
        if candidate.was_open {
            let (line, number) = (kind.end(), self.begun);
            self.failure.get_or_insert_with(|| {
                format!("the line {line:?} at the end of its dump {number} is missing before the next dump begins")
            });
        }
        self.begun += 1;
        if !candidate.has_ended && !self.open.contains(&kind) {
            self.open.push(kind);
        }
    }

    fn end(&mut self, kind: Kind) {
        if let Block::Rows { ended, .. } = &mut self.block
            && self.open.contains(&kind)
        {
            *ended = Some(kind);
        }
        self.open.retain(|open| *open != kind);
        if let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.kind == kind) {
            candidate.has_ended = true;
        }
    }
}

/// The kind of the dump whose header contains this line, and the length of the header from this line on. A dump before
/// it may have ended in the middle of a line.
fn begin_in(before: &[u8], line: &[u8], is_end: bool) -> Option<(Kind, usize)> {
    let is_header = |(_, header): &(Kind, &[u8])| {
        line.starts_with(header) || is_end && header.starts_with(line) && line.len() >= first_line(header).len()
    };
    if before.ends_with(b"--\n")
        && let Some((kind, header)) = POSTGRES.into_iter().find(is_header)
    {
        return Some((kind, header.len()));
    }
    let before =
        before[before.len().saturating_sub(BEFORE)..].strip_suffix(b"\n").filter(|_| line.starts_with(MYSQL_HOST))?;
    let first = before.rsplit(|byte| *byte == b'\n').next()?;
    let is_begin = |begin: &[u8]| memmem::find(first, begin).is_some();
    MYSQL.into_iter().any(is_begin).then_some((Kind::Mysql, MYSQL_HOST.len()))
}

fn is_whole_line(line: &[u8], text: &[u8], is_end: bool) -> bool {
    match line.strip_prefix(text) {
        Some([]) => is_end,
        Some(rest) => rest.starts_with(b"\n") || rest.starts_with(b"\r\n"),
        None => false,
    }
}

impl Format for Text {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        take(&mut self.header, &mut bytes);
        self.held.extend_from_slice(bytes);
        self.read(false);
        None
    }

    fn finish(mut self: Box<Self>) -> Recognised {
        self.read(true);
        self.apply(true);
        match (&self.failure, self.open.last()) {
            (Some(what), _) => missing(self.kind.name(), what),
            (None, Some(kind)) => missing(self.kind.name(), format!("the line {:?} at its end is missing", kind.end())),
            (None, None) => whole(self.kind.name()),
        }
    }
}
