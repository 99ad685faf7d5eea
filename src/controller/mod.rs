//! The controller: one short reconcile a kind, each observe, plan, build, apply, status.
//!
//! It keeps nothing in memory that matters: everything is derived from the objects, so a restart changes nothing. It must
//! not decide anything itself; `plan` does. It never reads a Secret and never opens a store.

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
    build::{labels, names::RunKind},
    cluster::call::CallError,
    telemetry,
};
use context::Context;
pub use context::Settings;
use metrics::{RepositoryMetrics, RunMetrics};
use watchdog::Watchdog;

/// For what is under way when the controller is told to end. It is killed after 30 s.
const LONGEST_END: Duration = Duration::from_secs(10);

/// How often the figures of objects that are gone are left out.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Why a reconcile failed; it is made again after a pause.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    /// A call to the API server.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A planned name is taken.
    #[error(transparent)]
    Name(#[from] start::TakenName),
    /// A task that cannot be written.
    #[error("failed to write a task as JSON: {0}")]
    Task(#[from] serde_json::Error),
}

/// Why the controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Neither a kubeconfig nor the files of a pod are there.
    #[error("failed to find the cluster: {0}; set KUBECONFIG, or run in a pod")]
    Client(#[from] kube::Error),
    /// The port of the metrics.
    #[error("failed to listen for metrics on port {port}: {source}; choose another one by --metrics-port")]
    Listen {
        /// Which port.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Runs until `shutdown` is ready, and what is being done then is finished.
///
/// # Errors
/// When no cluster is configured. A cluster that does not answer is waited for.
pub async fn run(
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ControllerError> {
    let mut config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    let client = Client::try_from(config.clone())?;
    // What a PodDisruptionBudget forbids is answered like an overload, which the library would wait out for minutes.
    config.default_retry = false;
    let evicting = Client::try_from(config)?;
    let token = CancellationToken::new();
    let port = settings.metrics_port;
    let listener = telemetry::metrics::listen(port).await.map_err(|source| ControllerError::Listen { port, source })?;
    let mut registry = Registry::default();
    let figures = watchdog::Metrics::register(&mut registry);
    let figures_of_objects = (RepositoryMetrics::register(&mut registry), RunMetrics::register(&mut registry));
    let renewed = heartbeat::register(&mut registry);
    let instance = settings.instance.clone().unwrap_or_else(|| "controller".to_owned());
    let heartbeat = heartbeat::beat(client.clone(), &instance, renewed, token.clone());
    let context = Arc::new(Context::new(client.clone(), settings, figures_of_objects));
    let upkeep = [RunKind::Init, RunKind::Repack, RunKind::Prune, RunKind::Check];
    let repositories = controller::<Repository>(&client, &upkeep, &token);
    let all_of_repositories = repositories.store();
    let repositories = repositories.run(repository::reconcile, again, context.clone());
    let backups = controller::<Backup>(&client, &[RunKind::Backup], &token);
    let all_of_backups = backups.store();
    // A Repository that becomes ready is what the Backups of its namespace may wait for.
    let store = backups.store();
    let waiting = move |repository: Seen<Repository>| {
        let namespace = repository.namespace();
        let is_near = move |backup: &Arc<Seen<Backup>>| backup.namespace() == namespace;
        store.state().into_iter().filter(is_near).map(|backup| ObjectRef::from_obj(&*backup)).collect::<Vec<_>>()
    };
    let all_repositories = Api::<Seen<Repository>>::all(client.clone());
    let backups = backups.watches(all_repositories, watcher::Config::default(), waiting).run(
        backup::reconcile,
        again,
        context.clone(),
    );
    let restores = controller::<Restore>(&client, &[RunKind::Restore], &token);
    let all_of_restores = restores.store();
    let restores = restores.run(restore::reconcile, again, context.clone());
    // No reconcile follows on a deletion.
    let (figures_of_all, stopped) = (context.clone(), token.clone());
    let sweep = async move {
        while !stopped.is_cancelled() {
            tokio::select! {
                () = stopped.cancelled() => break,
                () = tokio::time::sleep(SWEEP_EVERY) => {}
            }
            figures_of_all.figures.keep(&names_in(&all_of_repositories));
            figures_of_all.run_figures.keep(metrics::RunKind::backup, &names_in(&all_of_backups));
            figures_of_all.run_figures.keep(metrics::RunKind::restore, &names_in(&all_of_restores));
        }
    };
    let watchdog = Watchdog::new(context, evicting, figures, jiff::Timestamp::now()).run(token.clone());
    let answers = async {
        tokio::select! {
            () = token.cancelled() => {}
            Err(error) = telemetry::metrics::serve(listener, registry) => tracing::error!("no more metrics: {error}"),
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
    // What has never been listed yet is waited for even then, and a cluster may never answer.
    let too_late = async {
        token.cancelled().await;
        tokio::time::sleep(LONGEST_END).await;
    };
    tokio::select! {
        _ended = work => {}
        () = too_late => tracing::warn!("what was under way is left as it is, and found again at the next start"),
    }
    Ok(())
}

/// An object as the watches see it: each reconcile reads it anew, so its name is enough. And one that cannot be read (a
/// newer version wrote it) fails alone, where a watch of whole objects would stop for all of them.
type Seen<K> = PartialObjectMeta<K>;

/// Namespace and name of each object in a store.
fn names_in<K>(store: &Store<Seen<K>>) -> BTreeSet<(String, String)>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
{
    store.state().iter().map(|object| (object.namespace().unwrap_or_default(), object.name_any())).collect()
}

/// A controller of one kind, which hears of its objects, their Jobs, and the Jobs' pods.
fn controller<K>(client: &Client, kinds: &[RunKind], token: &CancellationToken) -> Controller<Seen<K>>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + Debug + Send + Sync + 'static,
{
    let kinds = kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let ours = watcher::Config::default().labels(&format!("{} in ({kinds})", labels::KIND));
    let run_of = |pod: Seen<Pod>| {
        let name = pod.labels().get(labels::RUN)?;
        Some(ObjectRef::new(name).within(pod.metadata.namespace.as_deref()?))
    };
    Controller::new(Api::<Seen<K>>::all(client.clone()), watcher::Config::default())
        .owns(Api::<Seen<Job>>::all(client.clone()), ours.clone())
        .watches(Api::<Seen<Pod>>::all(client.clone()), ours, run_of)
        .graceful_shutdown_on(token.clone().cancelled_owned())
}

/// What happens after a reconcile that failed.
#[allow(clippy::needless_pass_by_value, reason = "kube calls it so")]
fn again<K: Resource<DynamicType = ()>>(object: Arc<K>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let pause = context.pause_after_failure(&*object);
    let (kind, name) = (K::kind(&()), object.name_any());
    let namespace = object.namespace().unwrap_or_default();
    let pause_seconds = pause.as_secs();
    tracing::warn!(
        %kind, namespace, name, pause_seconds, "{kind} {namespace}/{name} is tried again in {pause_seconds} s: {error}"
    );
    Action::requeue(pause)
}

/// Runs a controller to its end. Failed reconciles were told by [`again`]; what is left are failed watches.
async fn drain<K, E>(stream: impl Stream<Item = Result<(ObjectRef<K>, Action), Error<ReconcileError, E>>>)
where
    K: Resource<DynamicType = ()>,
    E: std::error::Error + 'static,
{
    stream
        .for_each(|result| async {
            if let Err(error @ Error::QueueError(_)) = result {
                let kind = K::kind(&());
                tracing::warn!(%kind, "the watch of kind {kind} broke, and is begun again: {error}");
            }
        })
        .await;
}
