//! What all reconciles share.
//!
//! It must not know what is reconciled.

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
    build::names::{self, Owner},
    cluster::{call::CallError, events::Reports, observe},
    plan::{ActiveJob, Occurrence, StartJob},
};

/// The component that Events are from.
const COMPONENT: &str = "stowaway-controller";
/// The pause after the first failure in a row; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The reason of an Event about an object that cannot be read.
const UNREADABLE: &str = "Unreadable";

/// What the controller is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of the runs' pods.
    pub image: String,
    /// Name of the controller's own pod, for Events.
    pub instance: Option<String>,
    /// Where metrics and health are answered.
    pub metrics_port: u16,
}

/// What all reconciles share.
pub(super) struct Context {
    /// The way to the API server.
    pub client: Client,
    /// Image of the runs' pods.
    pub image: String,
    /// Held while the runs of the cluster are counted and others are planned, so that two Backups do not take the same free
    /// place. It is released before anything is written: one slow admission webhook of a namespace delays no other one.
    pub turn: tokio::sync::Mutex<()>,
    /// What is told of Repositories in figures.
    pub figures: RepositoryMetrics,
    /// Figures of Backups and Restores.
    pub run_figures: RunMetrics,
    reports: Reports,
    cluster: OnceCell<String>,
    failures: Mutex<HashMap<String, u32>>,
    /// What is planned, and whose Job is being made.
    starting: Mutex<Vec<ActiveJob>>,
    namespaces: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Runs that are being started, until this is dropped.
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
    pub fn new(client: Client, settings: Settings, (figures, run_figures): (RepositoryMetrics, RunMetrics)) -> Self {
        Self {
            figures,
            run_figures,
            reports: Reports::new(client.clone(), COMPONENT, settings.instance),
            client,
            image: settings.image,
            turn: tokio::sync::Mutex::default(),
            cluster: OnceCell::new(),
            failures: Mutex::default(),
            starting: Mutex::default(),
            namespaces: Mutex::default(),
        }
    }

    /// The turn of one namespace, in which only one object is looked at at once, from the first look to the last write: what
    /// works on its claims and scales its workloads is decided from what is there.
    pub async fn turn_of(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            namespaces.retain(|_, turn| Arc::strong_count(turn) > 1);
            namespaces.entry(namespace.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }

    /// Counts planned runs as active ones until the result is dropped; to be called in [`Self::turn`].
    pub fn starting(&self, owner: &Owner, planned: &[StartJob]) -> Starting<'_> {
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

    /// The runs that are being started.
    pub fn being_started(&self) -> Vec<ActiveJob> {
        self.locked_starting().clone()
    }

    fn locked_starting(&self) -> MutexGuard<'_, Vec<ActiveJob>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster's id, asked for once.
    pub async fn cluster_id(&self) -> Result<&str, CallError> {
        self.cluster.get_or_try_init(|| observe::cluster_id(&self.client)).await.map(String::as_str)
    }

    /// The object as it is now. One that cannot be read is reported, and not looked at again before it changes.
    pub async fn read<K>(&self, seen: &PartialObjectMeta<K>) -> Result<Option<K>, CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let namespace = seen.namespace().unwrap_or_default();
        match observe::object::<K>(&self.client, &namespace, &seen.name_any()).await {
            Err(error) if error.is_unreadable() => {
                let note = format!("it is left alone until it can be read: {error}");
                let (reason, action) = (UNREADABLE.to_owned(), "Read");
                self.tell(&seen.object_ref(&()), &[Occurrence { is_warning: true, reason, action, note, job: None }])
                    .await;
                Ok(None)
            }
            read => read,
        }
    }

    /// Writes Events. One that cannot be written is logged: no run depends on it.
    pub async fn tell(&self, regarding: &ObjectReference, events: &[Occurrence]) {
        for event in events {
            let name = regarding.name.as_deref().unwrap_or_default();
            let namespace = regarding.namespace.as_deref().unwrap_or_default();
            let kind = regarding.kind.as_deref().unwrap_or_default();
            tracing::info!(kind, namespace, name, reason = event.reason, "{kind} {namespace}/{name}: {}", event.note);
            let words = (event.reason.as_str(), event.action);
            let published = self.reports.publish(regarding, event.is_warning, words, &event.note, event.job.as_deref());
            if let Err(error) = published.await {
                tracing::warn!(kind, namespace, name, "{kind} {namespace}/{name} has no Event of it: {error}");
            }
        }
    }

    /// How long to wait after one more failure of this object.
    pub fn pause_after_failure<K: Resource<DynamicType = ()>>(&self, object: &K) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key(object)).or_insert(0);
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(*count)).min(LONGEST_PAUSE);
        *count = count.saturating_add(1);
        pause
    }

    /// Forgets the failures of this object.
    pub fn succeeded<K: Resource<DynamicType = ()>>(&self, object: &K) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(object));
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}/{}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
}
