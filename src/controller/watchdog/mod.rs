//! The watch over pods that run without what they ask for: seen within seconds, told once each, counted, and replaced where
//! that is allowed.
//!
//! It must not decide anything; see `crate::watchdog`. Of a pod that asks for nothing it keeps nothing, of one that has all
//! of it two numbers. Names of pods come by a watch of their metadata; only a pod that may ask for something is read whole.

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
    annotations::{Injection, Role, own_key},
    api::Repository,
    cluster::{call::CallError, observe, replace},
    plan::{InjectedVersion, Occurrence, injected_version},
    watchdog::{self, Candidate, Standing, Turns, WatchdogFacts},
};

pub(super) use metrics::Metrics;

/// How often is looked whether something is due.
const TICK: Duration = Duration::from_secs(5);
/// A pod that is without is looked at again after this long: what stood against it may have gone.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// So many are looked at again in one tick.
const LOOKS_A_TICK: usize = 100;
/// No look takes longer.
const LONGEST_LOOK: Duration = Duration::from_secs(20);

type Events<K> = Pin<Box<dyn Stream<Item = watcher::Result<Event<Seen<K>>>> + Send>>;

/// What is known of all pods.
pub(super) struct Watchdog {
    context: Arc<Context>,
    /// For evictions: it asks once, and takes every answer for one.
    evicting: Client,
    /// The namespace of Stowaway itself.
    own: String,
    /// What the namespaces' labels say.
    namespaces: BTreeMap<String, Injection>,
    /// Pods that are as they should be: by UID, the fingerprint of what that depends on, and of which version they are.
    fine: HashMap<String, (u64, Option<InjectedVersion>)>,
    /// Those that are not, by UID.
    without: BTreeMap<String, Without>,
    /// What owners were told: UID and reason.
    told_owners: BTreeSet<(String, String)>,
    turns: Turns,
    repair: repair::Memory,
    metrics: Metrics,
}

/// A pod that is without, or could not be looked at.
struct Without {
    namespace: String,
    name: String,
    fingerprint: u64,
    version: Option<InjectedVersion>,
    looked: Instant,
    /// None when it could not be read.
    standing: Option<Standing>,
    /// The reason that was told.
    told: Option<String>,
    /// UID of whom people know as the owner.
    top: Option<String>,
    candidate: Option<Candidate>,
}

impl Watchdog {
    pub fn new(context: Arc<Context>, evicting: Client, metrics: Metrics, started: Timestamp) -> Self {
        Self {
            evicting,
            own: context.client.default_namespace().to_owned(),
            context,
            namespaces: BTreeMap::new(),
            fine: HashMap::new(),
            without: BTreeMap::new(),
            told_owners: BTreeSet::new(),
            turns: Turns::starting(started),
            repair: repair::Memory::default(),
            metrics,
        }
    }

