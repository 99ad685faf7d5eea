//! Decides whether a running pod has everything that its annotations request, and which pods without it may be replaced
//! now.
//!
//! This module is pure. It calls the same function as the webhook, on the pod as it is now, so that the two can never
//! disagree: a pod whose patch would be empty has everything.

mod turns;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::{
    annotations::{self, Injection, KeyId, own_key},
    api::Repository,
    inject::{Cause, Effect, Finding, InjectionFacts, Outcome, inject},
    plan::labels,
};

pub use turns::{Candidate, MAX_TRIES, MAX_WAIT, PAUSE, RepairBatch, RepairQueue};

/// The reason of a pod without its requested injection, which a new pod would get.
pub const NOT_INJECTED: &str = "NotInjected";

/// The facts besides the pod.
#[derive(Clone, Copy, Debug)]
pub struct WatchdogFacts<'a> {
    pub namespace: &'a str,
    /// The mode which the namespace's label sets.
    pub by_namespace: Option<Injection>,
    /// Reference of Stowaway's image.
    pub image: &'a str,
    pub repositories: &'a [Repository],
}

/// The state of a pod's injection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InjectionState {
    /// The pod requests nothing, opts out, has ended, or can never be injected (such as a mirror pod).
    NotNeeded,
    /// Everything that the pod requests is present.
    Injected,
    /// Everything is present, but an entry is as another version, or another state of the Repository, would create it.
    /// The next pod has it right, and this pod is not replaced because of it.
    Outdated,
    /// Something is missing, and a new pod would have it.
    Missing {
        /// Names of the containers and volumes that are missing or not mounted.
        what: Vec<String>,
    },
    /// A new pod would not have it either.
    CannotBe {
        /// The reasons against the injection; at least one.
        findings: Vec<Finding>,
    },
}

impl InjectionState {
    /// The machine-readable reason why something is missing: [`NOT_INJECTED`], or the cause that prevents the
    /// injection. `None` if nothing is missing.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::NotNeeded | Self::Injected | Self::Outdated => None,
            Self::Missing { .. } => Some(NOT_INJECTED.to_owned()),
            Self::CannotBe { findings } => findings.first().map(|finding| finding.cause.to_string()),
        }
    }

    /// The reason for users, without the pod's name: what is wrong, and what to do.
    pub fn note(&self) -> String {
        match self {
            Self::NotNeeded | Self::Injected | Self::Outdated => String::new(),
            Self::Missing { what } => format!(
                "it runs without the requested injection ({}): when it was created, the webhook was not reached, or nothing \
                 was requested yet; a new pod that replaces it will have it",
                what.join(", ")
            ),
            Self::CannotBe { findings } => {
                let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
                format!("it runs without the requested injection: {}", all.join("; "))
            }
        }
    }

    /// Whether the state depends on the Repositories, so that the caller must read them.
    pub fn wants_repository(&self) -> bool {
        let is_about = |finding: &Finding| finding.cause == Cause::RepositoryNotFound;
        matches!(self, Self::CannotBe { findings } if findings.iter().any(is_about))
    }
}

/// The mode which the label of a namespace sets.
pub fn by_label(labels: Option<&BTreeMap<String, String>>) -> Option<Injection> {
    match labels?.get(&own_key(KeyId::Inject))?.as_str() {
        "helper" => Some(Injection::Helper),
        "sidecar" => Some(Injection::Sidecar),
        "none" => Some(Injection::None),
        _ => None,
    }
}

/// Whether the webhook receives the pods of this namespace; `own` is Stowaway's own namespace.
pub fn is_watched(namespace: &str, own: &str) -> bool {
    namespace != own && namespace != "kube-system"
}

/// Whether a pod may request an injection, by its metadata alone. The pods of runs never do. A pod counts as a run's
/// only if a Job created it, because any user may set its label.
pub fn may_request_injection(metadata: &ObjectMeta, by_namespace: Option<Injection>) -> bool {
    let ObjectMeta { annotations, labels: labels_of_pod, owner_references: owners, .. } = metadata;
    let is_of_job = owners.iter().flatten().any(|owner| owner.controller == Some(true) && owner.kind == "Job");
    let is_run = is_of_job && labels_of_pod.as_ref().is_some_and(|labels| labels.contains_key(labels::KIND));
    let is_labelled = by_namespace.is_some_and(|injection| injection != Injection::None);
    let is_annotated =
        || annotations.as_ref().is_some_and(|annotations| !matches!(annotations::parse(annotations), Ok(None)));
    !is_run && (is_labelled || is_annotated())
}

/// The injection state of a pod that was read from the API server.
pub fn injection_state(pod: &Value, facts: &WatchdogFacts<'_>) -> InjectionState {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let is_terminating = pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    if is_over || is_terminating {
        return InjectionState::NotNeeded;
    }
    let mut pod = pod.clone();
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        // Ephemeral containers are added later, and no new pod has them.
        spec.remove("ephemeralContainers");
    }
    let Outcome { effect, findings, patch, .. } = inject(
        &pod,
        &InjectionFacts {
            namespace: facts.namespace,
            on_create: true,
            by_namespace: facts.by_namespace,
            image: facts.image,
            repositories: facts.repositories,
        },
    );
    let operations = serde_json::to_value(&patch).unwrap_or_default();
    let operations = operations.as_array().map_or(&[][..], Vec::as_slice);
    // If only some entries are impossible, the missing ones count first.
    if operations.is_empty() && !findings.is_empty() {
        return InjectionState::CannotBe { findings };
    }
    if effect != Effect::Inject {
        return InjectionState::NotNeeded;
    }
    if operations.is_empty() {
        return InjectionState::Injected;
    }
    // An outdated entry shows that the webhook was called for this pod, so the missing entries are those which another
    // version adds.
    if operations.iter().any(|operation| operation.get("op").and_then(Value::as_str) == Some("replace")) {
        return InjectionState::Outdated;
    }
    InjectionState::Missing { what: names(operations) }
}

/// Names of everything that a patch adds, each once.
fn names(operations: &[Value]) -> Vec<String> {
    let added = operations.iter().filter_map(|operation| operation.get("value"));
    let entries = added.flat_map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
    let names: BTreeSet<&str> = entries.filter_map(|entry| entry.get("name")?.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}
