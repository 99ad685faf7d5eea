//! The result of a decision: the patch, or why there is none, as text for users and as a closed list of causes.

use std::fmt;

use json_patch::Patch;
use serde::Serialize;
use serde_json::Value;

use crate::annotations::{PREFIX, Problem};

/// The action on a pod.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
pub enum Effect {
    /// The pod is admitted with the patch.
    Inject,
    /// The pod is admitted unchanged.
    Skip,
    /// The pod is rejected.
    Refuse,
}

/// The machine-readable cause of a decision. It is the audit annotation, the metric label and the Event reason alike.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Cause {
    /// The patch adds what the annotations request.
    Injected,
    /// Everything that the annotations request is present.
    AlreadyInjected,
    /// The pod requests nothing that needs an injection.
    NothingRequested,
    /// The pod or its namespace opts out of injection.
    OptedOut,
    /// The pod exists already, so its containers cannot be changed.
    NotOnCreate,
    /// The mirror pod of a static pod, which runs already.
    MirrorPod,
    /// Stowaway's image runs only on Linux.
    WindowsPod,
    /// The pod is larger than a pod can be.
    TooLarge,
    /// The JSON does not have the form of a pod.
    NotAPod,
    /// An annotation's value is invalid.
    InvalidAnnotation,
    /// An annotation names a container that the pod does not have.
    UnknownContainer,
    /// An annotation names a volume that the pod does not have, or names none where a volume must be chosen.
    UnknownVolume,
    /// The volume does not hold files of the app, or cannot be used for this purpose.
    UnsuitableVolume,
    /// A container or volume of the app has one of Stowaway's names.
    NameTaken,
    /// Something else is mounted at a path that Stowaway needs.
    PathTaken,
    /// The Repository does not exist, or it is ambiguous which Repository is meant.
    RepositoryNotFound,
    /// The Repository cannot be used from within a pod, or not yet.
    RepositoryUnusable,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variant's name is the spelling for users and machines alike.
        fmt::Debug::fmt(self, formatter)
    }
}

/// A reason against an injection.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Finding {
    pub cause: Cause,
    /// The annotation that causes the finding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
    /// The problem, and what to do. It contains no command line.
    pub message: String,
}

impl Finding {
    /// A finding that no single annotation causes.
    pub(super) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, annotation: None, message: message.into() }
    }

    /// A finding about one annotation.
    pub(super) fn at(cause: Cause, annotation: String, message: impl fmt::Display) -> Self {
        Self { cause, message: format!("annotation {annotation}: {message}"), annotation: Some(annotation) }
    }

    /// Whether the finding is about another tool's annotation. Such a finding prevents nothing, because that tool may
    /// interpret the value differently.
    pub fn is_of_others(&self) -> bool {
        self.annotation.as_deref().is_some_and(|key| !key.starts_with(PREFIX))
    }
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        Self { cause: Cause::InvalidAnnotation, message: problem.to_string(), annotation: Some(problem.key) }
    }
}

/// The containers, volumes and Secrets that the pod gets, or has already.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Injected {
    /// Containers into which the helper is mounted.
    pub helper_in: Vec<String>,
    /// Whether the pod has a sidecar.
    pub sidecar: bool,
    /// Whether empty volumes are restored before the app starts.
    pub restore: bool,
    /// Volumes that are mounted into the sidecar and the restore step.
    pub volumes: Vec<String>,
    /// Secrets that are mounted into the containers of `helper_in`.
    pub secrets: Vec<String>,
    /// Name of the Repository that the sidecar and the restore step use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

/// The decision on one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub effect: Effect,
    /// The cause of the first of several findings.
    pub cause: Cause,
    /// All reasons against an injection, not only the first. A finding about another tool's annotation prevents only
    /// what that annotation requests.
    pub findings: Vec<Finding>,
    /// Warnings for the author of the pod, which the API server shows.
    pub warnings: Vec<String>,
    /// The entries that the pod gets; empty if nothing is injected.
    pub injected: Injected,
    /// The operations; empty if nothing is injected, or if everything was injected before.
    pub patch: Patch,
}

impl Outcome {
    /// The pod is admitted unchanged.
    pub(super) fn skipped(cause: Cause, warnings: Vec<String>) -> Self {
        Self {
            effect: Effect::Skip,
            cause,
            findings: Vec::new(),
            warnings,
            injected: Injected::default(),
            patch: Patch::default(),
        }
    }

    /// The pod with the patch applied.
    ///
    /// # Errors
    /// If the patch does not fit, because it was made for another pod.
    pub fn apply(&self, pod: &Value) -> Result<Value, json_patch::PatchError> {
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &self.patch)?;
        Ok(patched)
    }
}
