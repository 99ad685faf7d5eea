//! The names of a tree's entries. A name is any bytes, and JSON contains only Unicode, so a name is escaped as in a
//! string literal of Go, without the quotes.

use std::fmt::Write;

/// Characters with a short escape sequence, and its letter.
const SHORT: [(char, char); 9] = [
    ('\\', '\\'),
    ('"', '"'),
    ('\u{7}', 'a'),
    ('\u{8}', 'b'),
    ('\u{c}', 'f'),
    ('\n', 'n'),
    ('\r', 'r'),
    ('\t', 't'),
    ('\u{b}', 'v'),
];

/// Returns the escaped name. restic also escapes unprintable characters, which are literal here. Every program reads
/// both forms.
pub fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match SHORT.iter().find(|(special, _)| *special == character) {
                Some((_, letter)) => text.extend(['\\', *letter]),
                None => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Returns the bytes of an escaped name, or none if the text has an invalid escape sequence.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let (mut name, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((literal, after)) = rest.split_once('\\') {
        name.extend(literal.as_bytes());
        let mut characters = after.chars();
        let letter = characters.next()?;
        rest = characters.as_str();
        let digits = match letter {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '\'' | '`' => {
                name.push(u8::try_from(letter).ok()?);
                continue;
            }
            letter => {
                let (special, _) = SHORT.iter().find(|(_, short)| *short == letter)?;
                name.push(u8::try_from(*special).ok()?);
                continue;
            }
        };
        let (number, after) = rest.split_at_checked(digits)?;
        // `from_str_radix` accepts a sign, too.
        let number = number.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(number)?;
        let number = u32::from_str_radix(number, 16).ok()?;
        match letter {
            'x' => name.push(u8::try_from(number).ok()?),
            _ => name.extend(char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = after;
    }
    name.extend(rest.as_bytes());
    Some(name)
}
