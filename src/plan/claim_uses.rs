//! Which runs of Stowaway work on the claims and commands of a namespace: what is being restored is not stored, and the other
//! way round, because a half restored claim or database would become a snapshot that looks whole.
//!
//! Besides Stowaway's own Jobs, the restore step of a pod restores too. It must not know the other pods: those that back a
//! claim up live with it, and a Restore checks the users of its claim itself.

mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Pod, PodSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{ResourceExt, core::DynamicObject};
use serde_json::Value;

use super::{
    jobs::{has_ended, is_ended, is_over},
    labels,
    names::{DATA_VOLUME, Owner, RUNNER_CONTAINER, RunKind, TARGET_VOLUME},
    sources::ObservedPod,
};
use crate::{
    api::{Backup, Restore, SourceState},
    model::mounts,
};
use steps::{StepState, restore_steps};

/// What the runs of one namespace are seen by.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnRuns<'a> {
    /// Their Jobs.
    pub jobs: &'a [Job],
    /// The pods of those, and those that have outlived their Job.
    pub pods: &'a [Pod],
    /// The `VolumeSnapshot`s that Backups have made.
    pub snapshots: &'a [DynamicObject],
    /// The Restores.
    pub restores: &'a [Restore],
    /// All other pods of the namespace.
    pub apps: &'a [ObservedPod],
}

/// Who works on which claim or command.
#[derive(Clone, Debug, Default)]
pub struct ClaimUses {
    uses: Vec<ClaimUse>,
    /// The claims that each pod has, by the pod's name.
    mounted: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug)]
struct ClaimUse {
    subject: Subject,
    is_restore: bool,
    stage: Stage,
    /// UIDs of the owners of what it is seen by; of a Restore its own.
    owners: Vec<String>,
    /// For people.
    words: String,
}

/// What a run reads or writes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Subject {
    /// A claim.
    Claim(String),
    /// The commands of a pod. They share one server, so that two of the same pod are never independent.
    Command {
        /// Name of the pod, as far as it is known.
        pod: Option<String>,
        /// Kind and name of its workload (`deployment/shop`), whose pods share one state.
        workload: Option<String>,
    },
}

impl Subject {
    /// The subject that a source is, whose commands run in this pod.
    pub(super) fn of(source: &str, pod: &str) -> Self {
        match claim_of(source) {
            Some(claim) => Self::Claim(claim.to_owned()),
            None => Self::Command { pod: some(pod), workload: workload_of(source) },
        }
    }

    /// What a Restore into a command of this pod writes into. Where the Restore names the pod itself, that pod may be of
    /// another workload than its source.
    pub(super) fn of_restore(restore: &Restore, pod: &str) -> Self {
        let is_named = restore.spec.to.as_ref().is_some_and(|to| to.pod.is_some());
        let workload = if is_named { None } else { workload_of(restore.spec.from.source.as_str()) };
        Self::Command { pod: some(pod), workload }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// It will have a Job.
    Wanted,
    /// It has a Job, or its snapshot is being taken. Both end within their time.
    Runs,
    /// Its Job is over or gone, and its pod is not.
    Lingers,
    /// It is the restore step of a pod, which may be tried again for ever.
    Step(StepState),
}

impl ClaimUses {
    /// Finds them.
    pub fn of(runs: OwnRuns<'_>) -> Self {
        let mut uses = Vec::new();
        let mut living = BTreeSet::new();
        // Nothing works in a claim any more once the runner has ended, whatever else keeps its pod alive.
        for job in runs.jobs.iter().filter(|job| !is_over(job) && !has_ended(job, runs.pods)) {
            living.extend(job.metadata.uid.as_deref());
            let spec = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
            uses.extend(found(&job.metadata, spec, Stage::Runs));
        }
        let is_alive = |pod: &&Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        };
        let has_job = |pod: &&Pod| pod.owner_references().iter().any(|owner| living.contains(owner.uid.as_str()));
        for pod in runs.pods.iter().filter(is_alive).filter(|pod| !has_job(pod) && !is_ended(pod)) {
            uses.extend(found(&pod.metadata, pod.spec.as_ref(), Stage::Lingers));
        }
        uses.extend(runs.snapshots.iter().filter_map(being_taken));
        uses.extend(runs.restores.iter().filter_map(wanted));
        let apps: Vec<&Pod> = runs.apps.iter().map(|observed| &observed.pod).filter(is_alive).collect();
        uses.extend(restore_steps(&apps).into_iter().map(|step| ClaimUse {
            subject: Subject::Claim(step.claim),
            is_restore: true,
            stage: Stage::Step(step.state),
            owners: Vec::new(),
            words: step.message,
        }));
        let mounted = apps.iter().map(|pod| (pod.name_any(), claims_of(pod).map(str::to_owned).collect())).collect();
        Self { uses, mounted }
    }

