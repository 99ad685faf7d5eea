//! Text that is safe to print: names of files in a reversible form, and text of other programs and users. Control
//! characters could forge lines of a log, and move the cursor or change the colours of a terminal.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// The escaped form of a name or path. A backslash is `\\`; each byte of a control or formatting character, and each
/// byte that is not UTF-8, is `\xHH`; everything else stays. No two names have the same form.
pub fn escape_name(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str(r"\\"),
                character if is_unsafe(character) => {
                    push_bytes(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                character => text.push(character),
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

/// The bytes of a name in its escaped form. A backslash that begins no escape sequence is literal.
pub fn unescape_name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [b'\\', b'\\', after @ ..] => {
                bytes.push(b'\\');
                after
            }
            [b'\\', b'x', high, low, after @ ..] if digit(*high).is_some() && digit(*low).is_some() => {
                bytes.push(digit(*high).unwrap_or_default() << 4 | digit(*low).unwrap_or_default());
                after
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                after
            }
            [] => return bytes,
        };
    }
}

/// The text as one line without control characters. Line breaks, the escape character, C1 characters and the characters
/// that reorder text (bidi) are written as in a Rust string, `\n` or `\u{1b}`. Tabs stay.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe_text) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_unsafe_text(character) { escaped.extend(character.escape_default()) } else { escaped.push(character) }
    }
    Cow::Owned(escaped)
}

/// Like [`escape`], for a text of several lines, whose line breaks stay.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|character| character != '\n' && is_unsafe_text(character)) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(escape).collect();
    Cow::Owned(lines.join("\n"))
}

/// A writer which escapes everything before it passes it to the inner writer.
pub struct Escaping<'a>(pub &'a mut dyn fmt::Write);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&escape(text))
    }
}

/// Control characters, the line separators of Unicode, and characters that change the direction of text or are
/// invisible.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Like [`is_unsafe`], for text, in which a tab does no harm.
fn is_unsafe_text(character: char) -> bool {
    character != '\t' && is_unsafe(character)
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "\\x{byte:02x}");
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_a_readable_form() {
        for (name, form) in [
            (b"plain \xc3\xbc.txt".as_slice(), "plain ü.txt"),
            (b"caf\xe9.txt", r"caf\xe9.txt"),
            (b"new\nline", r"new\x0aline"),
            (b"\x1b[31mred", r"\x1b[31mred"),
            (b"back\\slash", r"back\\slash"),
            (b"a\\x41", r"a\\x41"),
            // CSI in one character, and a text that is displayed from right to left.
            (b"\xc2\x9b2J", r"\xc2\x9b2J"),
            (b"\xe2\x80\xaegpj.exe", r"\xe2\x80\xaegpj.exe"),
        ] {
            assert_eq!(escape_name(name), form);
            assert_eq!(unescape_name(form), name, "{form}");
        }
    }

    #[test]
    fn backslash_that_begins_no_escape_is_literal() {
        for text in [r"a\b", r"\", r"\x", r"\x4", r"\xzz", r"\n"] {
            assert_eq!(unescape_name(text), text.as_bytes());
        }
    }

    #[test]
    fn control_and_bidi_characters_are_shown_and_take_no_effect() {
        for (text, expected) in [
            ("a\n2026-01-01T00:00:00Z  INFO verdict Succeeded", "a\\n2026-01-01T00:00:00Z  INFO verdict Succeeded"),
            ("\u{1b}]52;c;aGk=\u{7}", "\\u{1b}]52;c;aGk=\\u{7}"),
            ("\u{9b}2J\u{7f}\r", "\\u{9b}2J\\u{7f}\\r"),
            ("abc\u{202e}txt.exe", "abc\\u{202e}txt.exe"),
            ("plain\ttext, Grüße, 日本, \\n", "plain\ttext, Grüße, 日本, \\n"),
        ] {
            assert_eq!(escape(text), expected);
        }
        assert_eq!(escape_lines("one\ntwo\r\u{1b}[2J"), "one\ntwo\\r\\u{1b}[2J");
    }

    proptest! {
        #[test]
        fn each_name_has_a_form_of_its_own_without_control_characters(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let form = escape_name(&name);
            prop_assert!(!form.chars().any(is_unsafe));
            prop_assert_eq!(unescape_name(&form), name);
        }

        #[test]
        fn nothing_unsafe_is_left_and_safe_text_stays(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert!(!escaped.chars().any(is_unsafe_text));
            prop_assert!(text.chars().any(is_unsafe_text) || escaped == text);
            prop_assert_eq!(escape(&escaped), escaped.clone());
            let mut written = String::new();
            write!(Escaping(&mut written), "{text}").unwrap();
            prop_assert_eq!(written, escaped);
            prop_assert_eq!(escape_lines(&text).lines().count() <= text.split('\n').count(), true);
        }
    }
}
