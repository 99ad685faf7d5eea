//! Which of our own runs work on the claims of a namespace: a claim that is being restored is not stored, and the other way
//! round, since what is half there would become a snapshot that looks whole.
//!
//! It must not know the pods of others: those that back a claim up live with it, and who restores asks about them himself.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Pod, PodSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{ResourceExt, core::DynamicObject};

use super::{
    jobs::{has_ended, is_ended, is_over},
    labels,
    names::{DATA_VOLUME, Owner, RunKind, TARGET_VOLUME},
};
use crate::api::{Backup, Restore, SourceState};

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
}

/// Who works on which claim.
#[derive(Clone, Debug, Default)]
pub struct ClaimUses(Vec<ClaimUse>);

#[derive(Clone, Debug)]
struct ClaimUse {
    claim: String,
    is_restore: bool,
    stage: Stage,
    /// UIDs of the owners of what it is seen by; of a Restore its own.
    owners: Vec<String>,
    /// For people.
    words: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// It will have a Job.
    Wanted,
    /// It has a Job, or its snapshot is being taken. Both end within their time.
    Runs,
    /// Its Job is over or gone, and its pod is not.
    Lingers,
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
        Self(uses)
    }

    /// What a Restore into the claim has to wait for. Other Restores that wait, too, are none: the first one that looks
    /// begins.
    pub(super) fn before_restore(&self, claim: &str, owner: &Owner) -> Option<&str> {
        self.first(|one| one.claim == claim && one.stage != Stage::Wanted && !one.owners.contains(&owner.uid))
    }

    /// What a backup of the claim has to wait for, and what ends by itself. A Restore that has not begun comes first, too: it
    /// may have scaled its workload down already.
    pub(super) fn before_backup(&self, claim: &str) -> Option<&str> {
        self.first(|one| one.claim == claim && one.is_restore && one.stage != Stage::Lingers)
    }

    /// What may still write into the claim, and perhaps never ends: nobody hears of a pod whose node is lost.
    pub(super) fn lingers(&self, claim: &str) -> Option<&str> {
        self.first(|one| one.claim == claim && one.is_restore && one.stage == Stage::Lingers)
    }

    fn first(&self, is_meant: impl Fn(&&ClaimUse) -> bool) -> Option<&str> {
        self.0.iter().find(is_meant).map(|one| one.words.as_str())
    }
}

/// Whether a Backup can go on without knowing [`ClaimUses`]: no claim waits for its turn.
pub fn wants_claim_uses(backup: &Backup) -> bool {
    let sources = backup.status.iter().flat_map(|status| &status.sources);
    sources.into_iter().any(|source| source.state == SourceState::Waiting && claim_of(source.name.as_str()).is_some())
}

/// The claim that a source is; none if it is a command.
pub(super) fn claim_of(source: &str) -> Option<&str> {
    source.strip_prefix("pvc/")
}

/// What a Job, or its pod, does in which claim, as it is seen from outside.
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
    let claim = if is_restore {
        mounted(TARGET_VOLUME)?
    } else {
        // One that mounts none has the sidecar of a pod read it. What is made of a snapshot is nobody else's.
        let source = || metadata.annotations.as_ref()?.get(labels::SOURCE).map(String::as_str);
        mounted(DATA_VOLUME).or_else(|| source().and_then(claim_of).map(str::to_owned))?
    };
    let run = format!("{} {}", if is_restore { "Restore" } else { "Backup" }, label(labels::RUN).unwrap_or_default());
    let name = metadata.name.as_deref().unwrap_or_default();
    let words = match stage {
        Stage::Wanted | Stage::Runs if is_restore => format!("{run}, whose Job {name} writes into claim {claim}"),
        Stage::Wanted | Stage::Runs => format!("{run}, whose Job {name} reads claim {claim}"),
        Stage::Lingers => {
            let node = spec.and_then(|spec| spec.node_name.as_deref());
            let node = node.map(|node| format!(" on node {node}")).unwrap_or_default();
            format!("pod {name}{node} of {run}, whose Job is over, and which still has claim {claim}")
        }
    };
    let owners = metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect();
    Some(ClaimUse { claim, is_restore, stage, owners, words })
}

/// A snapshot of which nobody knows yet that its moment is over.
fn being_taken(snapshot: &DynamicObject) -> Option<ClaimUse> {
    let text = |pointer: &str| snapshot.data.pointer(pointer).and_then(|value| value.as_str());
    let is_ready = snapshot.data.pointer("/status/readyToUse").and_then(serde_json::Value::as_bool) == Some(true);
    let is_taken = is_ready || text("/status/creationTime").is_some() || snapshot.metadata.deletion_timestamp.is_some();
    let claim = text("/spec/source/persistentVolumeClaimName").filter(|_| !is_taken)?.to_owned();
    let run = snapshot.labels().get(labels::RUN).map_or("", String::as_str);
    let words =
        format!("VolumeSnapshot {} of Backup {run}, which is being taken of claim {claim}", snapshot.name_any());
    Some(ClaimUse { claim, is_restore: false, stage: Stage::Runs, owners: Vec::new(), words })
}

/// A Restore that has no verdict, and nobody has taken back.
fn wanted(restore: &Restore) -> Option<ClaimUse> {
    let claim = restore.spec.to.as_ref()?.claim.as_ref()?.name.clone();
    let is_over = restore.status.as_ref().is_some_and(|status| status.outcome.verdict.is_some());
    if is_over || restore.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let words = format!("Restore {} into claim {claim}", restore.name_any());
    Some(ClaimUse {
        claim,
        is_restore: true,
        stage: Stage::Wanted,
        owners: restore.metadata.uid.clone().into_iter().collect(),
        words,
    })
}
