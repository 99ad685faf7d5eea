//! Values that must not be printed, and the redaction of such values in lines of text.

use std::fmt;

use zeroize::Zeroizing;

/// A password or key. It is wiped from memory when dropped, and never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A repository's password from a file or a Kubernetes Secret.
#[derive(Clone, Debug)]
pub struct StoredPassword {
    /// The password as restic reads it: a byte order mark determines the encoding, and white space around the text is
    /// removed.
    pub password: Secret,
    /// The text without only the newlines at its end, if that differs. Earlier versions of Stowaway used it as the
    /// password, so that some repositories can only be opened with it.
    pub untrimmed: Option<Secret>,
}

impl StoredPassword {
    /// Returns `None` if the content is not text.
    pub fn read(content: &[u8]) -> Option<Self> {
        let utf8 = std::str::from_utf8(content).ok();
        let text = Zeroizing::new(match content {
            [0xef, 0xbb, 0xbf, rest @ ..] => std::str::from_utf8(rest).ok()?.to_owned(),
            [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
            [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
            _ => utf8?.to_owned(),
        });
        let password = text.trim();
        let untrimmed = utf8.map(|text| text.trim_end_matches(['\r', '\n'])).filter(|text| *text != password);
        Some(Self {
            password: Secret::new(password.to_owned()),
            untrimmed: untrimmed.map(|text| Secret::new(text.to_owned())),
        })
    }
}

fn utf16(content: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let (pairs, rest) = content.as_chunks::<2>();
    let units: Zeroizing<Vec<u16>> = Zeroizing::new(pairs.iter().map(|pair| unit(*pair)).collect());
    let mut text = String::from_utf16_lossy(&units);
    if !rest.is_empty() {
        text.push(char::REPLACEMENT_CHARACTER);
    }
    text
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(redacted)")
    }
}

/// Replaces the password of every URL in the line (`scheme://user:password@host`) with `***`.
///
/// An `@` in the password itself is covered, because the last one before the path's end counts. (RFC 3986, section 3.2
/// requires percent-encoding, but users do not always encode it.)
pub fn redact(line: &str) -> String {
    let mut redacted = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(scheme_end) = rest.find("://") {
        let (before, authority) = rest.split_at(scheme_end + 3);
        redacted.push_str(before);
        let end = authority
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`'))
            .unwrap_or(authority.len());
        // A slash ends the authority, but only if the user part ended before it, because passwords may contain slashes.
        let url = &authority[..end];
        let host_end = url.find(['/', '?', '#']).unwrap_or(url.len());
        let at = url[..host_end].rfind('@').or_else(|| url.find(':').and_then(|_| url.rfind('@')));
        match at.and_then(|at| url[..at].find(':').map(|colon| (colon, at))) {
            Some((colon, at)) => {
                redacted.push_str(&url[..=colon]);
                redacted.push_str("***");
                rest = &authority[at..];
            }
            None => rest = authority,
        }
    }
    redacted.push_str(rest);
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_of_a_url_is_redacted() {
        for (line, expected) in [
            ("connect postgres://app:s3cret@db:5432/x failed", "connect postgres://app:***@db:5432/x failed"),
            ("mongodb://u:p@a@h/x and redis://:only@h", "mongodb://u:***@h/x and redis://:***@h"),
            ("https://host:8443/path", "https://host:8443/path"),
            ("amqp://u:p/w@host/v", "amqp://u:***@host/v"),
            ("no url at all: a:b@c", "no url at all: a:b@c"),
            ("://", "://"),
        ] {
            assert_eq!(redact(line), expected);
        }
    }

    #[test]
    fn password_is_read_as_restic_reads_it_and_as_it_was_read_before() {
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(bytes).collect()
        };
        for (content, password, untrimmed) in [
            (b"secret\n".to_vec(), "secret", None),
            (b"secret \r\n".to_vec(), "secret", Some("secret ")),
            (b"\n\t two parts\xc2\xa0\n\n".to_vec(), "two parts", Some("\n\t two parts\u{a0}")),
            (b"\xef\xbb\xbfsecret\n".to_vec(), "secret", Some("\u{feff}secret")),
            (utf16("s\u{fc}\u{1f600} \r\n", u16::to_be_bytes), "s\u{fc}\u{1f600}", None),
            (utf16("s\u{fc}\u{1f600}\n", u16::to_le_bytes), "s\u{fc}\u{1f600}", None),
            ([&utf16("x", u16::to_le_bytes)[..], b"y"].concat(), "x\u{fffd}", None),
            (b" \n".to_vec(), "", Some(" ")),
            (Vec::new(), "", None),
        ] {
            let found = StoredPassword::read(&content).unwrap();
            let untrimmed_found = found.untrimmed.as_ref().map(Secret::expose);
            assert_eq!((found.password.expose(), untrimmed_found), (password, untrimmed), "{content:?}");
        }
        assert!(StoredPassword::read(b"caf\xe9").is_none());
    }

    #[test]
    fn secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::new("hush".into())), "(redacted)");
    }
}
