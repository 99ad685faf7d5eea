//! `stowaway forget` in a repository given by path or URL.

use std::collections::HashMap;

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::json;

use crate::cli::{
    CliError,
    args::{ForgetArguments, Output},
    output::{print_json, print_line, print_table},
    reach::exclusively,
};
use crate::{
    model::{Retention, SnapshotIdentity},
    repository::{self, Forget, RepositoryError, SnapshotSummary},
    runner::maintenance::{decide, forget_of, warnings_of},
};

/// `stowaway forget`
pub async fn run(arguments: &ForgetArguments) -> Result<u8, CliError> {
    let forgetting = exclusively(&arguments.location, async |open| {
        let decide = |all: &[SnapshotSummary]| decide_on(arguments, all, open.location());
        if !arguments.dry_run {
            return Ok(open.forget(decide).await?);
        }
        let (forget, decided) = decide(&open.snapshots().await?)?;
        Ok((forget.snapshots.len() as u64, decided))
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

/// Chooses the snapshots to forget: those that the arguments name, or else those that the rules drop.
fn decide_on(
    arguments: &ForgetArguments,
    all: &[SnapshotSummary],
    location: &str,
) -> Result<(Forget, Decided), RepositoryError> {
    if arguments.snapshots.is_empty() {
        return Ok(by_rules(&arguments.rules.policy(), all));
    }
    let ids = arguments.snapshots.iter().map(|id| Ok(repository::by_id(all, id, location)?.id.clone()));
    let snapshots = ids.collect::<Result<_, RepositoryError>>()?;
    Ok((Forget { snapshots, last_of_source: arguments.last_of_source }, Decided::default()))
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
    (forget_of(&plan), decided)
}
