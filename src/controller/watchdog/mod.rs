//! The watchdog, which finds pods that request an injection and run without it. Each is found within seconds, reported
//! once, counted, and replaced if that is allowed.
//!
//! Decisions are made by `crate::watchdog`. To save memory, nothing is kept of a pod which requests nothing, and two
//! numbers of a pod which is injected. Pods are watched by their metadata; only a pod which may request an injection is
//! read as a whole.

mod metrics;
mod repair;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, ObjectReference, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio_util::sync::CancellationToken;

use super::{Seen, context::Context};
use crate::{
    annotations::{Injection, KeyId, own_key},
    api::Repository,
    cluster::{call::CallError, observe, replace},
    plan::{EventRecord, InjectedVersion, injected_version},
    watchdog::{self, Candidate, InjectionState, RepairQueue, WatchdogFacts},
};

pub(super) use metrics::Metrics;

/// How often due checks and replacements are done.
const TICK: Duration = Duration::from_secs(5);
/// An uninjected pod is checked again after this long, because the cause may have been fixed.
const RECHECK_INTERVAL: Duration = Duration::from_mins(1);
/// The greatest number of repeated checks in one tick.
const CHECKS_PER_TICK: usize = 100;
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

type Events<K> = Pin<Box<dyn Stream<Item = watcher::Result<Event<Seen<K>>>> + Send>>;

/// The state of the watchdog.
pub(super) struct Watchdog {
    context: Arc<Context>,
    /// The client for evictions, which does not retry.
    evicting: Client,
    /// The namespace of Stowaway itself.
    own: String,
    /// The injection which a namespace's label requests, by namespace.
    namespaces: BTreeMap<String, Injection>,
    /// Pods which have what they request, by UID: the fingerprint of the request, and the version of the injected
    /// containers.
    injected: HashMap<String, (u64, Option<InjectedVersion>)>,
    /// Pods which do not have what they request, by UID.
    uninjected: BTreeMap<String, Uninjected>,
    /// The owners which were notified: UID and reason.
    reported_owners: BTreeSet<(String, String)>,
    repair_queue: RepairQueue,
    repair: repair::Memory,
    metrics: Metrics,
}

/// A pod which does not have what it requests, or could not be checked.
struct Uninjected {
    namespace: String,
    name: String,
    fingerprint: u64,
    version: Option<InjectedVersion>,
    checked: Instant,
    /// `None` if the pod could not be read.
    standing: Option<InjectionState>,
    /// The reason which was reported.
    reported: Option<String>,
    /// UID of the topmost owner.
    top_owner: Option<String>,
    candidate: Option<Candidate>,
}

impl Watchdog {
    pub fn new(context: Arc<Context>, evicting: Client, metrics: Metrics, started: Timestamp) -> Self {
        Self {
            evicting,
            own: context.client.default_namespace().to_owned(),
            context,
            namespaces: BTreeMap::new(),
            injected: HashMap::new(),
            uninjected: BTreeMap::new(),
            reported_owners: BTreeSet::new(),
            repair_queue: RepairQueue::starting(started),
            repair: repair::Memory::default(),
            metrics,
        }
    }

    /// Runs until `token` is cancelled. Interrupted work needs no cleanup.
    pub async fn run(mut self, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&mut self) {
        let mut namespaces = self.watch_namespaces();
        let mut pods = self.watch_pods();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The request of a pod depends on its namespace, so the namespaces are listed first.
        let mut namespaces_known = false;
        let mut listed = Listed::default();
        let mut labels = None;
        let mut pods_due = false;
        loop {
            tokio::select! {
                Some(event) = namespaces.next() => match event {
                    Ok(event) => {
                        let is_listed = matches!(event, Event::InitDone);
                        let changed = self.namespace(event, &mut labels);
                        pods_due |= changed && namespaces_known;
                        namespaces_known |= is_listed;
                    }
                    Err(error) => tracing::warn!("the watch of namespaces failed and is restarted: {error}"),
                },
                Some(event) = pods.next(), if namespaces_known => match event {
                    Ok(event) => self.event(event, &mut listed).await,
                    Err(error) => tracing::warn!("the watch of pods failed and is restarted: {error}"),
                },
                _ = ticks.tick() => {
                    if std::mem::take(&mut pods_due) {
                        // A namespace's label changed: all pods are listed again, and those of that namespace are
                        // checked.
                        (pods, listed) = (self.watch_pods(), Listed::default());
                    }
                    self.tick(Timestamp::now()).await;
                }
            }
        }
    }

