//! The verbs that look after a repository by path or URL: check, forget, prune, unlock.
//!
//! It must not know how any of that is done.

use std::collections::{BTreeSet, HashMap};

use indicatif::BinaryBytes;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    CliError,
    args::{CheckArguments, ForgetArguments, Output, Place, PruneArguments, UnlockArguments},
    environment, local,
    output::{print_json, print_line, print_table},
};
use crate::{
    model::{Failure, Retention, SnapshotIdentity},
    repository::{self, CheckReport, Forget, PruneReport, RepackReport, Repository, SnapshotSummary, Unlock, Unlocked},
    runner::{
        upkeep::{decide, forget_of, warnings_of},
        with_repository, within_grace,
    },
};

/// `stowaway check`: exit status 1 if anything is wrong.
pub async fn check(arguments: &CheckArguments) -> Result<u8, CliError> {
    let access = access(&arguments.place)?;
    let cancel = CancellationToken::new();
    let checking = with_repository(access, &cancel, async |open| Ok(open.check(arguments.data.part()).await?));
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
        "{} snapshots, {} packs with {} blobs; {} packs ({read}) read byte by byte; {} packs that nothing names",
        report.snapshots, report.packs, report.blobs, report.packs_read, report.unreferenced_packs
    ))?;
    if report.is_sound() {
        return print_line("nothing is wrong");
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
        print_line("these snapshots cannot be restored as a whole:")?;
        print_table(["ID", "TIME", "SOURCE", "HOST:PATH"], harmed)?;
    }
    print_line(&format!("{} findings, {} harmed snapshots", report.findings.count, report.harmed_snapshots))
}

/// `stowaway forget`
pub async fn forget(arguments: &ForgetArguments) -> Result<u8, CliError> {
    let forgetting = exclusively(&arguments.place, async |open| {
        let all = open.snapshots().await?;
        let (forget, decided) = if arguments.snapshots.is_empty() {
            by_rules(&arguments.rules.policy(), &all)
        } else {
            let ids = arguments.snapshots.iter().map(|id| Ok(repository::by_id(&all, id, open.place())?.id.clone()));
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
    print_line(&format!("{count} snapshots {would}forgotten; `stowaway prune` frees what only they needed"))?;
    Ok(0)
}

/// What the rules say of all snapshots.
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
    /// Why it stays; nothing for one that goes.
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
        let (access, cancel) = (access(&arguments.place)?, CancellationToken::new());
        let repacking =
            with_repository(access, &cancel, async |open| Ok(open.repack(&BTreeSet::new(), &rules).await?));
        ahead = within_grace(&cancel, repacking).await?;
    }
    let report = exclusively(&arguments.place, async |open| Ok(open.prune(&rules).await?)).await?.after(ahead);
    match arguments.output {
        Output::Json => print_json(&report)?,
        Output::Text => print_line(&prune_line(&report, arguments.dry_run))?,
    }
    Ok(0)
}

fn prune_line(report: &PruneReport, dry_run: bool) -> String {
    format!(
        "{}{} freed: {} packs removed, {} packed anew; {} packs ({}) stay for {} snapshots, {} of them unused",
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
    let access = access(&arguments.place)?;
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
        print_line(&format!("kept {lock}: it may be of a client that runs; --all removes it"))?;
    }
    for failure in &failed {
        print_line(&format!("not removed: {failure}"))?;
    }
    print_line(&format!("{} locks removed", removed.len() + removed_unreadable.len()))?;
    Ok(u8::from(!failed.is_empty()))
}

async fn exclusively<T>(
    place: &Place,
    work: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, CliError> {
    let access = access(place)?;
    let cancel = CancellationToken::new();
    let working = async {
        let open = repository::open_exclusively(access, cancel.clone()).await?;
        let result = work(&open).await;
        open.close().await;
        result
    };
    Ok(within_grace(&cancel, working).await?)
}

pub(super) fn access(place: &Place) -> Result<repository::Access, CliError> {
    if place.namespace.is_some() || place.context.is_some() || place.repository_name.is_some() {
        let message = "--namespace, --context and --repository-name have no meaning here: this works on a repository that is \
                       reached from this machine, by --repository PLACE; in a cluster spec.check and spec.prune of the \
                       Repository do it";
        return Err(CliError::Usage(message.to_owned()));
    }
    let repository = local::repository_of(place)
        .ok_or_else(|| CliError::Usage("which repository? give --repository PLACE, or RESTIC_REPOSITORY".to_owned()))?;
    environment::access(&repository, place.password_file.as_deref())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Verb};

    #[test]
    fn names_of_a_cluster_are_refused_by_what_works_on_a_repository_alone() {
        for option in ["--namespace=shop", "--context=other", "--repository-name=main"] {
            let arguments = Arguments::try_parse_from(["stowaway", "prune", option]).unwrap();
            let Verb::Prune(arguments) = arguments.verb else { panic!("another verb") };
            let error = access(&arguments.place).unwrap_err();
            assert!(matches!(&error, CliError::Usage(message) if message.contains("have no meaning here")), "{error}");
        }
    }

    #[test]
    fn n_is_the_dry_run_of_what_removes() {
        for words in [&["forget", "-n", "--keep-last", "1"][..], &["prune", "-n"]] {
            let arguments = Arguments::try_parse_from([&["stowaway"][..], words].concat()).unwrap();
            match arguments.verb {
                Verb::Forget(arguments) => assert!(arguments.dry_run && arguments.place.namespace.is_none()),
                Verb::Prune(arguments) => assert!(arguments.dry_run && arguments.place.namespace.is_none()),
                verb => panic!("{verb:?}"),
            }
        }
    }
}
