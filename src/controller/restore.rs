//! The reconcile of a Restore. Decisions are made by `plan::plan_restore`.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Client, Resource, ResourceExt, runtime::controller::Action};

use super::{
    ReconcileError, Seen,
    backup::observe_pods,
    context::Context,
    jobs::{apply_actions, clean_up_jobs, is_refusal, observe_claim_uses, observe_jobs, observe_runs, open_again},
    metrics,
};
use crate::{
    api::{CARRIED_OUT, RESTORE_UNFINISHED, Repository, Restore, RestoreStatus, SCALED_FINALIZER, SCALED_FROM},
    cluster::{apply, call::CallError, observe, scale},
    model::Reason,
    plan::{
        self, Applied, ClaimUses, ObservedJob, ObservedScale, Refused, RestoreActions, RestoreFacts, ScaleTo,
        SourceFacts, Staged, TargetFacts,
    },
    resources::{
        self,
        names::{OwnerRef, RunKind},
    },
};

/// Adds the annotation that an earlier version did not set.
async fn mark_carried_out(client: &Client, restore: &Restore, owner: &OwnerRef) -> Result<(), ReconcileError> {
    let had_job = restore.status.as_ref().is_some_and(|status| status.job.is_some());
    if had_job && !restore.annotations().contains_key(CARRIED_OUT) {
        apply::annotation(client, restore, (CARRIED_OUT, &owner.uid)).await?;
    }
    Ok(())
}

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Restore>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let _namespace_lock = context.lock_namespace(&namespace).await;
    let Some(restore) = context.read::<Restore>(&seen).await? else { return Ok(Action::await_change()) };
    let has_verdict = restore.status.as_ref().is_some_and(|status| status.outcome.verdict.is_some());
    let is_over = has_verdict && !restore.finalizers().iter().any(|finalizer| finalizer == SCALED_FINALIZER);
    let Some(owner) = OwnerRef::of(&restore) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Restore).await?;
    update_metrics(&context, &owner, restore.status.as_ref());
    if is_over {
        mark_carried_out(client, &restore, &owner).await?;
        let again = clean_up_jobs(client, &jobs, |_| true).await?;
        return Ok(again.map_or_else(Action::await_change, Action::requeue));
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
    // A Restore whose Job has started no longer waits for other runs.
    let has_job = restore.status.as_ref().is_some_and(|status| status.job.is_some()) && !is_unstarted;
    let (target, claims) = observe_target(&context, &restore, has_job).await?;
    let uses = if has_job || has_verdict {
        ClaimUses::default()
    } else {
        observe_claim_uses(client, &namespace, &pods).await?
    };
    // No prune may start between this check for prunes and the start of the Job.
    let scheduling = context.scheduling_lock.lock().await;
    let all: Vec<Repository> = observe::list_all_namespaces(client, "").await?;
    let pruned = plan::pruned_repositories(&all, &observe_runs(&context, &[RunKind::Prune]).await?.prunes);
    let here = |repository: &Repository| repository.namespace().as_ref() == Some(&namespace);
    let repositories: Vec<Repository> = all.into_iter().filter(here).collect();
    let facts = RestoreFacts {
        repositories: &repositories,
        jobs: &jobs,
        pods: &pods,
        sources: &sources,
        claim: target.as_ref().map(|target| target.facts(cluster)),
        pruned: &pruned,
        uses: &uses,
        claims: &claims,
    };
    let now = Timestamp::now();

    let (mut status, mut actions) = plan::plan_restore(&restore, facts, now);

    let _starting = context.starting(&owner, &actions.start);
    drop(scheduling);
    let tolerates = tolerates_scaling(&status, since_end(&jobs, now), now);
    let applied = match prepare(&context, &restore, &actions.restore, tolerates).await {
        Ok((no_claim_made, unscaled)) => {
            if let Some(error) = unscaled {
                plan::scaling_refused(&mut status, &mut actions, &error.to_string(), now);
            }
            let runner_pod = restore.spec.runner_pod.as_ref();
            let applied =
                apply_actions(&context, &owner, (&actions, &jobs, Staged::default()), &repositories, runner_pod)
                    .await?;
            Applied { no_claim_made, ..applied }
        }
        Err(ReconcileError::Call(error)) if is_refusal(&error) && !has_verdict && status.outcome.verdict.is_none() => {
            refused_preparation(&restore, &error)
        }
        Err(error) => return Err(error),
    };
    plan::settle_restore(&mut status, &mut actions, &applied, now);
    if actions.restore.claim_is_filled {
        // Before the verdict is stored, because a Restore with a verdict is not reconciled any more.
        remove_mark(client, target.as_ref(), &mut status, since_end(&jobs, now)).await?;
    }
    open_again(client, &repositories, &plan::missed_by_restore(restore.status.as_ref(), &status), now).await?;
    let is_changed = restore.status.as_ref() != Some(&status);
    if is_changed {
        apply::status(client, &restore, &status).await?;
    }
    if actions.restore.release {
        if is_changed {
            // The object was changed by the new status. The next reconcile removes the finalizer.
            actions.requeue_after = Some(Duration::ZERO);
        } else {
            apply::finalizer(client, &restore, SCALED_FINALIZER, (false, None)).await?;
        }
    }
    update_metrics(&context, &owner, Some(&status));
    let is_running = status.outcome.verdict.is_none();
    let is_stored = |name: &str| !is_running || status.job.as_deref() != Some(name);
    if let Some(again) = clean_up_jobs(client, &jobs, is_stored).await? {
        actions.requeue_within(again);
    }
    context.publish_events(&restore.object_ref(&()), &actions.events).await;
    context.succeeded(&restore);
    Ok(actions.requeue_after.map_or_else(Action::await_change, Action::requeue))
}

