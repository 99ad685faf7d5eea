//! The controller: one reconcile for each kind, with the steps observe, plan, build, apply, status.
//!
//! Everything is derived from the objects in the cluster, so that a restart changes nothing. Decisions are made by
//! `plan`. The controller never reads a Secret and never connects to a store.

mod backup;
mod context;
mod heartbeat;
mod jobs;
mod metrics;
mod repository;
mod restore;
mod start;
#[cfg(test)]
mod tests;
mod watchdog;

use std::{collections::BTreeSet, fmt::Debug, future::Future, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Controller,
        controller::{Action, Error},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Backup, Repository, Restore},
    cluster::{
        call::CallError,
        client::{Component, with_user_agent},
        version,
    },
    resources::{labels, names::RunKind},
    telemetry,
};
use context::Context;
pub use context::Settings;
use metrics::{RepositoryMetrics, RunMetrics};
use watchdog::Watchdog;

/// How long running reconciles may take after the controller received SIGTERM. The kubelet kills it after 30 s.
const MAX_END: Duration = Duration::from_secs(10);

/// How often the metrics of deleted objects are removed.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Why a reconcile failed. It is repeated after a pause.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Name(#[from] start::TakenName),
    #[error("failed to write a task as JSON: {0}")]
    Task(#[from] serde_json::Error),
}

/// Why the controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// There is neither a kubeconfig nor a service account of a pod.
    #[error("failed to find the cluster: {0}; set KUBECONFIG, or run in a pod")]
    Client(#[from] kube::Error),
    /// The cluster's version of Kubernetes is not supported.
    #[error("{0}")]
    Outdated(String),
    #[error("failed to listen for metrics on port {port}: {source}; choose another one by --metrics-port")]
    Listen {
        port: u16,
        #[source]
        source: std::io::Error,
    },
}

/// Runs until `shutdown` is ready, and then finishes the running reconciles.
///
/// # Errors
/// If no cluster is configured, its version is too old, or the port of the metrics is taken. A cluster which does not
/// answer is no error.
pub async fn run(
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ControllerError> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    let mut config = with_user_agent(config, Component::Controller);
    let client = Client::try_from(config.clone())?;
    // The API server answers an eviction which a PodDisruptionBudget forbids with 429, as if it were overloaded. The
    // default client would retry that for minutes.
    config.default_retry = false;
    let evicting = Client::try_from(config)?;
    let token = CancellationToken::new();
    let port = settings.metrics_port;
    let listener = telemetry::metrics::listen(port).await.map_err(|source| ControllerError::Listen { port, source })?;
    let mut shutdown = Box::pin(shutdown);
    tokio::select! {
        () = &mut shutdown => return Ok(()),
        refused = refuse_outdated(&client) => refused?,
    }
    let mut registry = Registry::default();
    let watchdog_metrics = watchdog::Metrics::register(&mut registry);
    let object_metrics = (RepositoryMetrics::register(&mut registry), RunMetrics::register(&mut registry));
    let renewed = heartbeat::register(&mut registry);
    let instance = settings.instance.clone().unwrap_or_else(|| "controller".to_owned());
    let heartbeat = heartbeat::beat(client.clone(), &instance, renewed, token.clone());
    let context = Arc::new(Context::new(client.clone(), settings, object_metrics));
    let maintenance = [RunKind::Init, RunKind::Repack, RunKind::Prune, RunKind::Check];
    let repositories = controller::<Repository>(&client, &maintenance, &token);
    let all_of_repositories = repositories.store();
    let repositories = repositories.run(repository::reconcile, error_policy, context.clone());
    let backups = controller::<Backup>(&client, &[RunKind::Backup], &token);
    let all_of_backups = backups.store();
    // The Backups of a namespace may wait until a Repository becomes ready.
    let store = backups.store();
    let waiting = move |repository: Seen<Repository>| {
        let namespace = repository.namespace();
        let is_near = move |backup: &Arc<Seen<Backup>>| backup.namespace() == namespace;
        store.state().into_iter().filter(is_near).map(|backup| ObjectRef::from_obj(&*backup)).collect::<Vec<_>>()
    };
    let all_repositories = Api::<Seen<Repository>>::all(client.clone());
    let backups = backups.watches(all_repositories, watcher::Config::default(), waiting).run(
        backup::reconcile,
        error_policy,
        context.clone(),
    );
    let restores = controller::<Restore>(&client, &[RunKind::Restore], &token);
    let all_of_restores = restores.store();
    let restores = restores.run(restore::reconcile, error_policy, context.clone());
    // A deletion causes no reconcile, so the metrics of deleted objects are removed here.
    let (metrics_of_all, stopped) = (context.clone(), token.clone());
    let sweep = async move {
        while !stopped.is_cancelled() {
            tokio::select! {
                () = stopped.cancelled() => break,
                () = tokio::time::sleep(SWEEP_EVERY) => {}
            }
            metrics_of_all.repository_metrics.keep(&names_in(&all_of_repositories));
            metrics_of_all.run_metrics.keep(metrics::RunKind::backup, &names_in(&all_of_backups));
            metrics_of_all.run_metrics.keep(metrics::RunKind::restore, &names_in(&all_of_restores));
        }
    };
    let watchdog = Watchdog::new(context, evicting, watchdog_metrics, jiff::Timestamp::now()).run(token.clone());
    let answers = async {
        tokio::select! {
            () = token.cancelled() => {}
            Err(error) = telemetry::metrics::serve(listener, registry) => tracing::error!("failed to serve metrics: {error}"),
        }
    };
    let stop = async {
        shutdown.await;
        tracing::info!("shutting down");
        token.cancel();
    };
    let work = async {
        tokio::join!(drain(repositories), drain(backups), drain(restores), watchdog, heartbeat, sweep, answers, stop)
    };
    // The watches wait for their first list even after the cancellation, and a cluster may never answer.
    let too_late = async {
        token.cancelled().await;
        tokio::time::sleep(MAX_END).await;
    };
    tokio::select! {
        _ended = work => {}
        () = too_late => tracing::warn!("shutting down before all reconciles have ended; the next start continues them"),
    }
    Ok(())
}

