//! One look at a Backup.
//!
//! It must not decide anything; see `plan::plan_backup`.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{Client, Resource, ResourceExt, core::DynamicObject, runtime::controller::Action};

use super::{
    ReconcileError, Seen,
    context::Context,
    jobs::{carry_out, observe_active, observe_claim_uses, observe_jobs, retire},
};
use crate::{
    api::{Backup, Repository},
    build::{
        labels,
        names::{Owner, RunKind},
        snapshot,
    },
    cluster::{apply, call::CallError, observe},
    plan::{
        self, BackupFacts, ClaimFacts, ClaimUses, ObservedPod, SnapshotFacts, SourceFacts, Staged, StagedClaim,
        Workload,
    },
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Backup>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let turn = context.turn.lock().await;
    let Some(backup) = observe::object::<Backup>(client, &namespace, &seen.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let is_over = backup.status.as_ref().is_some_and(|status| status.verdict.is_some());
    let Some(owner) = Owner::of(&backup) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Backup).await?;
    if is_over {
        drop(turn);
        retire(client, &jobs, |_| true).await?;
        return Ok(Action::await_change());
    }
    let pods = observe_pods(&context, &namespace).await?;
    let everywhere: Vec<Repository> = observe::everywhere(client, "").await?;
    let now = Timestamp::now();
    let closed = plan::closed_repositories(&everywhere, now);
    let here = |repository: &Repository| repository.namespace().as_ref() == Some(&namespace);
    let repositories: Vec<Repository> = everywhere.into_iter().filter(here).collect();
    let active: Vec<(String, String)> = observe_active(client, &format!("{}={}", labels::KIND, RunKind::Backup))
        .await?
        .into_iter()
        .map(|job| (job.namespace, job.repository))
        .collect();
    let claims: Vec<PersistentVolumeClaim> = observe::list(client, &namespace, "").await?;
    let home = observe::namespace(client, &namespace).await?;
    let observed = observe_storage(client, &plan::snapshot_volumes(&home, &claims)).await?;
    let (snapshots, staged_claims) = observe_staged(client, &owner, &claims).await?;
    let staged = Staged { snapshots: &snapshots, claims: &staged_claims };
    let sources = plan::plan_sources(SourceFacts {
        namespace: &namespace,
        pods: &pods,
        claims: Some(ClaimFacts {
            namespace: &home,
            claims: &claims,
            repositories: &repositories,
            snapshots: SnapshotFacts {
                classes: observed.classes.as_deref(),
                volumes: &observed.volumes,
                storage_classes: &observed.storage,
            },
        }),
        selector: backup.spec.selector.as_ref(),
        cluster: context.cluster_id().await?,
        backup_uid: &owner.uid,
    });
    let uses = if plan::wants_claim_uses(&backup) {
        observe_claim_uses(client, &namespace).await?
    } else {
        ClaimUses::default()
    };
    let facts = BackupFacts {
        repositories: &repositories,
        jobs: &jobs,
        staged,
        sources: &sources,
        active: &active,
        closed: &closed,
        uses: &uses,
    };

    let (mut status, mut actions) = plan::plan_backup(&backup, facts, now);

    let is_staged = !snapshots.is_empty() || !staged_claims.is_empty();
    for refused in carry_out(&context, &owner, &actions, &repositories, backup.spec.runner_pod.as_ref()).await? {
        let words = (refused.source.as_str(), refused.message.as_str());
        plan::job_refused((backup.status.as_ref(), is_staged), &mut status, &mut actions, words, now);
    }
    if backup.status.as_ref() != Some(&status) {
        apply::status(client, &backup, &status).await?;
    }
    drop(turn);
    retire(client, &jobs, |name| plan::is_recorded(&status, name)).await?;
    context.tell(&backup.object_ref(&()), &actions.events).await;
    context.succeeded(&backup);
    Ok(actions.look_again.map_or_else(Action::await_change, Action::requeue))
}

/// What says whether and how claims can be snapshot.
#[derive(Default)]
struct Observed {
    classes: Option<Vec<DynamicObject>>,
    volumes: Vec<PersistentVolume>,
    storage: Vec<StorageClass>,
}

/// Looks at it where there are volumes that are to be snapshot.
async fn observe_storage(client: &Client, volumes: &[&str]) -> Result<Observed, CallError> {
    if volumes.is_empty() {
        return Ok(Observed::default());
    }
    let mut found = Vec::new();
    for name in volumes {
        found.extend(observe::object_of_cluster::<PersistentVolume>(client, name).await?);
    }
    Ok(Observed {
        classes: observe::all_dynamic(client, &snapshot::volume_snapshot_classes()).await?,
        volumes: found,
        storage: observe::all_of_cluster(client).await?,
    })
}

/// The snapshots of this Backup, and the claims that it has made of them; of those that have no volume yet, why.
async fn observe_staged(
    client: &Client,
    owner: &Owner,
    claims: &[PersistentVolumeClaim],
) -> Result<(Vec<DynamicObject>, Vec<StagedClaim>), CallError> {
    let Owner { namespace, name, .. } = owner;
    let selector = format!("{}={name},{}={}", labels::RUN, labels::KIND, RunKind::Backup);
    let mut snapshots = observe::list_dynamic(client, &snapshot::volume_snapshots(), namespace, &selector).await?;
    snapshots.retain(|snapshot| owner.owns(&snapshot.metadata));
    let mut staged = Vec::new();
    for claim in claims.iter().filter(|claim| owner.owns(claim.meta())) {
        let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let uid: Vec<String> = claim.uid().into_iter().filter(|_| !is_bound).collect();
        let complaints = observe::complaints(client, namespace, &uid).await?;
        staged.push(StagedClaim { claim: claim.clone(), complaints });
    }
    Ok((snapshots, staged))
}

/// The pods of a namespace, and what they belong to. The runs' own pods are none that anybody backs up.
pub(super) async fn observe_pods(context: &Context, namespace: &str) -> Result<Vec<ObservedPod>, CallError> {
    let pods = observe::pods_with_workloads(&context.client, namespace, &format!("!{}", labels::KIND)).await?;
    Ok(pods.into_iter().map(|(pod, kind, name)| ObservedPod { pod, workload: Workload { kind, name } }).collect())
}
