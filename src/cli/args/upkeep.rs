//! What can be typed for the upkeep of a repository. Only parsing.

use clap::Args;

use super::{Output, Place};
use crate::repository::{DataPart, PruneRules, Unused};

/// `stowaway check`
#[derive(Args, Debug)]
pub struct CheckArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Read the bytes of all packs, too.
    #[arg(long)]
    pub read_data: bool,
    /// Read the bytes of one part of the packs, as 1/7 for the first of seven: the same parts as restic's.
    #[arg(long, value_name = "N/M", conflicts_with = "read_data")]
    pub read_data_subset: Option<DataPart>,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl CheckArguments {
    /// Which packs are read.
    pub fn data(&self) -> Option<DataPart> {
        if self.read_data { Some(DataPart::ALL) } else { self.read_data_subset }
    }
}

/// `stowaway forget`
#[derive(Args, Debug)]
pub struct ForgetArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Ids of the snapshots, or their first digits.
    #[arg(required = true)]
    pub snapshots: Vec<String>,
}

/// `stowaway prune`
#[derive(Args, Debug)]
pub struct PruneArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// How much may stay that nothing needs, in packs that are needed in part: 5%, bytes as 500M, or unlimited.
    #[arg(long, value_name = "LIMIT", default_value_t)]
    pub max_unused: Unused,
    /// Pack at most so many bytes anew.
    #[arg(long, value_name = "BYTES")]
    pub max_repack_size: Option<u64>,
    /// Prune even a repository that holds much data and no snapshot.
    #[arg(long)]
    pub allow_no_snapshots: bool,
    /// Change nothing, and tell what would be done.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl PruneArguments {
    /// How it is done.
    pub fn rules(&self) -> PruneRules {
        PruneRules {
            max_unused: self.max_unused,
            max_repack: self.max_repack_size,
            allow_no_snapshots: self.allow_no_snapshots,
            dry_run: self.dry_run,
        }
    }
}

/// `stowaway unlock`
#[derive(Args, Debug)]
pub struct UnlockArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// All locks, whoever may still hold one; else only those whose holders are gone.
    #[arg(long)]
    pub all: bool,
}