    fn watch_namespaces(&self) -> Events<Namespace> {
        let labelled = watcher::Config::default().labels(&own_key(KeyId::Inject));
        watcher(Api::<Seen<Namespace>>::all(self.context.client.clone()), labelled).default_backoff().boxed()
    }

    fn watch_pods(&self) -> Events<Pod> {
        watcher(Api::<Seen<Pod>>::all(self.context.client.clone()), watcher::Config::default())
            .default_backoff()
            .boxed()
    }

    /// Stores the injections which namespaces' labels request. Returns whether they changed. `listing` has the part of
    /// a list which was received so far.
    fn namespace(&mut self, event: Event<Seen<Namespace>>, listing: &mut Option<BTreeMap<String, Injection>>) -> bool {
        let injection_of = |namespace: &Seen<Namespace>| watchdog::by_label(namespace.metadata.labels.as_ref());
        let before = self.namespaces.clone();
        match event {
            Event::Init => *listing = Some(BTreeMap::new()),
            Event::InitApply(namespace) => {
                if let (Some(listing), Some(injection)) = (listing.as_mut(), injection_of(&namespace)) {
                    listing.insert(namespace.name_any(), injection);
                }
            }
            Event::InitDone => self.namespaces = listing.take().unwrap_or_default(),
            Event::Apply(namespace) => match injection_of(&namespace) {
                Some(injection) => {
                    self.namespaces.insert(namespace.name_any(), injection);
                }
                None => {
                    self.namespaces.remove(&namespace.name_any());
                }
            },
            Event::Delete(namespace) => {
                self.namespaces.remove(&namespace.name_any());
            }
        }
        self.namespaces != before
    }

    async fn event(&mut self, event: Event<Seen<Pod>>, listed: &mut Listed) {
        match event {
            Event::Init => *listed = Listed::default(),
            Event::InitApply(pod) => {
                self.pod(&pod.metadata).await;
                let is_kept = |uid: &String| self.injected.contains_key(uid) || self.uninjected.contains_key(uid);
                listed.0.extend(pod.uid().filter(is_kept));
            }
            Event::InitDone => {
                let Listed(existing) = std::mem::take(listed);
                self.injected.retain(|uid, _| existing.contains(uid));
                self.uninjected.retain(|uid, _| existing.contains(uid));
            }
            Event::Apply(pod) => self.pod(&pod.metadata).await,
            Event::Delete(pod) => self.forget(pod.uid().as_deref()),
        }
    }

    fn forget(&mut self, uid: Option<&str>) {
        if let Some(uid) = uid {
            self.injected.remove(uid);
            self.uninjected.remove(uid);
        }
    }

    /// Handles a pod which was created or changed.
    async fn pod(&mut self, metadata: &ObjectMeta) {
        let (Some(uid), Some(namespace), Some(name)) = (&metadata.uid, &metadata.namespace, &metadata.name) else {
            return;
        };
        let by_namespace = self.namespaces.get(namespace).copied();
        let is_watched = watchdog::is_watched(namespace, &self.own)
            && metadata.deletion_timestamp.is_none()
            && watchdog::may_request_injection(metadata, by_namespace);
        if !is_watched {
            return self.forget(Some(uid));
        }
        let mut hasher = DefaultHasher::new();
        (&metadata.annotations, by_namespace).hash(&mut hasher);
        let fingerprint = hasher.finish();
        let is_known = self.injected.get(uid).is_some_and(|(known, _)| *known == fingerprint)
            || self.uninjected.get(uid).is_some_and(|pod| pod.fingerprint == fingerprint);
        if !is_known {
            self.check((uid, namespace, name), fingerprint).await;
        }
    }

