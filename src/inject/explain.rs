//! Explains what is injected into a pod and why, and what would be backed up, without a cluster. An explanation
//! contains no command line, because it may contain passwords; it shows only the program's name. [`command_lines`]
//! returns the arguments for a user who requests them.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Cause, Effect, Finding, Injected, InjectionFacts, Outcome, QualityOfService, Template, inject,
    placeholders::{Placeholder, assume},
    quality_of_service,
};
use crate::{
    annotations::{self, KeyId, own_key},
    model::{SourceName, injected::SIDECAR_CONTAINER},
    plan::{ObservedPod, PlanProblem, SourceFacts, plan_sources},
};

/// The decision on one pod, and its reasons.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The object that the pod belongs to.
    pub object: String,
    pub namespace: String,
    /// The action on the pod.
    pub effect: Effect,
    pub cause: Cause,
    /// All reasons against the injection.
    pub findings: Vec<Finding>,
    pub warnings: Vec<String>,
    /// The containers, volumes and Secrets that the pod gets.
    pub injected: Injected,
    /// A description of what the cluster must contain in addition to the known objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumption: Option<String>,
    /// The sources that a Backup would back up.
    pub sources: Vec<SourceExplanation>,
    /// The pod's quality of service class as written; none if the JSON is not a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_of_service: Option<QualityOfService>,
    /// The class after the injection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_of_service_injected: Option<QualityOfService>,
    /// The operations.
    pub patch: Patch,
}

/// One source of the pod.
#[derive(Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceExplanation {
    /// Name of the source. For a `StatefulSet` it is the first pod's, for a `DaemonSet` the pod's on the node `node`.
    pub name: SourceName,
    /// The container in which the command runs, or which reads the volume.
    pub container: String,
    /// Name of the command in `backupcommand.<name>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The program that runs; none for a volume, which the sidecar reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Number of arguments.
    pub arguments: usize,
    /// The path of the source's file or directory in the repository, unless the history of another source has this
    /// path.
    pub path: String,
}

/// The arguments of an annotated command, each of which the program receives as it is here. They may contain passwords.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandLine {
    /// The `<name>` of `backupcommand.<name>`; none for the plain command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Program and arguments of the command that reads the dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_arguments: Option<Vec<String>>,
}

impl Explanation {
    /// Whether something must be corrected before the pod works as annotated.
    pub fn is_refused(&self) -> bool {
        !self.findings.is_empty()
    }
}

/// Explains one pod. A Repository that is not among the facts is assumed to exist.
pub fn explain(template: &Template, facts: &InjectionFacts<'_>) -> Explanation {
    let annotations = template.pod.pointer("/metadata/annotations");
    let name = annotations.and_then(|annotations| annotations.get(own_key(KeyId::Repository))?.as_str());
    let Placeholder { repositories, assumption } = assume(facts, name);
    let outcome = inject(&template.pod, &InjectionFacts { repositories: &repositories, ..*facts });
    let patched = outcome.apply(&template.pod).ok();
    // A volume is a source only of a pod with a sidecar, so the patched pod is planned.
    let (sources, further) = sources(template, patched.as_ref().unwrap_or(&template.pod));
    let Outcome { effect, cause, mut findings, mut warnings, injected, patch } = outcome;
    // Without its sidecar, the pod has no volumes to back up. The injection's findings have reported that.
    let further = further.into_iter().filter(|(is_of_a_volume, _)| !is_of_a_volume || findings.is_empty());
    let further: Vec<Finding> = further.map(|(_, finding)| finding).collect();
    // A message that is a finding is not repeated as a warning.
    warnings.retain(|warning| !findings.iter().any(|finding| warning.ends_with(&finding.message)));
    findings.extend(further);
    warnings.extend(template.warnings.iter().cloned());
    Explanation {
        object: template.title.clone(),
        namespace: template.namespace.clone(),
        effect,
        cause,
        findings,
        warnings,
        assumption: assumption.filter(|_| injected.store.is_some()),
        injected,
        sources,
        quality_of_service: quality_of_service(&template.pod),
        quality_of_service_injected: patched.as_ref().and_then(quality_of_service),
        patch,
    }
}

