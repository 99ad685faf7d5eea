//! One look at a Restore.
//!
//! It must not decide anything; see `plan::plan_restore`.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Resource, ResourceExt, runtime::controller::Action};

use super::{
    ReconcileError, Seen,
    backup::observe_pods,
    context::Context,
    jobs::{carry_out, observe_jobs},
};
use crate::{
    api::{Repository, Restore},
    build::names::{Owner, RunKind},
    cluster::{apply, observe},
    plan::{self, RestoreFacts, SourceFacts},
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Restore>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let Some(restore) = observe::object::<Restore>(client, &namespace, &seen.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let is_over = restore.status.as_ref().is_some_and(|status| status.outcome.verdict.is_some());
    let Some(owner) = Owner::of(&restore).filter(|_| !is_over) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Restore).await?;
    let pods = observe_pods(&context, &namespace).await?;
    let repositories: Vec<Repository> = observe::list(client, &namespace, "").await?;
    let sources = plan::plan_sources(SourceFacts {
        namespace: &namespace,
        pods: &pods,
        claims: None,
        selector: None,
        cluster: context.cluster_id().await?,
        backup_uid: &owner.uid,
    });
    let facts = RestoreFacts { repositories: &repositories, jobs: &jobs, pods: &pods, sources: &sources };
    let now = Timestamp::now();

    let (mut status, mut actions) = plan::plan_restore(&restore, facts, now);

    for refused in carry_out(&context, &owner, &actions, &repositories, None).await? {
        plan::restore_refused(&mut status, &mut actions, &refused.message, now);
    }
    if restore.status.as_ref() != Some(&status) {
        apply::status(client, &restore, &status).await?;
    }
    context.tell(&restore.object_ref(&()), &actions.events).await;
    context.succeeded(&restore);
    Ok(actions.look_again.map_or_else(Action::await_change, Action::requeue))
}
