//! Decides what is injected into a pod: an additive JSON patch, computed from the pod's raw JSON and the facts of the
//! admission request, or the reason why there is none.
//!
//! This module is pure. It knows neither HTTP nor admission reviews. Of the cluster's objects it receives only the
//! Repositories of the pod's namespace, and never a Secret. Everything that is injected refers to other objects by
//! name, within the pod's own namespace.
//!
//! The pod is never deserialized into a type and serialized again, because that would lose fields which are newer than
//! the types. The patch only adds entries, and replaces only Stowaway's own entries that are out of date. It contains
//! no `test` operation, because a failing operation rejects the pod even where the webhook's failure policy is
//! `Ignore`.
//!
//! Order of the init containers: the helper's copy step and the sidecar are appended last. No container before them
//! needs them, because commands run when the pod is Ready. So the order of other webhooks is not disturbed (a service
//! mesh wants to be first, and so does Velero), and a sidecar that starts last ends first, while the network of a mesh
//! is still available. The restore step is inserted right before the first init container that mounts one of the
//! restored volumes, otherwise at the end, but before Stowaway's sidecar. So it runs after a mesh, which inserts itself
//! at the front, and before any container that could read empty data.

mod containers;
mod diff;
mod explain;
mod outcome;
mod patch;
mod placeholders;
mod plan;
mod pod;
mod resources;
mod run_as;
mod store;
mod strict_json;
mod templates;

pub use explain::{CommandLine, Explanation, SourceExplanation, command_lines, explain};
pub use outcome::{Cause, Effect, Finding, Injected, Outcome};
pub use resources::{QualityOfService, quality_of_service};
pub use strict_json::{MAX_BYTES, ReadError, StrictJson, read_json, twice};
pub use templates::{Template, TemplateError, pods_of};

use serde_json::Value;

use self::{
    patch::PatchBuilder,
    pod::{PULL_SECRETS, PodView},
};
use crate::{
    annotations::{self, Injection, KeyId, Lenient, Problems, own_key},
    api::Repository,
    plan::{MAX_SOURCES, NON_ROOT},
};

/// The facts of the admission request, besides the pod.
#[derive(Clone, Copy, Debug)]
pub struct InjectionFacts<'a> {
    /// The pod's namespace. A pod that is being created need not name it.
    pub namespace: &'a str,
    /// Whether the pod is being created.
    pub on_create: bool,
    /// The mode of pods without an annotation of their own, from the namespace's label.
    pub by_namespace: Option<Injection>,
    /// Reference of Stowaway's image, preferably by digest.
    pub image: &'a str,
    /// The Repositories of the pod's namespace; Repositories of other namespaces are ignored. Only a pod with a sidecar
    /// or a restore step needs one.
    pub repositories: &'a [Repository],
}