    /// Watches until it is told to end; nothing that is under way then needs to be finished.
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
        // What a pod asks for depends on its namespace, so those are known first.
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
                    Err(error) => tracing::warn!("the watch of namespaces broke, and is begun again: {error}"),
                },
                Some(event) = pods.next(), if namespaces_known => match event {
                    Ok(event) => self.event(event, &mut listed).await,
                    Err(error) => tracing::warn!("the watch of pods broke, and is begun again: {error}"),
                },
                _ = ticks.tick() => {
                    if std::mem::take(&mut pods_due) {
                        // A label changed: all pods are listed anew, and those of that namespace looked at.
                        (pods, listed) = (self.watch_pods(), Listed::default());
                    }
                    self.tick(Timestamp::now()).await;
                }
            }
        }
    }

    fn watch_namespaces(&self) -> Events<Namespace> {
        let labelled = watcher::Config::default().labels(&own_key(Role::Inject));
        watcher(Api::<Seen<Namespace>>::all(self.context.client.clone()), labelled).default_backoff().boxed()
    }

    fn watch_pods(&self) -> Events<Pod> {
        watcher(Api::<Seen<Pod>>::all(self.context.client.clone()), watcher::Config::default())
            .default_backoff()
            .boxed()
    }

    /// Keeps what the namespaces' labels say; whether that changed. `listing` is what a list has brought so far.
    fn namespace(&mut self, event: Event<Seen<Namespace>>, listing: &mut Option<BTreeMap<String, Injection>>) -> bool {
        let said = |namespace: &Seen<Namespace>| watchdog::by_label(namespace.metadata.labels.as_ref());
        let before = self.namespaces.clone();
        match event {
            Event::Init => *listing = Some(BTreeMap::new()),
            Event::InitApply(namespace) => {
                if let (Some(listing), Some(injection)) = (listing.as_mut(), said(&namespace)) {
                    listing.insert(namespace.name_any(), injection);
                }
            }
            Event::InitDone => self.namespaces = listing.take().unwrap_or_default(),
            Event::Apply(namespace) => match said(&namespace) {
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
                let is_kept = |uid: &String| self.fine.contains_key(uid) || self.without.contains_key(uid);
                listed.0.extend(pod.uid().filter(is_kept));
            }
            Event::InitDone => {
                let Listed(there) = std::mem::take(listed);
                self.fine.retain(|uid, _| there.contains(uid));
                self.without.retain(|uid, _| there.contains(uid));
            }
            Event::Apply(pod) => self.pod(&pod.metadata).await,
            Event::Delete(pod) => self.forget(pod.uid().as_deref()),
        }
    }

    fn forget(&mut self, uid: Option<&str>) {
        if let Some(uid) = uid {
            self.fine.remove(uid);
            self.without.remove(uid);
        }
    }

    /// A pod that was made or changed.
    async fn pod(&mut self, metadata: &ObjectMeta) {
        let (Some(uid), Some(namespace), Some(name)) = (&metadata.uid, &metadata.namespace, &metadata.name) else {
            return;
        };
        let by_namespace = self.namespaces.get(namespace).copied();
        let may_ask = watchdog::is_watched(namespace, &self.own)
            && metadata.deletion_timestamp.is_none()
            && watchdog::may_ask(metadata, by_namespace);
        if !may_ask {
            return self.forget(Some(uid));
        }
        let mut hasher = DefaultHasher::new();
        (&metadata.annotations, by_namespace).hash(&mut hasher);
        let fingerprint = hasher.finish();
        let is_known = self.fine.get(uid).is_some_and(|(known, _)| *known == fingerprint)
            || self.without.get(uid).is_some_and(|pod| pod.fingerprint == fingerprint);
        if !is_known {
            self.look((uid, namespace, name), fingerprint).await;
        }
    }

    /// Looks at one pod as it is now.
    async fn look(&mut self, (uid, namespace, name): (&str, &str, &str), fingerprint: u64) {
        let client = &self.context.client;
        let facts = (namespace, self.namespaces.get(namespace).copied(), self.context.image.as_str());
        let read = tokio::time::timeout(LONGEST_LOOK, read(client, name, uid, facts)).await;
        let (standing, metadata, version) = match read {
            Ok(Ok(Some(found))) => found,
            Ok(Ok(None)) => return self.forget(Some(uid)),
            Ok(Err(error)) => return self.unseen((uid, namespace, name), fingerprint, &error.to_string()),
            Err(error) => return self.unseen((uid, namespace, name), fingerprint, &error.to_string()),
        };
        let owner = observe::controller_of(metadata.owner_references.as_deref().unwrap_or_default()).cloned();
        if let (Some(owner), Some(created)) = (&owner, &metadata.creation_timestamp) {
            match standing {
                Standing::Injected => self.turns.succeeded(&owner.uid, created.0),
                _ => self.turns.seen(&owner.uid, created.0),
            }
        }
        let Some(reason) = standing.reason() else {
            self.without.remove(uid);
            self.fine.insert(uid.to_owned(), (fingerprint, version));
            return;
        };
        self.fine.remove(uid);
        let told = self.without.get(uid).and_then(|pod| pod.told.clone());
        let mut pod = Without {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            fingerprint,
            version,
            looked: Instant::now(),
            candidate: matches!(standing, Standing::Missing { .. }).then(|| Candidate::new(&metadata)).flatten(),
            top: self.without.get(uid).and_then(|pod| pod.top.clone()),
            standing: Some(standing),
            told,
        };
        if pod.told.as_ref() != Some(&reason) {
            self.tell(uid, &mut pod, owner.as_ref(), &reason).await;
            pod.told = Some(reason);
        }
        self.without.insert(uid.to_owned(), pod);
    }

    /// A pod that could not be read is looked at again.
    fn unseen(&mut self, (uid, namespace, name): (&str, &str, &str), fingerprint: u64, error: &str) {
        tracing::warn!(namespace, name, "pod {namespace}/{name} is looked at again, because it could not be: {error}");
        let pod = self.without.entry(uid.to_owned()).or_insert_with(|| Without {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            fingerprint,
            version: None,
            looked: Instant::now(),
            standing: None,
            told: None,
            top: None,
            candidate: None,
        });
        (pod.fingerprint, pod.looked) = (fingerprint, Instant::now());
    }

    /// Tells pod and owner, each once for one reason.
    async fn tell(&mut self, uid: &str, pod: &mut Without, owner: Option<&OwnerReference>, reason: &str) {
        let note = pod.standing.as_ref().map(Standing::note).unwrap_or_default();
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        self.tell_once(&regarding, reason, note.clone()).await;
        let Some(owner) = owner else { return };
        let top = match observe::top_owner(&self.context.client, &pod.namespace, owner).await {
            Ok(top) => top,
            Err(error) => {
                let Without { namespace, name, .. } = &*pod;
                tracing::warn!(namespace, name, "the workload of pod {namespace}/{name} is not known: {error}");
                owner.clone()
            }
        };
        pod.top = Some(top.uid.clone());
        if self.told_owners.insert((top.uid.clone(), reason.to_owned())) {
            self.tell_once(&reference(&pod.namespace, &top), reason, format!("pod {}: {note}", pod.name)).await;
        }
    }

    /// Tells it, unless it was told before the controller was started anew.
    async fn tell_once(&self, regarding: &ObjectReference, reason: &str, note: String) {
        let namespace = regarding.namespace.as_deref().unwrap_or_default();
        let uid = regarding.uid.clone().unwrap_or_default();
        let told = observe::complaints(&self.context.client, namespace, &[uid]).await.unwrap_or_else(|error| {
            tracing::warn!(namespace, "what was told in namespace {namespace} before is not known: {error}");
            Vec::new()
        });
        if !told.iter().any(|told| told.strip_prefix(reason).is_some_and(|rest| rest.starts_with(": "))) {
            self.context.tell(regarding, &[occurrence(true, reason, "Inject", note)]).await;
        }
    }

    /// What is due: pods to be looked at again, the figures, and a replacement.
    async fn tick(&mut self, now: Timestamp) {
        let due = self.without.iter().filter(|(_, pod)| pod.looked.elapsed() >= LOOK_AGAIN).take(LOOKS_A_TICK);
        let due: Vec<(String, String, String, u64)> =
            due.map(|(uid, pod)| (uid.clone(), pod.namespace.clone(), pod.name.clone(), pod.fingerprint)).collect();
        for (uid, namespace, name, fingerprint) in due {
            self.look((&uid, &namespace, &name), fingerprint).await;
        }
        let tops: HashSet<&String> = self.without.values().filter_map(|pod| pod.top.as_ref()).collect();
        self.told_owners.retain(|(top, _)| tops.contains(top));
        let versions = || {
            let of_fine = self.fine.values().filter_map(|(_, version)| *version);
            of_fine.chain(self.without.values().filter_map(|pod| pod.version))
        };
        let count = |version| i64::try_from(versions().filter(|found| *found == version).count()).unwrap_or(i64::MAX);
        self.metrics.injected(count(InjectedVersion::Current), count(InjectedVersion::Other));
        self.metrics.without(self.without.values().filter_map(|pod| pod.standing.as_ref()?.reason()));
        self.repair(now).await;
    }
}

