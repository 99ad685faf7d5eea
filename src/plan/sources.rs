//! Which sources a namespace has, commands and volumes: from the pods that were observed to names, targets and snapshot labels.
//!
//! It must not know how pods are observed, nor whether a path was used before: that is decided from the tags in the
//! repository's history, by whoever runs the backup.
//!
//! Pods of one workload are taken as one and the same, and the newest Ready one that is not being deleted speaks for it.
//! Pods that hold data of their own are sources of their own: each pod of a `StatefulSet` and each bare pod by its name,
//! and each pod of a `DaemonSet` by its node, as `daemonset/<name>_<node>`, since its own name does not last (an `_`
//! cannot be in either name). A workload that asks for a backup and has no Ready pod is a source without a target, so that
//! it is waited for and then reported. The pods of Jobs are no such sources, because they end: one that is Ready is stored,
//! and none is waited for.

#[cfg(test)]
mod claim_tests;
mod claims;
mod container;
mod left_out;
mod missing;
#[cfg(test)]
mod missing_tests;
mod notes;
#[cfg(test)]
mod notes_tests;
mod paths;
mod pods;
#[cfg(test)]
mod property_tests;
mod selector;
#[cfg(test)]
mod snapshot_tests;
mod snapshots;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;
mod volumes;
mod workloads;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::core::SelectorExt;

use crate::{
    annotations::{self, CommandRequest, Problems, Request, Warning},
    api::{MissingSource, SkippedClaim},
    model::{Reason, SnapshotIdentity, SourceName, TagError, TargetCommand, TargetVolume, injected::SIDECAR_CONTAINER},
};

pub use claims::{ClaimFacts, ClaimMount};
pub(super) use claims::{enforces_restricted, is_device};
pub use container::{DEFAULT_CONTAINER, UnknownContainer, container_of};
use left_out::{LeftOut, runs_to_completion};
pub use missing::Expected;
use notes::Replicas;
pub use pods::Workload;
use pods::{Unit, unit};
use selector::selector;
pub use snapshots::{ClaimSnapshot, SnapshotFacts, snapshot_volumes};
use volumes::Claims;
pub use workloads::ObservedWorkload;

/// How many sources one Backup may have, since its status lists them all.
pub const MAXIMUM_SOURCES: usize = 256;

/// A pod, and what it belongs to.
#[derive(Clone, Debug)]
pub struct ObservedPod {
    /// The pod as the API server has it.
    pub pod: Pod,
    /// Its workload.
    pub workload: Workload,
}

/// What a plan is made of.
#[derive(Clone, Copy, Debug)]
pub struct SourceFacts<'a> {
    /// The namespace; also the snapshots' host.
    pub namespace: &'a str,
    /// Its pods, in any order.
    pub pods: &'a [ObservedPod],
    /// Its volumes; `None` when nobody has looked, so that only those are sources that a pod asks for.
    pub claims: Option<ClaimFacts<'a>>,
    /// Which pods and volumes are meant; all when there is none.
    pub selector: Option<&'a LabelSelector>,
    /// The cluster's id: UID of the namespace kube-system.
    pub cluster: &'a str,
    /// UID of the Backup.
    pub backup_uid: &'a str,
    /// What is expected besides; only when the sources of a Backup are frozen.
    pub expected: Option<Expected<'a>>,
}

/// All sources of a Backup, and all that is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourcePlan {
    /// Sorted by name; no two share a name, or a path.
    pub sources: Vec<PlannedSource>,
    /// What asked for a backup and is no source. Each makes the Backup less than green.
    pub problems: Vec<PlanProblem>,
    /// What was probably not meant.
    pub warnings: Vec<PlanWarning>,
    /// Volumes and workloads that are left out, by name.
    pub skipped: Vec<SkippedClaim>,
    /// Sources that are not there, by name.
    pub missing: Vec<MissingSource>,
    /// Why it is too early to freeze this plan, if it is.
    pub undecided: Option<String>,
    /// Whether the workloads were looked at, so that all that is missing is known.
    pub is_complete: bool,
}

