//! `restore --all`: lists the snapshots, creates one Restore per source, and waits for all of them.
//! `plan::plan_namespace` decides which sources are restored.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use indicatif::BinaryBytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, Client, ResourceExt, api::PostParams};
use serde::Serialize;
use serde_json::json;

use super::{
    CliError,
    args::{Output, RepositoryArguments, RestoreArguments},
    fields, output, query, remote,
};
use crate::{
    api::{NewClaim, Outcome, Restore, RestoreClaim},
    cluster::{call::CallError, observe},
    model::{Failure, Reason, SnapshotIdentity, StoredClaim, Verdict},
    plan::{
        self, ChosenSnapshot, NamespaceFacts, NamespacePlan, NamespaceRequest, ObservedPod, RepositorySnapshots,
        SourceFacts, SourceKind, SourcePlan, Workload,
    },
    repository::SnapshotSummary,
    runner::story,
};

/// Maximum number of Restores that run at the same time.
const AT_ONCE: usize = 4;

/// `stowaway restore --all [-n NAMESPACE]`
pub async fn restore(arguments: &RestoreArguments) -> Result<u8, CliError> {
    if let Some(Some(workload)) = &arguments.scale_down {
        let message = format!(
            "--scale-down with --all takes no workload ({} {}): the workload that mounts the claim is scaled",
            workload.kind, workload.name
        );
        return Err(CliError::Usage(message));
    }
    let location = &arguments.location;
    let (client, namespace) = remote::connect(location.namespace.as_deref(), location.context.as_deref()).await?;
    let host = arguments.host.as_deref().unwrap_or(&namespace);
    let repository = query::find_repository(&client, &namespace, location.repository_name.as_deref()).await?;
    let default = repository.name_any();
    let cluster = repository.status.and_then(|status| status.cluster_id).unwrap_or_default();
    let claims = observe::list::<PersistentVolumeClaim>(&client, &namespace, "").await.map_err(call)?;
    let claims: BTreeSet<String> = claims.iter().map(ResourceExt::name_any).collect();
    let pods = pods(&client, &namespace).await.map_err(call)?;
    let sources = plan::plan_sources(SourceFacts {
        namespace: &namespace,
        pods: &pods,
        claims: None,
        selector: None,
        cluster: "",
        backup_uid: "",
        expected: None,
    });
    let create = remote::new_claim(arguments);
    let request = NamespaceRequest {
        host,
        as_of: arguments.as_of,
        cluster: &cluster,
        now: Timestamp::now(),
        only: arguments.whole.only.map(Into::into),
        create: create.as_ref(),
        overwrite: arguments.overwrite,
        scale_down: arguments.scale_down.is_some(),
    };
    let is_named = location.repository_name.is_some();
    let stored = all_snapshots(location, &default, (&sources, is_named)).await?;
    let repositories: Vec<RepositorySnapshots<'_>> = stored
        .iter()
        .map(|repository| RepositorySnapshots {
            name: repository.name.clone(),
            snapshots: repository.snapshots.iter().map(SnapshotSummary::record).collect(),
            is_unread: repository.unread.is_some(),
        })
        .collect();
    let facts =
        NamespaceFacts { repositories: &repositories, is_named, claims: &claims, pods: &pods, sources: &sources };
    let plan = plan::plan_namespace(request, facts);
    let is_all_read = stored.iter().all(|repository| repository.unread.is_none());
    if plan.restores.is_empty() && plan.refused.is_empty() && is_all_read {
        return Err(nothing(&stored, host).into());
    }
    let mut results = Results::new(arguments.output, &plan, &stored)?;
    if !arguments.whole.dry_run {
        let target = Target { client, namespace, arguments };
        for kind in [SourceKind::Volume, SourceKind::Command] {
            let rows =
                plan.rows(kind).into_iter().map(|row| stream::iter(row).then(|one| target.restore(one)).boxed_local());
            let mut ended = stream::iter(rows).flatten_unordered(AT_ONCE);
            while let Some(ended) = ended.next().await {
                results.push(ended?)?;
            }
        }
    }
    results.finish()
}

fn call(CallError { doing, source }: CallError) -> CliError {
    CliError::Cluster { doing, source }
}

/// A Repository, and its snapshots or why they are not known.
struct StoredRepository {
    name: String,
    snapshots: Vec<SnapshotSummary>,
    unread: Option<CliError>,
}

/// The Repositories to read, with all their snapshots. One that cannot be read does not prevent the restore from the
/// others. Errors: none can be read, or a signal.
async fn all_snapshots(
    location: &RepositoryArguments,
    default: &str,
    (sources, is_named): (&SourcePlan, bool),
) -> Result<Vec<StoredRepository>, CliError> {
    let names = if is_named { vec![default.to_owned()] } else { plan::repositories_to_read(default, sources) };
    let mut stored = Vec::new();
    for name in names {
        let location = RepositoryArguments { repository_name: Some(name.clone()), ..location.clone() };
        let (snapshots, unread) = match query::all_snapshots(&location).await {
            Ok(snapshots) => (snapshots, None),
            Err(error @ CliError::Cancelled(_)) => return Err(error),
            Err(error) => (Vec::new(), Some(error)),
        };
        stored.push(StoredRepository { name, snapshots, unread });
    }
    or_none_read(stored)
}

