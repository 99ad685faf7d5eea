//! Values that must not be seen, and lines from which such values are taken out.
//!
//! It must not know where a secret comes from.

use std::fmt;

use zeroize::Zeroizing;

/// A password or key: wiped from memory when dropped, and never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the value over.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(redacted)")
    }
}

/// The line with the password of every URL in it (`scheme://user:password@host`) replaced by `***`.
///
/// An `@` in the password itself is covered: the last one before the path's end counts (RFC 3986, section 3.2 would have
/// it percent-encoded, people don't).
pub fn redact(line: &str) -> String {
    let mut redacted = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(scheme_end) = rest.find("://") {
        let (before, authority) = rest.split_at(scheme_end + 3);
        redacted.push_str(before);
        let end = authority
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`'))
            .unwrap_or(authority.len());
        // A slash ends the authority, but only if the user part ended before it: passwords hold slashes, too.
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
    fn secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::new("hush".into())), "(redacted)");
    }
}