/// Decides on the injection into one pod.
pub fn inject(pod: &Value, facts: &InjectionFacts<'_>) -> Outcome {
    if !facts.on_create {
        return Outcome::skipped(Cause::NotOnCreate, Vec::new());
    }
    let view = match PodView::new(pod) {
        Ok(view) => view,
        // The creator does not matter, because the API server rejects the pod for the same reason, with a message.
        Err(finding) if !pod::requests_restore(pod) => return Outcome::skipped(finding.cause, vec![finding.message]),
        Err(finding) => return not_injectable(pod, vec![finding], Vec::new()),
    };
    if view.is_mirror() {
        return Outcome::skipped(Cause::MirrorPod, Vec::new());
    }
    let Lenient { request, foreign_errors } = match annotations::parse_lenient(&view.annotations) {
        Ok(lenient) => lenient,
        Err(Problems { problems, warnings }) => {
            let findings = problems.into_iter().map(Finding::from).collect();
            return not_injectable(pod, findings, warnings.iter().map(ToString::to_string).collect());
        }
    };
    let request = request.unwrap_or_default();
    let mut findings: Vec<Finding> = foreign_errors.into_iter().map(Finding::from).collect();
    let mut warnings: Vec<String> = request.warnings.iter().map(ToString::to_string).collect();
    if request.commands.is_empty() {
        warnings.extend(view.live_databases());
    }
    let default = || facts.by_namespace.or_else(|| (!request.commands.is_empty()).then_some(Injection::Helper));
    let mode = match request.inject.or_else(default) {
        Some(Injection::None) if !request.restore_on_empty => {
            return skipped_with(Cause::OptedOut, findings, warnings);
        }
        None if !request.restore_on_empty => return skipped_with(Cause::NothingRequested, findings, warnings),
        mode => mode.unwrap_or(Injection::None),
    };
    if view.is_windows() {
        let message =
            "the pod runs on Windows, but Stowaway's image only on Linux; its commands run without the helper";
        if !request.restore_on_empty {
            warnings.push(message.to_owned());
            return skipped_with(Cause::WindowsPod, findings, warnings);
        }
        findings.push(Finding::new(Cause::WindowsPod, message));
        return not_injectable(pod, findings, warnings);
    }
    if request.commands.len() > MAX_SOURCES {
        let message =
            format!("the pod has {} commands, but a Backup has at most {MAX_SOURCES}", request.commands.len());
        findings.push(Finding::new(Cause::InvalidAnnotation, message));
        return not_injectable(pod, findings, warnings);
    }

    let (plan, found) = plan::resolve(&view, &request, mode, facts);
    findings.extend(found);
    let mut patch = PatchBuilder::new(&view);
    diff::reconcile(&view, &plan, facts, &mut patch, &mut findings);
    if findings.iter().any(|finding| !finding.is_of_others()) {
        return not_injectable(pod, findings, warnings);
    }
    if plan.is_empty() {
        return skipped_with(Cause::NothingRequested, findings, warnings);
    }
    warnings.extend(not_injected(&findings));
    warnings.extend(plan.warnings());
    if !patch.is_empty() {
        // A pod that already has every entry has pulled its images already.
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
        injected: plan.describe(),
        patch,
    }
}

/// Admits the pod unchanged. If a finding prevents the injection, it is the cause, and a warning.
fn skipped_with(cause: Cause, findings: Vec<Finding>, mut warnings: Vec<String>) -> Outcome {
    let cause = findings.first().map_or(cause, |finding| finding.cause);
    warnings.extend(not_injected(&findings));
    Outcome { findings, ..Outcome::skipped(cause, warnings) }
}

/// The findings which prevent an injection, as warnings.
fn not_injected(findings: &[Finding]) -> impl Iterator<Item = String> {
    findings.iter().map(|finding| format!("not injected: {finding}"))
}

/// Decides on a pod whose injection a finding prevents. A pod that a user creates directly is rejected, so that the
/// user sees the finding. A controller's pod is admitted without the injection, because it may be recreated by a node
/// drain at night, and its workload was checked when it was changed. But a pod that requests a restore is always
/// rejected, because the app would start on empty data, and the next backups would displace the good snapshots.
fn not_injectable(pod: &Value, mut findings: Vec<Finding>, mut warnings: Vec<String>) -> Outcome {
    // The first finding is the cause. Findings about other tools' annotations are sorted to the end, because they are
    // no cause.
    findings.sort_by_key(Finding::is_of_others);
    if !pod::requests_restore(pod) && pod::is_controlled(pod) {
        return skipped_with(Cause::NotAPod, findings, warnings);
    }
    let cause = findings.first().map_or(Cause::NotAPod, |finding| finding.cause);
    let (foreign, findings): (Vec<_>, Vec<_>) = findings.into_iter().partition(Finding::is_of_others);
    warnings.extend(not_injected(&foreign));
    Outcome { effect: Effect::Refuse, findings, ..Outcome::skipped(cause, warnings) }
}

/// The annotation that requests a restore.
fn restore_key() -> String {
    own_key(KeyId::Restore)
}
