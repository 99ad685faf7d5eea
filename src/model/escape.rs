//! Escapes text of other programs and people before it is shown: control characters could forge lines of a log, and move
//! or recolour a terminal.
//!
//! It must not know where the text comes from, nor where it is shown.

use std::{borrow::Cow, fmt};

/// The text as one line without control characters: line breaks, the escape character, C1 and the characters that reorder
/// text (bidi) are written as Rust writes them in a string, `\n` or `\u{1b}`. Tabs stay.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_unsafe(character) { escaped.extend(character.escape_default()) } else { escaped.push(character) }
    }
    Cow::Owned(escaped)
}

/// The same for a text of several lines, whose line breaks stay.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|character| character != '\n' && is_unsafe(character)) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(escape).collect();
    Cow::Owned(lines.join("\n"))
}

/// A writer which escapes all that is written to the one below it.
pub struct Escaping<'a>(pub &'a mut dyn fmt::Write);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&escape(text))
    }
}

fn is_unsafe(character: char) -> bool {
    let reorders = matches!(character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    reorders || character.is_control() && character != '\t'
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

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
        fn nothing_unsafe_is_left_and_safe_text_stays(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert!(!escaped.chars().any(is_unsafe));
            prop_assert!(text.chars().any(is_unsafe) || escaped == text);
            prop_assert_eq!(escape(&escaped), escaped.clone());
            let mut written = String::new();
            write!(Escaping(&mut written), "{text}").unwrap();
            prop_assert_eq!(written, escaped);
            prop_assert_eq!(escape_lines(&text).lines().count() <= text.split('\n').count(), true);
        }
    }
}
