//! Splits a command line into arguments exactly as K8up does, which differs from a shell.
//!
//! Specification: the behaviour of firepear/qsplit 2.5.0 with its default quotes. Blanks are the space and the
//! horizontal tab, so a line feed is part of an argument. A quote (`'` or `"`) opens only where an argument may begin,
//! and ends at the next same quote, which also ends the argument: `'a b'"c"` is two arguments, and so is `--x='a b'`.
//! There is no escape character. A quote that is never closed extends to the end.

use crate::model::Quoting;

/// The arguments of a command line.
pub fn split(line: &str) -> Vec<String> {
    scan(line).arguments.into_iter().map(str::to_owned).collect()
}

/// The result of a split.
pub(super) struct Scan<'a> {
    pub arguments: Vec<&'a str>,
    /// The quoting of each argument.
    pub quoting: Vec<Quoting>,
    /// Whether the last argument is a quote that is never closed.
    pub open_quote: bool,
}

/// Splits the line, and reports an open quote.
pub(super) fn scan(line: &str) -> Scan<'_> {
    let mut arguments = Vec::new();
    let mut quoting = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        let Some(first) = rest.chars().next() else {
            return Scan { arguments, quoting, open_quote: false };
        };
        quoting.push(match first {
            '\'' => Quoting::Single,
            '"' => Quoting::Double,
            _ => Quoting::Bare,
        });
        if matches!(first, '\'' | '"') {
            let quoted = &rest[1..];
            let Some(end) = quoted.find(first) else {
                arguments.push(quoted);
                return Scan { arguments, quoting, open_quote: true };
            };
            arguments.push(&quoted[..end]);
            rest = &quoted[end + 1..];
        } else {
            let end = rest.find([' ', '\t']).unwrap_or(rest.len());
            arguments.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arguments_are_those_of_qsplit() {
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
    fn open_quote_is_reported() {
        for (line, open) in [("a 'b", true), ("'", true), ("a 'b'", false), ("it's", false), ("\"a'", true)] {
            assert_eq!(scan(line).open_quote, open, "{line:?}");
        }
    }

    #[test]
    fn quoting_of_each_argument_is_reported() {
        let scan = scan("sh -c 'a | b' \"$X\"it's 'open");
        assert_eq!(scan.arguments, ["sh", "-c", "a | b", "$X", "it's", "open"]);
        let expected = [Quoting::Bare, Quoting::Bare, Quoting::Single, Quoting::Double, Quoting::Bare, Quoting::Single];
        assert_eq!(scan.quoting, expected);
    }

    proptest! {
        #[test]
        fn nothing_but_blanks_and_quotes_is_lost(line in "[ab \t'\"\n`\\\\]{0,40}") {
            let strip = |text: &str| text.replace([' ', '\t', '\'', '"'], "");
            prop_assert_eq!(strip(&split(&line).concat()), strip(&line));
        }

        #[test]
        fn quoted_arguments_come_back_as_they_were(arguments in proptest::collection::vec("[^']{0,12}", 0..8)) {
            let line = arguments.iter().map(|argument| format!("'{argument}'")).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(&line), arguments);
        }

        #[test]
        fn plain_arguments_come_back_as_they_were(arguments in proptest::collection::vec("[^ \t'\"][^ \t]{0,12}", 0..8)) {
            prop_assert_eq!(split(&arguments.join(" \t")), arguments);
        }

        #[test]
        fn any_line_is_split(line in any::<String>()) {
            split(&line);
        }
    }
}