fn update_metrics(context: &Context, owner: &OwnerRef, status: Option<&RestoreStatus>) {
    let end = status.and_then(|status| status.completion_time.as_ref()).map(|Time(end)| *end);
    let verdict = status.and_then(|status| status.outcome.verdict);
    context.run_metrics.update(metrics::RunKind::restore, (&owner.namespace, &owner.name), (verdict, end));
}

/// The objects which a Restore into a claim needs.
struct ObservedTarget {
    claim: Option<PersistentVolumeClaim>,
    scale: Option<ObservedScale>,
    scaled_down_by: Option<String>,
    namespace: Namespace,
    storage_classes: Vec<String>,
}

impl ObservedTarget {
    fn facts<'a>(&'a self, cluster: &'a str) -> TargetFacts<'a> {
        TargetFacts {
            claim: self.claim.as_ref(),
            scale: self.scale.as_ref(),
            scaled_down_by: self.scaled_down_by.as_deref(),
            namespace: &self.namespace,
            assigns_users: resources::assigns_users(&self.namespace),
            cluster,
            storage_classes: &self.storage_classes,
        }
    }
}

/// The target of a Restore into a claim; or the claims of the namespace, for a Restore into a command that has a Job.
async fn observe_target(
    context: &Context,
    restore: &Restore,
    has_job: bool,
) -> Result<(Option<ObservedTarget>, Vec<PersistentVolumeClaim>), CallError> {
    let (client, namespace) = (&context.client, restore.namespace().unwrap_or_default());
    let Some(to) = restore.spec.to.as_ref().and_then(|to| to.claim.as_ref()) else {
        let claims: (Vec<PersistentVolumeClaim>, _) =
            if has_job { observe::list_all(client, &namespace, "").await? } else { Default::default() };
        return Ok((None, claims.0));
    };
    let (scale, restores) = match &restore.spec.scale_down {
        None => (None, Vec::new()),
        Some(scale_down) => (
            scale::scale_of(client, &namespace, scale_down.kind, &scale_down.name).await?,
            observe::list::<Restore>(client, &namespace, "").await?,
        ),
    };
    let deletes_claims = match &restore.spec.scale_down {
        // It is decided before the workload is scaled down.
        Some(scale_down) if !restore.finalizers().iter().any(|finalizer| finalizer == SCALED_FINALIZER) => {
            match scale::deletes_claims(client, &namespace, scale_down.kind, &scale_down.name).await {
                Err(error) if is_refusal(&error) => None,
                found => Some(found?),
            }
        }
        _ => Some(false),
    };
    let claim = observe::object(client, &namespace, &to.name).await?;
    let is_pending = claim.as_ref().and_then(plan::pending_class).is_some();
    let storage_classes: Vec<StorageClass> = if is_pending || claim.is_none() && to.create.is_some() {
        observe::all_of_cluster(client).await?
    } else {
        Vec::new()
    };
    let target = ObservedTarget {
        claim,
        storage_classes: storage_classes.iter().map(ResourceExt::name_any).collect(),
        scaled_down_by: plan::scaled_down_by(restore, &restores),
        scale: scale.map(|scale::FoundScale { uid, replicas, pods }| ObservedScale {
            uid,
            replicas,
            pods,
            deletes_claims,
        }),
        namespace: observe::namespace(client, &namespace).await?,
    };
    Ok((Some(target), Vec::new()))
}

