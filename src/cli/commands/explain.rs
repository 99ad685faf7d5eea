//! `stowaway explain`: prints what the webhook would inject into the pods of a file and which of its claims Backups
//! would store, and why or why not. It needs no cluster; `inject` and `plan` decide.

mod claims;
mod k8up;

use std::{collections::BTreeSet, io::Read};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::{
    CliError,
    args::{ExplainArguments, Output},
    output::{note, print_json, print_line},
};
use crate::{
    annotations::Carrier,
    api::{self, Repository},
    inject::{
        CommandLine, Effect, Explanation, InjectionFacts, MAX_BYTES, QualityOfService, StrictJson, command_lines,
        explain, pods_of,
    },
    model::injected::{HELPER_MOUNT, SECRETS_FOLDER, VOLUMES_FOLDER},
    webhook::validate,
};

/// The output for one pod.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedPod {
    #[serde(flatten)]
    explanation: Explanation,
    /// The arguments of the commands, if they were requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    command_lines: Option<Vec<CommandLine>>,
}

/// Runs the command. The exit status is 2 if something in the file must be fixed.
pub fn run(arguments: &ExplainArguments) -> Result<u8, CliError> {
    let text = read(&arguments.filename)?;
    let documents = documents(&text)?;
    let repositories = repositories(&documents, &arguments.namespace)?;
    let facts = InjectionFacts {
        namespace: &arguments.namespace,
        on_create: true,
        by_namespace: None,
        image: &arguments.image,
        repositories: &repositories,
    };
    let mut explanations = Vec::new();
    let (mut passed_over, mut foreign, mut mistaken) = (Vec::new(), Vec::new(), Vec::new());
    for (index, object) in documents.iter().enumerate() {
        let of_document = |error| CliError::Usage(format!("document {} of the file: {error}", index + 1));
        let templates = pods_of(object, &arguments.namespace).map_err(of_document)?;
        if let Some(lines) = k8up::lines(object, &arguments.namespace) {
            foreign.push(lines);
        } else if let Some(lines) = namespace_lines(object) {
            mistaken.push(lines);
        } else if templates.is_empty() {
            passed_over.push(object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned());
        }
        explanations.extend(templates.iter().map(|template| ExplainedPod {
            explanation: explain(template, &InjectionFacts { namespace: &template.namespace, ..facts }),
            command_lines: arguments.show_arguments.then(|| command_lines(template)),
        }));
    }
    let sources = explanations.iter().map(|pod| &pod.explanation);
    let sources =
        sources.flat_map(|pod| pod.sources.iter().map(move |one| (pod.namespace.clone(), one.name.to_string())));
    let facts = claims::Facts {
        namespace: &arguments.namespace,
        documents: &documents,
        repositories: &repositories,
        requested: &sources.collect::<BTreeSet<_>>(),
    };
    let claims: Vec<_> = documents.iter().flat_map(|object| claims::explained(object, facts)).collect();
    if arguments.output == Output::Json {
        print_json(&explanations)?;
    } else {
        for (index, pod) in explanations.iter().enumerate() {
            if index > 0 {
                print_line("")?;
            }
            let shown = pod.command_lines.iter().flatten().flat_map(argument_lines);
            for line in lines(&pod.explanation).into_iter().chain(shown) {
                print_line(&line)?;
            }
        }
        if explanations.is_empty() && claims.is_empty() && foreign.is_empty() && mistaken.is_empty() {
            print_line(&format!("no pods in the file{}", kinds(&passed_over)))?;
        }
    }
    let of_claims = claims.iter().map(|claim| &claim.lines);
    for line in of_claims.chain(&foreign).chain(&mistaken).flatten() {
        // The JSON output is about pods only.
        if arguments.output == Output::Json { note(line) } else { print_line(line)? }
    }
    // An object that Stowaway ignores makes no backup, so the exit status is 2.
    let is_wrong = explanations.iter().any(|pod| pod.explanation.is_refused()) || claims.iter().any(|one| one.is_wrong);
    Ok(if is_wrong || !foreign.is_empty() { 2 } else { 0 })
}

/// The Repositories of the file, including those in lists.
fn repositories(documents: &[Value], namespace: &str) -> Result<Vec<Repository>, CliError> {
    let items = |object: &Value| object.get("items").and_then(Value::as_array).cloned();
    let mut repositories = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        for object in items(document).unwrap_or_else(|| vec![document.clone()]) {
            let is = |field: &str, begin: &str| {
                object.get(field).and_then(Value::as_str).is_some_and(|value| value.starts_with(begin))
            };
            if object.get("kind").and_then(Value::as_str) != Some("Repository") || !is("apiVersion", api::GROUP) {
                continue;
            }
            let mut repository: Repository = serde_json::from_value(object).map_err(|error| {
                CliError::Usage(format!("document {} of the file is not a valid Repository: {error}", index + 1))
            })?;
            repository.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
            repositories.push(repository);
        }
    }
    Ok(repositories)
}

fn kinds(passed_over: &[String]) -> String {
    if passed_over.is_empty() { String::new() } else { format!(" (only {})", passed_over.join(", ")) }
}

