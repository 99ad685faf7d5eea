//! Names of files as text that is safe to print, and back.
//!
//! The form: a backslash is `\\`; each byte of a control or formatting character, and each byte that is no UTF-8, is `\xHH`;
//! everything else is itself. Pure; it must not know where the text is printed.

use std::fmt::Write;

/// The escape form of a name or path. No two names have the same form.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str(r"\\"),
                character if is_unprintable(character) => {
                    push_bytes(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                character => text.push(character),
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

/// A message for people in which no character controls a terminal or forges a line; backslashes stay, so it cannot be reversed.
pub fn printable(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for character in message.chars() {
        if is_unprintable(character) {
            push_bytes(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            text.push(character);
        }
    }
    text
}

/// The bytes that an escape form stands for. A backslash that begins no escape stands for itself.
pub fn unescape(text: &str) -> Vec<u8> {
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

/// Control characters, the line separators of Unicode, and characters that change the direction or are invisible.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
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
            assert_eq!(escape(name), form);
            assert_eq!(unescape(form), name, "{form}");
        }
    }

    #[test]
    fn backslash_that_begins_no_escape_stands_for_itself() {
        for text in [r"a\b", r"\", r"\x", r"\x4", r"\xzz", r"\n"] {
            assert_eq!(unescape(text), text.as_bytes());
        }
    }

    #[test]
    fn messages_keep_their_backslashes_and_lose_what_controls_a_terminal() {
        assert_eq!(printable("C:\\data\r\n\u{1b}[2J\u{202e}"), r"C:\data\x0d\x0a\x1b[2J\xe2\x80\xae");
    }

    proptest! {
        #[test]
        fn each_name_has_a_form_of_its_own_without_control_characters(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let form = escape(&name);
            prop_assert!(!form.chars().any(is_unprintable));
            prop_assert_eq!(unescape(&form), name);
        }
    }
}
