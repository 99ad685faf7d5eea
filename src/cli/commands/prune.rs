//! `stowaway prune` of a repository given by path or URL.

use std::collections::BTreeSet;

use indicatif::BinaryBytes;
use tokio_util::sync::CancellationToken;

use crate::cli::{
    CliError,
    args::{Output, PruneArguments},
    output::{print_json, print_line},
    reach::{access, exclusively},
};
use crate::{
    repository::{PruneReport, RepackReport},
    runner::{with_repository, within_grace},
};

/// `stowaway prune`
pub async fn run(arguments: &PruneArguments) -> Result<u8, CliError> {
    let rules = arguments.rules();
    let mut ahead = RepackReport::default();
    if !rules.dry_run {
        let (access, cancel) = (access(&arguments.location)?, CancellationToken::new());
        let repacking =
            with_repository(access, &cancel, async |open| Ok(open.repack(&BTreeSet::new(), &rules).await?));
        ahead = within_grace(&cancel, repacking).await?;
    }
    let report = exclusively(&arguments.location, async |open| Ok(open.prune(&rules).await?)).await?.after(ahead);
    match arguments.output {
        Output::Json => print_json(&report)?,
        Output::Text => print_line(&prune_line(&report, arguments.dry_run))?,
    }
    Ok(0)
}

fn prune_line(report: &PruneReport, dry_run: bool) -> String {
    format!(
        "{}{} freed: {} packs removed, {} repacked; {} packs ({}) stay for {} snapshots, {} of them unused",
        if dry_run { "would be done: " } else { "" },
        BinaryBytes(report.freed_bytes()),
        report.packs_removed,
        report.packs_repacked,
        report.packs_after,
        BinaryBytes(report.bytes_after),
        report.snapshots,
        BinaryBytes(report.unused_bytes),
    )
}