/// The Repositories, or the first error if none was read.
fn or_none_read(mut stored: Vec<StoredRepository>) -> Result<Vec<StoredRepository>, CliError> {
    let is_any_read = stored.iter().any(|repository| repository.unread.is_none());
    match stored.first_mut().and_then(|first| first.unread.take_if(|_| !is_any_read)) {
        Some(error) => Err(error),
        None => Ok(stored),
    }
}

/// The pods, each with its workload that can be scaled, annotated or not.
async fn pods(client: &Client, namespace: &str) -> Result<Vec<ObservedPod>, CallError> {
    let mut pods = Vec::new();
    for (pod, kind, name) in observe::pods_with_workloads(client, namespace, "").await? {
        if plan::is_run_pod(&pod) {
            continue;
        }
        let workload = match observe::controller_of(pod.owner_references()) {
            Some(owner) if kind == "replicaset" => {
                let top = observe::top_owner(client, namespace, owner).await?;
                Workload { kind: top.kind.to_lowercase(), name: top.name }
            }
            _ => Workload { kind, name },
        };
        pods.push(ObservedPod { pod, workload });
    }
    Ok(pods)
}

fn nothing(stored: &[StoredRepository], host: &str) -> Failure {
    let snapshots = stored.iter().flat_map(|repository| &repository.snapshots);
    let hosts: BTreeSet<&str> = snapshots.map(|snapshot| snapshot.identity.host.as_str()).collect();
    let known = if hosts.is_empty() { "no host".to_owned() } else { hosts.into_iter().collect::<Vec<_>>().join(", ") };
    let message = format!(
        "the repository has no matching snapshots of host {host}; it has snapshots of: {known} (--host selects a host)"
    );
    Failure::new(Reason::SnapshotNotFound, message)
}

/// Where the Restores are created.
struct Target<'a> {
    client: Client,
    namespace: String,
    arguments: &'a RestoreArguments,
}

impl Target<'_> {
    /// Restores one source. A failure becomes the source's outcome, so that the other sources continue. Errors: a
    /// signal ended the wait for all sources.
    async fn restore(&self, chosen: &ChosenSnapshot<'_>) -> Result<Ended, CliError> {
        let source = &chosen.spec.from.source;
        let mut metadata = remote::metadata(None, "restore");
        metadata.name = metadata.name.map(|name| format!("{name}-{}", plan::names::source_hash(source.as_str())));
        let restores: Api<Restore> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut spec = chosen.spec.clone();
        spec.timeout = self.arguments.timeout.map(Into::into);
        let is_into_command = spec.to.as_ref().is_none_or(|to| to.claim.is_none() && to.archive.is_none());
        spec.idle_timeout = self.arguments.idle_timeout.map(Into::into).filter(|_| is_into_command);
        let name = metadata.name.clone().unwrap_or_default();
        let lost = |reason: Reason, message: String| Outcome {
            verdict: Some(Verdict::Failed),
            reason: reason.to_string(),
            message,
            ..Outcome::default()
        };
        let made = restores.create(&PostParams::default(), &Restore { metadata, spec, status: None }).await;
        let outcome = match made {
            Err(error) => {
                lost(Reason::InvalidRequest, format!("the Restore cannot be created: {}", super::explain(&error)))
            }
            Ok(_) => match remote::wait(&restores, (&self.namespace, &name), |_: &Restore| ()).await {
                Ok((restore, _)) => restore.status.unwrap_or_default().outcome,
                Err(error @ CliError::Cancelled(_)) => return Err(error),
                Err(error) => lost(Reason::ResultLost, error.to_string()),
            },
        };
        Ok(Ended { source: source.to_string(), restore: name, snapshot: chosen.snapshot.id.to_owned(), outcome })
    }
}

/// The result of one source.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    source: String,
    restore: String,
    snapshot: String,
    outcome: Outcome,
}

/// The output: first the plan, then each source when it ends, and finally the exit status.
struct Results {
    output: Output,
    planned: serde_json::Value,
    refused: Vec<serde_json::Value>,
    unread: Vec<serde_json::Value>,
    ended: Vec<Ended>,
    worst: Vec<Verdict>,
}

impl Results {
    fn new(output: Output, plan: &NamespacePlan<'_>, stored: &[StoredRepository]) -> Result<Self, CliError> {
        let unread: Vec<(&str, String)> = stored
            .iter()
            .filter_map(|repository| Some((repository.name.as_str(), repository.unread.as_ref()?.to_string())))
            .collect();
        let refused: Vec<_> = plan
            .refused
            .iter()
            .map(|one| json!({ "source": one.source, "message": one.refusal.to_string() }))
            .collect();
        if output == Output::Text {
            print_plan(plan)?;
            for (name, why) in &unread {
                output::print_line(&format!("Repository {name}: not read, nothing is restored from it: {why}"))?;
            }
        }
        let planned = plan.restores.iter().map(|chosen| {
            json!({
                "source": chosen.spec.from.source,
                "snapshot": chosen.snapshot.id,
                "time": chosen.snapshot.time,
                "note": chosen.note,
                "repository": chosen.spec.repository_ref.as_ref().map(|reference| reference.name.as_str()),
            })
        });
        let worst = vec![Verdict::Failed; plan.refused.len() + unread.len()];
        let unread = unread.into_iter().map(|(name, why)| json!({ "repository": name, "message": why })).collect();
        Ok(Self { output, planned: planned.collect(), refused, unread, ended: Vec::new(), worst })
    }

