//! Replaces a pod by evicting it, so that its owner creates another one: checks the right to evict and the readiness of
//! other pods, and evicts.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReviewStatus,
        },
        core::v1::Pod,
        policy::v1::Eviction as EvictionRequest,
    },
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::Value;

use super::{
    call::{CallError, code, explain},
    observe,
};

/// The result of an eviction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Eviction {
    /// The pod is being deleted.
    Done,
    /// A `PodDisruptionBudget` forbids the eviction for now. Holds the API server's message.
    Blocked(String),
    /// The pod no longer exists.
    Gone,
}

/// A pod with all of its fields, including fields which `k8s-openapi` does not know yet. `None` if the pod does not
/// exist.
pub async fn raw_pod(client: &Client, namespace: &str, name: &str) -> Result<Option<Value>, CallError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    let pod = api.get_opt(name).await.map_err(CallError::at(format!("read Pod {namespace}/{name}")))?;
    Ok(pod.and_then(|pod| serde_json::to_value(pod).ok()))
}

/// Whether this process's service account may evict pods of the namespace.
pub async fn may_evict(client: &Client, namespace: &str) -> Result<bool, CallError> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some("create".to_owned()),
                resource: Some("pods".to_owned()),
                subresource: Some("eviction".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    match api.create(&PostParams::default(), &review).await {
        Ok(SelfSubjectAccessReview { status: Some(SubjectAccessReviewStatus { allowed, .. }), .. }) => Ok(allowed),
        Ok(_) => Ok(false),
        Err(error) => Err(CallError::at(format!("check the right to evict pods of {namespace}"))(error)),
    }
}

/// The number of pods of the Deployment that are Ready; 0 if the Deployment does not exist.
pub async fn ready_replicas(client: &Client, namespace: &str, name: &str) -> Result<i32, CallError> {
    let deployment: Option<Deployment> = observe::object(client, namespace, name).await?;
    Ok(deployment.and_then(|deployment| deployment.status?.ready_replicas).unwrap_or(0))
}

/// Whether all pods of an owner (by its UID) are Ready, except the pod with the UID `except`. `labels` is a selector
/// which matches all pods of the owner.
pub async fn others_are_ready(
    client: &Client,
    namespace: &str,
    labels: &str,
    (owner, except): (&str, &str),
) -> Result<bool, CallError> {
    let pods: Vec<Pod> = observe::list(client, namespace, labels).await?;
    let is_other = |pod: &&Pod| {
        let controller = observe::controller_of(pod.owner_references());
        controller.is_some_and(|controller| controller.uid == owner) && pod.metadata.uid.as_deref() != Some(except)
    };
    Ok(pods.iter().filter(is_other).all(is_ready))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    pod.metadata.deletion_timestamp.is_none() && ready.any(|condition| condition.status == "True")
}

/// Evicts the pod with this UID, if the `PodDisruptionBudget`s allow it. `client` must not retry responses with status
/// 429.
pub async fn evict(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<Eviction, CallError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // `Api::evict` of the library puts the delete options into a field which the API server does not read.
    let eviction = EvictionRequest {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteOptions::default()
        }),
    };
    let response: kube::Result<Value> =
        api.create_subresource("eviction", name, &PostParams::default(), &eviction).await;
    match response {
        Ok(_) => Ok(Eviction::Done),
        Err(error) => match code(&error) {
            Some(404 | 409) => Ok(Eviction::Gone),
            Some(429) => Ok(Eviction::Blocked(explain(&error))),
            _ => Err(CallError::at(format!("evict Pod {namespace}/{name}"))(error)),
        },
    }
}
