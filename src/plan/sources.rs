//! The sources of a namespace, commands and volumes: from the observed pods to names, targets and snapshot labels.
//!
//! The plan does not know the repository's history. Whether a path was used by another source before is decided by the
//! runner, from the tags of the snapshots.
//!
//! The pods of a workload are assumed to have the same data, and the newest Ready pod which is not being deleted
//! represents the workload. Pods which hold data of their own are separate sources: each pod of a `StatefulSet` and
//! each bare pod by its name, and each pod of a `DaemonSet` by its node, as `daemonset/<name>_<node>`, because the
//! pod's name changes (neither name can contain an `_`). A workload which requests a backup and has no Ready pod is a
//! source without a target, so that the Backup waits for it and then reports it. Pods of Jobs are different, because
//! they end: a Ready pod is backed up, and none is waited for.

mod claims;
mod container;
mod declared;
mod left_out;
mod missing;
mod notes;
mod paths;
mod pods;
mod selector;
mod snapshots;
#[cfg(test)]
mod tests;
mod unfilled;
mod volumes;
mod warnings;
mod workloads;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::core::SelectorExt;

use crate::{
    annotations::{self, CommandRequest, Problems, Request},
    api::{MissingSource, SkippedClaim},
    model::{Reason, SnapshotIdentity, SourceName, TagError, TargetCommand, TargetVolume, injected::SIDECAR_CONTAINER},
};

pub use claims::{ClaimFacts, ClaimMount};
pub(super) use claims::{enforces_restricted, is_device};
pub use container::{DEFAULT_CONTAINER, UnknownContainer, container_of};
pub use declared::{DeclaredClaim, declared_claim};
use left_out::{LeftOut, runs_to_completion};
pub use missing::{EarlierSource, Expected};
use notes::Replicas;
pub use pods::Workload;
use pods::{Unit, unit};
use selector::selector;
pub use snapshots::{ClaimSnapshot, SnapshotFacts, snapshot_volumes};
pub use unfilled::UnfilledClaim;
use volumes::Claims;
pub use warnings::PlanWarning;
use warnings::Warnings;
pub use workloads::ObservedWorkload;

/// The limit of sources of one Backup, because its status lists them all.
pub const MAX_SOURCES: usize = 256;

/// A pod, and its workload.
#[derive(Clone, Debug)]
pub struct ObservedPod {
    pub pod: Pod,
    pub workload: Workload,
}

/// The observed facts which the sources are planned from.
#[derive(Clone, Copy, Debug)]
pub struct SourceFacts<'a> {
    /// The namespace, which is also the host of the snapshots.
    pub namespace: &'a str,
    /// The pods of the namespace, in any order.
    pub pods: &'a [ObservedPod],
    /// The claims of the namespace. With `None`, only claims which a pod requests are sources.
    pub claims: Option<ClaimFacts<'a>>,
    /// Selects pods and claims; `None` selects all.
    pub selector: Option<&'a LabelSelector>,
    /// The cluster's id, which is the UID of the namespace kube-system.
    pub cluster: &'a str,
    /// UID of the Backup.
    pub backup_uid: &'a str,
    /// The expected sources, only when the source list of a Backup is fixed.
    pub expected: Option<Expected<'a>>,
}

/// The sources of a Backup, and everything which is wrong with its requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourcePlan {
    /// Sorted by name. No two sources share a name or a path.
    pub sources: Vec<PlannedSource>,
    /// The requests which cannot be carried out. Each makes the Backup less than green.
    pub problems: Vec<PlanProblem>,
    /// Annotations and labels which probably have a mistake, and remarks about valid ones.
    pub warnings: Vec<PlanWarning>,
    /// Volumes and workloads which are left out, sorted by name.
    pub skipped: Vec<SkippedClaim>,
    /// Expected sources which do not exist, sorted by name.
    pub missing: Vec<MissingSource>,
    /// Why it is too early to fix this list, if it is.
    pub undecided: Option<String>,
    /// Whether the workloads were listed, so that all missing sources are known.
    pub is_complete: bool,
}