    /// What a Restore has to wait for. Other Restores that wait, too, are none: the first one that looks begins. A restore
    /// step counts only while it runs, because a Restore is what mends one that fails again and again; and not at all if the
    /// Restore scales the workload down first.
    pub(super) fn before_restore(&self, subject: &Subject, owner: &Owner, scales_down: bool) -> Option<&str> {
        self.first(subject, |one| match one.stage {
            Stage::Wanted => false,
            Stage::Step(state) => state == StepState::Running && !scales_down,
            Stage::Runs | Stage::Lingers => !one.owners.contains(&owner.uid),
        })
    }

    /// What a backup has to wait for, and what ends by itself. A Restore that has not begun comes first, too: it may have
    /// scaled its workload down already.
    pub(super) fn before_backup(&self, subject: &Subject) -> Option<&str> {
        self.first(subject, |one| one.is_restore && matches!(one.stage, Stage::Wanted | Stage::Runs))
    }

    /// What may still write, and perhaps never ends: no one reports the end of a pod whose node is lost.
    pub(super) fn lingers(&self, subject: &Subject) -> Option<&str> {
        self.first(subject, |one| one.is_restore && one.stage == Stage::Lingers)
    }

    /// The restore step of a pod that has not filled the claim yet.
    pub(super) fn restore_step(&self, subject: &Subject) -> Option<&str> {
        self.first(subject, |one| matches!(one.stage, Stage::Step(_)))
    }

    fn first(&self, subject: &Subject, is_meant: impl Fn(&ClaimUse) -> bool) -> Option<&str> {
        let found = self.uses.iter().find(|one| is_meant(one) && self.meet(&one.subject, subject));
        found.map(|one| one.words.as_str())
    }

    /// Whether what one of them writes is what the other one reads.
    fn meet(&self, one: &Subject, other: &Subject) -> bool {
        let has = |pod: &Option<String>, claim: &String| {
            let claims = pod.as_ref().and_then(|pod| self.mounted.get(pod));
            claims.is_some_and(|claims| claims.contains(claim))
        };
        let same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        match (one, other) {
            (Subject::Claim(one), Subject::Claim(other)) => one == other,
            (Subject::Claim(claim), Subject::Command { pod, .. })
            | (Subject::Command { pod, .. }, Subject::Claim(claim)) => has(pod, claim),
            (Subject::Command { pod, workload }, Subject::Command { pod: other_pod, workload: other_workload }) => {
                same(pod, other_pod) || same(workload, other_workload)
            }
        }
    }
}

/// Whether a Backup can go on without knowing [`ClaimUses`]: no source waits for its turn.
pub fn wants_claim_uses(backup: &Backup) -> bool {
    let sources = backup.status.iter().flat_map(|status| &status.sources);
    sources.into_iter().any(|source| source.state == SourceState::Waiting)
}

/// The claim that a source is; none if it is a command.
pub(super) fn claim_of(source: &str) -> Option<&str> {
    source.strip_prefix("pvc/")
}

/// Kind and name of the workload of a command source.
fn workload_of(source: &str) -> Option<String> {
    let mut parts = source.splitn(3, '/');
    Some(format!("{}/{}", parts.next()?, parts.next()?))
}

