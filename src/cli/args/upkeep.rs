//! What can be typed for the upkeep of a repository. Only parsing.

use clap::Args;

use super::{Output, Place};
use crate::{
    model::{Age, DataPart, Retention},
    repository::{PruneRules, Unused},
};

/// Which packs are read byte by byte.
#[derive(Args, Debug)]
pub struct DataArguments {
    /// Read the bytes of all packs, too.
    #[arg(long)]
    read_data: bool,
    /// Read the bytes of one part of the packs, as 1/7 for the first of seven: the same parts as restic's.
    #[arg(long, value_name = "N/M", conflicts_with = "read_data")]
    read_data_subset: Option<DataPart>,
}

impl DataArguments {
    /// The same as a part of them.
    pub fn part(&self) -> Option<DataPart> {
        if self.read_data { Some(DataPart::ALL) } else { self.read_data_subset }
    }
}

/// `stowaway check`
#[derive(Args, Debug)]
pub struct CheckArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Which packs are read.
    #[command(flatten)]
    pub data: DataArguments,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `stowaway doctor`
#[derive(Args, Debug)]
pub struct DoctorArguments {
    /// Where.
    #[command(flatten)]
    place: Place,
    /// Path or URL of a repository, as --repository; or the name of a Repository object, as --repository-name.
    #[arg(conflicts_with_all = ["repository", "repository_name"])]
    which: Option<String>,
    /// Which packs are read.
    #[command(flatten)]
    pub data: DataArguments,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl DoctorArguments {
    /// Where, however it was said. No name of an object has a slash or a colon, and each place has one.
    pub fn place(&self) -> Place {
        let mut place = self.place.clone();
        match &self.which {
            Some(which) if which.contains(['/', ':']) => place.repository = Some(which.clone()),
            Some(which) => place.repository_name = Some(which.clone()),
            None => {}
        }
        place
    }
}

/// `stowaway forget`
#[derive(Args, Debug)]
// As for restic, -n is the dry run here, and a namespace has no meaning.
#[command(mut_arg("namespace", |argument| argument.short(None)))]
pub struct ForgetArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Ids of the snapshots, or their first digits; else rules say which ones stay.
    #[arg(required_unless_present = "rules", conflicts_with = "rules")]
    pub snapshots: Vec<String>,
    /// Which ones stay.
    #[command(flatten)]
    pub rules: KeepArguments,
    /// Delete the named snapshots even if one is the newest good one of its source, because that source is gone for good.
    #[arg(long, requires = "snapshots", conflicts_with = "rules")]
    pub last_of_source: bool,
    /// Change nothing, and tell what would be done.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// restic's rules, for each source by itself.
#[derive(Args, Debug)]
#[group(id = "rules", multiple = true)]
#[allow(clippy::struct_field_names, reason = "the options are restic's own")]
pub struct KeepArguments {
    /// Keep the newest N.
    #[arg(short = 'l', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have any.
    #[arg(short = 'H', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_hourly: Option<u32>,
    /// Keep the newest of each of the last N days that have any.
    #[arg(short = 'd', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_daily: Option<u32>,
    /// Keep the newest of each of the last N weeks that have any.
    #[arg(short = 'w', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_weekly: Option<u32>,
    /// Keep the newest of each of the last N months that have any.
    #[arg(short = 'm', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_monthly: Option<u32>,
    /// Keep the newest of each of the last N years that have any.
    #[arg(short = 'y', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_yearly: Option<u32>,
    /// Keep all that are younger than this, counted back from the newest: 2y5m7d3h.
    #[arg(long, value_name = "AGE")]
    pub keep_within: Option<Age>,
    /// Keep all that carry this tag.
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
}

impl KeepArguments {
    /// The same as a policy.
    pub fn policy(&self) -> Retention {
        Retention {
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_yearly: self.keep_yearly,
            keep_within: self.keep_within,
            keep_tags: self.keep_tag.clone(),
        }
    }
}

/// `stowaway prune`
#[derive(Args, Debug)]
// As for restic, -n is the dry run here, and a namespace has no meaning.
#[command(mut_arg("namespace", |argument| argument.short(None)))]
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