    /// Reads a pod, and updates its state.
    async fn check(&mut self, (uid, namespace, name): (&str, &str, &str), fingerprint: u64) {
        let client = &self.context.client;
        let facts = (namespace, self.namespaces.get(namespace).copied(), self.context.image.as_str());
        let read = tokio::time::timeout(CHECK_TIMEOUT, read(client, name, uid, facts)).await;
        let (standing, metadata, version) = match read {
            Ok(Ok(Some(found))) => found,
            Ok(Ok(None)) => return self.forget(Some(uid)),
            Ok(Err(error)) => return self.check_failed((uid, namespace, name), fingerprint, &error.to_string()),
            Err(error) => return self.check_failed((uid, namespace, name), fingerprint, &error.to_string()),
        };
        let owner = observe::controller_of(metadata.owner_references.as_deref().unwrap_or_default()).cloned();
        if let (Some(owner), Some(created)) = (&owner, &metadata.creation_timestamp) {
            match standing {
                InjectionState::Injected => self.repair_queue.succeeded(&owner.uid, created.0),
                _ => self.repair_queue.seen(&owner.uid, created.0),
            }
        }
        let Some(reason) = standing.reason() else {
            self.uninjected.remove(uid);
            self.injected.insert(uid.to_owned(), (fingerprint, version));
            return;
        };
        self.injected.remove(uid);
        let reported = self.uninjected.get(uid).and_then(|pod| pod.reported.clone());
        let mut pod = Uninjected {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            fingerprint,
            version,
            checked: Instant::now(),
            candidate: matches!(standing, InjectionState::Missing { .. }).then(|| Candidate::new(&metadata)).flatten(),
            top_owner: self.uninjected.get(uid).and_then(|pod| pod.top_owner.clone()),
            standing: Some(standing),
            reported,
        };
        if pod.reported.as_ref() != Some(&reason) {
            self.report(uid, &mut pod, owner.as_ref(), &reason).await;
            pod.reported = Some(reason);
        }
        self.uninjected.insert(uid.to_owned(), pod);
    }

    /// Records a pod which could not be read, so that it is checked again.
    fn check_failed(&mut self, (uid, namespace, name): (&str, &str, &str), fingerprint: u64, error: &str) {
        tracing::warn!(namespace, name, "failed to check pod {namespace}/{name}, it is checked again: {error}");
        let pod = self.uninjected.entry(uid.to_owned()).or_insert_with(|| Uninjected {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            fingerprint,
            version: None,
            checked: Instant::now(),
            standing: None,
            reported: None,
            top_owner: None,
            candidate: None,
        });
        (pod.fingerprint, pod.checked) = (fingerprint, Instant::now());
    }

    /// Writes Events about the pod and its owner, each once for a reason.
    async fn report(&mut self, uid: &str, pod: &mut Uninjected, owner: Option<&OwnerReference>, reason: &str) {
        let note = pod.standing.as_ref().map(InjectionState::note).unwrap_or_default();
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        self.report_once(&regarding, reason, note.clone()).await;
        let Some(owner) = owner else { return };
        let top = match observe::top_owner(&self.context.client, &pod.namespace, owner).await {
            Ok(top) => top,
            Err(error) => {
                let Uninjected { namespace, name, .. } = &*pod;
                tracing::warn!(namespace, name, "failed to find the workload of pod {namespace}/{name}: {error}");
                owner.clone()
            }
        };
        pod.top_owner = Some(top.uid.clone());
        if self.reported_owners.insert((top.uid.clone(), reason.to_owned())) {
            self.report_once(&reference(&pod.namespace, &top), reason, format!("pod {}: {note}", pod.name)).await;
        }
    }

