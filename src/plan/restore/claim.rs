//! A Restore into a claim: whether the claim may be written to now, on which node its Job runs, and as which user.
//! Whether the claim is empty is checked by the run itself.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Volume};
use kube::ResourceExt;

use super::{Blocked, RestoreFacts, WAIT_LIMIT, new_claim::volume_mode, pod_use::waits_for_step, target::StartError};
use crate::{
    api::{RESTORE_UNFINISHED, Restore, RestoreClaim, RestoreStatus, RunnerPod},
    model::{BLOCK, Reason, SnapshotIdentity, TaskKind, VolumeRestore, WantedSnapshot},
    plan::{
        actions::TargetMount,
        claim_uses::Subject,
        names::OwnerRef,
        sources::{ObservedPod, enforces_restricted, is_device},
        stored_claim::stored_claim,
        text::{if_lost, later, with_statement},
    },
};

/// How long a Restore waits for other runs of Stowaway which use the claim. Most runs have an earlier deadline of their
/// own.
const OWN_RUNS_LIMIT: Duration = Duration::from_hours(25);
/// The access mode for a single pod.
const OF_ONE_POD: &str = "ReadWriteOncePod";
/// The access mode for pods of any node.
const OF_MANY_NODES: &str = "ReadWriteMany";

/// The facts which a Restore into a claim needs besides [`RestoreFacts`].
#[derive(Clone, Copy, Debug)]
pub struct TargetFacts<'a> {
    /// The target claim, if it exists.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// The workload of `scaleDown`, if it exists.
    pub scale: Option<&'a ObservedScale>,
    /// Name of another Restore which has scaled that workload down, and not back yet.
    pub scaled_down_by: Option<&'a str>,
    pub namespace: &'a Namespace,
    /// Whether the platform assigns users to the namespace's pods, which then must not set any (`OpenShift`).
    pub assigns_users: bool,
    /// The cluster's id.
    pub cluster: &'a str,
    /// The names of the cluster's storage classes; empty unless a claim may be created or waits for a volume of its
    /// class, see [`pending_class`].
    pub storage_classes: &'a [String],
}

/// A workload which can be scaled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedScale {
    pub uid: String,
    /// The requested number of replicas.
    pub replicas: i32,
    /// The number of existing pods, including those which are ending.
    pub pods: usize,
    /// Whether Kubernetes deletes the claims of the workload's pods when it is scaled down; `None` if the controller
    /// may not read that.
    pub deletes_claims: Option<bool>,
}

/// The name of the target claim, if a Restore has created it and none has filled it.
pub(super) fn unfilled(facts: RestoreFacts<'_>) -> Option<String> {
    let claim = facts.claim?.claim?;
    claim.annotations().contains_key(RESTORE_UNFINISHED).then(|| claim.name_any())
}

/// Whether the Restore restores all of its source into the root of the claim.
pub(super) fn is_whole(restore: &Restore) -> bool {
    let claim = restore.spec.to.as_ref().and_then(|to| to.claim.as_ref());
    restore.spec.from.paths.is_empty() && claim.is_some_and(|claim| claim.path.is_none())
}

/// The message of a Restore, with what follows from the claim which is not filled.
pub(super) fn with_unfilled(message: &str, claim: &str) -> String {
    let effect = format!(
        "no Backup stores claim {claim}, or a dump of a pod that mounts it, before a Restore of the whole source into it \
         has succeeded (annotation {RESTORE_UNFINISHED}): restore into it again, or delete it"
    );
    with_statement(message, &effect)
}

/// Checks the parts of the request which do not depend on the namespace's state.
pub(super) fn check(restore: &Restore, to: &RestoreClaim) -> Result<(), StartError> {
    check_paths(restore)?;
    if to.path.as_deref().is_some_and(|path| path.split('/').any(|name| name == "..")) {
        return Err(refused(Reason::InvalidRequest, "spec.to.claim.path must not lead out of the claim".to_owned()));
    }
    Ok(())
}

/// Refuses `spec.from.paths` for a source which is a command.
pub(super) fn check_paths(restore: &Restore) -> Result<(), StartError> {
    let from = &restore.spec.from;
    if from.paths.is_empty() || is_volume(restore) {
        return Ok(());
    }
    let message =
        format!("source {} is a command, whose dump is one file: spec.from.paths is for volumes", from.source);
    Err(refused(Reason::InvalidRequest, message))
}

