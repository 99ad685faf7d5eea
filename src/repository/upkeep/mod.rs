//! Upkeep of a repository: check what is stored, forget snapshots, prune what no snapshot needs any more.
//!
//! The engine (`rustic_core` 0.13) is used for none of it. Its prune counts the blobs of a pack in 16 bits (restic packs
//! more of small files), removes before it has looked whether its lock still holds, and marks packs in index files in a
//! way that restic does not know; its check reads a pack as a whole and says neither what is harmed nor where. It must not
//! know why a snapshot is to go, nor when anything is due.

mod check;
mod findings;
mod forget;
mod index;
mod prune;
mod reach;
mod snapshots;

pub use self::{
    check::{CheckReport, DataPart, DataPartError},
    findings::{Finding, Findings, HarmedSnapshot},
    forget::Forget,
    prune::{PruneReport, PruneRules, Unused, UnusedError},
};

#[cfg(test)]
mod tests;
