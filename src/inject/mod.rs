//! What a pod gets: from the pod, as raw JSON, and what the request says of it to an additive patch, or the reason why
//! there is none.
//!
//! Pure. It must not know HTTP, admission reviews, or how anything of the cluster is known; of its objects it sees the
//! Repositories of the pod's namespace alone, and never a Secret. All that is injected refers to other objects by names in
//! the pod's own namespace.
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

mod assume;
mod explain;
mod ours;
mod outcome;
mod patch;
mod pod;
mod read;
mod resources;
mod shapes;
mod store;
mod templates;
mod user;
mod wishes;

pub use explain::{Explanation, SourceExplanation, explain};
pub use outcome::{Cause, Effect, Finding, Injected, Outcome};
pub use read::{MAXIMUM_BYTES, ReadError, Strict, read_json, twice};
pub use resources::{QualityOfService, quality_of_service};
pub use templates::{Template, TemplateError, pods_of};

use serde_json::Value;

use self::{
    patch::PatchBuilder,
    pod::{PULL_SECRETS, PodView},
};
use crate::{
    annotations::{self, Injection, Lenient, Problems, Role, own_key},
    api::Repository,
    plan::{MAXIMUM_SOURCES, NON_ROOT},
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
    /// The Repositories of the pod's namespace; those of others are passed over. Only a pod with a sidecar or a restore
    /// step needs one.
    pub repositories: &'a [Repository],
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
    let Lenient { request, passed_over } = match annotations::parse_lenient(&view.annotations) {
        Ok(lenient) => lenient,
        Err(Problems { problems, warnings }) => {
            let findings = problems.into_iter().map(Finding::from).collect();
            return declined(pod, findings, warnings.iter().map(ToString::to_string).collect());
        }
    };
    let request = request.unwrap_or_default();
    let mut findings: Vec<Finding> = passed_over.into_iter().map(Finding::from).collect();
    let mut warnings: Vec<String> = request.warnings.iter().map(ToString::to_string).collect();
    if request.commands.is_empty() {
        warnings.extend(view.live_databases());
    }
    let default = || facts.by_namespace.or_else(|| (!request.commands.is_empty()).then_some(Injection::Helper));
    let mode = match request.inject.or_else(default) {
        Some(Injection::None) if !request.restore_on_empty => {
            return passed_by(Cause::OptedOut, findings, warnings);
        }
        None if !request.restore_on_empty => return passed_by(Cause::NothingAsked, findings, warnings),
        mode => mode.unwrap_or(Injection::None),
    };
    if view.is_windows() {
        let message =
            "the pod runs on Windows, and Stowaway's image on Linux alone; its commands run without the helper";
        if !request.restore_on_empty {
            warnings.push(message.to_owned());
            return passed_by(Cause::WindowsPod, findings, warnings);
        }
        findings.push(Finding::new(Cause::WindowsPod, message));
        return declined(pod, findings, warnings);
    }
    if request.commands.len() > MAXIMUM_SOURCES {
        let message =
            format!("the pod has {} commands, and a Backup at most {MAXIMUM_SOURCES}", request.commands.len());
        findings.push(Finding::new(Cause::InvalidAnnotation, message));
        return declined(pod, findings, warnings);
    }

    let (wishes, found) = wishes::resolve(&view, &request, mode, facts);
    findings.extend(found);
    let mut patch = PatchBuilder::new(&view);
    ours::reconcile(&view, &wishes, facts, &mut patch, &mut findings);
    if findings.iter().any(|finding| !finding.is_of_others()) {
        return declined(pod, findings, warnings);
    }
    if wishes.is_empty() {
        return passed_by(Cause::NothingAsked, findings, warnings);
    }
    warnings.extend(not_injected(&findings));
    warnings.extend(wishes.warnings());
    if !patch.is_empty() {
        // A pod that has all of it has been pulled already.
        for secret in store::pull_secrets(facts, request.repository.as_deref()) {
            if !view.pull_secrets().any(|present| present == secret) {
                patch.append(&["spec", PULL_SECRETS], serde_json::json!({ "name": secret }));
            }
        }
    }
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

/// Nothing is to be put into the pod. Where that is so because of a mistake, the mistake is told.
fn passed_by(cause: Cause, findings: Vec<Finding>, mut warnings: Vec<String>) -> Outcome {
    let cause = findings.first().map_or(cause, |finding| finding.cause);
    warnings.extend(not_injected(&findings));
    Outcome { findings, ..Outcome::skipped(cause, warnings) }
}

/// What stands against an injection, as warnings.
fn not_injected(findings: &[Finding]) -> impl Iterator<Item = String> {
    findings.iter().map(|finding| format!("not injected: {finding}"))
}

/// Something stands against the injection. A pod that somebody makes by hand is refused, so that he sees it. A pod of a
/// controller is admitted without: it may be a node drain at night, and its workload was checked when it was changed. But
/// a restore is never left out: the app would start on empty data, and the next backups would push out the good ones.
fn declined(pod: &Value, mut findings: Vec<Finding>, mut warnings: Vec<String>) -> Outcome {
    // The cause is that of the first, and those of other tools are none.
    findings.sort_by_key(Finding::is_of_others);
    if !pod::asks_for_restore(pod) && pod::is_controlled(pod) {
        return passed_by(Cause::NotAPod, findings, warnings);
    }
    let cause = findings.first().map_or(Cause::NotAPod, |finding| finding.cause);
    let (foreign, findings): (Vec<_>, Vec<_>) = findings.into_iter().partition(Finding::is_of_others);
    warnings.extend(not_injected(&foreign));
    Outcome { effect: Effect::Refuse, findings, ..Outcome::skipped(cause, warnings) }
}

/// The annotation that asks for a restore.
fn restore_key() -> String {
    own_key(Role::Restore)
}
