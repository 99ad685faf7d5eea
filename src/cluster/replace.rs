//! Replacing a pod by way of its owner: may we, can we, and the eviction itself.
//!
//! It must not know why a pod is replaced.

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

/// What became of an eviction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Eviction {
    /// The pod goes.
    Done,
    /// A `PodDisruptionBudget` forbids it for now; in the API server's words.
    Blocked(String),
    /// That pod is gone already.
    Gone,
}

/// A pod with all of its fields, also those that are younger than our types; none when there is none.
pub async fn raw_pod(client: &Client, namespace: &str, name: &str) -> Result<Option<Value>, CallError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    let pod = api.get_opt(name).await.map_err(CallError::at(format!("read Pod {namespace}/{name}")))?;
    Ok(pod.and_then(|pod| serde_json::to_value(pod).ok()))
}

/// Whether we may evict pods of this namespace.
pub async fn may_evict(client: &Client, namespace: &str) -> Result<bool, CallError> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let question = SelfSubjectAccessReview {
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
    match api.create(&PostParams::default(), &question).await {
        Ok(SelfSubjectAccessReview { status: Some(SubjectAccessReviewStatus { allowed, .. }), .. }) => Ok(allowed),
        Ok(_) => Ok(false),
        Err(error) => Err(CallError::at(format!("ask whether pods of {namespace} may be evicted"))(error)),
    }
}

/// How many pods of a Deployment are Ready; none when there is no such Deployment.
pub async fn ready_replicas(client: &Client, namespace: &str, name: &str) -> Result<i32, CallError> {
    let deployment: Option<Deployment> = observe::object(client, namespace, name).await?;
    Ok(deployment.and_then(|deployment| deployment.status?.ready_replicas).unwrap_or(0))
}

/// Whether all other pods of an owner (by its UID) are Ready. `labels` are those that its pods have in common.
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

/// Evicts this very pod, within what the `PodDisruptionBudget`s allow. `client` must not repeat what is answered by 429.
pub async fn evict(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<Eviction, CallError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // Not by the library's own function, whose field for the options is none that the API server reads.
    let eviction = EvictionRequest {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteOptions::default()
        }),
    };
    let answer: kube::Result<Value> = api.create_subresource("eviction", name, &PostParams::default(), &eviction).await;
    match answer {
        Ok(_) => Ok(Eviction::Done),
        Err(error) => match code(&error) {
            Some(404 | 409) => Ok(Eviction::Gone),
            Some(429) => Ok(Eviction::Blocked(explain(&error))),
            _ => Err(CallError::at(format!("evict Pod {namespace}/{name}"))(error)),
        },
    }
}
