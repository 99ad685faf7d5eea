//! The state which all reconciles share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::ObjectReference};
use kube::{Client, Resource, ResourceExt, core::PartialObjectMeta};
use serde::de::DeserializeOwned;
use tokio::sync::{OnceCell, OwnedMutexGuard};

use super::metrics::{RepositoryMetrics, RunMetrics};
use crate::{
    cluster::{call::CallError, events::EventRecorder, observe},
    plan::{ActiveJob, EventRecord, StartJob},
    resources::names::{self, OwnerRef},
};

/// The reporting component of Events.
const COMPONENT: &str = "stowaway-controller";
/// The pause after the first failure in a row. Each further pause is twice as long as the previous one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// The reason of an Event about an object which cannot be parsed.
const UNREADABLE: &str = "Unreadable";

/// The controller's configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of the runs' pods.
    pub image: String,
    /// Name of the controller's own pod, for Events.
    pub instance: Option<String>,
    /// Port of the metrics and health endpoints.
    pub metrics_port: u16,
}

/// The state which all reconciles share.
pub(super) struct Context {
    pub client: Client,
    /// Image of the runs' pods.
    pub image: String,
    /// Held while the cluster's runs are counted and new ones are planned, so that two Backups do not use the same free
    /// slot of a limit. It is released before any write, so that a slow admission webhook of one namespace does not
    /// delay other namespaces.
    pub scheduling_lock: tokio::sync::Mutex<()>,
    pub repository_metrics: RepositoryMetrics,
    /// Metrics of Backups and Restores.
    pub run_metrics: RunMetrics,
    reports: EventRecorder,
    cluster: OnceCell<String>,
    failures: Mutex<HashMap<String, u32>>,
    /// The planned runs whose Jobs are being created.
    starting: Mutex<Vec<ActiveJob>>,
    namespaces: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Runs which count as being started until this guard is dropped.
pub(super) struct Starting<'a> {
    context: &'a Context,
    jobs: Vec<ActiveJob>,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.context.locked_starting().retain(|job| !self.jobs.contains(job));
    }
}

impl Context {
    pub fn new(
        client: Client,
        settings: Settings,
        (repository_metrics, run_metrics): (RepositoryMetrics, RunMetrics),
    ) -> Self {
        Self {
            repository_metrics,
            run_metrics,
            reports: EventRecorder::new(client.clone(), COMPONENT, settings.instance),
            client,
            image: settings.image,
            scheduling_lock: tokio::sync::Mutex::default(),
            cluster: OnceCell::new(),
            failures: Mutex::default(),
            starting: Mutex::default(),
            namespaces: Mutex::default(),
        }
    }

    /// Locks a namespace for a whole reconcile, from the first read to the last write, so that only one object of the
    /// namespace is reconciled at a time. The plans depend on which runs use the namespace's claims and scale its
    /// workloads.
    pub async fn lock_namespace(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            namespaces.retain(|_, lock| Arc::strong_count(lock) > 1);
            namespaces.entry(namespace.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Counts planned runs as active until the result is dropped. The caller holds [`Self::scheduling_lock`].
    pub fn starting(&self, owner: &OwnerRef, planned: &[StartJob]) -> Starting<'_> {
        let jobs = planned.iter().map(|start| ActiveJob {
            namespace: owner.namespace.clone(),
            name: names::job_name(owner, &start.source, start.attempt),
            repository: start.repository.clone(),
            kind: start.kind.to_string(),
        });
        let jobs: Vec<ActiveJob> = jobs.collect();
        self.locked_starting().extend(jobs.iter().cloned());
        Starting { context: self, jobs }
    }

    /// The runs which are being started.
    pub fn being_started(&self) -> Vec<ActiveJob> {
        self.locked_starting().clone()
    }

    fn locked_starting(&self) -> MutexGuard<'_, Vec<ActiveJob>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster's id, which is read once.
    pub async fn cluster_id(&self) -> Result<&str, CallError> {
        self.cluster.get_or_try_init(|| observe::cluster_id(&self.client)).await.map(String::as_str)
    }

    /// The present object. An object which cannot be parsed is reported, and not reconciled again before it changes.
    pub async fn read<K>(&self, seen: &PartialObjectMeta<K>) -> Result<Option<K>, CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let namespace = seen.namespace().unwrap_or_default();
        match observe::object::<K>(&self.client, &namespace, &seen.name_any()).await {
            Err(error) if error.is_unreadable() => {
                let note = format!("it is ignored until it can be read: {error}");
                let (reason, action) = (UNREADABLE.to_owned(), "Read");
                self.publish_events(
                    &seen.object_ref(&()),
                    &[EventRecord { is_warning: true, reason, action, note, job: None }],
                )
                .await;
                Ok(None)
            }
            read => read,
        }
    }

    /// Writes Events, and logs them. A failure to write an Event is only logged, because no run depends on it.
    pub async fn publish_events(&self, regarding: &ObjectReference, events: &[EventRecord]) {
        for event in events {
            let name = regarding.name.as_deref().unwrap_or_default();
            let namespace = regarding.namespace.as_deref().unwrap_or_default();
            let kind = regarding.kind.as_deref().unwrap_or_default();
            tracing::info!(kind, namespace, name, reason = event.reason, "{kind} {namespace}/{name}: {}", event.note);
            let cause = (event.reason.as_str(), event.action);
            let published = self.reports.publish(regarding, event.is_warning, cause, &event.note, event.job.as_deref());
            if let Err(error) = published.await {
                tracing::warn!(
                    kind,
                    namespace,
                    name,
                    "failed to write an Event about {kind} {namespace}/{name}: {error}"
                );
            }
        }
    }

    /// Counts a failure of this object, and returns the pause before the next reconcile.
    pub fn pause_after_failure<K: Resource<DynamicType = ()>>(&self, object: &K) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key(object)).or_insert(0);
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(*count)).min(MAX_PAUSE);
        *count = count.saturating_add(1);
        pause
    }

    /// Resets the failures of this object.
    pub fn succeeded<K: Resource<DynamicType = ()>>(&self, object: &K) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(object));
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}/{}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
}
