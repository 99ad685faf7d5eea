//! Whether a pod that runs has what it asks for, and which of those that have not may be replaced now.
//!
//! Pure. What a pod is to have is decided by the very function that the webhook calls, on the pod as it is now, so that the
//! two can never disagree: a pod whose patch would be empty has all of it. It must not know how pods are observed, nor how
//! one is replaced.

mod turns;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::{
    annotations::{self, Injection, Role, own_key},
    api::Repository,
    inject::{Cause, Effect, Finding, InjectionFacts, Outcome, inject},
    plan::labels,
};

pub use turns::{Candidate, LONGEST_WAIT, MAXIMUM_TRIES, PAUSE, Turn, Turns};

/// Why a pod is without what a new one would have.
pub const NOT_INJECTED: &str = "NotInjected";

/// What is known besides the pod.
#[derive(Clone, Copy, Debug)]
pub struct WatchdogFacts<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// What the namespace's label says.
    pub by_namespace: Option<Injection>,
    /// Reference of our image.
    pub image: &'a str,
    /// The Repositories of the namespace.
    pub repositories: &'a [Repository],
}

/// How a pod stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It asks for nothing, wants nothing, has ended, or can have nothing.
    NotNeeded,
    /// All that it asks for is there.
    Injected,
    /// All of it is there, but something as another version would make it, or for another state of the Repository. The next
    /// pod has it right; nobody replaces this one for that.
    Outdated,
    /// Something is not there, and a new pod would have it.
    Missing {
        /// Names of the containers and volumes that are not there, or not mounted.
        what: Vec<String>,
    },
    /// A new pod would not have it either.
    CannotBe {
        /// All that stands against it; at least one.
        findings: Vec<Finding>,
    },
}

impl Standing {
    /// The machine-readable reason why the pod is without: [`NOT_INJECTED`], or what stands against it. None when it is not.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::NotNeeded | Self::Injected | Self::Outdated => None,
            Self::Missing { .. } => Some(NOT_INJECTED.to_owned()),
            Self::CannotBe { findings } => findings.first().map(|finding| finding.cause.to_string()),
        }
    }

    /// The same for people, without the pod's name: what is wrong, and what to do.
    pub fn note(&self) -> String {
        match self {
            Self::NotNeeded | Self::Injected | Self::Outdated => String::new(),
            Self::Missing { what } => format!(
                "it runs without what is asked for ({}): when it was made the webhook was not reached, or nothing was asked \
                 for yet; a new pod in its place will have it",
                what.join(", ")
            ),
            Self::CannotBe { findings } => {
                let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
                format!("it runs without what is asked for: {}", all.join("; "))
            }
        }
    }

    /// Whether it depends on the Repositories, which may be asked for only then.
    pub fn wants_repository(&self) -> bool {
        let is_about = |finding: &Finding| finding.cause == Cause::RepositoryNotFound;
        matches!(self, Self::CannotBe { findings } if findings.iter().any(is_about))
    }
}

/// What the label of a namespace says.
pub fn by_label(labels: Option<&BTreeMap<String, String>>) -> Option<Injection> {
    match labels?.get(&own_key(Role::Inject))?.as_str() {
        "helper" => Some(Injection::Helper),
        "sidecar" => Some(Injection::Sidecar),
        "none" => Some(Injection::None),
        _ => None,
    }
}

/// Whether the pods of this namespace come to the webhook at all; `own` is the namespace of Stowaway itself.
pub fn is_watched(namespace: &str, own: &str) -> bool {
    namespace != own && namespace != "kube-system"
}

/// Whether a pod may ask for something, by its metadata alone. The pods of runs never do: those that a Job made, because anyone
/// may set their label.
pub fn may_ask(metadata: &ObjectMeta, by_namespace: Option<Injection>) -> bool {
    let ObjectMeta { annotations, labels: labels_of_pod, owner_references: owners, .. } = metadata;
    let is_of_job = owners.iter().flatten().any(|owner| owner.controller == Some(true) && owner.kind == "Job");
    let is_run = is_of_job && labels_of_pod.as_ref().is_some_and(|labels| labels.contains_key(labels::KIND));
    let is_labelled = by_namespace.is_some_and(|injection| injection != Injection::None);
    let is_annotated =
        || annotations.as_ref().is_some_and(|annotations| !matches!(annotations::parse(annotations), Ok(None)));
    !is_run && (is_labelled || is_annotated())
}

/// How a pod stands that was read from the API server.
pub fn standing(pod: &Value, facts: &WatchdogFacts<'_>) -> Standing {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let is_terminating = pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    if is_over || is_terminating {
        return Standing::NotNeeded;
    }
    let mut pod = pod.clone();
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        // They come later, and no new pod has them.
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
    // Where only a part cannot be, the rest comes first.
    if operations.is_empty() && !findings.is_empty() {
        return Standing::CannotBe { findings };
    }
    if effect != Effect::Inject {
        return Standing::NotNeeded;
    }
    if operations.is_empty() {
        return Standing::Injected;
    }
    // Where something of ours stands already, the webhook was there: what is further missing is what another version adds.
    if operations.iter().any(|operation| operation.get("op").and_then(Value::as_str) == Some("replace")) {
        return Standing::Outdated;
    }
    Standing::Missing { what: names(operations) }
}

/// Names of all that a patch adds, each once.
fn names(operations: &[Value]) -> Vec<String> {
    let added = operations.iter().filter_map(|operation| operation.get("value"));
    let entries = added.flat_map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
    let names: BTreeSet<&str> = entries.filter_map(|entry| entry.get("name")?.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}
