//! What a prune or a check says of the repository, beside how it ended.
//!
//! It must not know what follows from it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DataPart;

/// How many bytes of names one report carries: the kubelet keeps 4 KiB of it in all.
const NAMES_BYTES: usize = 1024;

/// What a prune or a check has done and found.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(tag = "did", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum UpkeepReport {
    /// Packed anew, ahead of a prune, what it would.
    Repack {
        /// Bytes of new packs.
        bytes: u64,
    },
    /// Forgot what the retention drops, and removed what no snapshot needs.
    Prune {
        /// Snapshots that went.
        forgotten: u64,
        /// Snapshots that stay.
        kept: u64,
        /// Bytes that the store has got back.
        freed_bytes: u64,
        /// How many sources have shrunk absurdly, and keep all of their snapshots.
        shrunk: u64,
        /// The first of them, in words; see [`few`].
        first_shrunk: Vec<String>,
    },
    /// Looked at all indexes, snapshots and trees, and read one part of the data.
    Check {
        /// Which part.
        part: DataPart,
        /// Bytes of it.
        bytes_read: u64,
        /// Snapshots that could be read.
        snapshots: u64,
        /// How many things are not as they were written.
        findings: u64,
        /// How many snapshots cannot be restored as a whole.
        harmed_snapshots: u64,
        /// The first of the sources that they are of; see [`few`].
        harmed_sources: Vec<String>,
    },
}

/// As many of these texts as a report can carry, from the first on, each only once.
pub fn few(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let (mut few, mut bytes): (Vec<String>, usize) = (Vec::new(), 0);
    for text in texts {
        if few.contains(&text) {
            continue;
        }
        // As JSON a character takes up to six bytes; names have no such characters.
        bytes += text.len() + 3;
        if bytes > NAMES_BYTES {
            break;
        }
        few.push(text);
    }
    few
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Failure, Reason, SourceReport};

    #[test]
    fn report_of_damage_fits_the_termination_message_whatever_is_harmed() {
        let sources = few((0..1000).map(|number| format!("deployment/{}-{number}/main", "x".repeat(200))));
        assert!(sources.len() > 2, "{}", sources.len());
        let check = UpkeepReport::Check {
            part: DataPart::first(256),
            bytes_read: u64::MAX,
            snapshots: u64::MAX,
            findings: u64::MAX,
            harmed_snapshots: u64::MAX,
            harmed_sources: sources,
        };
        let failure = Failure::new(Reason::RepositoryDamaged, "\"\\".repeat(9000));
        let mut report = SourceReport::failed(failure, Duration::MAX);
        report.upkeep = Some(check.clone());
        let text = report.to_termination_message();
        assert!(text.len() <= SourceReport::MAXIMUM_BYTES, "{} bytes", text.len());
        let back: SourceReport = serde_json::from_str(&text).unwrap();
        assert_eq!(back.upkeep, Some(check));
    }

    #[test]
    fn each_is_named_once() {
        let texts = ["a", "b", "a", "c"].map(str::to_owned);
        assert_eq!(few(texts), ["a", "b", "c"]);
    }
}
