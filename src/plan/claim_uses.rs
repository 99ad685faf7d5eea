//! The runs of Stowaway which use the claims and commands of a namespace. A claim or command is not backed up while it
//! is being restored, and vice versa, because a half restored claim or database would become a snapshot that looks
//! whole.
//!
//! Besides Stowaway's Jobs, the restore step of a pod restores claims, too. App containers are not considered here:
//! backups run beside them, and a Restore checks the pods which mount its claim itself.

mod half_restored;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
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
    jobs::{has_ended, has_failed, is_ended, is_over, task_of},
    labels,
    names::{DATA_VOLUME, OwnerRef, RunKind, TARGET_VOLUME},
    sources::ObservedPod,
    text::if_lost,
};
use crate::api::{Backup, Restore, SourceState};
pub(super) use half_restored::HalfRestored;
use half_restored::half_restored;
pub(super) use steps::is_step_pending;
use steps::{StepState, restore_steps};

/// The observed objects which show the runs of one namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnRuns<'a> {
    /// The Jobs of the runs.
    pub jobs: &'a [Job],
    /// The pods of `jobs`, and pods whose Job was deleted.
    pub pods: &'a [Pod],
    /// The `VolumeSnapshot`s which Backups have created.
    pub snapshots: &'a [DynamicObject],
    pub restores: &'a [Restore],
    /// All other pods of the namespace.
    pub apps: &'a [ObservedPod],
}

/// The runs which use the claims and commands of one namespace.
#[derive(Clone, Debug, Default)]
pub struct ClaimUses {
    uses: Vec<ClaimUse>,
    /// The claims of each pod, by the pod's name.
    mounted: BTreeMap<String, Vec<String>>,
    half_restored: Vec<HalfRestored>,
}

#[derive(Clone, Debug)]
struct ClaimUse {
    subject: Subject,
    is_restore: bool,
    stage: Stage,
    /// The time by which a pod that is being deleted should have ended.
    end_due: Option<Timestamp>,
    /// UIDs of the owners of the observed object; for a Restore, its own UID.
    owners: Vec<String>,
    /// The text for a user, as the object of "waits for".
    description: String,
}

/// The claim or command which a run reads or writes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Subject {
    /// A claim, by name.
    Claim(String),
    /// The commands of a pod. They are assumed to use the same server, so two commands of a pod are never independent.
    Command {
        /// Name of the pod, if it is known.
        pod: Option<String>,
        /// Kind and name of the pod's workload (`deployment/shop`). The pods of a workload are assumed to share their
        /// state.
        workload: Option<String>,
    },
}

impl Subject {
    /// The subject of a source. If it is a command, it runs in this pod.
    pub(super) fn of(source: &str, pod: &str) -> Self {
        match claim_of(source) {
            Some(claim) => Self::Claim(claim.to_owned()),
            None => Self::Command { pod: non_empty(pod), workload: workload_of(source) },
        }
    }

    /// The subject of a Restore into a command of this pod. If the Restore names the pod itself, the pod may belong to
    /// another workload than the source.
    pub(super) fn of_restore(restore: &Restore, pod: &str) -> Self {
        let is_named = restore.spec.to.as_ref().is_some_and(|to| to.pod.is_some());
        let workload = if is_named { None } else { workload_of(restore.spec.from.source.as_str()) };
        Self::Command { pod: non_empty(pod), workload }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// A Restore which has no Job yet.
    Pending,
    /// A run with a Job, or a `VolumeSnapshot` which is being taken. Both have a deadline.
    Runs,
    /// A pod which still exists after its Job has ended, failed for good, or was deleted.
    Lingers,
    /// The restore step of a pod, which the kubelet may restart for ever.
    Step(StepState),
}

impl ClaimUses {
    pub fn of(runs: OwnRuns<'_>) -> Self {
        let mut uses = Vec::new();
        let mut living = BTreeSet::new();
        // A run no longer uses a claim after its runner has ended, even if another container keeps the pod alive.
        // A Job which has failed for good is over once its pods have ended, which the kubelet of a lost node never reports.
        let is_running = |job: &&Job| !is_over(job) && !has_failed(job) && !has_ended(job, runs.pods);
        for job in runs.jobs.iter().filter(is_running) {
            living.extend(job.metadata.uid.as_deref());
            let spec = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
            uses.extend(use_of_run(&job.metadata, spec, Stage::Runs));
        }
        let is_alive = |pod: &&Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        };
        let has_job = |pod: &&Pod| pod.owner_references().iter().any(|owner| living.contains(owner.uid.as_str()));
        for pod in runs.pods.iter().filter(is_alive).filter(|pod| !has_job(pod) && !is_ended(pod)) {
            uses.extend(use_of_run(&pod.metadata, pod.spec.as_ref(), Stage::Lingers));
        }
        uses.extend(runs.snapshots.iter().filter_map(use_of_snapshot));
        uses.extend(runs.restores.iter().filter_map(use_of_pending_restore));
        let apps: Vec<&Pod> = runs.apps.iter().map(|observed| &observed.pod).filter(is_alive).collect();
        uses.extend(restore_steps(&apps).into_iter().map(|step| ClaimUse {
            subject: Subject::Claim(step.claim),
            is_restore: true,
            stage: Stage::Step(step.state),
            end_due: None,
            owners: Vec::new(),
            description: step.message,
        }));
        let mounted = apps.iter().map(|pod| (pod.name_any(), claims_of(pod).map(str::to_owned).collect())).collect();
        Self { uses, mounted, half_restored: half_restored(runs.restores) }
    }

