//! Text before the first dump of a stream: what a script or a dump program prints before the header, such as empty
//! lines, comments, warnings and short SQL statements.
//!
//! After such text a header begins a dump by the same rules as between two dumps. After any other text the format of
//! the stream is unknown, because the header may be part of that text.

use memchr::{memchr, memmem};

use super::{append, text::Text};

/// The longest text before a dump.
const LONGEST: usize = 64 * 1024;
/// The number of bytes from the beginning of a line that determine whether a header begins there.
const HEADER: usize = 512;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The beginnings of lines which are comments, or commands of `psql`.
const COMMENTS: [&str; 3] = ["--", "#", "\\"];
/// Text before the colon in a message: programs whose stderr a script may send into the dump, and the severities of a
/// server's messages.
const SENDERS: [&str; 13] = [
    "mysqldump",
    "mariadb-dump",
    "mysql",
    "mariadb",
    "pg_dump",
    "pg_dumpall",
    "psql",
    "sqlite3",
    "notice",
    "note",
    "hint",
    "detail",
    "info",
];
/// Parts of the warnings of any program.
const WARNINGS: [&str; 2] = ["warning:", "[warning]"];
/// The first keywords of statements which a script may print before a dump.
const STATEMENTS: [&str; 34] = [
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "CALL",
    "CHECKPOINT",
    "COMMENT",
    "COMMIT",
    "CREATE",
    "DELETE",
    "DISCARD",
    "DO",
    "DROP",
    "END",
    "FLUSH",
    "GRANT",
    "INSERT",
    "LOCK",
    "PRAGMA",
    "REPLACE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SELECT",
    "SET",
    "SHOW",
    "START",
    "TRUNCATE",
    "UNLOCK",
    "UPDATE",
    "USE",
    "VACUUM",
    "VALUES",
    "WITH",
];

/// The text that a line continues.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Open {
    #[default]
    Nothing,
    /// A comment between `/*` and `*/`.
    Comment,
    /// A statement without its semicolon so far.
    Statement { is_quoted: bool },
}

/// The state after some bytes.
pub(super) enum Reading {
    /// A dump may follow.
    Continues,
    /// A dump has begun. The bytes are those from its header on.
    Dump(Box<Text>, Vec<u8>),
    /// The format of the stream is unknown.
    Unknown,
}

/// The text so far.
#[derive(Default)]
pub(super) struct Preamble {
    held: Vec<u8>,
    /// The index in `held` of the line which was not read yet.
    at: usize,
    open: Open,
}

impl Preamble {
    /// Processes the next bytes, in chunks of any size. Is not called again after it has returned another result than
    /// [`Reading::Continues`].
    pub fn push(&mut self, mut bytes: &[u8], is_end: bool) -> Reading {
        append(&mut self.held, LONGEST + HEADER, &mut bytes);
        while self.at <= LONGEST {
            let (before, rest) = self.held.split_at(self.at);
            if !is_end && rest.len() < HEADER {
                return Reading::Continues;
            }
            if self.open == Open::Nothing
                && let Some(text) = Text::after(before, rest, is_end)
            {
                return Reading::Dump(Box::new(text), [rest, bytes].concat());
            }
            let Some(length) = memchr(b'\n', rest) else {
                let is_full = self.held.len() == LONGEST + HEADER;
                return if is_end || is_full { Reading::Unknown } else { Reading::Continues };
            };
            let Some(open) = self.open.after(&rest[..length]) else { return Reading::Unknown };
            self.open = open;
            self.at += length + 1;
        }
        Reading::Unknown
    }
}

impl Open {
    /// The text that the next line continues; `None` if this line is no text which may precede a dump.
    fn after(self, line: &[u8]) -> Option<Self> {
        let mut text = line;
        while let Some(rest) = text.strip_prefix(BYTE_ORDER_MARK) {
            text = rest;
        }
        let text = text.trim_ascii();
        match self {
            Self::Comment => after_comment(text),
            Self::Statement { is_quoted } => after_statement(text, is_quoted),
            Self::Nothing => {
                if let Some(comment) = text.strip_prefix(b"/*") {
                    return after_comment(comment);
                }
                let is_comment = COMMENTS.iter().any(|begin| text.starts_with(begin.as_bytes()));
                if text.is_empty() || is_comment || is_message(text) || is_command_tag(text) {
                    Some(Self::Nothing)
                } else if is_statement(text) {
                    after_statement(text, false)
                } else {
                    None
                }
            }
        }
    }
}

fn after_comment(text: &[u8]) -> Option<Open> {
    let Some(end) = memmem::find(text, b"*/") else { return Some(Open::Comment) };
    let rest = text[end + 2..].trim_ascii();
    (rest.is_empty() || rest == b";").then_some(Open::Nothing)
}

fn after_statement(text: &[u8], is_quoted: bool) -> Option<Open> {
    // Whether the backslash escapes the quote depends on the database, and on its settings.
    if memmem::find(text, b"\\'").is_some() {
        return None;
    }
    let is_quoted = text.iter().fold(is_quoted, |is_quoted, byte| is_quoted ^ (*byte == b'\''));
    Some(if !is_quoted && text.ends_with(b";") { Open::Nothing } else { Open::Statement { is_quoted } })
}

/// Whether a program or a server reports something in this line.
fn is_message(text: &[u8]) -> bool {
    let sender = memchr(b':', text).and_then(|colon| text[..colon].rsplit(|byte| *byte == b'/').next());
    let is_sender = |sender: &[u8]| SENDERS.iter().any(|known| sender.eq_ignore_ascii_case(known.as_bytes()));
    let lowercase = text.to_ascii_lowercase();
    sender.is_some_and(is_sender) || WARNINGS.iter().any(|part| memmem::find(&lowercase, part.as_bytes()).is_some())
}

fn is_statement(text: &[u8]) -> bool {
    let length = text.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    STATEMENTS.iter().any(|first| text[..length].eq_ignore_ascii_case(first.as_bytes()))
}

/// Whether this is the line which `psql` prints after a statement, such as `CREATE TABLE`.
fn is_command_tag(text: &[u8]) -> bool {
    let is_of_tag = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    is_statement(text) && text.iter().all(is_of_tag)
}
