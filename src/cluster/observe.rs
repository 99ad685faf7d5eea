//! Reads objects and lists. Each call is a request to the API server, so that no decision is based on an outdated
//! cache.

use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::{
        apps::v1::ReplicaSet,
        batch::v1::Job,
        core::v1::{Event, Namespace, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};
use serde::de::DeserializeOwned;

pub use super::listing::Unreadable;
use super::{
    call::{self, CallError, code},
    listing,
};

/// The namespace whose UID is the cluster's id.
const IDENTITY_NAMESPACE: &str = "kube-system";

/// The cluster's id: the UID of the namespace `kube-system`.
pub async fn cluster_id(client: &Client) -> Result<String, CallError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = call::within(namespaces.get_metadata(IDENTITY_NAMESPACE))
        .await
        .map_err(CallError::at(format!("read namespace {IDENTITY_NAMESPACE}")))?;
    Ok(namespace.uid().unwrap_or_default())
}

/// The object of this name; `None` if it does not exist.
pub async fn object<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let found = listing::object(client, &K::url_path(&(), Some(namespace)), name).await;
    found.map_err(CallError::at(format!("read {} {namespace}/{name}", K::kind(&()))))
}

/// The namespace of this name, or an empty one if it does not exist. The function lists namespaces with a field
/// selector, so that the role needs `list` and not `get`.
pub async fn namespace(client: &Client, name: &str) -> Result<Namespace, CallError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let list = call::within(namespaces.list(&ListParams::default().fields(&format!("metadata.name={name}")))).await;
    let list = list.map_err(CallError::at(format!("read namespace {name}")))?;
    // A namespace which no longer exists has no annotations, and its objects are deleted with it.
    Ok(list.items.into_iter().next().unwrap_or_default())
}

/// All objects of a kind in a namespace which match the label selector `labels` (all objects if it is empty), except
/// those which cannot be parsed.
pub async fn list<K>(client: &Client, namespace: &str, labels: &str) -> Result<Vec<K>, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    list_all(client, namespace, labels).await.map(|(items, _)| items)
}

/// The same as [`list`], and the objects which cannot be parsed.
pub async fn list_all<K>(client: &Client, namespace: &str, labels: &str) -> Result<(Vec<K>, Vec<Unreadable>), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let path = K::url_path(&(), Some(namespace));
    let list = listing::list(client, &path, &ListParams::default().labels(labels)).await;
    list.map_err(CallError::at(format!("list {} in {namespace}", K::plural(&()))))
}

/// All matching objects of a kind in all namespaces, except those which cannot be parsed.
pub async fn list_all_namespaces<K>(client: &Client, labels: &str) -> Result<Vec<K>, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let list = listing::list(client, &K::url_path(&(), None), &ListParams::default().labels(labels)).await;
    Ok(list.map_err(CallError::at(format!("list {} in all namespaces", K::plural(&()))))?.0)
}

/// The cluster-scoped object of this name; `None` if it does not exist.
pub async fn object_of_cluster<K>(client: &Client, name: &str) -> Result<Option<K>, CallError>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + DeserializeOwned,
{
    let found = listing::object(client, &K::url_path(&(), None), name).await;
    found.map_err(CallError::at(format!("read {} {name}", K::kind(&()))))
}

/// All objects of a cluster-scoped kind, except those which cannot be parsed.
pub async fn all_of_cluster<K>(client: &Client) -> Result<Vec<K>, CallError>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + DeserializeOwned,
{
    let list = listing::list(client, &K::url_path(&(), None), &ListParams::default()).await;
    Ok(list.map_err(CallError::at(format!("list {}", K::plural(&()))))?.0)
}

/// All objects of the kind in the namespace which match the label selector. The list is empty if the cluster lacks the
/// kind.
pub async fn list_dynamic(
    client: &Client,
    kind: &ApiResource,
    namespace: &str,
    labels: &str,
) -> Result<Vec<DynamicObject>, CallError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
    Ok(listed(&api, kind, &ListParams::default().labels(labels)).await?.unwrap_or_default())
}

/// All objects of a cluster-scoped kind; `None` if the cluster lacks the kind.
pub async fn all_dynamic(client: &Client, kind: &ApiResource) -> Result<Option<Vec<DynamicObject>>, CallError> {
    listed(&Api::all_with(client.clone(), kind), kind, &ListParams::default()).await
}

/// The page size of a list which may be long. It bounds how many objects are in memory at once.
const PAGE: u32 = 25;