/// Returns an error if the cluster's version is not supported. Runs would fail there later, each with its own error.
async fn refuse_outdated(client: &Client) -> Result<(), ControllerError> {
    match version::problem(client).await {
        Ok(None) => Ok(()),
        Ok(Some(problem)) => Err(ControllerError::Outdated(problem)),
        Err(error) => {
            tracing::warn!("whether the version of Kubernetes is supported is not known: {error}");
            Ok(())
        }
    }
}

/// An object in the watches. Its metadata suffices, because each reconcile reads the object again. With a watch of
/// whole objects, an object which cannot be parsed (because a newer version wrote it) would stop the watch for all
/// objects.
type Seen<K> = PartialObjectMeta<K>;

/// Namespace and name of each object in a store.
fn names_in<K>(store: &Store<Seen<K>>) -> BTreeSet<(String, String)>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
{
    store.state().iter().map(|object| (object.namespace().unwrap_or_default(), object.name_any())).collect()
}

/// A controller of one kind, which watches its objects, their Jobs, and the Jobs' pods.
fn controller<K>(client: &Client, kinds: &[RunKind], token: &CancellationToken) -> Controller<Seen<K>>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + Debug + Send + Sync + 'static,
{
    let kinds = kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let of_runs = watcher::Config::default().labels(&format!("{} in ({kinds})", labels::KIND));
    let run_of = |pod: Seen<Pod>| {
        let name = pod.labels().get(labels::RUN)?;
        Some(ObjectRef::new(name).within(pod.metadata.namespace.as_deref()?))
    };
    Controller::new(Api::<Seen<K>>::all(client.clone()), watcher::Config::default())
        .owns(Api::<Seen<Job>>::all(client.clone()), of_runs.clone())
        .watches(Api::<Seen<Pod>>::all(client.clone()), of_runs, run_of)
        .graceful_shutdown_on(token.clone().cancelled_owned())
}

/// Logs a failed reconcile, and requests another one after a pause.
#[allow(clippy::needless_pass_by_value, reason = "kube requires this signature")]
fn error_policy<K: Resource<DynamicType = ()>>(
    object: Arc<K>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Action {
    let pause = context.pause_after_failure(&*object);
    let (kind, name) = (K::kind(&()), object.name_any());
    let namespace = object.namespace().unwrap_or_default();
    let pause_seconds = pause.as_secs();
    tracing::warn!(
        %kind, namespace, name, pause_seconds, "failed to reconcile {kind} {namespace}/{name}, retrying in {pause_seconds} s: {error}"
    );
    Action::requeue(pause)
}

/// Runs a controller to its end, and logs failed watches. Failed reconciles are logged by [`error_policy`].
async fn drain<K, E>(stream: impl Stream<Item = Result<(ObjectRef<K>, Action), Error<ReconcileError, E>>>)
where
    K: Resource<DynamicType = ()>,
    E: std::error::Error + 'static,
{
    stream
        .for_each(|result| async {
            if let Err(error @ Error::QueueError(_)) = result {
                let kind = K::kind(&());
                tracing::warn!(%kind, "the watch of kind {kind} failed and is restarted: {error}");
            }
        })
        .await;
}
