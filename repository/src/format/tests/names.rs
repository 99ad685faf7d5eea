//! Tests of the names of entries.

use super::super::name::{escape, unescape};

#[test]
fn names_are_escaped_as_before() {
    for (name, escaped) in [
        (&b"plain"[..], "plain"),
        (b"", ""),
        ("ü ❤ 💯\u{200b}".as_bytes(), "ü ❤ 💯\u{200b}"),
        (b"a\\b", r"a\\b"),
        (b"\"'`", r#"\"'`"#),
        (b"\x07\x08\x0c\n\r\t\x0b", r"\a\b\f\n\r\t\v"),
        (b"\x01\x7f", "\u{1}\u{7f}"),
        (b"\xff", r"\xff"),
        (b"a\xc2", r"a\xc2"),
        (b"\xe2\x82a\xf0\x9f\x92", r"\xe2\x82a\xf0\x9f\x92"),
    ] {
        assert_eq!(escape(name), escaped);
        assert_eq!(unescape(escaped).as_deref(), Some(name), "{escaped}");
    }
}

#[test]
fn escape_sequences_of_go_are_read() {
    for (escaped, name) in [
        (r"\x01\x7F\xAb", &b"\x01\x7f\xab"[..]),
        (r"\u200b\u00DF\u2764", "\u{200b}ß❤".as_bytes()),
        (r"\U0001f4af", "💯".as_bytes()),
        (r"\'\`", b"'`"),
        (r"\\x41", br"\x41"),
    ] {
        assert_eq!(unescape(escaped).as_deref(), Some(name), "{escaped}");
    }
}

#[test]
fn invalid_escape_sequences_are_no_escaped_names() {
    for text in
        [r"\", r"a\", r"\q", r"\x", r"\x1", r"\x1g", r"\x+1", r"\xü", r"\u12", r"\ud800", r"\U00110000", r"\101"]
    {
        assert_eq!(unescape(text), None, "{text}");
    }
}