/// One source.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is an annotation of its own")]
pub struct PlannedSource {
    /// Its name.
    pub name: SourceName,
    /// Name of the pod that speaks for it, Ready or not; empty for a volume that no pod has.
    pub pod: String,
    /// Where it is; `None` while no pod of the workload is Ready: plan again, and give up after a while.
    pub target: Option<Target>,
    /// How the snapshot is labelled. Without a target it has no tag of a pod.
    pub identity: SnapshotIdentity,
    /// The path for the case that another source's history holds the one of `identity`. No other source of this plan has it.
    pub alternative_path: String,
    /// Name of the Repository that the pod asks for.
    pub repository: Option<String>,
    /// End the command after this long.
    pub timeout: Option<Duration>,
    /// End it when no byte moved for this long.
    pub idle_timeout: Option<Duration>,
    /// Store a stream of 0 bytes.
    pub allow_empty: bool,
    /// Call a run without proof green.
    pub accept_unproven: bool,
    /// Store a stream of a known format without the end of that format.
    pub skip_format_check: bool,
    /// What of a volume is left out.
    pub exclude: Vec<String>,
    /// Whether a volume may be empty, or much smaller than its last good snapshot.
    pub accept_shrunken: bool,
    /// Whether its pod names a command that reads the dump.
    pub has_restore_command: bool,
    /// What a person has to know of it beside the verdict; empty where there is nothing.
    pub note: String,
}

/// Where a source is.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A command of a container.
    Command(TargetCommand),
    /// A claim that a pod's sidecar has.
    Volume(TargetVolume),
    /// A claim that the run's own Job mounts.
    Claim(ClaimMount),
}

impl Target {
    /// The pod; empty for a claim that none has.
    pub fn pod(&self) -> &str {
        match self {
            Self::Command(target) => &target.pod,
            Self::Volume(target) => &target.pod,
            Self::Claim(mount) => &mount.pod,
        }
    }

    /// The container of that pod in which the work is done; empty where none is needed.
    pub fn container(&self) -> &str {
        match self {
            Self::Command(target) => &target.container,
            Self::Volume(_) => SIDECAR_CONTAINER,
            Self::Claim(_) => "",
        }
    }
}

/// A warning of one object's annotations.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{object}: {warning}")]
pub struct PlanWarning {
    /// Kind and name, for example `pod db-0`.
    pub object: String,
    /// What it is about.
    pub warning: Warning,
}

/// Why something that asked for a backup is no source.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanProblem {
    /// The annotations of a pod cannot be carried out.
    #[error("pod {pod}: {problems}")]
    Annotations {
        /// Name of the pod.
        pod: String,
        /// All of its problems.
        #[source]
        problems: Problems,
    },
    /// The pod has no such container.
    #[error("pod {pod} has no container {container:?}, which annotation {key} names; it has {}", existing.join(", "))]
    UnknownContainer {
        /// Name of the pod.
        pod: String,
        /// The annotation.
        key: String,
        /// What it says.
        container: String,
        /// Which containers there are.
        existing: Vec<String>,
    },
    /// The source cannot be named or labelled.
    #[error("pod {pod} cannot be a source: {message}")]
    Unnamable {
        /// Name of the pod.
        pod: String,
        /// Why.
        message: String,
    },
    /// A volume that is asked for and is none that can be backed up.
    #[error("pod {pod}: {message}")]
    Volume {
        /// Name of the pod.
        pod: String,
        /// Which, and why.
        message: String,
    },
    /// A volume that is asked for, and no pod has a sidecar that could read it.
    #[error(
        "pod {pod} asks for a backup of {name} and has no sidecar with that volume: it was made before its annotation, or \
         past the webhook; recreate it"
    )]
    NotInjected {
        /// Name of the pod.
        pod: String,
        /// The volume, as a source.
        name: SourceName,
    },
    /// A volume that is to be backed up, and cannot be.
    #[error("{name}: {message}")]
    Claim {
        /// The volume, as a source.
        name: SourceName,
        /// Why.
        message: String,
    },
    /// A volume that only a sidecar could read, and no pod has one for it.
    #[error(
        "{name} can be read by a sidecar alone, since {why}, and no pod has one with that volume: annotate its workload with \
         stowaway.dev/inject: sidecar and stowaway.dev/volumes, or opt the volume out"
    )]
    SidecarOnly {
        /// The volume, as a source.
        name: SourceName,
        /// Why no Job can mount it.
        why: &'static str,
    },
    /// The selector is none.
    #[error("the Backup's label selector is not valid: {message}; nothing was selected")]
    Selector {
        /// What is wrong.
        message: String,
    },
    /// More sources than a Backup's status can list.
    #[error(
        "{count} sources are selected, and a Backup has at most {MAXIMUM_SOURCES}: {} and all after it are not stored; narrow the label selector and make several Backups",
        first
    )]
    TooManySources {
        /// How many there are.
        count: usize,
        /// The first one that is left out.
        first: SourceName,
    },
}

