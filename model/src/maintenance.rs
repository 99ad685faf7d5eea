//! The results of a prune or a check, in addition to how it ended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DamagedPacks, DataPart};

/// The size limit of the names in one report, because the kubelet keeps only 4 KiB of a report.
const NAMES_BYTES: usize = 1024;

/// The work and the findings of a prune or a check.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(tag = "did", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum MaintenanceReport {
    /// Repacked, before a prune, the packs which the prune would repack.
    Repack {
        /// Bytes of new packs.
        bytes: u64,
    },
    /// Forgot the snapshots that the retention drops, and removed data which no snapshot needs.
    Prune {
        /// Number of snapshots that were forgotten.
        forgotten: u64,
        /// Number of snapshots that were kept.
        kept: u64,
        /// Bytes that were freed in the store.
        freed_bytes: u64,
        /// Number of sources that have shrunk implausibly, and keep all of their snapshots.
        shrunk: u64,
        /// Descriptions of the first of these sources; see [`truncate_list`].
        first_shrunk: Vec<String>,
    },
    /// Checked all indexes, snapshots and trees, and read one part of the data.
    Check {
        /// The part that was read.
        part: DataPart,
        /// Bytes of the part.
        bytes_read: u64,
        /// Snapshots that could be read.
        snapshots: u64,
        /// Number of differences from what was written.
        findings: u64,
        /// Number of snapshots that cannot be restored completely.
        harmed_snapshots: u64,
        /// The first sources of these snapshots; see [`truncate_list`].
        harmed_sources: Vec<String>,
        /// The packs whose content is damaged; none in a report that does not list them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        damaged_packs: Option<DamagedPacks>,
    },
}

/// The first of these texts, each only once, as many as fit into a report.
pub fn truncate_list(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let (mut first, mut bytes): (Vec<String>, usize) = (Vec::new(), 0);
    for text in texts {
        if first.contains(&text) {
            continue;
        }
        // In JSON, a character may take up to six bytes, but names have no such characters.
        bytes += text.len() + 3;
        if bytes > NAMES_BYTES {
            break;
        }
        first.push(text);
    }
    first
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Failure, Reason, RunReport};

    #[test]
    fn report_of_damage_fits_the_termination_message_whatever_is_harmed() {
        let sources = truncate_list((0..1000).map(|number| format!("deployment/{}-{number}/main", "x".repeat(200))));
        assert!(sources.len() > 2, "{}", sources.len());
        let check = MaintenanceReport::Check {
            part: DataPart::first(256),
            bytes_read: u64::MAX,
            snapshots: u64::MAX,
            findings: u64::MAX,
            harmed_snapshots: u64::MAX,
            harmed_sources: sources,
            damaged_packs: Some(DamagedPacks::of(&vec!["f".repeat(64); 10_000], DataPart::first(256))),
        };
        let failure = Failure::new(Reason::RepositoryDamaged, "\"\\".repeat(9000));
        let mut report = RunReport::failed(failure, Duration::MAX);
        report.maintenance = Some(check.clone());
        let text = report.to_termination_message();
        assert!(text.len() <= RunReport::MAX_BYTES, "{} bytes", text.len());
        let back: RunReport = serde_json::from_str(&text).unwrap();
        assert_eq!(back.maintenance, Some(check));
    }

    #[test]
    fn each_is_named_once() {
        let texts = ["a", "b", "a", "c"].map(str::to_owned);
        assert_eq!(truncate_list(texts), ["a", "b", "c"]);
    }
}