    /// Writes an Event, unless it was written before a restart of the controller.
    async fn report_once(&self, regarding: &ObjectReference, reason: &str, note: String) {
        let namespace = regarding.namespace.as_deref().unwrap_or_default();
        let uid = regarding.uid.clone().unwrap_or_default();
        let reported = observe::warning_events(&self.context.client, namespace, &[uid]).await.unwrap_or_else(|error| {
            tracing::warn!(namespace, "failed to list the earlier Events of namespace {namespace}: {error}");
            Vec::new()
        });
        if !reported.iter().any(|event| event.strip_prefix(reason).is_some_and(|rest| rest.starts_with(": "))) {
            self.context.publish_events(regarding, &[event_record(true, reason, "Inject", note)]).await;
        }
    }

    /// Checks due pods again, updates the metrics, and replaces a pod if that is due.
    async fn tick(&mut self, now: Timestamp) {
        let due =
            self.uninjected.iter().filter(|(_, pod)| pod.checked.elapsed() >= RECHECK_INTERVAL).take(CHECKS_PER_TICK);
        let due: Vec<(String, String, String, u64)> =
            due.map(|(uid, pod)| (uid.clone(), pod.namespace.clone(), pod.name.clone(), pod.fingerprint)).collect();
        for (uid, namespace, name, fingerprint) in due {
            self.check((&uid, &namespace, &name), fingerprint).await;
        }
        let top_owners: HashSet<&String> = self.uninjected.values().filter_map(|pod| pod.top_owner.as_ref()).collect();
        self.reported_owners.retain(|(top, _)| top_owners.contains(top));
        let versions = || {
            let of_injected = self.injected.values().filter_map(|(_, version)| *version);
            of_injected.chain(self.uninjected.values().filter_map(|pod| pod.version))
        };
        let count = |version| i64::try_from(versions().filter(|found| *found == version).count()).unwrap_or(i64::MAX);
        self.metrics.set_injected(count(InjectedVersion::Current), count(InjectedVersion::Other));
        self.metrics.set_uninjected(self.uninjected.values().filter_map(|pod| pod.standing.as_ref()?.reason()));
        self.repair(now).await;
    }
}

/// UIDs of the known pods which are in the list so far.
#[derive(Default)]
struct Listed(HashSet<String>);

/// The pod's state, its metadata, and the version of its injected containers; `None` if the pod no longer exists.
async fn read(
    client: &Client,
    name: &str,
    uid: &str,
    (namespace, by_namespace, image): (&str, Option<Injection>, &str),
) -> Result<Option<(InjectionState, ObjectMeta, Option<InjectedVersion>)>, CallError> {
    let Some(pod) = replace::raw_pod(client, namespace, name).await? else { return Ok(None) };
    let metadata = pod.get("metadata").cloned().unwrap_or_default();
    let Ok(metadata) = serde_json::from_value::<ObjectMeta>(metadata) else { return Ok(None) };
    if metadata.uid.as_deref() != Some(uid) {
        return Ok(None);
    }
    let facts = WatchdogFacts { namespace, by_namespace, image, repositories: &[] };
    let mut standing = watchdog::injection_state(&pod, &facts);
    if standing.wants_repository() {
        let repositories: Vec<Repository> = observe::list(client, namespace, "").await?;
        standing = watchdog::injection_state(&pod, &WatchdogFacts { repositories: &repositories, ..facts });
    }
    // The spec of a pod of a newer Kubernetes version may not be parsable; then the version is not known.
    let spec = pod.get("spec").cloned().and_then(|spec| serde_json::from_value::<PodSpec>(spec).ok());
    let version = spec.and_then(|spec| injected_version(&spec, image));
    Ok(Some((standing, metadata, version)))
}

fn reference(namespace: &str, owner: &OwnerReference) -> ObjectReference {
    ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        namespace: Some(namespace.to_owned()),
        uid: Some(owner.uid.clone()),
        ..ObjectReference::default()
    }
}

fn event_record(is_warning: bool, reason: &str, action: &'static str, note: String) -> EventRecord {
    EventRecord { is_warning, reason: reason.to_owned(), action, note, job: None }
}
