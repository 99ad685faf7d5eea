//! One look at a Restore.
//!
//! It must not decide anything; see `plan::plan_restore`.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use kube::{Resource, ResourceExt, runtime::controller::Action};

use super::{
    ReconcileError, Seen,
    backup::observe_pods,
    context::Context,
    jobs::{carry_out, is_refusal, observe_claim_uses, observe_jobs, retire},
};
use crate::{
    api::{Repository, Restore, SCALED_FINALIZER},
    build::{
        self,
        names::{Owner, RunKind},
    },
    cluster::{apply, call::CallError, observe, scale},
    plan::{self, Around, ClaimUses, ObservedScale, RestoreFacts, ScaleTo, SourceFacts, TargetFacts},
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Restore>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    // Between the look for a prune and the Job, none may begin.
    let turn = context.turn.lock().await;
    let Some(restore) = observe::object::<Restore>(client, &namespace, &seen.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let is_held = restore.finalizers().iter().any(|finalizer| finalizer == SCALED_FINALIZER);
    let has_verdict = restore.status.as_ref().is_some_and(|status| status.outcome.verdict.is_some());
    let is_over = has_verdict && !is_held;
    let Some(owner) = Owner::of(&restore) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Restore).await?;
    if is_over {
        drop(turn);
        retire(client, &jobs, |_| true).await?;
        return Ok(Action::await_change());
    }
    let pods = observe_pods(&context, &namespace).await?;
    let everywhere: Vec<Repository> = observe::everywhere(client, "").await?;
    let pruned = plan::pruned_repositories(&everywhere);
    let here = |repository: &Repository| repository.namespace().as_ref() == Some(&namespace);
    let repositories: Vec<Repository> = everywhere.into_iter().filter(here).collect();
    let cluster = context.cluster_id().await?;
    let sources = plan::plan_sources(SourceFacts {
        namespace: &namespace,
        pods: &pods,
        claims: None,
        selector: None,
        cluster,
        backup_uid: &owner.uid,
    });
    let around = observe_around(&context, &restore).await?;
    let claim = around.as_ref().map(|around| TargetFacts {
        claim: around.claim.as_ref(),
        scale: around.scale.as_ref(),
        held_down_by: around.held_down_by.as_deref(),
        uses: &around.uses,
        namespace: &around.namespace,
        assigns_users: build::assigns_users(&around.namespace),
        cluster,
    });
    let facts = RestoreFacts {
        repositories: &repositories,
        jobs: &jobs,
        pods: &pods,
        sources: &sources,
        claim,
        pruned: &pruned,
    };
    let now = Timestamp::now();

    let (mut status, mut actions) = plan::plan_restore(&restore, facts, now);

    match prepare(&context, &restore, &actions.around).await {
        Ok(()) => {
            let runner_pod = restore.spec.runner_pod.as_ref();
            for refused in carry_out(&context, &owner, &actions, &repositories, runner_pod).await? {
                plan::restore_refused(&mut status, &mut actions, &refused.message, now);
            }
        }
        // What is asked for around it is refused before there is a Job.
        Err(ReconcileError::Call(error)) if is_refusal(&error) && !has_verdict && status.outcome.verdict.is_none() => {
            plan::restore_refused(&mut status, &mut actions, &error.to_string(), now);
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
            apply::finalizer(client, &restore, SCALED_FINALIZER, false).await?;
        }
    }
    drop(turn);
    let is_under_way = status.outcome.verdict.is_none();
    retire(client, &jobs, |name| !is_under_way || status.job.as_deref() != Some(name)).await?;
    context.tell(&restore.object_ref(&()), &actions.events).await;
    context.succeeded(&restore);
    Ok(actions.look_again.map_or_else(Action::await_change, Action::requeue))
}

/// What a Restore into a claim is planned from.
struct ObservedAround {
    claim: Option<PersistentVolumeClaim>,
    scale: Option<ObservedScale>,
    held_down_by: Option<String>,
    uses: ClaimUses,
    namespace: Namespace,
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
    // One that has its Job waits for nobody any more.
    let has_job = restore.status.as_ref().is_some_and(|status| status.job.is_some());
    let uses = if has_job { ClaimUses::default() } else { observe_claim_uses(client, &namespace).await? };
    Ok(Some(ObservedAround {
        claim: observe::object(client, &namespace, &to.name).await?,
        held_down_by: plan::held_down_by(restore, &restores),
        uses,
        scale: scale.map(|found| ObservedScale { uid: found.uid, replicas: found.replicas, pods: found.pods }),
        namespace: observe::namespace(client, &namespace).await?,
    }))
}

/// Does what is planned around the Jobs, but for the end.
async fn prepare(context: &Context, restore: &Restore, around: &Around) -> Result<(), ReconcileError> {
    let Around { hold, scale, create_claim, release: _ } = around;
    let (client, namespace) = (&context.client, restore.namespace().unwrap_or_default());
    if *hold {
        apply::finalizer(client, restore, SCALED_FINALIZER, true).await?;
    }
    if let Some(ScaleTo { kind, name, replicas }) = scale {
        scale::scale_to(client, &namespace, *kind, name, *replicas).await?;
    }
    if let Some(claim) = create_claim {
        apply::create_claim(client, claim).await?;
    }
    Ok(())
}