/// Folds all objects of the kind in the namespace with `keep`, page by page.
pub async fn fold_dynamic<T>(
    client: &Client,
    kind: &ApiResource,
    namespace: &str,
    start: T,
    keep: impl Fn(T, DynamicObject) -> T,
) -> Result<T, CallError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
    let mut parameters = ListParams::default().limit(PAGE);
    let mut so_far = start;
    loop {
        let page = api.list(&parameters).await;
        let page = page.map_err(CallError::at(format!("list {} in {namespace}", kind.plural)))?;
        so_far = page.items.into_iter().fold(so_far, &keep);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(so_far),
        }
    }
}

async fn listed(
    api: &Api<DynamicObject>,
    kind: &ApiResource,
    parameters: &ListParams,
) -> Result<Option<Vec<DynamicObject>>, CallError> {
    match call::within_longer(api.list(parameters)).await {
        Ok(list) => Ok(Some(list.items)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(CallError::at(format!("list {}", kind.plural))(error)),
    }
}

/// The pods of a namespace, each with the kind (in lower case) and the name of its workload: the Deployment instead of
/// its `ReplicaSet`, the `CronJob` instead of its Job, and the pod itself if it has no controller. `labels` is a label
/// selector as in [`list`].
pub async fn pods_with_workloads(
    client: &Client,
    namespace: &str,
    labels: &str,
) -> Result<Vec<(Pod, String, String)>, CallError> {
    Ok(pods_and_unreadable(client, namespace, labels).await?.0)
}

/// The same as [`pods_with_workloads`], and the pods which cannot be parsed.
pub async fn pods_and_unreadable(
    client: &Client,
    namespace: &str,
    labels: &str,
) -> Result<(Vec<(Pod, String, String)>, Vec<Unreadable>), CallError> {
    let (pods, unreadable): (Vec<Pod>, _) = list_all(client, namespace, labels).await?;
    let mut known = BTreeMap::new();
    let mut found = Vec::with_capacity(pods.len());
    for pod in pods {
        let Some(owner) = controller_of(pod.owner_references()) else {
            let name = pod.name_any();
            found.push((pod, "pod".to_owned(), name));
            continue;
        };
        // Only an annotated pod can request a backup, so that for a pod without annotations the owner's owner is not
        // read.
        let key = (owner.kind.clone(), owner.name.clone());
        let (kind, name) = match known.get(&key) {
            Some(workload) => workload,
            None if pod.annotations().is_empty() => &key,
            None => {
                let top = top_owner(client, namespace, owner).await?;
                known.entry(key).or_insert((top.kind, top.name))
            }
        };
        let (kind, name) = (kind.to_lowercase(), name.clone());
        found.push((pod, kind, name));
    }
    Ok((found, unreadable))
}

/// The top owner, which users know: the owner of `owner` if `owner` is of a kind which is itself created by a
/// controller, and else `owner`.
pub async fn top_owner(client: &Client, namespace: &str, owner: &OwnerReference) -> Result<OwnerReference, CallError> {
    let references = match owner.kind.as_str() {
        "ReplicaSet" => owners::<ReplicaSet>(client, namespace, &owner.name).await?,
        "Job" => owners::<Job>(client, namespace, &owner.name).await?,
        _ => Vec::new(),
    };
    Ok(controller_of(&references).unwrap_or(owner).clone())
}

async fn owners<K>(client: &Client, namespace: &str, name: &str) -> Result<Vec<OwnerReference>, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let object = call::within(api.get_metadata_opt(name)).await;
    let object = object.map_err(CallError::at(format!("read {} {namespace}/{name}", K::kind(&()))))?;
    Ok(object.map(|object| object.owner_references().to_vec()).unwrap_or_default())
}

/// The owner reference of the controller.
pub fn controller_of(references: &[OwnerReference]) -> Option<&OwnerReference> {
    references.iter().find(|reference| reference.controller == Some(true))
}

/// The Events of type `Warning` about the objects of these UIDs, as `reason: message`, the newest last.
pub async fn warning_events(client: &Client, namespace: &str, uids: &[String]) -> Result<Vec<String>, CallError> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let mut warnings = Vec::new();
    for uid in uids {
        let parameters = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
        let events = call::within_longer(api.list(&parameters)).await;
        let events = events.map_err(CallError::at(format!("list events in {namespace}")))?;
        warnings.extend(events.items);
    }
    let time = |event: &Event| {
        let newest = event.last_timestamp.as_ref().map(|time| time.0);
        newest
            .or_else(|| event.event_time.as_ref().map(|time| time.0))
            .or_else(|| event.creation_timestamp().map(|t| t.0))
    };
    warnings.sort_by_key(time);
    let text = |event: Event| format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default());
    Ok(warnings.into_iter().map(text).collect())
}