/// A source.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is an annotation of its own")]
pub struct PlannedSource {
    pub name: SourceName,
    /// Name of the pod which represents the source, Ready or not; empty for a volume which no pod mounts.
    pub pod: String,
    /// What the run reads; `None` while no pod of the workload is Ready. The caller plans again, and fails the source
    /// after a while.
    pub target: Option<Target>,
    /// The labels of the snapshot. Without a target there is no tag of a pod.
    pub identity: SnapshotIdentity,
    /// The path to use if the history of another source has the path of `identity`. No other source of this plan has
    /// this path.
    pub alternative_path: String,
    /// Name of the Repository which the pod's annotation names.
    pub repository: Option<String>,
    /// End the command after this long.
    pub timeout: Option<Duration>,
    /// End the command when no byte has moved for this long.
    pub idle_timeout: Option<Duration>,
    /// Store a stream of 0 bytes.
    pub allow_empty: bool,
    /// Treat a run without proof as green.
    pub accept_unproven: bool,
    /// Whether a later Backup may be green although the workload has no pod.
    pub allow_missing: bool,
    /// Store a stream of a known format even if the end of the format is missing.
    pub skip_format_check: bool,
    /// Patterns of paths of a volume which are left out.
    pub exclude: Vec<String>,
    /// Whether a volume may be empty, or much smaller than its last good snapshot.
    pub accept_shrunken: bool,
    /// The claim which no Restore has filled: the source itself, or a claim that the pod of the command mounts.
    pub unfilled: Option<UnfilledClaim>,
    /// Whether the pod has a command which reads the dump.
    pub has_restore_command: bool,
    /// A remark for the user besides the verdict; empty if there is none.
    pub note: String,
}

/// The input of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// The output of a command in a container.
    Command(TargetCommand),
    /// A claim which a pod's sidecar mounts.
    Volume(TargetVolume),
    /// A claim which the run's Job mounts.
    Claim(ClaimMount),
}

impl Target {
    /// The name of the pod; empty for a claim which no pod mounts.
    pub fn pod(&self) -> &str {
        match self {
            Self::Command(target) => &target.pod,
            Self::Volume(target) => &target.pod,
            Self::Claim(mount) => &mount.pod,
        }
    }

    /// The container of the pod which the run uses; empty if it uses none.
    pub fn container(&self) -> &str {
        match self {
            Self::Command(target) => &target.container,
            Self::Volume(_) => SIDECAR_CONTAINER,
            Self::Claim(_) => "",
        }
    }
}

/// Why a requested backup is not possible.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanProblem {
    /// The annotations of a pod are invalid.
    #[error("pod {pod}: {problems}")]
    Annotations {
        pod: String,
        #[source]
        problems: Problems,
    },
    /// The pod does not have the container which an annotation names.
    #[error("pod {pod} has no container {container:?}, which annotation {key} names; it has {}", existing.join(", "))]
    UnknownContainer {
        pod: String,
        /// The key of the annotation.
        key: String,
        container: String,
        /// The containers of the pod.
        existing: Vec<String>,
    },
    /// The source cannot be named or labelled.
    #[error("pod {pod} cannot be a source: {message}")]
    Unnamable { pod: String, message: String },
    /// A requested volume which cannot be backed up.
    #[error("pod {pod}: {message}")]
    Volume { pod: String, message: String },
    /// A requested volume which no pod has a sidecar for.
    #[error(
        "pod {pod} requests a backup of {name} and has no sidecar with that volume: it was created before its annotation, \
         or without the webhook; recreate it"
    )]
    NotInjected { pod: String, name: SourceName },
    /// A claim which should be backed up, and cannot be.
    #[error("{name}: {message}")]
    Claim { name: SourceName, message: String },
    /// A claim which only a sidecar could read, and no pod has a sidecar for it.
    #[error(
        "{name} can only be read by a sidecar, because {why}, and no pod has a sidecar with that volume: annotate its \
         workload with stowaway.dev/inject: sidecar and stowaway.dev/volumes, or opt the volume out"
    )]
    SidecarOnly {
        name: SourceName,
        /// Why no Job can mount the claim.
        why: &'static str,
    },
    #[error("the Backup's label selector is not valid: {message}; nothing was selected")]
    Selector { message: String },
    /// More sources than a Backup's status can list.
    #[error(
        "{count} sources are selected, and a Backup has at most {MAX_SOURCES}: {} and all after it are not stored; narrow the label selector and create several Backups",
        first
    )]
    TooManySources {
        /// The number of selected sources.
        count: usize,
        /// The first source which is left out.
        first: SourceName,
    },
}

