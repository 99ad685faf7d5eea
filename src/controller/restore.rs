//! One look at a Restore.
//!
//! It must not decide anything; see `plan::plan_restore`.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Resource, ResourceExt, runtime::controller::Action};

use super::{
    ReconcileError, Seen,
    backup::observe_pods,
    context::Context,
    jobs::{carry_out, is_refusal, observe_claim_uses, observe_jobs, observe_runs, retire},
    metrics,
};
use crate::{
    api::{CARRIED_OUT, Repository, Restore, RestoreStatus, SCALED_FINALIZER, SCALED_FROM},
    build::{
        self,
        names::{Owner, RunKind},
    },
    cluster::{apply, call::CallError, observe, scale},
    model::Reason,
    plan::{self, Around, ClaimUses, ObservedScale, RestoreFacts, ScaleTo, SourceFacts, Staged, TargetFacts},
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Restore>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let _own_turn = context.turn_of(&namespace).await;
    let Some(restore) = context.read::<Restore>(&seen).await? else { return Ok(Action::await_change()) };
    let is_held = restore.finalizers().iter().any(|finalizer| finalizer == SCALED_FINALIZER);
    let has_verdict = restore.status.as_ref().is_some_and(|status| status.outcome.verdict.is_some());
    let is_over = has_verdict && !is_held;
    let Some(owner) = Owner::of(&restore) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Restore).await?;
    show(&context, &owner, restore.status.as_ref());
    if is_over {
        // One that an earlier version has carried out.
        let had_job = restore.status.as_ref().is_some_and(|status| status.job.is_some());
        if had_job && !restore.annotations().contains_key(CARRIED_OUT) {
            apply::annotation(client, &restore, (CARRIED_OUT, &owner.uid)).await?;
        }
        retire(client, &jobs, |_| true).await?;
        return Ok(Action::await_change());
    }
    let (pods, _) = observe_pods(&context, &namespace).await?;
    let cluster = context.cluster_id().await?;
    let sources = plan::plan_sources(SourceFacts {
        namespace: &namespace,
        pods: &pods,
        claims: None,
        selector: None,
        cluster,
        backup_uid: &owner.uid,
        expected: None,
    });
    let is_unstarted = jobs.iter().any(|observed| plan::is_suspended(&observed.job));
    let around = observe_around(&context, &restore).await?;
    // A Restore that has its Job waits for no other run any more.
    let has_job = restore.status.as_ref().is_some_and(|status| status.job.is_some()) && !is_unstarted;
    let uses = if has_job || has_verdict {
        ClaimUses::default()
    } else {
        observe_claim_uses(client, &namespace, &pods).await?
    };
    // Between the look for a prune and the Job, none may begin.
    let turn = context.turn.lock().await;
    let everywhere: Vec<Repository> = observe::everywhere(client, "").await?;
    let pruned = plan::pruned_repositories(&everywhere, &observe_runs(&context, &[RunKind::Prune]).await?.prunes);
    let here = |repository: &Repository| repository.namespace().as_ref() == Some(&namespace);
    let repositories: Vec<Repository> = everywhere.into_iter().filter(here).collect();
    let claim = around.as_ref().map(|around| TargetFacts {
        claim: around.claim.as_ref(),
        scale: around.scale.as_ref(),
        held_down_by: around.held_down_by.as_deref(),
        namespace: &around.namespace,
        assigns_users: build::assigns_users(&around.namespace),
        cluster,
        storage_classes: &around.storage_classes,
    });
    let facts = RestoreFacts {
        repositories: &repositories,
        jobs: &jobs,
        pods: &pods,
        sources: &sources,
        claim,
        pruned: &pruned,
        uses: &uses,
    };
    let now = Timestamp::now();

    let (mut status, mut actions) = plan::plan_restore(&restore, facts, now);

    let _starting = context.starting(&owner, &actions.start);
    drop(turn);
    match prepare(&context, &restore, &actions.around).await {
        Ok(claim) => {
            if claim == NewClaim::Present {
                status.made_claim.clear();
            }
            let runner_pod = restore.spec.runner_pod.as_ref();
            for refused in
                carry_out(&context, &owner, (&actions, &jobs, Staged::default()), &repositories, runner_pod).await?
            {
                plan::restore_refused(&mut status, &mut actions, (refused.reason, &refused.message), now);
            }
        }
        // What is asked for around it is refused before there is a Job.
        Err(ReconcileError::Call(error)) if is_refusal(&error) && !has_verdict && status.outcome.verdict.is_none() => {
            status.made_claim.clear();
            plan::restore_refused(&mut status, &mut actions, (Reason::PodNotStarted, &error.to_string()), now);
        }
        Err(error) => return Err(error),
    }
    let is_changed = restore.status.as_ref() != Some(&status);
    if is_changed {
        apply::status(client, &restore, &status).await?;
    }
    if actions.around.release {
        if is_changed {
            // What was read is out of date by that; the next look lets it go.
            actions.look_again = Some(Duration::ZERO);
        } else {
            apply::finalizer(client, &restore, SCALED_FINALIZER, (false, None)).await?;
        }
    }
    show(&context, &owner, Some(&status));
    let is_under_way = status.outcome.verdict.is_none();
    retire(client, &jobs, |name| !is_under_way || status.job.as_deref() != Some(name)).await?;
    context.tell(&restore.object_ref(&()), &actions.events).await;
    context.succeeded(&restore);
    Ok(actions.look_again.map_or_else(Action::await_change, Action::requeue))
}

