//! The name that a source has everywhere, and the labels of its snapshots in the repository. `plan::sources` derives a
//! pod's name.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of a source: `<kind>/<workload>/<container>[/<command>]`; `pod/<name>/<container>[/<command>]` for each pod
/// of a `StatefulSet` and for bare pods; `pvc/<claim>` for a volume. It is the same in statuses, tags, restore
/// requests, metrics and the CLI.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

/// A text that is not a source name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is not a source name: a volume is pvc/CLAIM, for example pvc/data; a command is KIND/WORKLOAD/CONTAINER, followed \
     by /COMMAND if it has a name, for example deployment/shop/postgres; all parts are of lower-case letters, digits, '-', \
     '.' and '_'; `stowaway snapshots` lists the sources that are stored"
)]
pub struct SourceNameError(String);

impl SourceName {
    /// Joins the parts. A part that cannot be part of a Kubernetes name is rejected.
    pub fn new(kind: &str, workload: &str, container: &str, command: Option<&str>) -> Result<Self, SourceNameError> {
        let mut name = format!("{kind}/{workload}/{container}");
        if let Some(command) = command {
            name.push('/');
            name.push_str(command);
        }
        name.parse()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for SourceName {
    type Err = SourceNameError;

    fn from_str(text: &str) -> Result<Self, SourceNameError> {
        let is_part = |part: &str| {
            !part.is_empty()
                && part.len() <= 253
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if (2..=4).contains(&parts.len()) && parts.iter().all(|part| is_part(part)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SourceNameError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for SourceName {
    type Error = SourceNameError;

    fn try_from(text: String) -> Result<Self, SourceNameError> {
        text.parse()
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// The labels of a source's snapshot: restic's host, path and tags.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotIdentity {
    /// restic's host, which is the namespace, as in K8up.
    pub host: String,
    /// Absolute path of the stored file, for example `/shop-postgres.sql`.
    pub path: String,
    /// Tags, either `key=value` or a bare tag; see [`SnapshotIdentity::tag`].
    pub tags: Vec<String>,
}

/// A tag that restic's comma-separated tag lists cannot contain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the tag {0:?} contains a comma or a control character, which restic's tag lists cannot contain")]
pub struct TagError(pub String);

impl SnapshotIdentity {
    /// The tag key of the source's name.
    pub const SOURCE: &str = "source";
    /// The tag key of the run, `<Backup UID>/<source>`. A retry uses it to find the snapshot that an earlier attempt
    /// committed.
    pub const RUN: &str = "run";
    /// The tag key of the cluster's id (UID of the namespace kube-system).
    pub const CLUSTER: &str = "cluster";
    /// The tag key of the pod that was dumped.
    pub const POD: &str = "pod";
    /// The tag key of the stream's SHA-256.
    pub const DIGEST: &str = "sha256";
    /// The tag key of the proof of the stream's end.
    pub const PROOF: &str = "proof";
    /// The bare tag of a snapshot that was stored without proof, and is never the newest. A user who removes the tag
    /// accepts the snapshot.
    pub const UNPROVEN: &str = "unproven";
    /// The bare tag, instead of [`Self::UNPROVEN`], of a snapshot that was stored without proof when the user had
    /// accepted that in advance. It counts as a good snapshot, and every restore of it states what it is.
    pub const ACCEPTED_UNPROVEN: &str = "accepted-unproven";
    /// The bare tag of a volume's snapshot for which some entries could not be read, and which is never the newest,
    /// either.
    pub const INCOMPLETE: &str = "incomplete";
    /// The bare tag of a volume's snapshot whose contents are complete, but for which attributes of some files could
    /// not be read. Such a snapshot can be the newest.
    pub const WITHOUT_ATTRIBUTES: &str = "without-attributes";

    /// The bare tag of the snapshot that a restore made of a volume before it overwrote the volume. It is never the
    /// newest, because the user wanted to replace its content.
    pub const SAFETY: &str = "safety";
    /// The bare tag of a snapshot of a volume that was empty, or had lost most of the content of its last good
    /// snapshot, or of a command into which a Restore had failed. It is never the newest. A user who removes the tag
    /// declares the snapshot good.
    pub const SUSPECT: &str = "suspect";
    /// The bare tag of a volume that is set together with [`Self::SUSPECT`], or alone if the user accepted the loss, and
    /// that stays when [`Self::SUSPECT`] is removed. Older snapshots than this one are no measure of the usual size.
    pub const SHRUNKEN: &str = "shrunken";
    /// The bare tag of a block device (`volumeMode: Block`), which is stored as one file. Older snapshots of Stowaway
    /// lack it.
    pub const DEVICE: &str = "device";

    /// Whether the snapshot has this bare tag.
    pub fn has_tag(&self, wanted: &str) -> bool {
        self.tags.iter().any(|tag| tag == wanted)
    }

    /// The value of the first tag `key=value`.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='))
    }

    /// Appends the tag `key=value`.
    pub fn push_tag(&mut self, key: &str, value: &str) -> Result<(), TagError> {
        let tag = format!("{key}={value}");
        if tag.contains(',') || tag.chars().any(char::is_control) {
            return Err(TagError(tag));
        }
        self.tags.push(tag);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_names_are_checked() {
        assert!("deployment/shop/postgres".parse::<SourceName>().is_ok());
        assert!("pod/db-0/postgres/roles".parse::<SourceName>().is_ok());
        assert!("pvc/data".parse::<SourceName>().is_ok());
        for wrong in ["", "x", "a//b", "A/b/c", "a/b/c/d/e", "a/b c/d", "a/b/c,d"] {
            assert!(wrong.parse::<SourceName>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn tags_that_restic_cannot_carry_are_refused() {
        let mut identity = SnapshotIdentity { host: "shop".into(), path: "/a".into(), tags: vec![] };
        assert!(identity.push_tag("pod", "a,b").is_err());
        identity.push_tag("pod", "db-0").unwrap();
        assert_eq!(identity.tag("pod"), Some("db-0"));
        assert_eq!(identity.tag("po"), None);
    }
}
