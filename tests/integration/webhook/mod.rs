//! The admission webhook as the API server uses it: through the real router, and over real TLS on the loopback
//! interface.

mod client;
mod examples;
mod hostile;
mod lifecycle;
mod objects;
mod pods;
mod slow;
mod workloads;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::stream;
use http_body_util::BodyExt;
use json_patch::Patch;
use kube::{api::DynamicObject, runtime::watcher::Event};
use serde_json::{Value, json};
use stowaway::{
    api::Repository,
    webhook::{
        certificates::Certificates,
        metrics::Metrics,
        repositories::Repositories,
        router::{self, Admission},
    },
};
use tower::ServiceExt;

use crate::injection::IMAGE;

/// The router and its metrics.
struct Webhook {
    router: Router,
    metrics: Arc<Metrics>,
}

impl Webhook {
    fn new() -> Self {
        Self::over(Arc::default())
    }

    fn over(repositories: Arc<Repositories>) -> Self {
        let metrics = Arc::new(Metrics::new(Certificates::new()));
        Self { router: router::admission(Admission::new(IMAGE.to_owned(), repositories, metrics.clone())), metrics }
    }

    /// A webhook which knows these Repositories in the namespace `orchard`.
    async fn knowing(known: &[Repository]) -> Self {
        let repositories = Arc::<Repositories>::default();
        let events = known.iter().map(|repository| {
            let mut object: DynamicObject = serde_json::from_value(serde_json::to_value(repository).unwrap()).unwrap();
            object.metadata.namespace.get_or_insert_with(|| "orchard".to_owned());
            Ok::<_, String>(Event::Apply(object))
        });
        repositories.keep(stream::iter(events)).await;
        Self::over(repositories)
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        (response.status(), response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    /// Sends a review, and returns the `response` of the answer.
    async fn admit(&self, path: &str, review: &Value) -> Value {
        let (status, body) = self.send(post(path, review.to_string())).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(body.into()).unwrap()
}

/// A review in the namespace `orchard`.
fn review(operation: &str, object: &Value, old: &Value) -> Value {
    let kind = object["kind"].as_str().unwrap_or("Pod");
    let group = object["apiVersion"].as_str().and_then(|version| Some(version.split_once('/')?.0)).unwrap_or_default();
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": group, "version": "v1", "kind": kind },
            "resource": { "group": group, "version": "v1", "resource": "x" },
            "name": object["metadata"]["name"].as_str().unwrap_or_default(),
            "namespace": "orchard",
            "operation": operation,
            "userInfo": { "username": "admin", "groups": ["system:masters"] },
            "object": object,
            "oldObject": old,
            "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

fn creation(object: &Value) -> Value {
    review("CREATE", object, &Value::Null)
}

/// The patch of an answer; empty if there is none.
fn patch(answer: &Value) -> Patch {
    let Some(patch) = answer["patch"].as_str() else {
        assert!(answer.get("patchType").is_none());
        return Patch::default();
    };
    assert_eq!(answer["patchType"], "JSONPatch");
    serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap()
}

fn yaml(text: &str) -> Value {
    yaml_serde::from_str(text).unwrap()
}
