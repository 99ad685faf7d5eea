//! What all reconciles share.
//!
//! It must not know what is reconciled.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::OnceCell;

use super::metrics::RepositoryMetrics;
use crate::{
    cluster::{call::CallError, events::Reports, observe},
    plan::Occurrence,
};

/// The component that Events are from.
const COMPONENT: &str = "stowaway-controller";
/// The pause after the first failure in a row; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

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
    /// Held while Jobs are counted and started, so that two Backups do not take the same free place.
    pub turn: tokio::sync::Mutex<()>,
    /// What is told of Repositories in figures.
    pub figures: RepositoryMetrics,
    reports: Reports,
    cluster: OnceCell<String>,
    failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    pub fn new(client: Client, settings: Settings, figures: RepositoryMetrics) -> Self {
        Self {
            figures,
            reports: Reports::new(client.clone(), COMPONENT, settings.instance),
            client,
            image: settings.image,
            turn: tokio::sync::Mutex::default(),
            cluster: OnceCell::new(),
            failures: Mutex::default(),
        }
    }

    /// The cluster's id, asked for once.
    pub async fn cluster_id(&self) -> Result<&str, CallError> {
        self.cluster.get_or_try_init(|| observe::cluster_id(&self.client)).await.map(String::as_str)
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