/// The run which the Restore has to wait for, because it uses the same claim or command.
pub(super) fn blocking_run<'a>(
    subject: &Subject,
    (restore, owner): (&Restore, &OwnerRef),
    facts: RestoreFacts<'a>,
    (since, now): (Timestamp, Timestamp),
) -> Result<Option<&'a str>, StartError> {
    let scales_down = restore.spec.scale_down.is_some();
    let Some(run) = facts.uses.before_restore(subject, owner, scales_down) else { return Ok(None) };
    // A pod which should have ended may never be reported as ended, and a Backup waits for this Restore meanwhile.
    let due = facts.uses.end_due(subject, owner, scales_down).map(|due| later(due.max(since), WAIT_LIMIT));
    let limit = later(since, OWN_RUNS_LIMIT);
    if now < due.map_or(limit, |due| due.min(limit)) {
        return Ok(Some(run));
    }
    let waited = match due {
        Some(_) => format!("{} minutes", WAIT_LIMIT.as_secs() / 60),
        None => format!("{} hours", OWN_RUNS_LIMIT.as_secs() / 3600),
    };
    Err(refused(Reason::TargetInUse, format!("given up after {waited} of waiting for {run}; nothing was changed")))
}

/// Checks that the claim can be written to now. Returns how the Job's pod mounts it. `repository`: the name of the
/// Repository to read from.
pub(super) fn mount(
    restore: &Restore,
    to: &RestoreClaim,
    repository: &str,
    facts: RestoreFacts<'_>,
) -> Result<TargetMount, StartError> {
    let of_claim = facts.claim;
    let claim = of_claim.and_then(|facts| facts.claim);
    let name = &to.name;
    let status = claim.and_then(|claim| claim.status.as_ref());
    if claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
        return Err(StartError::Temporary(Blocked::new(Reason::TargetInUse, format!("claim {name} is being deleted"))));
    }
    let spec = claim.and_then(|claim| claim.spec.as_ref());
    let device = is_onto_device((restore, to), claim);
    if device && (to.path.is_some() || !restore.spec.from.paths.is_empty() || !is_volume(restore)) {
        let message = format!(
            "claim {name} is a block device (volumeMode: Block), onto which only a stored device is restored, and as a \
             whole: from a source pvc/..., without from.paths and to.claim.path"
        );
        return Err(refused(Reason::InvalidRequest, message));
    }
    if status.and_then(|status| status.phase.as_deref()) == Some("Lost") {
        return Err(refused(
            Reason::InvalidRequest,
            format!("the volume of claim {name} is lost; create another claim"),
        ));
    }
    let users: Vec<&Pod> = users(facts.pods, name).collect();
    let modes = spec.and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    // No app can continue while its block device is overwritten.
    let is_exclusive = device || modes.iter().any(|mode| mode == OF_ONE_POD);
    let busy: Vec<&Pod> = users.iter().copied().filter(|pod| is_exclusive || !waits_for_step(pod, name)).collect();
    if !busy.is_empty() && (!to.overwrite || is_exclusive) {
        let message = format!(
            "claim {name} is mounted by {}, and nothing was changed: end them, or name their workload in spec.scaleDown{}",
            names(&busy),
            lost_node(&busy)
        );
        return Err(refused(Reason::TargetInUse, message));
    }
    let neighbour = users.iter().find_map(|pod| {
        let spec = pod.spec.as_ref()?;
        Some((spec.node_name.clone()?, spec.tolerations.clone().unwrap_or_default()))
    });
    let is_of_one_node = !modes.iter().any(|mode| mode == OF_MANY_NODES);
    let repository = facts.repositories.iter().find(|one| one.name_any() == repository);
    let (node, tolerations) = neighbour.filter(|_| is_of_one_node).unzip();
    Ok(TargetMount {
        claim: name.clone(),
        device,
        as_root: as_root(
            [restore.spec.runner_pod.as_ref(), repository.and_then(|one| one.spec.runner_pod.as_ref())],
            of_claim.is_some_and(|facts| facts.assigns_users || enforces_restricted(facts.namespace)),
        ),
        node,
        tolerations: tolerations.unwrap_or_default(),
    })
}

/// The pods which mount the claim and have not ended.
pub(super) fn users<'a>(pods: &'a [ObservedPod], claim: &'a str) -> impl Iterator<Item = &'a Pod> {
    pods.iter().map(|observed| &observed.pod).filter(|pod| uses(pod, claim))
}

/// The names of the first pods.
pub(super) fn names(pods: &[&Pod]) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = pods.iter().take(SHOWN).map(|pod| pod.name_any()).collect();
    let more = if pods.len() > SHOWN { format!(" and {} more", pods.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names.join(", "))
}

/// The next step if a pod is being deleted and does not end, because its node is probably unreachable; else empty.
pub(super) fn lost_node(pods: &[&Pod]) -> String {
    let leaving = pods.iter().find(|pod| pod.metadata.deletion_timestamp.is_some());
    let node = leaving.and_then(|pod| pod.spec.as_ref()?.node_name.as_deref());
    node.map(|node| format!("; {}", if_lost(node))).unwrap_or_default()
}

/// The storage class of a claim which has no volume yet.
pub fn pending_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    class.filter(|class| phase == Some("Pending") && !class.is_empty())
}

