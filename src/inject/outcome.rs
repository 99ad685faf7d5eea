//! What comes out: the patch, or why there is none, in words for people and in a closed list for machines.
//!
//! It must not know how a decision is made.

use std::fmt;

use json_patch::Patch;
use serde::Serialize;
use serde_json::Value;

use crate::annotations::{PREFIX, Problem};

/// What is to be done with the pod.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
pub enum Effect {
    /// It is admitted, with the patch.
    Inject,
    /// It is admitted as it is.
    Skip,
    /// It is not admitted.
    Refuse,
}

/// The one machine-readable cause of a decision: audit annotation, metric label and Event reason alike.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Cause {
    /// The patch adds what is asked for.
    Injected,
    /// Everything that is asked for is there.
    AlreadyInjected,
    /// The pod asks for nothing that needs an injection.
    NothingAsked,
    /// The pod, or its namespace, wants no injection.
    OptedOut,
    /// The pod exists: its containers cannot be changed.
    NotOnCreate,
    /// The shadow of a pod that a kubelet made from a file, and that runs already.
    MirrorPod,
    /// Our image runs on Linux alone.
    WindowsPod,
    /// Bigger than a pod can be.
    TooLarge,
    /// It has not the form of a pod.
    NotAPod,
    /// An annotation cannot be carried out as written.
    InvalidAnnotation,
    /// An annotation names a container that the pod does not have.
    UnknownContainer,
    /// An annotation names a volume that the pod does not have, or none where one has to be chosen.
    UnknownVolume,
    /// The volume holds no files of the app's, or cannot be used in this way.
    UnsuitableVolume,
    /// A container or volume of somebody else has a name of ours.
    NameTaken,
    /// Something else is mounted where ours has to be.
    PathTaken,
    /// There is no such Repository, or it is not known which one is meant.
    RepositoryNotFound,
    /// The Repository cannot be used from within a pod, or not yet.
    RepositoryUnusable,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One spelling for people and machines: the variant's own name.
        fmt::Debug::fmt(self, formatter)
    }
}

/// One thing that stands against an injection.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Finding {
    /// What kind of thing.
    pub cause: Cause,
    /// The annotation that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
    /// What it is, and what to do. Holds no command line.
    pub message: String,
}

impl Finding {
    /// One that is about no single annotation.
    pub(super) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, annotation: None, message: message.into() }
    }

    /// One that is about an annotation.
    pub(super) fn at(cause: Cause, annotation: String, message: impl fmt::Display) -> Self {
        Self { cause, message: format!("annotation {annotation}: {message}"), annotation: Some(annotation) }
    }

    /// Whether it is about an annotation of another tool. Such a one keeps nobody from anything: its own tool may have
    /// another mind about it.
    pub fn is_of_others(&self) -> bool {
        self.annotation.as_deref().is_some_and(|key| !key.starts_with(PREFIX))
    }
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        Self { cause: Cause::InvalidAnnotation, message: problem.to_string(), annotation: Some(problem.key) }
    }
}

/// What the pod gets, or has already.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Injected {
    /// Containers that get the helper.
    pub helper_in: Vec<String>,
    /// Whether there is a sidecar.
    pub sidecar: bool,
    /// Whether empty volumes are filled before the app starts.
    pub restore: bool,
    /// Volumes that sidecar and restore step see.
    pub volumes: Vec<String>,
    /// Secrets that the containers of `helper_in` see.
    pub secrets: Vec<String>,
    /// Name of the Repository that sidecar and restore step use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

/// The decision on one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What to do.
    pub effect: Effect,
    /// Why: of several findings the first.
    pub cause: Cause,
    /// All that stands against an injection, at once. What is wrong with annotations of other tools stands only against what
    /// these ask for.
    pub findings: Vec<Finding>,
    /// What the author of the pod should know; for the API server's warnings.
    pub warnings: Vec<String>,
    /// What the pod gets; nothing when it is not injected.
    pub injected: Injected,
    /// The operations; none when it is not injected, or was already.
    pub patch: Patch,
}

impl Outcome {
    /// The pod is admitted as it is.
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
    /// When the patch does not fit, because the pod is another one.
    pub fn apply(&self, pod: &Value) -> Result<Value, json_patch::PatchError> {
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &self.patch)?;
        Ok(patched)
    }
}