fn read(filename: &str) -> Result<String, CliError> {
    let failed = |error: std::io::Error| CliError::Usage(format!("failed to read {filename}: {error}"));
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    if filename == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(filename).map_err(failed)?.take(limit).read_to_string(&mut text).map_err(failed)?;
    }
    if text.len() >= MAX_FILE_BYTES {
        return Err(CliError::Usage(format!("{filename} has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// Larger than any file of manifests. It bounds the read from an endless device.
const MAX_FILE_BYTES: usize = 16 * MAX_BYTES;

/// The objects of a file, YAML or JSON, without empty documents.
fn documents(text: &str) -> Result<Vec<Value>, CliError> {
    let mut objects = Vec::new();
    for (index, document) in yaml_serde::Deserializer::from_str(text).enumerate() {
        let StrictJson(object) = StrictJson::deserialize(document).map_err(|error| {
            CliError::Usage(format!("document {} of the file cannot be parsed: {error}", index + 1))
        })?;
        if !object.is_null() {
            objects.push(object);
        }
    }
    Ok(objects)
}

/// The arguments of a command, each in the quotes of JSON.
fn argument_lines(command: &CommandLine) -> Vec<String> {
    let title = command.name.as_ref().map_or_else(|| "the plain command".to_owned(), |name| format!("command {name}"));
    let both =
        [(title.clone(), Some(&command.arguments)), (format!("{title}, restore"), command.restore_arguments.as_ref())];
    both.into_iter()
        .filter_map(|(title, arguments)| {
            Some(format!("  {:<10} of {title}: {}", "arguments", Value::from(arguments?.clone())))
        })
        .collect()
}

/// The text output for one pod.
fn lines(explanation: &Explanation) -> Vec<String> {
    let Explanation {
        object,
        namespace,
        effect,
        cause,
        findings,
        warnings,
        injected,
        assumption,
        sources,
        quality_of_service,
        quality_of_service_injected,
        patch: _,
    } = explanation;
    let effect = match effect {
        Effect::Inject => "injected",
        // The user applies the workload, and the webhook refuses it.
        Effect::Skip if findings.iter().any(|finding| !finding.is_of_others()) => "refused",
        Effect::Skip if !findings.is_empty() => "not injected",
        Effect::Skip => "unchanged",
        Effect::Refuse => "refused",
    };
    let mut lines = vec![format!("{object} in namespace {namespace}: {effect} ({cause})")];
    let mut row = |label: &str, text: String| lines.push(format!("  {label:<10} {text}"));
    for finding in findings {
        row("problem", finding.to_string());
    }
    for container in &injected.helper_in {
        row("helper", format!("into container {container}, at {HELPER_MOUNT}"));
    }
    for secret in &injected.secrets {
        let containers = injected.helper_in.join(", ");
        row(
            "secret",
            format!("{secret} into container {containers}, at {SECRETS_FOLDER}/{secret}; the Secret may be missing"),
        );
    }
    let volumes = injected.volumes.join(", ");
    if injected.sidecar {
        let volumes = if volumes.is_empty() { "no volumes".to_owned() } else { format!("{volumes} (read-only)") };
        row("sidecar", format!("mounts {volumes} in {VOLUMES_FOLDER}"));
    }
    if injected.restore {
        row("restore", format!("restores {volumes} before the app starts, if empty"));
    }
    if let Some(store) = &injected.store {
        row("store", format!("Repository {store}; the pod starts without its Secrets, but backups need them"));
    }
    if let Some(assumption) = assumption {
        row("assumed", assumption.clone());
    }
    for source in sources {
        let arguments = match source.arguments {
            0 => "without arguments".to_owned(),
            1 => "and 1 argument".to_owned(),
            count => format!("and {count} arguments"),
        };
        let what = match &source.program {
            Some(program) => format!("{program} {arguments}"),
            None => "its files, read by the sidecar".to_owned(),
        };
        row("source", format!("{}: {what}, stored as {}", source.name, source.path));
    }
    if let (Some(before), Some(after)) = (quality_of_service, quality_of_service_injected) {
        row("QoS class", quality(*before, *after));
    }
    for warning in warnings {
        row("warning", warning.clone());
    }
    lines
}

/// The lines about a Namespace whose annotations or labels have a mistake; none for another object.
fn namespace_lines(object: &Value) -> Option<Vec<String>> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    if (text("/apiVersion"), text("/kind")) != (Some("v1"), Some("Namespace")) {
        return None;
    }
    let warnings = validate::carrier(Carrier::Namespace, object).warnings;
    let title = format!("Namespace {}", text("/metadata/name").unwrap_or("without a name"));
    let rows = warnings.iter().map(|warning| format!("  {:<10} {warning}", "warning"));
    (!warnings.is_empty()).then(|| std::iter::once(title).chain(rows).collect())
}

fn quality(before: QualityOfService, after: QualityOfService) -> String {
    if before == after { format!("stays {before}") } else { format!("{before} becomes {after}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_yaml_and_json_are_found_and_empty_ones_passed_over() {
        let kinds = |text: &str| -> Vec<String> {
            documents(text).unwrap().iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(kinds("kind: A\n---\n---\n# nothing\n---\nkind: B\n"), ["A", "B"]);
        assert_eq!(kinds("{\"kind\": \"A\"}"), ["A"]);
        assert!(kinds("").is_empty());
        let error = documents("kind: A\n---\nkind: B\nkind: C\n").unwrap_err();
        assert!(error.to_string().contains("document 2"), "{error}");
        assert_eq!(error.exit_status(), 2);
    }
}