impl PlanProblem {
    /// The source which the problem is about, if the source has a name of its own.
    pub(super) fn source(&self) -> Option<&SourceName> {
        match self {
            Self::NotInjected { name, .. } | Self::Claim { name, .. } | Self::SidecarOnly { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The pod which the problem is about.
    fn pod(&self) -> Option<&str> {
        match self {
            Self::Annotations { pod, .. }
            | Self::UnknownContainer { pod, .. }
            | Self::Volume { pod, .. }
            | Self::NotInjected { pod, .. }
            | Self::Unnamable { pod, .. } => Some(pod),
            Self::Claim { .. } | Self::SidecarOnly { .. } | Self::Selector { .. } | Self::TooManySources { .. } => None,
        }
    }

    /// The machine-readable cause.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotInjected { .. } | Self::SidecarOnly { .. } => Reason::NotInjected,
            _ => Reason::InvalidRequest,
        }
    }
}

/// Plans the sources. The same facts in another order give the same plan.
pub fn plan_sources(facts: SourceFacts<'_>) -> SourcePlan {
    let mut plan = SourcePlan::default();
    let selector = match facts.selector.map(selector).transpose() {
        Ok(selector) => selector.unwrap_or_default(),
        Err(message) => {
            plan.problems.push(PlanProblem::Selector { message });
            return plan;
        }
    };
    let workloads = facts.expected.and_then(|expected| expected.workloads).unwrap_or_default();
    let expected_pods = workloads::expected_pods(workloads, facts.pods, MAX_SOURCES + 1);
    let mut units: BTreeMap<Workload, Unit<'_>> = BTreeMap::new();
    let (mut claims, mut left_out) = (Claims::default(), LeftOut::default());
    let mut replicas = Replicas::default();
    let mut warnings = Warnings::default();
    for (observed, is_there) in
        facts.pods.iter().map(|pod| (pod, true)).chain(expected_pods.iter().map(|pod| (pod, false)))
    {
        let labels = observed.pod.metadata.labels.clone().unwrap_or_default();
        if !selector.matches(&labels) {
            continue;
        }
        let texts = observed.pod.metadata.annotations.as_ref();
        let Some(request) = texts.map(annotations::parse).and_then(Result::transpose) else { continue };
        // Such a pod does not represent the workload instead of a pod that requests a backup.
        let is_no_source = request.as_ref().is_ok_and(|one| one.commands.is_empty() && one.volumes.is_empty());
        match unit(observed, request) {
            Ok(Some((workload, unit))) if !unit.ready && runs_to_completion(&workload) => {
                warnings.add_of_pod(&unit);
                if !is_no_source {
                    left_out.ending(&workload);
                }
            }
            Ok(Some((workload, unit))) => {
                if let Ok(request) = &unit.request
                    && is_there
                {
                    claims.add(&unit, request, &mut plan.problems);
                    left_out.outside(observed);
                    if !request.commands.is_empty() {
                        replicas.add(observed);
                    }
                }
                if is_no_source {
                    warnings.add_of_pod(&unit);
                } else if units.get(&workload).is_none_or(|present| unit.rank() > present.rank()) {
                    units.insert(workload, unit);
                }
            }
            Err(problem) if !is_no_source => plan.problems.push(problem),
            Ok(None) | Err(_) => {}
        }
    }
    for unit in units.values() {
        warnings.add_of_pod(unit);
    }
    for one in workloads.iter().filter(|one| one.is_selected(&selector)) {
        warnings.add_of_workload(one, facts.pods);
        if runs_to_completion(&one.workload) && one.request().is_some() {
            left_out.ending(&one.workload);
        }
    }
    let mut drafts = Vec::new();
    for (workload, unit) in &units {
        match &unit.request {
            Ok(request) => {
                let first = drafts.len();
                draft_sources(facts, workload, unit, request, &mut drafts, &mut plan);
                for draft in &mut drafts[first..] {
                    draft.source.note = replicas.note(unit, workload);
                }
            }
            Err(problems) => {
                plan.problems.push(PlanProblem::Annotations { pod: unit.name.to_owned(), problems: problems.clone() });
            }
        }
    }
    drafts.sort_by(|a, b| a.source.name.cmp(&b.source.name));
    plan.sources = paths::assign(drafts);
    let requested: BTreeSet<&str> = claims.requested().collect();
    let choices =
        facts.claims.map(|observed| claims::choose(observed, facts.pods, &selector, &requested, &mut warnings));
    claims.into_sources(facts, choices, &mut plan);
    for source in &mut plan.sources {
        if source.note.is_empty() {
            source.note = notes::of_live_database(source, facts.pods);
        }
    }
    plan.sources.sort_by(|a, b| a.name.cmp(&b.name));
    plan.skipped.extend(left_out.without(&units));
    plan.undecided = facts.claims.and_then(claims::undecided);
    if let Some(expected) = facts.expected {
        let (missing, may_be_missing) = missing::find(facts, expected, &selector, &plan);
        plan.missing = missing;
        plan.is_complete = expected.workloads.is_some();
        plan.skipped.extend(may_be_missing);
    }
    plan.skipped.sort_by(|a, b| a.name.cmp(&b.name));
    plan.skipped.dedup_by(|a, b| a.name == b.name);
    plan.problems.sort_by_cached_key(ToString::to_string);
    plan.warnings = warnings.sorted();
    plan
}

/// A source whose paths are not unique yet.
struct Draft {
    source: PlannedSource,
    extension: String,
}

/// The sources of one pod.
fn draft_sources(
    facts: SourceFacts<'_>,
    workload: &Workload,
    unit: &Unit<'_>,
    request: &Request,
    drafts: &mut Vec<Draft>,
    plan: &mut SourcePlan,
) {
    for command in &request.commands {
        match draft(facts, workload, unit, request, command) {
            Ok(draft) => drafts.push(draft),
            Err(problem) => plan.problems.push(problem),
        }
    }
}

fn draft(
    facts: SourceFacts<'_>,
    workload: &Workload,
    unit: &Unit<'_>,
    request: &Request,
    command: &CommandRequest,
) -> Result<Draft, PlanProblem> {
    let unnamable = |message: String| PlanProblem::Unnamable { pod: unit.name.to_owned(), message };
    let container = unit.container(command)?;
    let name = SourceName::new(&workload.kind, &workload.name, container, command.name.as_deref())
        .map_err(|error| unnamable(error.to_string()))?;
    let target = unit.ready.then(|| TargetCommand {
        namespace: facts.namespace.to_owned(),
        pod: unit.name.to_owned(),
        pod_uid: unit.uid.to_owned(),
        container: container.to_owned(),
        command: command.name.clone(),
    });
    let path = paths::first_choice(facts.namespace, container, command);
    let identity = label(facts, &name, path, target.is_some().then_some(unit.name)).map_err(unnamable)?;
    let source = PlannedSource {
        pod: unit.name.to_owned(),
        target: target.map(Target::Command),
        identity,
        alternative_path: paths::second_choice(facts.namespace, &workload.name, container, command),
        repository: request.repository.clone(),
        timeout: request.timeout,
        idle_timeout: request.idle_timeout,
        allow_empty: request.allow_empty,
        accept_unproven: request.accept_unproven,
        allow_missing: request.allow_missing,
        skip_format_check: request.skip_format_check,
        exclude: Vec::new(),
        accept_shrunken: false,
        unfilled: facts.claims.and_then(|claims| UnfilledClaim::of_pod(claims.claims, unit.pod())),
        has_restore_command: command.restore_argv.is_some(),
        note: String::new(),
        name,
    };
    Ok(Draft { source, extension: command.file_extension.clone() })
}

/// The labels of a source's snapshots.
///
/// # Errors
/// If a value cannot be a tag.
fn label(
    facts: SourceFacts<'_>,
    name: &SourceName,
    path: String,
    pod: Option<&str>,
) -> Result<SnapshotIdentity, String> {
    let mut identity = SnapshotIdentity { host: facts.namespace.to_owned(), path, tags: Vec::new() };
    let mut tag = |key: &str, value: &str| identity.push_tag(key, value).map_err(|error: TagError| error.to_string());
    tag(SnapshotIdentity::SOURCE, name.as_str())?;
    tag(SnapshotIdentity::RUN, &format!("{}/{name}", facts.backup_uid))?;
    tag(SnapshotIdentity::CLUSTER, facts.cluster)?;
    if let Some(pod) = pod {
        tag(SnapshotIdentity::POD, pod)?;
    }
    Ok(identity)
}