fn show(context: &Context, owner: &Owner, status: Option<&RestoreStatus>) {
    let end = status.and_then(|status| status.completion_time.as_ref()).map(|Time(end)| *end);
    let verdict = status.and_then(|status| status.outcome.verdict);
    context.run_figures.show(metrics::RunKind::restore, (&owner.namespace, &owner.name), (verdict, end));
}

/// What a Restore into a claim is planned from.
struct ObservedAround {
    claim: Option<PersistentVolumeClaim>,
    scale: Option<ObservedScale>,
    held_down_by: Option<String>,
    namespace: Namespace,
    storage_classes: Vec<String>,
}

async fn observe_around(context: &Context, restore: &Restore) -> Result<Option<ObservedAround>, CallError> {
    let (client, namespace) = (&context.client, restore.namespace().unwrap_or_default());
    let Some(to) = restore.spec.to.as_ref().and_then(|to| to.claim.as_ref()) else { return Ok(None) };
    let (scale, restores) = match &restore.spec.scale_down {
        None => (None, Vec::new()),
        Some(wish) => (
            scale::scale_of(client, &namespace, wish.kind, &wish.name).await?,
            observe::list::<Restore>(client, &namespace, "").await?,
        ),
    };
    let claim = observe::object(client, &namespace, &to.name).await?;
    let storage_classes: Vec<StorageClass> = match &to.create {
        Some(_) if claim.is_none() => observe::all_of_cluster(client).await?,
        _ => Vec::new(),
    };
    Ok(Some(ObservedAround {
        claim,
        storage_classes: storage_classes.iter().map(ResourceExt::name_any).collect(),
        held_down_by: plan::held_down_by(restore, &restores),
        scale: scale.map(|found| ObservedScale { uid: found.uid, replicas: found.replicas, pods: found.pods }),
        namespace: observe::namespace(client, &namespace).await?,
    }))
}

/// What became of the claim that was to be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NewClaim {
    /// It was made now, or there was none to make.
    Made,
    /// One of its name was there already.
    Present,
}

/// Does what is planned around the Jobs, but for the end.
async fn prepare(context: &Context, restore: &Restore, around: &Around) -> Result<NewClaim, ReconcileError> {
    let Around { hold, scale, create_claim, release: _ } = around;
    let (client, namespace) = (&context.client, restore.namespace().unwrap_or_default());
    if let Some(was) = hold {
        apply::finalizer(client, restore, SCALED_FINALIZER, (true, Some((SCALED_FROM, was)))).await?;
    }
    if let Some(ScaleTo { kind, name, replicas }) = scale {
        scale::scale_to(client, &namespace, *kind, name, *replicas).await?;
    }
    match create_claim {
        Some(claim) if !apply::create_claim(client, claim).await? => Ok(NewClaim::Present),
        _ => Ok(NewClaim::Made),
    }
}