/// UIDs of the pods that a list has brought, of those that are known.
#[derive(Default)]
struct Listed(HashSet<String>);

/// The pod's standing, its metadata, and of which version that is which was injected; none when it is gone.
async fn read(
    client: &Client,
    name: &str,
    uid: &str,
    (namespace, by_namespace, image): (&str, Option<Injection>, &str),
) -> Result<Option<(Standing, ObjectMeta, Option<InjectedVersion>)>, CallError> {
    let Some(pod) = replace::raw_pod(client, namespace, name).await? else { return Ok(None) };
    let metadata = pod.get("metadata").cloned().unwrap_or_default();
    let Ok(metadata) = serde_json::from_value::<ObjectMeta>(metadata) else { return Ok(None) };
    if metadata.uid.as_deref() != Some(uid) {
        return Ok(None);
    }
    let facts = WatchdogFacts { namespace, by_namespace, image, repositories: &[] };
    let mut standing = watchdog::standing(&pod, &facts);
    if standing.wants_repository() {
        let repositories: Vec<Repository> = observe::list(client, namespace, "").await?;
        standing = watchdog::standing(&pod, &WatchdogFacts { repositories: &repositories, ..facts });
    }
    // A pod that a newer version of Kubernetes wrote may not be readable as a whole, and has no version then.
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

fn occurrence(is_warning: bool, reason: &str, action: &'static str, note: String) -> Occurrence {
    Occurrence { is_warning, reason: reason.to_owned(), action, note, job: None }
}
