//! The maintenance commands for a repository given by path or URL: check, forget, prune, unlock.

use std::collections::{BTreeSet, HashMap};

use indicatif::BinaryBytes;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    CliError,
    args::{CheckArguments, ForgetArguments, Output, PruneArguments, RepositoryArguments, UnlockArguments},
    environment, local,
    output::{print_json, print_line, print_table},
};
use crate::{
    model::{Failure, Retention, SnapshotIdentity},
    repository::{self, CheckReport, Forget, PruneReport, RepackReport, Repository, SnapshotSummary, Unlock, Unlocked},
    runner::{
        maintenance::{decide, forget_of, warnings_of},
        with_repository, with_repository_to_read, within_grace,
    },
};

/// `stowaway check`. The exit status is 1 if there is a finding.
pub async fn check(arguments: &CheckArguments) -> Result<u8, CliError> {
    let access = access(&arguments.location)?;
    let cancel = CancellationToken::new();
    let checking = with_repository_to_read(access, &cancel, async |open| Ok(open.check(arguments.data.part()).await?));
    let report = within_grace(&cancel, checking).await?;
    match arguments.output {
        Output::Json => print_json(&report)?,
        Output::Text => print_check(&report)?,
    }
    Ok(u8::from(!report.is_sound()))
}

fn print_check(report: &CheckReport) -> Result<(), CliError> {
    let read = BinaryBytes(report.bytes_read);
    print_line(&format!(
        "{} snapshots, {} packs with {} blobs; {} packs ({read}) read byte by byte; {} unreferenced packs",
        report.snapshots, report.packs, report.blobs, report.packs_read, report.unreferenced_packs
    ))?;
    if report.is_sound() {
        return print_line("no problems found");
    }
    for finding in &report.findings.first {
        print_line(&finding.to_string())?;
    }
    let harmed = report.harmed.iter().map(|one| {
        let source = one.source.clone().unwrap_or_else(|| "-".to_owned());
        [
            one.id[..8.min(one.id.len())].to_owned(),
            format!("{:.0}", one.time),
            source,
            format!("{}:{}", one.host, one.path),
        ]
    });
    if report.harmed_snapshots > 0 {
        print_line("these snapshots cannot be restored completely:")?;
        print_table(["ID", "TIME", "SOURCE", "HOST:PATH"], harmed)?;
    }
    print_line(&format!("{} findings, {} harmed snapshots", report.findings.count, report.harmed_snapshots))
}

/// `stowaway forget`
pub async fn forget(arguments: &ForgetArguments) -> Result<u8, CliError> {
    let forgetting = exclusively(&arguments.location, async |open| {
        let all = open.snapshots().await?;
        let (forget, decided) = if arguments.snapshots.is_empty() {
            by_rules(&arguments.rules.policy(), &all)
        } else {
            let ids = arguments.snapshots.iter().map(|id| Ok(repository::by_id(&all, id, open.location())?.id.clone()));
            let snapshots = ids.collect::<Result<_, Failure>>()?;
            let last_of_source = arguments.last_of_source;
            (Forget { snapshots, last_of_source, ..Forget::default() }, Decided::default())
        };
        let count = if arguments.dry_run { forget.snapshots.len() as u64 } else { open.forget(&forget).await? };
        Ok((count, decided))
    });
    let (count, decided) = forgetting.await?;
    if arguments.output == Output::Json {
        print_json(&json!({ "forgotten": count, "dryRun": arguments.dry_run, "snapshots": decided.snapshots }))?;
        return Ok(0);
    }
    if !decided.snapshots.is_empty() {
        let rows = decided.snapshots.into_iter().map(|one| {
            let decision = one.keep.map_or_else(|| "forget".to_owned(), |why| format!("keep: {why}"));
            [one.id[..8.min(one.id.len())].to_owned(), format!("{:.0}", one.time), one.source, decision]
        });
        print_table(["ID", "TIME", "SOURCE", "DECISION"], rows)?;
    }
    decided.warnings.iter().try_for_each(|warning| print_line(warning))?;
    let would = if arguments.dry_run { "would be " } else { "" };
    print_line(&format!(
        "{count} snapshots {would}forgotten; `stowaway prune` frees the data that only they referenced"
    ))?;
    Ok(0)
}

