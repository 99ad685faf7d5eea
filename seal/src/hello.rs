//! The first line of each side: text, so that every version can read every other's.
//!
//! It must not know frames.

use bytes::Bytes;

use super::Nonce;

/// The version spoken here.
pub const VERSION: u32 = 1;
/// No first line is longer than this, with its newline.
pub const LONGEST_LINE: usize = 128;

/// What we say first.
pub fn hello(nonce: &Nonce) -> Bytes {
    Bytes::from(format!("stowaway {VERSION} {}\n", nonce.as_str()))
}

/// Reads the other side's [`hello`], without its newline: its version and the nonce. A later version may say more.
pub fn parse_hello(line: &[u8]) -> Option<(u32, Nonce)> {
    let mut words = str::from_utf8(line).ok()?.split(' ');
    if words.next()? != "stowaway" {
        return None;
    }
    Some((words.next()?.parse().ok()?, Nonce::parse(words.next()?)?))
}

/// What the helper says first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It speaks our version, and starts the command now.
    Ready,
    /// It speaks this one instead, and started nothing.
    Speaks(u32),
}

impl Answer {
    /// As a line.
    pub fn line(self, nonce: &Nonce) -> Bytes {
        let (word, version) = match self {
            Self::Ready => ("ready", VERSION),
            Self::Speaks(version) => ("speaks", version),
        };
        Bytes::from(format!("{} {word} {version}\n", nonce.as_str()))
    }
}

/// Reads an answer's line without its newline; nothing if it is none of ours, or not to our nonce.
pub fn parse_answer(nonce: &Nonce, line: &[u8]) -> Option<Answer> {
    let mut words = str::from_utf8(line).ok()?.split(' ');
    if words.next()? != nonce.as_str() {
        return None;
    }
    let (word, version) = (words.next()?, words.next()?.parse().ok()?);
    match (word, version) {
        ("ready", VERSION) => Some(Answer::Ready),
        ("speaks" | "ready", version) => Some(Answer::Speaks(version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_read_as_they_were_said() {
        let nonce = Nonce::new(7);
        let line = hello(&nonce);
        assert!(line.len() <= LONGEST_LINE);
        assert_eq!(parse_hello(line.strip_suffix(b"\n").unwrap()), Some((VERSION, nonce.clone())));
        for answer in [Answer::Ready, Answer::Speaks(u32::MAX)] {
            let line = answer.line(&nonce);
            assert!(line.len() <= LONGEST_LINE);
            assert_eq!(parse_answer(&nonce, line.strip_suffix(b"\n").unwrap()), Some(answer));
            assert_eq!(parse_answer(&Nonce::new(8), line.strip_suffix(b"\n").unwrap()), None);
        }
    }

    #[test]
    fn other_lines_are_not_taken_for_ours() {
        let nonce = Nonce::new(7);
        let digits = nonce.as_str();
        for line in ["", "stowaway", "stowaway 1", "stowaway x 1", digits, &format!("stowaway 1 {}", &digits[1..])] {
            assert_eq!(parse_hello(line.as_bytes()), None, "{line}");
        }
        for line in ["", "ready 1", digits, &format!("{digits} ready"), &format!("{digits} steady 1")] {
            assert_eq!(parse_answer(&nonce, line.as_bytes()), None, "{line}");
        }
        assert_eq!(parse_hello(b"\xff\xfe"), None);
    }

    #[test]
    fn later_versions_are_understood_as_such() {
        let nonce = Nonce::new(7);
        let later = format!("stowaway 2 {} zstd,xz", nonce.as_str());
        assert_eq!(parse_hello(later.as_bytes()), Some((2, nonce.clone())));
        let answer = format!("{} ready 2", nonce.as_str());
        assert_eq!(parse_answer(&nonce, answer.as_bytes()), Some(Answer::Speaks(2)));
    }
}
