//! The missing sources: those which the last Backup had, or which a workload requests, and which cannot be backed up
//! now.

use std::collections::BTreeSet;

use kube::{
    ResourceExt,
    core::{Selector, SelectorExt},
};

use super::{ObservedPod, ObservedWorkload, PlanProblem, SourceFacts, SourcePlan, Workload, workloads::living};
use crate::{
    annotations::{KeyId, namespace_opt_out, opt_out, own_key},
    api::{MissingReason, MissingSource, SkipReason, SkippedClaim},
    model::SourceName,
    plan::text::clip_line,
};

/// The sources which a Backup expects besides those of existing pods and claims.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The workloads of the namespace; `None` if the controller has no right to list them.
    pub workloads: Option<&'a [ObservedWorkload]>,
    /// The sources which the last comparable Backup had, or reported as missing, sorted by name.
    pub before: &'a [EarlierSource],
}

/// A source which an earlier Backup had, or reported as missing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EarlierSource {
    pub name: SourceName,
    /// Whether its pod's annotation allowed a Backup without it.
    pub may_be_missing: bool,
}

/// The kinds of which the controller lists the workloads. Only of these it is known that a workload was deleted.
const LISTED: [&str; 4] = ["deployment", "statefulset", "daemonset", "cronjob"];

/// Finds the missing sources, and the workloads which may be missing. `plan` has the existing sources.
pub(super) fn find(
    facts: SourceFacts<'_>,
    expected: Expected<'_>,
    selector: &Selector,
    plan: &SourcePlan,
) -> (Vec<MissingSource>, Vec<SkippedClaim>) {
    let search = Search { facts, expected, selector, plan };
    let present: BTreeSet<&SourceName> = search.present().collect();
    let (mut missing, mut may_be) = (Vec::new(), Vec::new());
    for EarlierSource { name, may_be_missing } in expected.before.iter().filter(|one| !present.contains(&one.name)) {
        let Some((reason, message)) = search.why(name) else { continue };
        if *may_be_missing && reason == MissingReason::Unknown {
            let workload: Vec<&str> = name.as_str().splitn(3, '/').take(2).collect();
            may_be.push(allowed(workload.join("/")));
            continue;
        }
        missing.push(MissingSource { name: name.clone(), reason, message: clip_line(&message) });
    }
    for one in expected.workloads.unwrap_or_default() {
        search.without_pods(one, &mut missing, &mut may_be);
    }
    missing.sort_by(|a, b| a.name.cmp(&b.name));
    missing.dedup_by(|a, b| a.name == b.name);
    (missing, may_be)
}

struct Search<'a> {
    facts: SourceFacts<'a>,
    expected: Expected<'a>,
    selector: &'a Selector,
    plan: &'a SourcePlan,
}