/// The decision of the retention rules about every snapshot.
#[derive(Default)]
struct Decided {
    snapshots: Vec<Decision>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Decision {
    id: String,
    time: Timestamp,
    source: String,
    /// Why the snapshot is kept; none if it is removed.
    keep: Option<String>,
}

fn by_rules(policy: &Retention, all: &[SnapshotSummary]) -> (Forget, Decided) {
    let plan = decide(policy, all, &TimeZone::system(), Timestamp::now());
    let mut kept: HashMap<&str, String> = plan
        .keep
        .iter()
        .map(|kept| (kept.id, kept.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
        .collect();
    let snapshots = all.iter().map(|snapshot| Decision {
        id: snapshot.id.clone(),
        time: snapshot.time,
        source: snapshot.identity.tag(SnapshotIdentity::SOURCE).unwrap_or("-").to_owned(),
        keep: kept.remove(snapshot.id.as_str()),
    });
    let decided = Decided { snapshots: snapshots.collect(), warnings: warnings_of(&plan) };
    (forget_of(&plan, all), decided)
}

/// `stowaway prune`
pub async fn prune(arguments: &PruneArguments) -> Result<u8, CliError> {
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

/// `stowaway unlock`
pub async fn unlock(arguments: &UnlockArguments) -> Result<u8, CliError> {
    let access = access(&arguments.location)?;
    let which = if arguments.all { Unlock::All } else { Unlock::Dead };
    let cancel = CancellationToken::new();
    let removing = async { Ok(repository::remove_locks(access, cancel.clone(), which).await?) };
    let Unlocked { removed, removed_unreadable, kept_unreadable, failed } = within_grace(&cancel, removing).await?;
    for lock in &removed {
        print_line(&format!("removed the lock of {lock}, last refreshed {:.0}", lock.refreshed))?;
    }
    for lock in &removed_unreadable {
        print_line(&format!("removed {lock}"))?;
    }
    for lock in &kept_unreadable {
        print_line(&format!("kept {lock}: its client may still run; --all removes it"))?;
    }
    for failure in &failed {
        print_line(&format!("not removed: {failure}"))?;
    }
    print_line(&format!("{} locks removed", removed.len() + removed_unreadable.len()))?;
    Ok(u8::from(!failed.is_empty()))
}

async fn exclusively<T>(
    location: &RepositoryArguments,
    work: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, CliError> {
    let access = access(location)?;
    let cancel = CancellationToken::new();
    let working = async {
        let open = repository::open_exclusively(access, cancel.clone()).await?;
        let result = work(&open).await;
        open.close().await;
        result
    };
    Ok(within_grace(&cancel, working).await?)
}

pub(super) fn access(location: &RepositoryArguments) -> Result<repository::OpenOptions, CliError> {
    if location.namespace.is_some() || location.context.is_some() || location.repository_name.is_some() {
        let message = "--namespace, --context and --repository-name have no meaning here: this command works on a repository \
                       that is reached from this machine, by --repository REPOSITORY; in a cluster use spec.check and \
                       spec.prune of the Repository";
        return Err(CliError::Usage(message.to_owned()));
    }
    let repository = local::repository_of(location).ok_or_else(|| {
        CliError::Usage("which repository? give --repository REPOSITORY, or RESTIC_REPOSITORY".to_owned())
    })?;
    environment::access(&repository, location.password_file.as_deref())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    #[test]
    fn names_of_a_cluster_are_refused_by_what_works_on_a_repository_alone() {
        for option in ["--namespace=shop", "--context=other", "--repository-name=main"] {
            let arguments = Arguments::try_parse_from(["stowaway", "prune", option]).unwrap();
            let Command::Prune(arguments) = arguments.command else { panic!("another command") };
            let error = access(&arguments.location).unwrap_err();
            assert!(matches!(&error, CliError::Usage(message) if message.contains("have no meaning here")), "{error}");
        }
    }

    #[test]
    fn n_is_the_dry_run_of_what_removes() {
        for line in [&["forget", "-n", "--keep-last", "1"][..], &["prune", "-n"]] {
            let arguments = Arguments::try_parse_from([&["stowaway"][..], line].concat()).unwrap();
            match arguments.command {
                Command::Forget(arguments) => assert!(arguments.dry_run && arguments.location.namespace.is_none()),
                Command::Prune(arguments) => assert!(arguments.dry_run && arguments.location.namespace.is_none()),
                command => panic!("{command:?}"),
            }
        }
    }
}
