//! `stowaway logs`: the logs of every attempt of every source of a run, oldest first.
//!
//! It must not know what the lines mean.

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams},
};
use serde_json::json;

use super::{
    CliError,
    args::{LogsArguments, Output, RunName},
    output, remote,
};
use crate::plan::labels::{ATTEMPT, KIND, RUN, SOURCE};

/// Prints them all; a run without any pod is an error, since silence would look like success.
pub async fn logs(arguments: &LogsArguments) -> Result<u8, CliError> {
    let (client, namespace) = remote::connect(arguments.namespace.as_deref(), arguments.context.as_deref()).await?;
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let RunName { kind, name } = &arguments.run;
    let kinds = kind.map(|kind| format!(",{KIND}={kind}")).unwrap_or_default();
    let mut found = pods
        .list(&ListParams::default().labels(&format!("{RUN}={name}{kinds}")))
        .await
        .map_err(CliError::cluster("list the run's pods"))?
        .items;
    let source_of = |pod: &Pod| pod.annotations().get(SOURCE).cloned().unwrap_or_default();
    if let Some(source) = &arguments.source {
        found.retain(|pod| source_of(pod) == source.as_str());
    }
    if found.is_empty() {
        let message = format!(
            "namespace {namespace} has no pod of a run {name}: it goes a while after its end (docs/runs.md); the status of its \
             Backup or Restore has the result"
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
                eprintln!("{name}: no log: {error}");
                continue;
            }
        };
        let mut lines = reader.lines();
        while let Some(line) = lines.try_next().await.map_err(CliError::Output)? {
            match arguments.output {
                Output::Text => output::print_line(&line)?,
                Output::Json => output::print_line(
                    &json!({ "kind": kind, "source": source, "attempt": attempt, "pod": name, "line": line })
                        .to_string(),
                )?,
            }
        }
    }
    Ok(0)
}