    fn push(&mut self, ended: Ended) -> Result<(), CliError> {
        let outcome = &ended.outcome;
        let verdict = outcome.verdict.unwrap_or(Verdict::Failed);
        if self.output == Output::Text {
            let bytes = BinaryBytes(outcome.bytes.unwrap_or(0));
            let message = if verdict.is_green() && outcome.message.is_empty() {
                String::new()
            } else {
                format!(": {}", fields::with_options(&outcome.message))
            };
            let (source, restore, reason) = (&ended.source, &ended.restore, &outcome.reason);
            output::print_line(&format!("{source}: {verdict} ({reason}), {bytes} by restore/{restore}{message}"))?;
        }
        for line in outcome.stderr_tail.lines().filter(|_| !verdict.is_green()) {
            output::note(&format!("  | {line}"));
        }
        self.worst.push(verdict);
        self.ended.push(ended);
        Ok(())
    }

    fn finish(self) -> Result<u8, CliError> {
        if self.output == Output::Json {
            output::print_json(&json!({
                "planned": self.planned, "refused": self.refused, "unread": self.unread, "ended": self.ended,
            }))?;
        }
        Ok(exit_status(&self.worst))
    }
}

/// Prints the plan and its problems, one line per source.
fn print_plan(plan: &NamespacePlan<'_>) -> Result<(), CliError> {
    let rows = plan.restores.iter().map(|chosen| {
        let claim = chosen.spec.to.as_ref().and_then(|to| to.claim.as_ref());
        let into = match claim {
            Some(RestoreClaim { name, create: Some(new), .. }) => {
                format!("new claim {name}{}", shape(new, chosen.snapshot.identity))
            }
            Some(RestoreClaim { name, create: None, .. }) => format!("claim {name}"),
            None => "its command".to_owned(),
        };
        let id = chosen.snapshot.id;
        [
            chosen.spec.from.source.to_string(),
            id[..id.len().min(8)].to_owned(),
            format!("{:.0}", chosen.snapshot.time),
            into,
        ]
    });
    output::print_table(["SOURCE", "SNAPSHOT", "TIME", "INTO"], rows)?;
    for chosen in &plan.restores {
        if let Some(note) = &chosen.note {
            output::print_line(&format!("{}: {note}", chosen.spec.from.source))?;
        }
    }
    for one in &plan.refused {
        output::print_line(&format!("{}: not restored: {}", one.source, one.refusal))?;
    }
    Ok(())
}

/// Size, storage class and volume mode of a claim that will be created, as far as they are requested or recorded.
fn shape(new: &NewClaim, identity: &SnapshotIdentity) -> String {
    let stored = StoredClaim::of(identity).unwrap_or_default();
    let size = new.size.as_ref().map(|size| size.0.clone()).or(stored.size);
    let class = new.storage_class_name.clone().or(stored.storage_class_name);
    let known: Vec<String> = [size, class, stored.volume_mode].into_iter().flatten().collect();
    if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) }
}

/// The exit status of the worst verdict. A failed source counts more than an incomplete one.
fn exit_status(verdicts: &[Verdict]) -> u8 {
    let codes: BTreeSet<u8> = verdicts.iter().map(|verdict| story::exit_code(*verdict)).collect();
    if codes.contains(&1) { 1 } else { codes.into_iter().max().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, unread: Option<&str>) -> StoredRepository {
        let unread = unread.map(|why| CliError::Usage(why.to_owned()));
        StoredRepository { name: name.to_owned(), snapshots: Vec::new(), unread }
    }

    #[test]
    fn one_repository_that_was_read_is_enough_and_none_is_the_first_error() {
        let some = or_none_read(vec![stored("cellar", Some("gone")), stored("attic", None)]).unwrap();
        assert_eq!(some.iter().filter(|repository| repository.unread.is_some()).count(), 1);
        let none = or_none_read(vec![stored("cellar", Some("gone")), stored("attic", Some("forbidden"))]);
        assert_eq!(none.err().map(|error| error.to_string()).as_deref(), Some("gone"));
    }

    #[test]
    fn exit_status_is_that_of_the_worst_source() {
        assert_eq!(exit_status(&[Verdict::Succeeded; 2]), 0);
        assert_eq!(exit_status(&[Verdict::Succeeded, Verdict::Incomplete]), 3);
        assert_eq!(exit_status(&[Verdict::Incomplete, Verdict::Failed, Verdict::Succeeded]), 1);
    }
}
