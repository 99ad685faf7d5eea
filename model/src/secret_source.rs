//! The object and the key which a mounted credential comes from, so that a run can name what is missing. Nothing here
//! contains a value of a Secret.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Environment variable of every container that opens a store: [`SecretSources`] as JSON.
pub const SECRET_SOURCES_VARIABLE: &str = "STOWAWAY_SECRET_SOURCES";

/// The sources of the mounted files, by path.
pub type SecretSources = BTreeMap<String, SecretSource>;

/// The kinds of objects that hold credentials.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum SecretKind {
    Secret,
    ConfigMap,
}

impl fmt::Display for SecretKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        })
    }
}

/// An object of the run's namespace, and the key in it.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct SecretSource {
    pub kind: SecretKind,
    pub name: String,
    pub key: String,
}

/// A credential that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnusableCredential {
    /// The credential's name for users.
    pub title: &'static str,
    /// Why it cannot be used; none if its file does not exist.
    pub why: Option<String>,
    /// None if the run does not know it.
    pub source: Option<SecretSource>,
}

/// Describes the credentials that cannot be used, and what to do. `present`: the sources of the credentials that can be
/// used. `names`: the object whose spec names the Secrets.
///
/// The kubelet mounts neither a key that is missing in a Secret nor any key of a Secret that does not exist. A Secret
/// of which another key is mounted does exist.
pub fn unusable_credentials(
    unusable: &[UnusableCredential],
    present: &[&SecretSource],
    (namespace, names): (&str, &str),
) -> String {
    let mut found: Vec<String> = Vec::new();
    let mut absent: BTreeMap<(SecretKind, &str), Vec<String>> = BTreeMap::new();
    for UnusableCredential { title, why, source } in unusable {
        match (source, why) {
            (None, None) => found.push(format!("missing: {title}")),
            (None, Some(why)) => found.push(format!("unusable: {title} ({why})")),
            (Some(SecretSource { kind, name, key }), Some(why)) => {
                found.push(format!("the key {key:?} of {kind} {name:?} in namespace {namespace:?}, {title}, is {why}"));
            }
            (Some(SecretSource { kind, name, key }), None) => {
                absent.entry((*kind, name)).or_default().push(format!("{key:?} ({title})"));
            }
        }
    }
    let is_usable = |kind: SecretKind, name: &str| {
        let broken = unusable.iter().filter(|one| one.why.is_some()).filter_map(|one| one.source.as_ref());
        present.iter().copied().chain(broken).any(|source| source.kind == kind && source.name == name)
    };
    for (&(kind, name), keys) in &absent {
        let object = format!("{kind} {name:?}");
        let keys = keys.join(" and no key ");
        found.push(if is_usable(kind, name) {
            format!("{object} in namespace {namespace:?} has no key {keys}")
        } else {
            format!("{object} does not exist in namespace {namespace:?}, or it has no key {keys}")
        });
    }
    let command = unusable.iter().find_map(|one| one.source.as_ref()).map(|SecretSource { kind, name, .. }| {
        let kind = kind.to_string().to_lowercase();
        format!("; `kubectl describe {kind} {name} -n {namespace}` lists the keys")
    });
    let command = command.unwrap_or_default();
    format!("{}; create what is missing, or correct the names in {names}{command}", found.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, key: &str) -> SecretSource {
        SecretSource { kind: SecretKind::Secret, name: name.into(), key: key.into() }
    }

    fn unusable(title: &'static str, why: Option<&str>, source: Option<SecretSource>) -> UnusableCredential {
        UnusableCredential { title, why: why.map(str::to_owned), source }
    }

    fn message(unusable: &[UnusableCredential], present: &[&SecretSource]) -> String {
        unusable_credentials(unusable, present, ("shop", "the spec of the Repository"))
    }

    #[test]
    fn missing_secret_is_named_with_its_namespace_and_every_key() {
        let ids = [
            unusable("the S3 access key id", None, Some(source("store", "id"))),
            unusable("the S3 secret access key", None, Some(source("store", "key"))),
        ];
        assert_eq!(
            message(&ids, &[&source("password", "password")]),
            "Secret \"store\" does not exist in namespace \"shop\", or it has no key \"id\" (the S3 access key id) and no key \
             \"key\" (the S3 secret access key); create what is missing, or correct the names in the spec of the \
             Repository; `kubectl describe secret store -n shop` lists the keys"
        );
    }

    #[test]
    fn missing_key_of_a_secret_that_exists_is_named_alone() {
        let missing = [unusable("the S3 secret access key", None, Some(source("store", "key")))];
        let text = message(&missing, &[&source("store", "id")]);
        assert!(text.starts_with("Secret \"store\" in namespace \"shop\" has no key \"key\" (the S3"), "{text}");
        assert!(!text.contains("does not exist"), "{text}");
    }

    #[test]
    fn empty_value_is_named_with_its_key_and_proves_that_the_secret_exists() {
        let both = [
            unusable("the repository's password", Some("empty"), Some(source("all", "password"))),
            unusable("the S3 access key id", None, Some(source("all", "id"))),
        ];
        let text = message(&both, &[]);
        assert!(
            text.starts_with(
                "the key \"password\" of Secret \"all\" in namespace \"shop\", the repository's password, is empty; \
                 Secret \"all\" in namespace \"shop\" has no key \"id\""
            ),
            "{text}"
        );
    }

    #[test]
    fn credential_of_an_unknown_source_is_named_by_its_title() {
        let text = message(&[unusable("the repository's password", None, None)], &[]);
        assert_eq!(
            text,
            "missing: the repository's password; create what is missing, or correct the names in the spec of the Repository"
        );
    }
}