/// Why the target claim gets no volume, if its storage class does not exist. A claim of an existing class may wait for
/// its pod (`WaitForFirstConsumer`), and a claim of a class without a `StorageClass` is bound at once if there is a
/// volume for it, so neither is refused beforehand.
pub(super) fn missing_class(of_claim: Option<TargetFacts<'_>>) -> Option<String> {
    let TargetFacts { claim: Some(claim), storage_classes, .. } = of_claim? else { return None };
    let class = pending_class(claim).filter(|class| !storage_classes.iter().any(|existing| existing == class))?;
    Some(format!(
        "claim {} has no volume, because StorageClass {class:?} does not exist in the cluster (kubectl get storageclass \
         lists those which exist): create it, or delete the Restore and the claim, and create a Restore with another \
         spec.to.claim.create.storageClassName",
        claim.name_any()
    ))
}

/// Whether the claim is a block device, or will be created as one.
fn is_onto_device((restore, to): (&Restore, &RestoreClaim), claim: Option<&PersistentVolumeClaim>) -> bool {
    let found = restore.status.as_ref().and_then(|status| status.found.as_ref());
    match claim {
        Some(claim) => is_device(claim),
        None => to.create.as_ref().is_some_and(|new| volume_mode(new, found) == Some(BLOCK)),
    }
}

/// Whether the run is root, which it has to be to write files of any owner. The namespace or the user may forbid that:
/// by `runnerPod` of the Restore, else of the Repository.
fn as_root(runner_pods: [Option<&RunnerPod>; 2], is_restricted: bool) -> bool {
    let own = runner_pods.into_iter().flatten().find_map(|pod| pod.security_context.as_ref());
    match own.and_then(|context| context.run_as_user) {
        Some(user) => user == 0,
        None => !is_restricted && own.and_then(|context| context.run_as_non_root) != Some(true),
    }
}

/// Whether the pod mounts the claim and has not ended.
pub(super) fn uses(pod: &Pod, claim: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed")) && mounts(pod, claim)
}

/// Whether the pod names the claim as a volume, also as a generic ephemeral volume.
pub(super) fn mounts(pod: &Pod, claim: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| is_of(volume, &pod.name_any(), claim))
}

/// Whether this volume of the pod is the claim.
pub(super) fn is_of(volume: &Volume, pod: &str, claim: &str) -> bool {
    let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim);
    named || volume.ephemeral.is_some() && format!("{pod}-{}", volume.name) == claim
}

pub(super) fn task(restore: &Restore, to: &RestoreClaim, owner: &OwnerRef, facts: RestoreFacts<'_>) -> TaskKind {
    let status = restore.status.as_ref();
    let from = &restore.spec.from;
    TaskKind::RestoreVolume(VolumeRestore {
        from: wanted_snapshot(restore, status),
        paths: from.paths.clone(),
        folder: to.path.clone().unwrap_or_default(),
        device: is_onto_device((restore, to), facts.claim.and_then(|facts| facts.claim)),
        overwrite: to.overwrite.then(|| safety_identity(owner, to, facts.claim)),
        timeout: restore.spec.timeout.map(Into::into),
    })
}

/// The snapshot to restore: the snapshot which an earlier Job looked up, else the one which the spec describes.
pub(super) fn wanted_snapshot(restore: &Restore, status: Option<&RestoreStatus>) -> WantedSnapshot {
    let from = &restore.spec.from;
    let found = status.and_then(|status| status.found.as_ref()).map(|found| found.snapshot.clone());
    WantedSnapshot {
        source: from.source.clone(),
        as_of: from.as_of.filter(|_| found.is_none()),
        id: found.or_else(|| from.snapshot.clone()),
        host: from.host.clone().or_else(|| restore.namespace()),
        // The run adds its own.
        cluster: String::new(),
    }
}

/// The identity of the safety snapshot, which is taken of the claim before it is overwritten. Its tag keeps it from
/// being the claim's newest snapshot.
fn safety_identity(owner: &OwnerRef, to: &RestoreClaim, facts: Option<TargetFacts<'_>>) -> SnapshotIdentity {
    let source = format!("pvc/{}", to.name);
    let tag = |key: &str, value: &str| format!("{key}={value}");
    let mut identity = SnapshotIdentity {
        host: owner.namespace.clone(),
        path: format!("/data/{}", to.name),
        // Names of Kubernetes objects contain no comma, which would separate tags.
        tags: vec![
            tag(SnapshotIdentity::SOURCE, &source),
            tag(SnapshotIdentity::RUN, &format!("{}/{source}", owner.uid)),
            tag(SnapshotIdentity::CLUSTER, facts.map_or("", |facts| facts.cluster)),
            SnapshotIdentity::SAFETY.to_owned(),
        ],
    };
    if let Some(claim) = facts.and_then(|facts| facts.claim) {
        // Properties which cannot be a tag are not recorded, because the data matters more.
        let _unrecorded = stored_claim(claim).record(&mut identity);
    }
    identity
}

pub(super) fn is_volume(restore: &Restore) -> bool {
    restore.spec.from.source.as_str().starts_with("pvc/")
}

pub(super) fn refused(reason: Reason, message: String) -> StartError {
    StartError::Permanent(Blocked::new(reason, message))
}