/// The arguments of the pod's commands; none if its annotations are invalid.
pub fn command_lines(template: &Template) -> Vec<CommandLine> {
    let annotations = template.pod.pointer("/metadata/annotations").cloned();
    let annotations = annotations.and_then(|annotations| serde_json::from_value(annotations).ok()).unwrap_or_default();
    let request = annotations::parse(&annotations).ok().flatten();
    let commands = request.into_iter().flat_map(|request| request.commands);
    commands
        .map(|command| CommandLine {
            name: command.name,
            arguments: command.argv,
            restore_arguments: command.restore_argv,
        })
        .collect()
}

/// The sources according to the plan of a Backup, and the problems which only that plan finds. The flag states whether
/// a problem is about a volume.
fn sources(template: &Template, pod: &Value) -> (Vec<SourceExplanation>, Vec<(bool, Finding)>) {
    let mut pod: Pod = match serde_json::from_value(pod.clone()) {
        Ok(pod) => pod,
        Err(error) => {
            return (
                Vec::new(),
                vec![(false, Finding::new(Cause::NotAPod, format!("the API server would reject this: {error}")))],
            );
        }
    };
    let prefix = pod.metadata.generate_name.clone().unwrap_or_default();
    pod.metadata.name.get_or_insert_with(|| format!("{prefix}xxxxx"));
    if template.workload.kind == "daemonset"
        && let Some(spec) = &mut pod.spec
    {
        spec.node_name.get_or_insert_with(|| "node".into());
    }
    if matches!(template.workload.kind.as_str(), "job" | "cronjob") {
        // A pod of a Job is a source only while it is Ready.
        pod.status = serde_json::from_value(json!({
            "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
        }))
        .ok();
    }
    let request =
        pod.metadata.annotations.as_ref().and_then(|annotations| annotations::parse(annotations).ok().flatten());
    let plan = plan_sources(SourceFacts {
        namespace: &template.namespace,
        pods: &[ObservedPod { pod, workload: template.workload.clone() }],
        claims: None,
        selector: None,
        cluster: "",
        backup_uid: "",
        expected: None,
    });
    let explained = plan.sources.into_iter().map(|source| {
        // If the name has four parts, the last part is the command's name.
        let parts: Vec<&str> = source.name.as_str().split('/').collect();
        let named = parts.get(3).map(|name| (*name).to_owned());
        let is_volume = parts.first() == Some(&"pvc");
        let mut commands = request.iter().flat_map(|request| &request.commands);
        let argv = commands.find(|command| command.name == named && !is_volume);
        SourceExplanation {
            container: if is_volume { SIDECAR_CONTAINER } else { parts.get(2).copied().unwrap_or_default() }.to_owned(),
            program: argv.and_then(|command| command.argv.first()).map(|program| shown(program)),
            arguments: argv.map_or(0, |command| command.argv.len().saturating_sub(1)),
            path: source.identity.path,
            command: named,
            name: source.name,
        }
    });
    let further = plan.problems.iter().filter_map(|problem| match problem {
        // The injection has found these problems itself.
        PlanProblem::Annotations { .. } | PlanProblem::UnknownContainer { .. } => None,
        problem => {
            let is_of_a_volume = matches!(problem, PlanProblem::Volume { .. } | PlanProblem::NotInjected { .. });
            Some((is_of_a_volume, Finding::new(Cause::InvalidAnnotation, problem.to_string())))
        }
    });
    (explained.collect(), further.collect())
}

/// The program's name. For `PASSWORD=... program`, which a shell would accept, the part after the equals sign is
/// hidden.
fn shown(program: &str) -> String {
    program.split_once('=').map_or_else(|| program.to_owned(), |(name, _)| format!("{name}=..."))
}
