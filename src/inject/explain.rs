//! Why a pod gets what it gets, and what would be backed up: for people who have no cluster at hand.
//!
//! It must not know how it is printed. It shows no command line, since passwords stand in them: only the program's name.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Cause, Effect, Finding, Injected, InjectionFacts, Outcome, QualityOfService, Template,
    assume::{Assumption, assume},
    inject, quality_of_service,
};
use crate::{
    annotations::{self, Role, own_key},
    model::{SourceName, injected::SIDECAR_CONTAINER},
    plan::{ObservedPod, PlanProblem, SourceFacts, plan_sources},
};

/// What is decided on one pod, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What the pod is of.
    pub object: String,
    /// Its namespace.
    pub namespace: String,
    /// What is done with it.
    pub effect: Effect,
    /// Why.
    pub cause: Cause,
    /// All that stands against it.
    pub findings: Vec<Finding>,
    /// What else should be known.
    pub warnings: Vec<String>,
    /// What it gets.
    pub injected: Injected,
    /// What has to be in the cluster for that, and is not among what is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumption: Option<String>,
    /// What would be backed up.
    pub sources: Vec<SourceExplanation>,
    /// Its class of quality of service as it is written; none when it is no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_of_service: Option<QualityOfService>,
    /// The class with what it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_of_service_injected: Option<QualityOfService>,
    /// The operations.
    pub patch: Patch,
}

/// One source of the pod.
#[derive(Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceExplanation {
    /// Its name. Of a `StatefulSet` the first pod's, of a `DaemonSet` that on the node `node`.
    pub name: SourceName,
    /// The container in which its command runs, or which reads its volume.
    pub container: String,
    /// Which command: the name in `backupcommand.<name>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The program that runs; none for a volume, which the sidecar reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// With how many arguments.
    pub arguments: usize,
    /// The path of its file or folder in the repository, unless another source's history holds it.
    pub path: String,
}

impl Explanation {
    /// Whether something has to be mended before it works as annotated.
    pub fn is_refused(&self) -> bool {
        !self.findings.is_empty()
    }
}

/// Explains one pod. Of a Repository that is not among the facts it is assumed that there will be one.
pub fn explain(template: &Template, facts: &InjectionFacts<'_>) -> Explanation {
    let annotations = template.pod.pointer("/metadata/annotations");
    let name = annotations.and_then(|annotations| annotations.get(own_key(Role::Repository))?.as_str());
    let Assumption { repositories, words } = assume(facts, name);
    let outcome = inject(&template.pod, &InjectionFacts { repositories: &repositories, ..*facts });
    let patched = outcome.apply(&template.pod).ok();
    // A volume is a source of the sidecar that the pod is to get.
    let (sources, further) = sources(template, patched.as_ref().unwrap_or(&template.pod));
    let Outcome { effect, cause, mut findings, mut warnings, injected, patch } = outcome;
    // A pod without its sidecar has no volumes to back up; that the injection has told.
    let further = further.into_iter().filter(|(is_of_a_volume, _)| !is_of_a_volume || findings.is_empty());
    let further: Vec<Finding> = further.map(|(_, finding)| finding).collect();
    // What is told as a finding need not be told as a warning, too.
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
        assumption: words.filter(|_| injected.store.is_some()),
        injected,
        sources,
        quality_of_service: quality_of_service(&template.pod),
        quality_of_service_injected: patched.as_ref().and_then(quality_of_service),
        patch,
    }
}

/// What would be backed up, by the very plan of a Backup, and what that plan alone finds wrong; with whether it is about a
/// volume.
fn sources(template: &Template, pod: &Value) -> (Vec<SourceExplanation>, Vec<(bool, Finding)>) {
    let mut pod: Pod = match serde_json::from_value(pod.clone()) {
        Ok(pod) => pod,
        Err(error) => {
            return (
                Vec::new(),
                vec![(false, Finding::new(Cause::NotAPod, format!("the API server would not take this: {error}")))],
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
        // Such a pod is a source only while it is Ready.
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
        // The last part of the name is the command's, where there are four.
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
        // The injection has found these itself.
        PlanProblem::Annotations { .. } | PlanProblem::UnknownContainer { .. } => None,
        problem => {
            let is_of_a_volume = matches!(problem, PlanProblem::Volume { .. } | PlanProblem::NotInjected { .. });
            Some((is_of_a_volume, Finding::new(Cause::InvalidAnnotation, problem.to_string())))
        }
    });
    (explained.collect(), further.collect())
}

/// The program's name; of `PASSWORD=... program`, which a shell would understand, not what stands behind the sign.
fn shown(program: &str) -> String {
    program.split_once('=').map_or_else(|| program.to_owned(), |(name, _)| format!("{name}=..."))
}