impl PlanProblem {
    /// The source that it is about, where that has a name of its own.
    pub(super) fn source(&self) -> Option<&SourceName> {
        match self {
            Self::NotInjected { name, .. } | Self::Claim { name, .. } | Self::SidecarOnly { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The pod that it is about.
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
    let to_come = workloads::pods_to_come(workloads, facts.pods, MAXIMUM_SOURCES + 1);
    let mut units: BTreeMap<Workload, Unit<'_>> = BTreeMap::new();
    let mut claims = Claims::default();
    let mut left_out = LeftOut::default();
    let mut replicas = Replicas::default();
    for (observed, is_there) in facts.pods.iter().map(|pod| (pod, true)).chain(to_come.iter().map(|pod| (pod, false))) {
        let labels = observed.pod.metadata.labels.clone().unwrap_or_default();
        if !selector.matches(&labels) {
            continue;
        }
        let asked = match observed.pod.metadata.annotations.as_ref().map(annotations::parse) {
            None | Some(Ok(None)) => continue,
            Some(Ok(Some(request))) => Ok(request),
            Some(Err(problems)) => Err(problems),
        };
        match unit(observed, asked) {
            Ok(Some((workload, unit))) if !unit.ready && runs_to_completion(&workload) => left_out.ending(&workload),
            Ok(Some((workload, unit))) => {
                if let Ok(request) = &unit.asked
                    && is_there
                {
                    claims.add(&unit, request, &mut plan.problems);
                    left_out.outside(observed);
                    if !request.commands.is_empty() {
                        replicas.add(observed);
                    }
                }
                let better = units.get(&workload).is_none_or(|present| unit.rank() > present.rank());
                if better {
                    units.insert(workload, unit);
                }
            }
            Ok(None) => {}
            Err(problem) => plan.problems.push(problem),
        }
    }
    for one in workloads.iter().filter(|one| one.is_selected(&selector)) {
        plan.warnings.extend(workloads::misplaced(one));
        if runs_to_completion(&one.workload) && one.request().is_some() {
            left_out.ending(&one.workload);
        }
    }
    let mut drafts = Vec::new();
    for (workload, unit) in &units {
        match &unit.asked {
            Ok(request) => {
                let first = drafts.len();
                draft_sources(facts, workload, unit, request, &mut drafts, &mut plan);
                for draft in &mut drafts[first..] {
                    draft.source.note = replicas.note(unit, workload);
                }
            }
            Err(problems) => {
                warn(unit, &problems.warnings, &mut plan);
                plan.problems.push(PlanProblem::Annotations { pod: unit.name.to_owned(), problems: problems.clone() });
            }
        }
    }
    drafts.sort_by(|a, b| a.source.name.cmp(&b.source.name));
    plan.sources = paths::assign(drafts);
    let asked: BTreeSet<&str> = claims.asked().collect();
    let choices =
        facts.claims.map(|observed| claims::choose(observed, facts.pods, &selector, &asked, &mut plan.warnings));
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
    plan.warnings.sort_by_cached_key(ToString::to_string);
    plan
}

/// Tells of a pod what was probably not meant.
fn warn(unit: &Unit<'_>, warnings: &[Warning], plan: &mut SourcePlan) {
    let of_pod = |warning: &Warning| PlanWarning { object: format!("pod {}", unit.name), warning: warning.clone() };
    plan.warnings.extend(warnings.iter().map(of_pod));
}

/// A source whose paths are not settled yet.
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
    warn(unit, &request.warnings, plan);
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
        skip_format_check: request.skip_format_check,
        exclude: Vec::new(),
        accept_shrunken: false,
        has_restore_command: command.restore_argv.is_some(),
        note: String::new(),
        name,
    };
    Ok(Draft { source, extension: command.file_extension.clone() })
}

/// How the snapshots of a source are labelled; why not, where a tag cannot be carried.
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