/// The claims that the pod has.
fn claims_of(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// What a Job, or its pod, works on, as it is seen from outside.
fn found(metadata: &ObjectMeta, spec: Option<&PodSpec>, stage: Stage) -> Option<ClaimUse> {
    let label = |key: &str| metadata.labels.as_ref()?.get(key).map(String::as_str);
    let is_restore = match label(labels::KIND)? {
        kind if kind == RunKind::Restore.to_string() => true,
        kind if kind == RunKind::Backup.to_string() => false,
        _ => return None,
    };
    let mounted = |name: &str| {
        let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut claims =
            volumes.filter(|volume| volume.name == name).filter_map(|v| v.persistent_volume_claim.as_ref());
        claims.next().map(|source| source.claim_name.clone())
    };
    let source = metadata.annotations.as_ref().and_then(|texts| texts.get(labels::SOURCE)).map(String::as_str);
    let claim = if is_restore {
        mounted(TARGET_VOLUME)
    } else {
        // A Job that mounts none has the sidecar of a pod read it. What is made of a snapshot belongs to the run alone.
        mounted(DATA_VOLUME).or_else(|| source.and_then(claim_of).map(str::to_owned))
    };
    let subject = match claim {
        Some(claim) => Subject::Claim(claim),
        None => command(spec, source, is_restore)?,
    };
    let run = format!("{} {}", if is_restore { "Restore" } else { "Backup" }, label(labels::RUN).unwrap_or_default());
    let name = metadata.name.as_deref().unwrap_or_default();
    let what = match &subject {
        Subject::Claim(claim) => format!("claim {claim}"),
        Subject::Command { pod: Some(pod), .. } => format!("a command of pod {pod}"),
        Subject::Command { pod: None, .. } => format!("a command of {}", source.unwrap_or("the same pod")),
    };
    let words = match stage {
        Stage::Lingers => {
            let node = spec.and_then(|spec| spec.node_name.as_deref());
            let node = node.map(|node| format!(" on node {node}")).unwrap_or_default();
            format!("pod {name}{node} of {run}, whose Job is over, and which still has {what}")
        }
        _ if is_restore => format!("{run}, whose Job {name} writes into {what}"),
        _ => format!("{run}, whose Job {name} reads {what}"),
    };
    let owners = metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect();
    Some(ClaimUse { subject, is_restore, stage, owners, words })
}

/// The command that the task of a Job is about. The task is read as plain JSON, because a Job of another version may hold
/// fields that this one does not know.
fn command(spec: Option<&PodSpec>, source: Option<&str>, is_restore: bool) -> Option<Subject> {
    let runner = spec?.containers.iter().find(|container| container.name == RUNNER_CONTAINER)?;
    let variable = runner.env.iter().flatten().find(|variable| variable.name == mounts::TASK_VARIABLE)?;
    let task: Value = serde_json::from_str(variable.value.as_deref()?).ok()?;
    let text = |pointer: &str| task.pointer(pointer).and_then(Value::as_str);
    let kind = if is_restore { "restore" } else { "backup" };
    if text("/kind/do") != Some(kind) {
        return None;
    }
    // A Restore may be of the source of one workload into a pod of another one.
    let workload = source.filter(|_| !is_restore).and_then(workload_of);
    Some(Subject::Command { pod: text("/kind/target/pod").and_then(some), workload })
}

/// A snapshot of which it is not known yet that its moment is over.
fn being_taken(snapshot: &DynamicObject) -> Option<ClaimUse> {
    let text = |pointer: &str| snapshot.data.pointer(pointer).and_then(|value| value.as_str());
    let is_ready = snapshot.data.pointer("/status/readyToUse").and_then(Value::as_bool) == Some(true);
    let is_taken = is_ready || text("/status/creationTime").is_some() || snapshot.metadata.deletion_timestamp.is_some();
    let claim = text("/spec/source/persistentVolumeClaimName").filter(|_| !is_taken)?.to_owned();
    let run = snapshot.labels().get(labels::RUN).map_or("", String::as_str);
    let words =
        format!("VolumeSnapshot {} of Backup {run}, which is being taken of claim {claim}", snapshot.name_any());
    Some(ClaimUse { subject: Subject::Claim(claim), is_restore: false, stage: Stage::Runs, owners: Vec::new(), words })
}

/// A Restore without a verdict that is not being deleted.
fn wanted(restore: &Restore) -> Option<ClaimUse> {
    let status = restore.status.as_ref();
    let is_over = status.is_some_and(|status| status.outcome.verdict.is_some());
    if is_over || restore.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (subject, what) = restored(restore)?;
    Some(ClaimUse {
        subject,
        is_restore: true,
        stage: Stage::Wanted,
        owners: restore.metadata.uid.clone().into_iter().collect(),
        words: format!("Restore {} into {what}", restore.name_any()),
    })
}

/// What a Restore writes into, and its name for people; none for an archive.
fn restored(restore: &Restore) -> Option<(Subject, String)> {
    let source = restore.spec.from.source.as_str();
    let to = restore.spec.to.as_ref();
    if let Some(claim) = to.and_then(|to| to.claim.as_ref()) {
        return Some((Subject::Claim(claim.name.clone()), format!("claim {}", claim.name)));
    }
    if to.is_some_and(|to| to.archive.is_some()) || claim_of(source).is_some() {
        return None;
    }
    let named = to.and_then(|to| to.pod.as_deref());
    let what = named.map_or_else(|| format!("a command of {source}"), |pod| format!("a command of pod {pod}"));
    let pod = named.or(restore.status.as_ref().map(|status| status.pod.as_str()));
    Some((Subject::of_restore(restore, pod.unwrap_or_default()), what))
}
