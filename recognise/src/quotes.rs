//! Decides by the quotes after the header of a dump whether the header begins a dump, or is part of a quoted text.
//!
//! A dump may contain a table of SQL texts. In a quoted text each quote is doubled, so that the next single quote
//! closes the text. After the header of a dump the next single quote opens a text.

/// The quotes after a header.
#[derive(Default)]
pub(super) struct Quotes {
    last: u8,
    /// The byte before the quotes.
    before: u8,
    /// The number of quotes that directly follow each other, up to the last byte.
    run: u64,
}

impl Quotes {
    /// Processes the next bytes, in chunks of any size. Returns whether the header begins a dump as soon as that is
    /// known. In doubt the header is part of a text.
    pub fn push(&mut self, bytes: &[u8]) -> Option<bool> {
        for byte in bytes {
            if *byte == b'\'' {
                if self.run == 0 {
                    self.before = self.last;
                }
                self.run += 1;
            } else {
                let is_single = self.run % 2 == 1;
                self.run = 0;
                let decision = if is_single { is_opening(self.before, *byte) } else { None };
                if decision.is_some() {
                    return decision;
                }
            }
            self.last = *byte;
        }
        None
    }
}

/// Whether a quote between these bytes opens a text; `None` for an apostrophe in a comment.
fn is_opening(before: u8, after: u8) -> Option<bool> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match (is_name(before), is_name(after)) {
        // A text of bytes, such as X'00'.
        (true, true) if before.eq_ignore_ascii_case(&b'x') => Some(true),
        (true, true) => None,
        (true, false) => Some(false),
        // A value may begin with a blank.
        (false, _) if before == b'(' => Some(!b",);:|\r\n".contains(&after)),
        (false, _) => Some(b"(,= \t\n".contains(&before) && !b",);:| \t\r\n".contains(&after)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_single_quote_opens_a_text_after_a_header_and_closes_the_text_around_it() {
        for (text, is_begun) in [
            ("SET client_encoding = 'UTF8';", Some(true)),
            ("/*!40103 SET TIME_ZONE='+00:00' */;", Some(true)),
            ("CREATE TABLE t(a); -- it's\nINSERT INTO t VALUES(1,'ship');", Some(true)),
            ("INSERT INTO t VALUES('','''quoted''');", Some(true)),
            ("INSERT INTO t VALUES(X'00');", Some(true)),
            ("INSERT INTO t VALUES(' lead');", Some(true)),
            ("INSERT INTO t VALUES('\tlead');", Some(true)),
            ("SET client_encoding = ''UTF8'';\n', 'next');", Some(false)),
            ("SELECT 1; ');\nINSERT INTO t VALUES (2, 'x');", Some(false)),
            ("SELECT ''''a'''' ''');\n", Some(false)),
            ("SELECT f(', 'next');", Some(false)),
            ("SELECT f(');\n", Some(false)),
            ("SELECT 1;\n", None),
        ] {
            let mut quotes = Quotes::default();
            assert_eq!(quotes.push(text.as_bytes()), is_begun, "{text}");
            let mut quotes = Quotes::default();
            assert_eq!(text.as_bytes().chunks(1).find_map(|byte| quotes.push(byte)), is_begun, "{text} in bytes");
        }
    }
}
