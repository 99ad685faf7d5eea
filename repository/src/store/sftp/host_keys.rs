//! The host keys that an SSH server may present.

use std::path::Path;

use russh::keys::{Algorithm, PublicKey, PublicKeyOrCertificate, known_hosts};

/// Returns the keys of a server in a `known_hosts` file, one key per line. Returns none if the file contains no key of
/// the server, or cannot be read.
pub fn known_host_keys(host: &str, port: u16, file: &Path) -> Option<String> {
    let found = known_hosts::known_host_keys_path(host, port, file).ok()?;
    let lines: Vec<String> = found.iter().filter_map(|(_, key)| key.to_openssh().ok()).collect();
    Some(lines.join("\n")).filter(|lines| !lines.is_empty())
}

/// The accepted keys of one server.
#[derive(Clone, Debug)]
pub(super) enum HostKeys {
    Known(Vec<PublicKey>),
    /// Any key, because the user has disabled the verification.
    Any,
}

impl HostKeys {
    /// Parses lines of a `known_hosts` file, of `ssh-keyscan`, or of public key files. Host names are ignored: all keys
    /// count as keys of this server.
    ///
    /// An error contains the number of the line but never its content, because the text may come from any Secret, and
    /// errors get into statuses, Events and logs.
    pub fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (number, line) in (1_u32..).zip(texts.flat_map(str::lines).map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with('@') {
                return Err(format!(
                    "line {number} of the host keys has a marker (@...), which is not supported: give the key itself"
                ));
            }
            let mut fields = line.split_whitespace();
            let kind =
                fields.find(|field| field.starts_with("ssh-") || field.starts_with("ecdsa-")).unwrap_or_default();
            let key = PublicKey::from_openssh(&format!("{kind} {}", fields.next().unwrap_or_default()));
            keys.push(key.map_err(|_| {
                format!(
                    "line {number} of the host keys cannot be read; give what `ssh-keyscan HOST` prints, such as \
                     \"ssh-ed25519 AAAA...\""
                )
            })?);
        }
        if keys.is_empty() {
            return Err(
                "no host key is given; give what `ssh-keyscan HOST` prints, after comparing it with the server's"
                    .into(),
            );
        }
        Ok(Self::Known(keys))
    }

    pub fn allows(&self, shown: &PublicKeyOrCertificate) -> bool {
        match (self, shown) {
            (Self::Any, _) => true,
            (Self::Known(keys), PublicKeyOrCertificate::PublicKey { key, .. }) => {
                keys.iter().any(|known| known.key_data() == key.key_data())
            }
            (Self::Known(_), PublicKeyOrCertificate::Certificate(_)) => false,
        }
    }

    /// Returns those of the possible algorithms for which there is a key, because a server with several keys presents
    /// the one that the client requests.
    pub fn algorithms(&self, possible: &[Algorithm]) -> Vec<Algorithm> {
        let is_of = |algorithm: &Algorithm, key: &PublicKey| match (algorithm, key.algorithm()) {
            (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
            (algorithm, of_key) => *algorithm == of_key,
        };
        let wanted = |algorithm: &&Algorithm| match self {
            Self::Any => true,
            Self::Known(keys) => keys.iter().any(|key| is_of(algorithm, key)),
        };
        possible.iter().filter(wanted).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn shown(key: &str) -> PublicKeyOrCertificate {
        PublicKeyOrCertificate::from(PublicKey::from_openssh(&format!("ssh-ed25519 {key}")).unwrap())
    }

    #[test]
    fn keys_are_read_in_every_common_format() {
        for line in [
            format!("ssh-ed25519 {ED25519}"),
            format!("ssh-ed25519 {ED25519} root@server"),
            format!("backup.example.org ssh-ed25519 {ED25519}"),
            format!("[backup.example.org]:2222,10.0.0.1 ssh-ed25519 {ED25519}"),
            format!("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-ed25519 {ED25519}"),
            format!("# backup.example.org:22 SSH-2.0-OpenSSH\n\n backup ssh-ed25519 {ED25519}\n"),
        ] {
            let keys = HostKeys::parse([line.as_str()].into_iter()).unwrap();
            assert!(keys.allows(&shown(ED25519)), "{line}");
            assert!(!keys.allows(&shown(OTHER)), "{line}");
        }
    }

    #[test]
    fn text_without_a_key_is_refused_and_never_means_any_key() {
        for text in
            ["", "# nothing", "backup.example.org", "ssh-ed25519 AAAA", "@revoked * ssh-ed25519 AAAA", "ssh-rsa"]
        {
            assert!(HostKeys::parse([text].into_iter()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn unreadable_host_key_is_named_by_its_line_and_never_quoted() {
        for text in
            ["S3cr3t-of-the-db", "@S3cr3t-of-the-db", "ssh-ed25519 S3cr3t-of-the-db", "S3cr3t-of-the-db ssh-rsa x"]
        {
            let message = HostKeys::parse(["# a comment\n", text].into_iter()).unwrap_err();
            assert!(message.contains("line 2") && !message.contains("S3cr3t"), "{message}");
        }
    }

    #[test]
    fn client_requests_the_kind_of_key_that_is_known() {
        let known = HostKeys::parse([format!("ssh-ed25519 {ED25519}").as_str()].into_iter()).unwrap();
        let possible = [Algorithm::Rsa { hash: None }, Algorithm::Ed25519];
        assert_eq!(known.algorithms(&possible), [Algorithm::Ed25519]);
        assert_eq!(HostKeys::Any.algorithms(&possible), possible);
    }
}
