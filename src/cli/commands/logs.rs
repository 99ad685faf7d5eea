//! `stowaway logs`: the logs of every attempt of every source of a run, oldest first. If the pods of a source are
//! deleted, it shows the part of the log that the status keeps.

mod kept;

use std::{collections::BTreeSet, fmt::Debug};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, LogParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cli::{
    CliError,
    args::{LogsArguments, Output, RunName},
    follow::{is_pod_of, is_run_of},
    output, remote,
};
use crate::{
    api::{Backup, Repository, Restore},
    model::SourceName,
    plan::{
        labels::{ATTEMPT, KIND, RUN, SOURCE},
        names::{OwnerRef, RunKind},
    },
    runner::similar_sources,
};

/// Prints the logs. A run without any pod is an error, because empty output would look like success.
pub async fn run(arguments: &LogsArguments) -> Result<u8, CliError> {
    let (client, namespace) = remote::connect(arguments.namespace.as_deref(), arguments.context.as_deref()).await?;
    let RunName { kind, name } = &arguments.run;
    let kinds = kind.map(|kind| format!(",{KIND}={kind}")).unwrap_or_default();
    let selector = ListParams::default().labels(&format!("{RUN}={name}{kinds}"));
    let owners = owners(&client, &namespace, &arguments.run).await?;
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let mut jobs = jobs.list(&selector).await.map_err(CliError::cluster("list the run's Jobs"))?.items;
    jobs.retain(|job| is_run_of(job, &owners));
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let mut found = pods.list(&selector).await.map_err(CliError::cluster("list the run's pods"))?.items;
    found.retain(|pod| jobs.iter().any(|job| is_pod_of(pod, &job.name_any())));
    let source_of = |pod: &Pod| pod.annotations().get(SOURCE).cloned().unwrap_or_default();
    let mut kept = kept::of_run(&client, &namespace, &arguments.run).await;
    let known: BTreeSet<String> =
        found.iter().map(source_of).chain(kept.iter().map(|kept| kept.source.clone())).collect();
    if let Some(source) = &arguments.source {
        refuse_unknown(source, &known, name)?;
        found.retain(|pod| source_of(pod) == source.as_str());
    }
    kept.retain(|kept| {
        let is_wanted = arguments.source.as_ref().is_none_or(|source| kept.source == source.as_str());
        is_wanted && !found.iter().any(|pod| source_of(pod) == kept.source)
    });
    if found.is_empty() && kept.is_empty() {
        let message = format!(
            "namespace {namespace} has neither a pod of a run {name} nor a Backup or Restore with its result: pods of runs are \
             deleted some time after their end (docs/runs.md)"
        );
        return Err(CliError::Usage(message));
    }
    found.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
    for pod in found {
        let (name, source) = (pod.name_any(), source_of(&pod));
        let label = |key| pod.labels().get(key).cloned().unwrap_or_default();
        let (kind, attempt) = (label(KIND), label(ATTEMPT));
        if arguments.output == Output::Text {
            let of_source = if source.is_empty() { String::new() } else { format!(" of {source}") };
            output::print_line(&format!("==> {kind}{of_source}, attempt {attempt} (pod {name})"))?;
        }
        let reader = match pods.log_stream(&name, &LogParams::default()).await {
            Ok(reader) => reader,
            Err(error) => {
                output::note(&format!("{name}: no log: {}", crate::cli::explain(&error)));
                continue;
            }
        };
        let mut lines = reader.lines();
        while let Some(line) = lines.try_next().await.map_err(CliError::Output)? {
            match arguments.output {
                Output::Text => output::print_line(&line)?,
                Output::Json => output::print_json_line(
                    &json!({ "kind": kind, "source": source, "attempt": attempt, "pod": name, "line": line }),
                )?,
            }
        }
    }
    for kept in kept {
        kept.print(arguments.output)?;
    }
    Ok(0)
}

/// Refuses a source that the run does not have. Of a run without any source, nothing is known.
fn refuse_unknown(source: &SourceName, known: &BTreeSet<String>, run: &str) -> Result<(), CliError> {
    let mut names = known.iter().map(String::as_str).filter(|name| !name.is_empty()).peekable();
    if names.peek().is_none() || known.contains(source.as_str()) {
        return Ok(());
    }
    let known = similar_sources(names, source.as_str());
    Err(CliError::Usage(format!("run {run} has no log of {source}; it has logs of: {known}")))
}

/// The objects with this name, of the given kind or of all kinds.
async fn owners(client: &Client, namespace: &str, RunName { kind, name }: &RunName) -> Result<Vec<OwnerRef>, CliError> {
    let mut found = Vec::new();
    if matches!(kind, None | Some(RunKind::Backup)) {
        found.extend(owner::<Backup>(client, namespace, name).await?);
    }
    if matches!(kind, None | Some(RunKind::Restore)) {
        found.extend(owner::<Restore>(client, namespace, name).await?);
    }
    if !matches!(kind, Some(RunKind::Backup | RunKind::Restore)) {
        found.extend(owner::<Repository>(client, namespace, name).await?);
    }
    Ok(found)
}

async fn owner<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<OwnerRef>, CliError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let objects: Api<K> = Api::namespaced(client.clone(), namespace);
    let kind = K::kind(&());
    let object = objects.get_metadata_opt(name).await;
    let object = object.map_err(CliError::cluster(format!("read the {kind} {namespace}/{name}")))?;
    Ok(object.and_then(|object| {
        Some(OwnerRef {
            api_version: K::api_version(&()).into_owned(),
            kind: kind.into_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: object.uid()?,
            since: None,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_that_the_run_does_not_have_is_refused_with_the_sources_that_it_has() {
        let refused = |known: &[&str]| {
            let known = known.iter().map(|&name| name.to_owned()).collect();
            refuse_unknown(&"pvc/caks".parse().unwrap(), &known, "nightly").err().map(|error| error.to_string())
        };
        let message = "run nightly has no log of pvc/caks; it has logs of: pvc/cask";
        assert_eq!(refused(&["", "pvc/cask"]).as_deref(), Some(message));
        assert_eq!(refused(&["pvc/caks", "pvc/cask"]), None);
        assert_eq!(refused(&[""]), None);
    }
}
