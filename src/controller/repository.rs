//! One look at a Repository.
//!
//! It must not decide anything; see `plan::plan_repository`.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Resource, ResourceExt, runtime::controller::Action};

use super::{
    ReconcileError, Seen,
    context::Context,
    jobs::{carry_out, observe_jobs},
};
use crate::{
    api::Repository,
    build::names::{Owner, RunKind},
    cluster::{apply, observe},
    plan::{self, Actions, Occurrence},
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Repository>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let Some(repository) = observe::object::<Repository>(client, &namespace, &seen.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let Some(owner) = Owner::of(&repository) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Init).await?;
    let now = Timestamp::now();

    let (mut status, mut actions) = plan::plan_repository(&repository, &jobs, now);

    if actions.create_password {
        create_password(&context, &repository, &mut actions).await?;
    }
    let repositories = std::slice::from_ref(&repository);
    for refused in carry_out(&context, &owner, &actions, repositories, None).await? {
        plan::init_refused(&mut status, &mut actions, &refused.message, now);
    }
    if repository.status.as_ref() != Some(&status) {
        apply::status(client, &repository, &status).await?;
    }
    context.tell(&repository.object_ref(&()), &actions.events).await;
    context.succeeded(&repository);
    Ok(actions.look_again.map_or_else(Action::await_change, Action::requeue))
}

async fn create_password(
    context: &Context,
    repository: &Repository,
    actions: &mut Actions,
) -> Result<(), ReconcileError> {
    let (name, namespace) = (repository.name_any(), repository.namespace().unwrap_or_default());
    let secret = &repository.spec.password_secret_ref;
    let explanation = format!(
        "The only key to what Repository {name} holds; without it no backup can be read. Keep a copy outside of this cluster."
    );
    let made = apply::create_password(&context.client, &namespace, &secret.name, &secret.key, &explanation).await?;
    if made {
        actions.events.push(Occurrence {
            is_warning: false,
            reason: "PasswordCreated".to_owned(),
            action: "Open",
            note: format!(
                "Secret {} was made with a random password; keep a copy outside of this cluster",
                secret.name
            ),
            job: None,
        });
    }
    Ok(())
}
