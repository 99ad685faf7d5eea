//! The path of each source's file in the repository, which is unique within a plan. The first choice is K8up's path, so
//! that its snapshots and Stowaway's are one series.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::{Draft, PlannedSource};
use crate::annotations::CommandRequest;

/// The longest file name of a file system.
const MAX_NAME_BYTES: usize = 255;

/// `/<namespace>-<container>[-<command>]<extension>`.
pub(super) fn first_choice(namespace: &str, container: &str, command: &CommandRequest) -> String {
    path(&[namespace, container], command)
}

/// `/<namespace>-<workload>-<container>[-<command>]<extension>`.
pub(super) fn second_choice(namespace: &str, workload: &str, container: &str, command: &CommandRequest) -> String {
    path(&[namespace, workload, container], command)
}

fn path(parts: &[&str], command: &CommandRequest) -> String {
    let parts: Vec<&str> = parts.iter().copied().chain(command.name.as_deref()).collect();
    format!("/{}{}", parts.join("-"), command.file_extension)
}

/// `/<namespace>_<16 hex digits of the hash of the source's name><extension>`: used if the readable paths are taken or
/// too long. A namespace cannot contain an `_`, so no readable path equals such a path.
fn last_choice(draft: &Draft) -> String {
    let digest = Sha256::digest(draft.source.name.as_str());
    let digest = digest.first_chunk().copied().map_or(0, u64::from_be_bytes);
    format!("/{}_{digest:016x}{}", draft.source.identity.host, draft.extension)
}

/// Assigns the paths of sources, which are sorted by name. The first source with a path keeps it; a further source gets
/// its second choice. Every source has an alternative path which no other source of the plan has.
pub(super) fn assign(drafts: Vec<Draft>) -> Vec<PlannedSource> {
    let mut taken = BTreeSet::new();
    let mut free = |path: &str| path.len() - 1 <= MAX_NAME_BYTES && taken.insert(path.to_owned());
    // All first choices are assigned before any second choice, so that a second choice never takes another source's
    // first one.
    let kept: Vec<bool> = drafts.iter().map(|draft| free(&draft.source.identity.path)).collect();
    drafts
        .into_iter()
        .zip(kept)
        .map(|(draft, kept)| {
            let last = last_choice(&draft);
            let mut source = draft.source;
            let second = if free(&source.alternative_path) { source.alternative_path } else { last.clone() };
            if kept {
                source.alternative_path = second;
            } else {
                source.identity.path = second;
                source.alternative_path = last;
            }
            source
        })
        .collect()
}