/// The time since the last run ended.
fn since_end(jobs: &[ObservedJob], now: Timestamp) -> Option<SignedDuration> {
    jobs.iter().filter_map(plan::end_of_run).max().map(|end| now.duration_since(end))
}

/// How long after the end of the run the removal of a claim's mark, and scaling back, are tried before the verdict is
/// stored without them.
const ATTEMPTS_LIMIT: SignedDuration = SignedDuration::from_mins(5);

/// Removes the mark of the claim which the Restore has filled. The last attempt reports an error of any kind instead of
/// returning it, because the verdict must not wait for ever, such as for another product's webhook.
async fn remove_mark(
    client: &Client,
    target: Option<&ObservedTarget>,
    status: &mut RestoreStatus,
    since: Option<SignedDuration>,
) -> Result<(), CallError> {
    let Some(claim) = target.and_then(|target| target.claim.as_ref()) else { return Ok(()) };
    match apply::remove_annotation(client, claim, RESTORE_UNFINISHED).await {
        Err(error) if is_refusal(&error) || since.is_some_and(|since| since > ATTEMPTS_LIMIT) => {
            plan::claim_stays_marked(status, &error.to_string());
            Ok(())
        }
        removed => removed,
    }
}

/// Whether the Restore continues in spite of an error of the scaling. `since_end` is the time since the Job ended.
fn tolerates_scaling(
    status: &RestoreStatus,
    since_end: Option<SignedDuration>,
    now: Timestamp,
) -> impl Fn(&ScaleTo, &CallError) -> bool + use<> {
    let since = since_end.or_else(|| Some(now.duration_since(status.scaled.as_ref()?.since.0)));
    let has_job = status.job.is_some();
    move |scale, error| match scale.replicas {
        // Before the Job, nothing may be restored while the workload runs.
        0 => is_refusal(error) && has_job,
        _ => is_refusal(error) || since.is_some_and(|since| since > ATTEMPTS_LIMIT),
    }
}

/// The result of a plan whose claim or scaling the API server refused, so that there is no Job yet.
fn refused_preparation(restore: &Restore, error: &CallError) -> Applied {
    let refused = Refused {
        kind: RunKind::Restore,
        source: restore.spec.from.source.to_string(),
        reason: Reason::PodNotStarted,
        message: error.to_string(),
        is_temporary: false,
    };
    Applied { no_claim_made: true, refused: vec![refused] }
}

/// Carries out the actions which precede the Jobs. Returns whether a planned claim was not created, because a claim of
/// its name exists, and the error of the scaling, if the Restore continues in spite of it.
async fn prepare(
    context: &Context,
    restore: &Restore,
    actions: &RestoreActions,
    tolerates: impl Fn(&ScaleTo, &CallError) -> bool,
) -> Result<(bool, Option<CallError>), ReconcileError> {
    let RestoreActions { hold, scale, create_claim, claim_is_filled: _, release: _ } = actions;
    let (client, namespace) = (&context.client, restore.namespace().unwrap_or_default());
    if let Some(was) = hold {
        apply::finalizer(client, restore, SCALED_FINALIZER, (true, Some((SCALED_FROM, was)))).await?;
    }
    let mut unscaled = None;
    if let Some(to) = scale
        && let Err(error) = scale::scale_to(client, &namespace, to.kind, &to.name, to.replicas).await
    {
        if !tolerates(to, &error) {
            return Err(error.into());
        }
        let name = restore.name_any();
        tracing::warn!(namespace, name, "Restore {namespace}/{name}: {error}");
        unscaled = Some(error);
    }
    let no_claim_made = match create_claim {
        Some(claim) => !apply::create_claim(client, claim).await?,
        None => false,
    };
    Ok((no_claim_made, unscaled))
}
