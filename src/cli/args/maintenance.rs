//! The arguments of `check`, `doctor`, `forget`, `prune` and `unlock`. This module only parses.

use clap::{Arg, Args};

use super::{Output, RepositoryArguments};
use crate::{
    model::{Age, DataPart, Retention},
    repository::{PruneRules, Unused},
};

/// Selects the packs whose content is read.
#[derive(Args, Debug)]
pub struct DataArguments {
    /// Read and verify the content of all packs, too.
    #[arg(long)]
    read_data: bool,
    /// Read and verify one part of the packs, for example 1/7 for the first of seven; the parts are the same as
    /// restic's.
    #[arg(long, value_name = "N/M", conflicts_with = "read_data")]
    read_data_subset: Option<DataPart>,
}

impl DataArguments {
    /// The selected part; none if no pack is read.
    pub fn part(&self) -> Option<DataPart> {
        if self.read_data { Some(DataPart::ALL) } else { self.read_data_subset }
    }
}

/// `stowaway check`
#[derive(Args, Debug)]
pub struct CheckArguments {
    /// Repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// Packs to read.
    #[command(flatten)]
    pub data: DataArguments,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `stowaway doctor`
#[derive(Args, Debug)]
pub struct DoctorArguments {
    /// Cluster or repository.
    #[command(flatten)]
    location: RepositoryArguments,
    /// Path or URL of a repository, as for --repository; or the name of a Repository object, as for --repository-name.
    #[arg(conflicts_with_all = ["repository", "repository_name"])]
    which: Option<String>,
    /// Packs to read.
    #[command(flatten)]
    pub data: DataArguments,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl DoctorArguments {
    /// The repository, from the options or from the positional argument. The name of an object never contains a slash
    /// or a colon; a path or URL always does.
    pub fn location(&self) -> RepositoryArguments {
        let mut location = self.location.clone();
        match &self.which {
            Some(which) if which.contains(['/', ':']) => location.repository = Some(which.clone()),
            Some(which) => location.repository_name = Some(which.clone()),
            None => {}
        }
        location
    }
}

/// The answer to `-n` and `--namespace`.
const NO_NAMESPACE: &str = "-n is neither the namespace nor the dry run here: write --dry-run in full to change nothing; \
                            a namespace has no meaning here, because this command works on a repository that is reached \
                            from this machine";

/// Refuses `-n` and `--namespace`, with or without a value: -n is the namespace for users of kubectl, and the dry run
/// for those of restic. A mistaken -n must not remove anything.
fn refuse_namespace(argument: Arg) -> Arg {
    argument
        .num_args(0..=1)
        .default_missing_value("")
        .hide(true)
        .value_parser(|_: &str| -> Result<String, &'static str> { Err(NO_NAMESPACE) })
}

/// `stowaway forget`
#[derive(Args, Debug)]
#[command(mut_arg("namespace", refuse_namespace))]
pub struct ForgetArguments {
    /// Repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// Ids of the snapshots, or the start of their ids; without ids, the --keep rules decide which snapshots stay.
    #[arg(required_unless_present = "rules", conflicts_with = "rules")]
    pub snapshots: Vec<String>,
    /// Rules that select the snapshots to keep.
    #[command(flatten)]
    pub rules: KeepArguments,
    /// Remove the given snapshots even if one is the newest good snapshot of its source, because the source no longer
    /// exists.
    #[arg(long, requires = "snapshots", conflicts_with = "rules")]
    pub last_of_source: bool,
    /// Change nothing, and print what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// restic's rules, applied to each source separately.
#[derive(Args, Debug)]
#[group(id = "rules", multiple = true)]
#[allow(clippy::struct_field_names, reason = "the options are restic's own")]
pub struct KeepArguments {
    /// Keep the newest N snapshots.
    #[arg(short = 'l', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_last: Option<u32>,
    /// Keep the newest snapshot of each of the last N hours that have one.
    #[arg(short = 'H', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_hourly: Option<u32>,
    /// Keep the newest snapshot of each of the last N days that have one.
    #[arg(short = 'd', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_daily: Option<u32>,
    /// Keep the newest snapshot of each of the last N weeks that have one.
    #[arg(short = 'w', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_weekly: Option<u32>,
    /// Keep the newest snapshot of each of the last N months that have one.
    #[arg(short = 'm', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_monthly: Option<u32>,
    /// Keep the newest snapshot of each of the last N years that have one.
    #[arg(short = 'y', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_yearly: Option<u32>,
    /// Keep all snapshots that are at most this much older than the newest one: 2y5m7d3h.
    #[arg(long, value_name = "AGE")]
    pub keep_within: Option<Age>,
    /// Keep all snapshots with this tag.
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
}

impl KeepArguments {
    /// The rules as a retention policy.
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
#[command(mut_arg("namespace", refuse_namespace))]
pub struct PruneArguments {
    /// Repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// How much unused data may stay in partly used packs: 5%, bytes as 500M, or unlimited.
    #[arg(long, value_name = "LIMIT", default_value_t)]
    pub max_unused: Unused,
    /// Repack at most this many bytes.
    #[arg(long, value_name = "BYTES")]
    pub max_repack_size: Option<u64>,
    /// Prune even a repository that holds much data but no snapshot.
    #[arg(long)]
    pub allow_no_snapshots: bool,
    /// Change nothing, and print what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl PruneArguments {
    /// The options as rules of the repository.
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
    /// Repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// Remove all locks, even those of running clients. Default: only locks whose holders no longer run.
    #[arg(long)]
    pub all: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::args::{Arguments, Command};

    #[test]
    fn n_is_refused_by_what_removes_and_the_dry_run_is_named() {
        for line in [
            &["forget", "-n", "--keep-last", "1"][..],
            &["forget", "--keep-last", "1", "-n", "shop"],
            &["prune", "-n"],
            &["prune", "-n", "--repository", "/r"],
            &["prune", "--namespace", "shop"],
        ] {
            let refused = Arguments::try_parse_from([&["stowaway"][..], line].concat()).unwrap_err().to_string();
            assert!(refused.contains("--dry-run"), "{line:?}: {refused}");
        }
        let arguments = Arguments::try_parse_from(["stowaway", "prune", "--dry-run"]).unwrap();
        let Command::Prune(arguments) = arguments.command else { panic!("another command") };
        assert!(arguments.dry_run && arguments.location.namespace.is_none());
    }
}
