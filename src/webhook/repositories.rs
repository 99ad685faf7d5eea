//! A cache of the Repositories of all namespaces, kept current by a watch, so that no decision waits for a call to the
//! API server.
//!
//! The watch is of raw objects, because a typed watch fails as a whole at one object that cannot be parsed (written by
//! a newer version). Only that object is left out.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{IS_DEFAULT, Repository};

/// The Repositories by namespace, each list sorted by name.
type ByNamespace = BTreeMap<String, Arc<[Repository]>>;

/// The cache.
#[derive(Debug)]
pub struct Repositories {
    known: ArcSwap<ByNamespace>,
    synced: watch::Sender<bool>,
}

impl Default for Repositories {
    fn default() -> Self {
        Self { known: ArcSwap::default(), synced: watch::Sender::new(false) }
    }
}

impl Repositories {
    /// The Repositories of a namespace.
    pub fn of(&self, namespace: &str) -> Arc<[Repository]> {
        self.known.load().get(namespace).cloned().unwrap_or_default()
    }

    /// Whether all Repositories were listed once.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Watches until `end`. A broken watch is restarted, with a backoff.
    pub async fn follow(&self, client: Client, end: CancellationToken) {
        let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<Repository>(&()));
        let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
        tokio::select! {
            () = self.keep(events) => {}
            () = end.cancelled() => {}
        }
    }

    /// Applies the events until the stream ends.
    pub async fn keep<E: std::fmt::Display>(&self, events: impl Stream<Item = Result<Event<DynamicObject>, E>>) {
        let mut events = std::pin::pin!(events);
        let mut listing = ByNamespace::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(object)) => put(&mut listing, object),
                Ok(Event::InitDone) => {
                    self.known.store(Arc::new(std::mem::take(&mut listing)));
                    self.synced.send_replace(true);
                }
                Ok(Event::Apply(object)) => self.change(|known| put(known, object)),
                Ok(Event::Delete(object)) => {
                    self.change(|known| remove(known, &object.namespace().unwrap_or_default(), &object.name_any()));
                }
                Err(error) => tracing::warn!("the watch of Repositories broke and is restarted: {error}"),
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut ByNamespace)) {
        let mut known = ByNamespace::clone(&self.known.load());
        change(&mut known);
        self.known.store(Arc::new(known));
    }
}

fn put(known: &mut ByNamespace, object: DynamicObject) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    remove(known, &namespace, &name);
    match object.try_parse::<Repository>() {
        Ok(mut repository) => {
            // Unused parts would only occupy memory.
            repository.metadata.managed_fields = None;
            repository.metadata.labels = None;
            repository.annotations_mut().retain(|key, _| key == IS_DEFAULT);
            let mut list = known.get(&namespace).map(|list| list.to_vec()).unwrap_or_default();
            list.push(repository);
            list.sort_by_key(ResourceExt::name_any);
            known.insert(namespace, list.into());
        }
        Err(error) => tracing::warn!(
            namespace,
            name,
            "Repository {namespace}/{name} is left out, because it cannot be parsed: {error}"
        ),
    }
}

fn remove(known: &mut ByNamespace, namespace: &str, name: &str) {
    let Some(list) = known.get(namespace) else { return };
    let rest: Vec<Repository> = list.iter().filter(|repository| repository.name_any() != name).cloned().collect();
    if rest.is_empty() {
        known.remove(namespace);
    } else {
        known.insert(namespace.to_owned(), rest.into());
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, spec: &Value) -> DynamicObject {
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "stowaway.dev/v1alpha1",
            "kind": "Repository",
            "metadata": { "name": name, "namespace": "orchard", "annotations": { "other": "x" } },
        }))
        .unwrap();
        object.data = json!({ "spec": spec });
        object
    }

    fn sound() -> Value {
        json!({ "volume": { "persistentVolumeClaim": { "claimName": "x" } }, "passwordSecretRef": { "name": "x" } })
    }

    fn names(repositories: &Repositories) -> Vec<String> {
        repositories.of("orchard").iter().map(ResourceExt::name_any).collect()
    }

    async fn keep(repositories: &Repositories, events: Vec<Result<Event<DynamicObject>, &str>>) {
        repositories.keep(stream::iter(events)).await;
    }

    #[tokio::test]
    async fn repository_that_cannot_be_parsed_hides_no_other() {
        let repositories = Repositories::default();
        let events = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(object("a", &sound()))),
            Ok(Event::InitApply(object("b", &json!({ "s3": [1] })))),
            Ok(Event::InitApply(object("c", &sound()))),
        ];
        keep(&repositories, events).await;
        assert!(names(&repositories).is_empty() && !*repositories.synced().borrow());
        keep(&repositories, vec![Ok(Event::Init), Ok(Event::InitDone)]).await;
        assert!(*repositories.synced().borrow());
        let events = vec![
            Ok(Event::Apply(object("c", &sound()))),
            Ok(Event::Apply(object("a", &json!({ "s3": [1] })))),
            Err("broken"),
            Ok(Event::Apply(object("b", &sound()))),
        ];
        keep(&repositories, events).await;
        assert_eq!(names(&repositories), ["b", "c"]);
        assert!(repositories.of("orchard")[0].annotations().is_empty());
    }

    #[tokio::test]
    async fn deleted_or_no_longer_readable_repository_is_removed() {
        let repositories = Repositories::default();
        keep(&repositories, vec![Ok(Event::Apply(object("a", &sound()))), Ok(Event::Apply(object("b", &sound())))])
            .await;
        keep(&repositories, vec![Ok(Event::Apply(object("a", &json!(null))))]).await;
        assert_eq!(names(&repositories), ["b"]);
        keep(&repositories, vec![Ok(Event::Delete(object("b", &sound())))]).await;
        assert!(names(&repositories).is_empty());
        // A new list replaces the old one completely.
        keep(&repositories, vec![Ok(Event::Apply(object("a", &sound()))), Ok(Event::Init), Ok(Event::InitDone)]).await;
        assert!(names(&repositories).is_empty());
    }
}
