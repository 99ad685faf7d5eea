//! How a command line becomes words: exactly as K8up does it, which is not how a shell does it.
//!
//! Specification: the behaviour of firepear/qsplit 2.5.0, with its default quotes. Blanks are the space and the
//! horizontal tab, so a line feed is part of a word. A quote (`'` or `"`) opens only where a word may begin and ends at
//! the next same quote, which also ends the word: `'a b'"c"` is two words, `--x='a b'` is two, too. There is no
//! escape. A quote that is never closed runs to the end.

/// The words of a command line.
pub fn split(line: &str) -> Vec<String> {
    scan(line).words.into_iter().map(str::to_owned).collect()
}

/// The words, and whether the last one is a quote that nobody closed.
pub(super) struct Scan<'a> {
    /// The words.
    pub words: Vec<&'a str>,
    /// A quote is still open at the end.
    pub open_quote: bool,
}

/// Splits, and tells of an open quote.
pub(super) fn scan(line: &str) -> Scan<'_> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        let Some(first) = rest.chars().next() else {
            return Scan { words, open_quote: false };
        };
        if matches!(first, '\'' | '"') {
            let quoted = &rest[1..];
            let Some(end) = quoted.find(first) else {
                words.push(quoted);
                return Scan { words, open_quote: true };
            };
            words.push(&quoted[..end]);
            rest = &quoted[end + 1..];
        } else {
            let end = rest.find([' ', '\t']).unwrap_or(rest.len());
            words.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_those_of_qsplit() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" \t ", &[]),
            ("pg_dump", &["pg_dump"]),
            ("mysqldump -uroot -psecure --all-databases", &["mysqldump", "-uroot", "-psecure", "--all-databases"]),
            ("  a\tb \t c  ", &["a", "b", "c"]),
            ("sh -c 'pg_dump | gzip'", &["sh", "-c", "pg_dump | gzip"]),
            ("sh -c \"echo 'a b'\"", &["sh", "-c", "echo 'a b'"]),
            ("sh -c 'echo \"a  b\"'", &["sh", "-c", "echo \"a  b\""]),
            ("'a b'\"c\"", &["a b", "c"]),
            ("'a'b", &["a", "b"]),
            ("'a''b'", &["a", "b"]),
            ("--x='a b'", &["--x='a", "b'"]),
            ("it's a", &["it's", "a"]),
            ("a\"b c\"d", &["a\"b", "c\"d"]),
            ("''", &[""]),
            ("a '' \"\"", &["a", "", ""]),
            ("'", &[""]),
            ("a '", &["a", ""]),
            ("sh -c 'never closed \t x ", &["sh", "-c", "never closed \t x "]),
            ("'it\\'s'", &["it\\", "s'"]),
            ("a\\ b", &["a\\", "b"]),
            ("pg_dump shop\n", &["pg_dump", "shop\n"]),
            ("a\nb\r\nc d", &["a\nb\r\nc", "d"]),
            ("\n'a b'", &["\n'a", "b'"]),
            ("a\u{a0}b\u{2003}c", &["a\u{a0}b\u{2003}c"]),
            ("`date x` «a b»", &["`date", "x`", "«a", "b»"]),
            ("'ä ö' ü", &["ä ö", "ü"]),
        ];
        for (line, expected) in cases {
            assert_eq!(&split(line), expected, "{line:?}");
        }
    }

    #[test]
    fn quote_that_nobody_closes_is_told() {
        for (line, open) in [("a 'b", true), ("'", true), ("a 'b'", false), ("it's", false), ("\"a'", true)] {
            assert_eq!(scan(line).open_quote, open, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_blanks_and_quotes_is_lost(line in "[ab \t'\"\n`\\\\]{0,40}") {
            let strip = |text: &str| text.replace([' ', '\t', '\'', '"'], "");
            prop_assert_eq!(strip(&split(&line).concat()), strip(&line));
        }

        #[test]
        fn quoted_words_come_back_as_they_were(words in proptest::collection::vec("[^']{0,12}", 0..8)) {
            let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(&line), words);
        }

        #[test]
        fn plain_words_come_back_as_they_were(words in proptest::collection::vec("[^ \t'\"][^ \t]{0,12}", 0..8)) {
            prop_assert_eq!(split(&words.join(" \t")), words);
        }

        #[test]
        fn any_line_is_split(line in any::<String>()) {
            split(&line);
        }
    }
}
