//! What a pod gets: from the pod, as raw JSON, and what the request says of it to an additive patch, or the reason why
//! there is none.
//!
//! Pure. It must not know HTTP, admission reviews, or anything of the cluster: no Secret, no Repository, no Namespace. All
//! that is injected refers to other objects by names in the pod's own namespace, which follow from the pod alone.
//!
//! The pod is never read into a type and written back, since that would lose fields that are younger than our types. The
//! patch only adds; what it replaces is an entry of our own that is out of date. It holds no `test`, because an operation
//! that fails refuses the pod even where the webhook may fail.
//!
//! Where init containers stand. The helper's copy step and the sidecar come last: nothing before them needs them (commands
//! run when the pod is Ready), no other webhook's order is disturbed (a mesh wants to be first, and so does Velero), and
//! a sidecar that starts last ends first, while the network of a mesh is still there. The restore step comes right before
//! the first init container that mounts one of the volumes, else last but before our sidecar: so after a mesh, which puts
//! itself in front, and before all that could look at empty data.

mod explain;
mod ours;
mod outcome;
mod patch;
mod pod;
mod read;
mod resources;
mod shapes;
mod templates;
mod wishes;

pub use explain::{Explanation, SourceExplanation, explain};
pub use outcome::{Cause, Effect, Finding, Injected, Outcome};
pub use read::{MAXIMUM_BYTES, ReadError, Strict, read_json};
pub use resources::{QualityOfService, quality_of_service};
pub use templates::{Template, TemplateError, pods_of};

use serde_json::Value;

use self::{patch::PatchBuilder, pod::PodView};
use crate::{
    annotations::{self, Injection, Role, own_key},
    plan::MAXIMUM_SOURCES,
};

/// What is known of the request besides the pod.
#[derive(Clone, Copy, Debug)]
pub struct InjectionFacts<'a> {
    /// The pod's namespace; a pod that is created may not name it itself.
    pub namespace: &'a str,
    /// Whether the pod is being created.
    pub on_create: bool,
    /// What the pods of the namespace get that say nothing themselves (the namespace's label).
    pub by_namespace: Option<Injection>,
    /// Reference of our image, best by digest.
    pub image: &'a str,
    /// The Repositories of the pod's namespace.
    pub repositories: &'a [crate::api::Repository],
}

/// Decides on one pod.
pub fn inject(pod: &Value, facts: &InjectionFacts<'_>) -> Outcome {
    if !facts.on_create {
        return Outcome::skipped(Cause::NotOnCreate, Vec::new());
    }
    let view = match PodView::new(pod) {
        Ok(view) => view,
        // Who made it does not matter: the API server refuses it for the same reason, and says so.
        Err(finding) if !pod::asks_for_restore(pod) => return Outcome::skipped(finding.cause, vec![finding.message]),
        Err(finding) => return declined(pod, vec![finding], Vec::new()),
    };
    if view.is_mirror() {
        return Outcome::skipped(Cause::MirrorPod, Vec::new());
    }
    let request = match annotations::parse(&view.annotations) {
        Ok(request) => request.unwrap_or_default(),
        Err(problems) => return declined(pod, problems.0.into_iter().map(Finding::from).collect(), Vec::new()),
    };
    let mut warnings: Vec<String> = request.warnings.iter().map(ToString::to_string).collect();
    let default = || facts.by_namespace.or_else(|| (!request.commands.is_empty()).then_some(Injection::Helper));
    let mode = match request.inject.or_else(default) {
        Some(Injection::None) if !request.restore_on_empty => return Outcome::skipped(Cause::OptedOut, warnings),
        None if !request.restore_on_empty => return Outcome::skipped(Cause::NothingAsked, warnings),
        mode => mode.unwrap_or(Injection::None),
    };
    if view.is_windows() {
        let message =
            "the pod runs on Windows, and Stowaway's image on Linux alone; its commands run without the helper";
        if !request.restore_on_empty {
            warnings.push(message.to_owned());
            return Outcome::skipped(Cause::WindowsPod, warnings);
        }
        return declined(pod, vec![Finding::new(Cause::WindowsPod, message)], warnings);
    }
    if request.commands.len() > MAXIMUM_SOURCES {
        let message =
            format!("the pod has {} commands, and a Backup at most {MAXIMUM_SOURCES}", request.commands.len());
        return declined(pod, vec![Finding::new(Cause::InvalidAnnotation, message)], warnings);
    }

    let (wishes, mut findings) = wishes::resolve(&view, &request, mode);
    let mut patch = PatchBuilder::new(&view);
    ours::reconcile(&view, &wishes, facts, &mut patch, &mut findings);
    if !findings.is_empty() {
        return declined(pod, findings, warnings);
    }
    warnings.extend(wishes.warnings());
    let patch = patch.finish();
    Outcome {
        effect: Effect::Inject,
        cause: if patch.is_empty() { Cause::AlreadyInjected } else { Cause::Injected },
        findings,
        warnings,
        injected: wishes.describe(),
        patch,
    }
}

/// Something stands against the injection. A pod that somebody makes by hand is refused, so that he sees it. A pod of a
/// controller is admitted without: it may be a node drain at night, and its workload was checked when it was changed. But
/// a restore is never left out: the app would start on empty data, and the next backups would push out the good ones.
fn declined(pod: &Value, findings: Vec<Finding>, mut warnings: Vec<String>) -> Outcome {
    let cause = findings.first().map_or(Cause::NotAPod, |finding| finding.cause);
    let refuse = pod::asks_for_restore(pod) || !pod::is_controlled(pod);
    if !refuse {
        warnings.extend(findings.iter().map(|finding| format!("not injected: {finding}")));
    }
    let effect = if refuse { Effect::Refuse } else { Effect::Skip };
    Outcome { effect, findings, ..Outcome::skipped(cause, warnings) }
}

/// The annotation that asks for a restore.
fn restore_key() -> String {
    own_key(Role::Restore)
}