    /// The run which a Restore has to wait for. Other pending Restores do not block: the Restore which is reconciled
    /// first starts. A restore step blocks only while it runs, because a Restore is the remedy for a step which fails
    /// repeatedly; and it does not block if the Restore scales the workload down first.
    pub(super) fn before_restore(&self, subject: &Subject, owner: &OwnerRef, scales_down: bool) -> Option<&str> {
        self.first(subject, |one| one.is_before_restore(owner, scales_down))
    }

    /// The time by which everything should have ended that a Restore has to wait for. `None` if not all of it is pods
    /// which are being deleted although their Job is over.
    pub(super) fn end_due(&self, subject: &Subject, owner: &OwnerRef, scales_down: bool) -> Option<Timestamp> {
        let blocking = self.uses.iter().filter(|one| one.is_before_restore(owner, scales_down));
        let due = blocking.filter(|one| self.conflict(&one.subject, subject)).map(|one| one.end_due);
        due.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The restore which a backup has to wait for, and which ends within its deadline. A pending Restore takes
    /// precedence, because it may have scaled its workload down already.
    pub(super) fn before_backup(&self, subject: &Subject) -> Option<&str> {
        self.first(subject, |one| one.is_restore && matches!(one.stage, Stage::Pending | Stage::Runs))
    }

    /// A pod of a restore which may still write although its Job is over. It may never be reported as ended, because
    /// the kubelet of a lost node reports nothing.
    pub(super) fn lingering_pod(&self, subject: &Subject) -> Option<&str> {
        self.first(subject, |one| one.is_restore && one.stage == Stage::Lingers)
    }

    /// The restore step which has not filled the claim yet.
    pub(super) fn restore_step(&self, subject: &Subject) -> Option<&str> {
        self.first(subject, |one| matches!(one.stage, Stage::Step(_)))
    }

    /// The newest failed Restore which may have left a part of a snapshot in this source, and which nothing has made good.
    /// The command of the source runs in `pod`.
    pub(super) fn half_restored(&self, source: &str, pod: &str) -> Option<&HalfRestored> {
        self.half_restored.iter().find(|one| one.is_into(source, pod))
    }

    /// The description of the first matching use which conflicts with the subject.
    fn first(&self, subject: &Subject, matches: impl Fn(&ClaimUse) -> bool) -> Option<&str> {
        let found = self.uses.iter().find(|one| matches(one) && self.conflict(&one.subject, subject));
        found.map(|one| one.description.as_str())
    }

    /// Whether a write to one subject may change what is read from the other one.
    fn conflict(&self, one: &Subject, other: &Subject) -> bool {
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

impl ClaimUse {
    fn is_before_restore(&self, owner: &OwnerRef, scales_down: bool) -> bool {
        match self.stage {
            Stage::Pending => false,
            Stage::Step(state) => state == StepState::Running && !scales_down,
            Stage::Runs | Stage::Lingers => !self.owners.contains(&owner.uid),
        }
    }
}

/// Whether the plan of a Backup needs [`ClaimUses`], because a source is waiting to start.
pub fn needs_claim_uses(backup: &Backup) -> bool {
    let sources = backup.status.iter().flat_map(|status| &status.sources);
    sources.into_iter().any(|source| source.state == SourceState::Waiting)
}

/// The name of the claim which is the source; `None` if the source is a command.
pub(super) fn claim_of(source: &str) -> Option<&str> {
    source.strip_prefix("pvc/")
}

/// Kind and name of the workload of a command source.
fn workload_of(source: &str) -> Option<String> {
    let mut parts = source.splitn(3, '/');
    Some(format!("{}/{}", parts.next()?, parts.next()?))
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The claim or command which a run uses, derived from its Job or pod.
fn use_of_run(metadata: &ObjectMeta, spec: Option<&PodSpec>, stage: Stage) -> Option<ClaimUse> {
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
        // A backup Job of a claim which mounts no claim has a pod's sidecar read it. A temporary claim is used by this
        // run alone.
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
    let description = match stage {
        Stage::Lingers => {
            let node = spec.and_then(|spec| spec.node_name.as_deref());
            let on_node = node.map(|node| format!(" on node {node}")).unwrap_or_default();
            // Without a node, the pod has never started.
            let next = node.map(|node| format!("; {}", if_lost(node))).unwrap_or_default();
            format!("pod {name}{on_node} of {run}, whose Job is over and which still uses {what}{next}")
        }
        _ if is_restore => format!("{run}, whose Job {name} writes into {what}"),
        _ => format!("{run}, whose Job {name} reads {what}"),
    };
    let owners = metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect();
    let deleted = metadata.deletion_timestamp.as_ref().filter(|_| stage == Stage::Lingers);
    Some(ClaimUse { subject, is_restore, stage, end_due: deleted.map(|time| time.0), owners, description })
}

/// The command in the task of a Job.
fn command(spec: Option<&PodSpec>, source: Option<&str>, is_restore: bool) -> Option<Subject> {
    let task = task_of(spec?)?;
    let text = |pointer: &str| task.pointer(pointer).and_then(Value::as_str);
    let kind = if is_restore { "restore" } else { "backup" };
    if text("/kind/do") != Some(kind) {
        return None;
    }
    // A Restore may restore the source of one workload into a pod of another workload.
    let workload = source.filter(|_| !is_restore).and_then(workload_of);
    Some(Subject::Command { pod: text("/kind/target/pod").and_then(non_empty), workload })
}

/// The claim of a `VolumeSnapshot` which is not known to be taken yet.
fn use_of_snapshot(snapshot: &DynamicObject) -> Option<ClaimUse> {
    let text = |pointer: &str| snapshot.data.pointer(pointer).and_then(|value| value.as_str());
    let is_ready = snapshot.data.pointer("/status/readyToUse").and_then(Value::as_bool) == Some(true);
    let is_taken = is_ready || text("/status/creationTime").is_some() || snapshot.metadata.deletion_timestamp.is_some();
    let claim = text("/spec/source/persistentVolumeClaimName").filter(|_| !is_taken)?.to_owned();
    let run = snapshot.labels().get(labels::RUN).map_or("", String::as_str);
    let description =
        format!("VolumeSnapshot {} of Backup {run}, which is being taken of claim {claim}", snapshot.name_any());
    let (subject, owners) = (Subject::Claim(claim), Vec::new());
    Some(ClaimUse { subject, is_restore: false, stage: Stage::Runs, end_due: None, owners, description })
}

/// The claim or command of a Restore which has no verdict and is not being deleted.
fn use_of_pending_restore(restore: &Restore) -> Option<ClaimUse> {
    let status = restore.status.as_ref();
    let is_over = status.is_some_and(|status| status.outcome.verdict.is_some());
    if is_over || restore.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (subject, what) = target_of(restore)?;
    Some(ClaimUse {
        subject,
        is_restore: true,
        stage: Stage::Pending,
        end_due: None,
        owners: restore.metadata.uid.clone().into_iter().collect(),
        description: format!("Restore {} into {what}", restore.name_any()),
    })
}

/// The subject which a Restore writes into, and its name for a user; `None` for an archive.
fn target_of(restore: &Restore) -> Option<(Subject, String)> {
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