impl Search<'_> {
    /// The existing sources, and those which fail under their own name.
    fn present(&self) -> impl Iterator<Item = &SourceName> {
        let sources = self.plan.sources.iter().map(|source| &source.name);
        sources.chain(self.plan.problems.iter().filter_map(PlanProblem::source))
    }

    fn why(&self, name: &SourceName) -> Option<(MissingReason, String)> {
        let mut parts = name.as_str().splitn(3, '/');
        let (kind, workload) = (parts.next()?, parts.next()?);
        match kind {
            "pvc" => self.claim(workload),
            // Pods of Jobs end, so none is expected.
            "job" | "cronjob" => None,
            "pod" => match self.facts.pods.iter().find(|observed| observed.pod.name_any() == workload) {
                Some(observed) => self.pod(observed),
                None => match self.stateful_set_of(workload) {
                    Some(one) => self.workload(one, name, (kind, workload)),
                    None => Some(self.without_workload("pod", &format!("pod {workload}"))),
                },
            },
            "daemonset" => {
                let (daemon_set, node) = workload.split_once('_').unwrap_or((workload, ""));
                Some(self.without_workload(kind, &format!("the pod of DaemonSet {daemon_set} on node {node}")))
            }
            _ => {
                let is_of_it =
                    |observed: &&ObservedPod| observed.workload.kind == kind && observed.workload.name == workload;
                match (living(self.facts.pods).find(is_of_it), self.observed(kind, workload)) {
                    (Some(observed), _) => self.pod(observed),
                    (None, Some(one)) => self.workload(one, name, (kind, workload)),
                    (None, None) => Some(self.without_workload(kind, &format!("{kind} {workload}"))),
                }
            }
        }
    }

    fn observed(&self, kind: &str, name: &str) -> Option<&ObservedWorkload> {
        let mut all = self.expected.workloads.unwrap_or_default().iter();
        all.find(|one| one.workload.kind == kind && one.workload.name == name)
    }

    fn stateful_set_of(&self, pod: &str) -> Option<&ObservedWorkload> {
        let (name, ordinal) = pod.rsplit_once('-')?;
        ordinal.parse::<u32>().ok()?;
        self.observed("statefulset", name)
    }

    /// Why a source is missing of which neither a pod nor a workload was found. A bare pod has no workload.
    fn without_workload(&self, kind: &str, what: &str) -> (MissingReason, String) {
        let why = match self.expected.workloads {
            Some(_) if kind == "pod" || LISTED.contains(&kind) => return deleted(what),
            Some(_) => "Stowaway does not list workloads of this kind",
            None => "the controller has no right to list workloads",
        };
        let key = own_key(KeyId::AllowMissing);
        let message = format!(
            "{what} has no pod, and whether it was deleted is not known, because {why}: start it; or, if it may be \
             missing, annotate its pods with {key}: \"true\" before; or, if it was deleted, annotate this Backup with it"
        );
        (MissingReason::Unknown, message)
    }

    /// Why an existing pod is not a source any more.
    fn pod(&self, observed: &ObservedPod) -> Option<(MissingReason, String)> {
        let name = observed.pod.name_any();
        let has_problem = self.plan.problems.iter().filter_map(PlanProblem::pod).any(|pod| {
            let found = self.facts.pods.iter().find(|other| other.pod.name_any() == pod);
            found.is_some_and(|found| found.workload == observed.workload)
        });
        if has_problem {
            // The source is reported as failed.
            return None;
        }
        if !self.selector.matches(&observed.pod.metadata.labels.clone().unwrap_or_default()) {
            return Some((MissingReason::NotSelected, not_selected(&format!("pod {name}"))));
        }
        Some((
            MissingReason::NotRequested,
            format!("pod {name} does not request it any more; its snapshots stay in the repository"),
        ))
    }

    /// Why a workload without that pod is not a source any more.
    fn workload(
        &self,
        one: &ObservedWorkload,
        source: &SourceName,
        (kind, name): (&str, &str),
    ) -> Option<(MissingReason, String)> {
        let what = format!("{} {}", one.workload.kind, one.workload.name);
        let Some(request) = one.request().filter(|request| one.sources(kind, name, request).contains(source)) else {
            let message = format!("{what} does not request it any more; its snapshots stay in the repository");
            return Some((MissingReason::NotRequested, message));
        };
        if one.may_be_missing(&request) {
            return None;
        }
        if !one.is_selected(self.selector) {
            return Some((MissingReason::NotSelected, not_selected(&what)));
        }
        Some((MissingReason::NoPod, no_pod(one)))
    }

    fn claim(&self, name: &str) -> Option<(MissingReason, String)> {
        let facts = self.facts.claims?;
        let Some(claim) = facts.claims.iter().find(|claim| claim.name_any() == name) else {
            return Some(deleted(&format!("PersistentVolumeClaim {name}")));
        };
        let skipped = self.plan.skipped.iter().find(|skipped| skipped.name == name)?;
        let own = opt_out(claim.metadata.annotations.as_ref(), claim.metadata.labels.as_ref());
        let namespace = &facts.namespace.metadata;
        let namespace = namespace_opt_out(namespace.annotations.as_ref(), namespace.labels.as_ref());
        if own.wanted.or(namespace.wanted) == Some(false) {
            return None;
        }
        let reason = match skipped.reason {
            SkipReason::HoldsRepository => MissingReason::HoldsRepository,
            SkipReason::NotSelected => MissingReason::NotSelected,
            SkipReason::NotBound => MissingReason::NotBound,
            SkipReason::Terminating => MissingReason::Terminating,
            _ => return None,
        };
        let message = format!(
            "the last Backup had it, and now it is left out: {}. If this is intended, annotate it with {}: \"false\"",
            skipped.message,
            own_key(KeyId::Backup)
        );
        Some((reason, message))
    }

    /// Adds a workload which requests a backup and has no pod: to `may_be_missing` if that is allowed, else to
    /// `missing`.
    fn without_pods(
        &self,
        one: &ObservedWorkload,
        missing: &mut Vec<MissingSource>,
        may_be_missing: &mut Vec<SkippedClaim>,
    ) {
        let Workload { kind, name } = &one.workload;
        let is_of_it = |observed: &&ObservedPod| observed.workload == one.workload;
        let Some(request) = one.request().filter(|_| one.is_selected(self.selector)) else { return };
        let is_empty = match kind.as_str() {
            "deployment" | "statefulset" => one.wanted <= 0 || one.may_be_missing(&request),
            "daemonset" => one.wanted > 0,
            _ => false,
        };
        if !is_empty || living(self.facts.pods).any(|observed| is_of_it(&observed)) {
            return;
        }
        if one.may_be_missing(&request) {
            may_be_missing.push(allowed(format!("{kind}/{name}")));
            return;
        }
        let of_pods = format!("pod/{name}-");
        let is_named = |missing: &MissingSource| {
            missing.reason == MissingReason::NoPod && missing.name.as_str().starts_with(&of_pods)
        };
        if kind == "statefulset" && missing.iter().any(is_named) {
            return;
        }
        missing.extend(one.sources(kind, name, &request).into_iter().map(|source| MissingSource {
            name: source,
            reason: MissingReason::NoPod,
            message: no_pod(one),
        }));
    }
}

fn deleted(what: &str) -> (MissingReason, String) {
    (MissingReason::Gone, format!("{what} does not exist any more; its snapshots stay in the repository"))
}

/// The entry of a workload whose pods may be missing.
fn allowed(name: String) -> SkippedClaim {
    let message = format!("it has no pod, which {} allows", own_key(KeyId::AllowMissing));
    SkippedClaim { name, reason: SkipReason::OptedOut, message }
}

fn not_selected(what: &str) -> String {
    format!(
        "the last Backup had it, and the selector does not match {what} any more: label it again, or remove its backup \
         annotations"
    )
}

fn no_pod(one: &ObservedWorkload) -> String {
    let (kind, name) = (&one.workload.kind, &one.workload.name);
    format!(
        "{kind} {name} requests this backup and has no such pod (of {} requested): scale it up, or annotate it with {}: \
         \"true\" if this is intended",
        one.wanted,
        own_key(KeyId::AllowMissing)
    )
}
