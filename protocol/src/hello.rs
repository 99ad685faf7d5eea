//! The first line of each side. It is text, so that every version can parse the line of every other version.

use bytes::Bytes;

use super::Nonce;

/// The protocol version of this crate.
pub const VERSION: u32 = 1;
/// The maximum length of a first line, including its newline.
pub const MAX_LINE: usize = 128;

/// The first line of Stowaway.
pub fn hello(nonce: &Nonce) -> Bytes {
    Bytes::from(format!("stowaway {VERSION} {}\n", nonce.as_str()))
}

/// Parses a [`hello`] without its newline: its version and the nonce. A later version may append fields.
pub fn parse_hello(line: &[u8]) -> Option<(u32, Nonce)> {
    let mut fields = str::from_utf8(line).ok()?.split(' ');
    if fields.next()? != "stowaway" {
        return None;
    }
    Some((fields.next()?.parse().ok()?, Nonce::parse(fields.next()?)?))
}

/// The first line of the helper.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The helper supports the version, and starts the command now.
    Ready,
    /// The helper supports only this other version, and has started nothing.
    Speaks(u32),
}

impl Answer {
    /// The answer as a line.
    pub fn line(self, nonce: &Nonce) -> Bytes {
        let (token, version) = match self {
            Self::Ready => ("ready", VERSION),
            Self::Speaks(version) => ("speaks", version),
        };
        Bytes::from(format!("{} {token} {version}\n", nonce.as_str()))
    }
}

/// Parses an answer without its newline. None if it is not an answer, or has another nonce.
pub fn parse_answer(nonce: &Nonce, line: &[u8]) -> Option<Answer> {
    let mut fields = str::from_utf8(line).ok()?.split(' ');
    if fields.next()? != nonce.as_str() {
        return None;
    }
    let (token, version) = (fields.next()?, fields.next()?.parse().ok()?);
    match (token, version) {
        ("ready", VERSION) => Some(Answer::Ready),
        ("speaks" | "ready", version) => Some(Answer::Speaks(version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_parsed_as_they_were_written() {
        let nonce = Nonce::new(7);
        let line = hello(&nonce);
        assert!(line.len() <= MAX_LINE);
        assert_eq!(parse_hello(line.strip_suffix(b"\n").unwrap()), Some((VERSION, nonce.clone())));
        for answer in [Answer::Ready, Answer::Speaks(u32::MAX)] {
            let line = answer.line(&nonce);
            assert!(line.len() <= MAX_LINE);
            assert_eq!(parse_answer(&nonce, line.strip_suffix(b"\n").unwrap()), Some(answer));
            assert_eq!(parse_answer(&Nonce::new(8), line.strip_suffix(b"\n").unwrap()), None);
        }
    }

    #[test]
    fn other_lines_are_refused() {
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
