//! Tests of the watchdog against a fake API server, which records its calls.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::controller::context::Settings;

const OWN: &str = "stowaway-system";
const EVICT: &str = "POST /api/v1/namespaces/orchard/pods/mill-0/eviction";

/// A fake API server.
#[derive(Default)]
struct Server {
    /// Responses to GET by path; other paths are answered with 404.
    objects: BTreeMap<String, Value>,
    /// Responses to POST by path; other requests are answered with the object which was sent.
    posted: BTreeMap<String, (u16, Value)>,
    /// All calls: method and path, and the body.
    calls: Vec<(String, Value)>,
    /// The events of watches, by path.
    watch_events: BTreeMap<String, Value>,
    /// Responses which are held back until they are notified, by path.
    gates: BTreeMap<String, Arc<Notify>>,
    /// Notified when an Event is written.
    written: Arc<Notify>,
}

type Shared = Arc<Mutex<Server>>;

impl Server {
    fn answer(&mut self, method: &Method, path: &str, sent: Value) -> (u16, Value) {
        self.calls.push((format!("{method} {path}"), sent.clone()));
        if method == Method::GET {
            let missing = (
                404,
                json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "" }),
            );
            return self.objects.get(path).map_or(missing, |object| (200, object.clone()));
        }
        if path.ends_with("/events") {
            self.written.notify_one();
        }
        self.posted.get(path).cloned().unwrap_or((201, sent))
    }

    fn sent(&self, call: &str) -> Vec<&Value> {
        self.calls.iter().filter(|(made, _)| made == call).map(|(_, sent)| sent).collect()
    }
}

fn client(server: &Shared) -> Client {
    let server = server.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            let sent = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let sent = serde_json::from_slice(&sent).unwrap_or_default();
            let path = parts.uri.path();
            let gate = locked(&server).gates.remove(path);
            if let Some(gate) = gate {
                gate.notified().await;
            }
            let mut server = locked(&server);
            if parts.uri.query().is_some_and(|query| query.contains("watch=true")) {
                return Ok(Response::new(endless_watch(server.watch_events.remove(path))));
            }
            let (status, answer) = server.answer(&parts.method, path, sent);
            let answer = Response::builder().status(status).body(Body::from(answer.to_string())).unwrap();
            Ok::<_, Infallible>(answer)
        }
    });
    Client::new(service, OWN)
}

/// The response to a watch: at most one event, and no end.
fn endless_watch(event: Option<Value>) -> Body {
    let lines = event.map(|event| Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))));
    Body::from_stream(stream::iter(lines).chain(stream::pending()))
}

fn watchdog(server: &Shared) -> Watchdog {
    let settings = Settings { image: "stowaway:test".into(), instance: None, metrics_port: 0 };
    let context = Arc::new(Context::new(client(server), settings, Default::default()));
    Watchdog::new(context, client(server), Metrics::default(), Timestamp::UNIX_EPOCH)
}

fn list(items: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "1" }, "items": items })
}

fn owner(kind: &str) -> Value {
    let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    json!([{ "apiVersion": version, "kind": kind, "name": "mill", "uid": "uid-of-mill", "controller": true }])
}

/// A pod which requests the helper and does not have it.
fn pod(name: &str, owner: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "orchard", "resourceVersion": "2", "uid": format!("uid-of-{name}"),
            "creationTimestamp": "2026-01-31T23:59:59Z",
            "labels": { "app": "mill" },
            "annotations": { "stowaway.dev/backupcommand": "dump" },
            "ownerReferences": owner,
        },
        "spec": { "containers": [{ "name": "press", "image": "press:3" }] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// A server with these pods, which all may be replaced.
fn server(pods: &[Value]) -> Shared {
    let mut server = Server::default();
    let namespace = "/api/v1/namespaces/orchard";
    for pod in pods {
        server.objects.insert(format!("{namespace}/pods/{}", pod["metadata"]["name"].as_str().unwrap()), pod.clone());
    }
    server.objects.insert(format!("{namespace}/pods"), list(pods));
    server.objects.insert(format!("{namespace}/events"), list(&[]));
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": "mill", "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "Deployment", "name": "orchard-mill", "uid": "uid-of-deployment", "controller": true },
        ] },
    });
    server.objects.insert("/apis/apps/v1/namespaces/orchard/replicasets/mill".into(), set);
    let webhook = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "stowaway-webhook" },
        "status": { "readyReplicas": 1 },
    });
    server.objects.insert(format!("/apis/apps/v1/namespaces/{OWN}/deployments/stowaway-webhook"), webhook);
    server.posted.insert("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".into(), (201, rights(true)));
    let done = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
    for pod in pods {
        let path = format!("{namespace}/pods/{}/eviction", pod["metadata"]["name"].as_str().unwrap());
        server.posted.insert(path, (201, done.clone()));
    }
    Arc::new(Mutex::new(server))
}

fn rights(allowed: bool) -> Value {
    json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {}, "status": { "allowed": allowed } })
}

async fn seen(watchdog: &mut Watchdog, pod: &Value) {
    let metadata = serde_json::from_value(pod["metadata"].clone()).unwrap();
    watchdog.pod(&metadata).await;
}

fn now() -> Timestamp {
    "2026-02-01T00:10:00Z".parse().unwrap()
}

fn locked(server: &Shared) -> std::sync::MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kind and name of the objects which Events are about, and the reasons.
fn events(server: &Shared) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let server = locked(server);
    let sent = server.sent("POST /apis/events.k8s.io/v1/namespaces/orchard/events");
    let event =
        |event: &&Value| (text(&event["regarding"]["kind"]), text(&event["regarding"]["name"]), text(&event["reason"]));
    sent.iter().map(event).collect()
}

fn reported(kind: &str, name: &str, reason: &str) -> (String, String, String) {
    (kind.to_owned(), name.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn an_uninjected_pod_gets_one_event_and_so_does_its_deployment() {
    let pods = [pod("mill-0", &owner("ReplicaSet")), pod("mill-1", &owner("ReplicaSet"))];
    let server = server(&pods);
    let mut watchdog = watchdog(&server);
    for _ in 0..3 {
        seen(&mut watchdog, &pods[0]).await;
        seen(&mut watchdog, &pods[1]).await;
    }
    let expected = [
        reported("Pod", "mill-0", "NotInjected"),
        reported("Deployment", "orchard-mill", "NotInjected"),
        reported("Pod", "mill-1", "NotInjected"),
    ];
    assert_eq!(events(&server), expected);
    let counted_up = locked(&server).calls.iter().any(|(call, _)| call.starts_with("PATCH "));
    assert!(!counted_up, "an existing Event is not repeated");
    assert_eq!(locked(&server).sent("GET /api/v1/namespaces/orchard/pods/mill-0").len(), 1, "not for every change");
}

#[tokio::test]
async fn events_written_before_a_restart_are_not_repeated() {
    let pods = [pod("mill-0", &owner("ReplicaSet"))];
    let server = server(&pods);
    let event = json!({
        "metadata": { "name": "x", "namespace": "orchard" }, "involvedObject": {}, "type": "Warning",
        "reason": "NotInjected", "message": "it runs without",
    });
    locked(&server).objects.insert("/api/v1/namespaces/orchard/events".into(), list(&[event]));
    let mut watchdog = watchdog(&server);
    seen(&mut watchdog, &pods[0]).await;
    assert_eq!(events(&server), []);
    assert_eq!(watchdog.uninjected.len(), 1, "but it is counted");
}

#[tokio::test]
async fn a_pod_that_has_ended_is_injected_or_requests_nothing_is_neither_reported_nor_counted() {
    let mut over = pod("mill-0", &owner("Job"));
    over["status"]["phase"] = "Succeeded".into();
    let mut silent = pod("mill-1", &owner("ReplicaSet"));
    silent["metadata"]["annotations"] = json!({ "app": "x" });
    let mut out = pod("mill-2", &owner("ReplicaSet"));
    out["metadata"]["annotations"]["stowaway.dev/inject"] = "none".into();
    let mut run = pod("mill-3", &owner("Job"));
    run["metadata"]["labels"]["stowaway.dev/kind"] = "Backup".into();
    let mut foreign = pod("mill-4", &owner("ReplicaSet"));
    foreign["metadata"]["namespace"] = "kube-system".into();
    let pods = [over, silent, out, run, foreign];
    let server = server(&pods);
    let mut watchdog = watchdog(&server);
    for pod in &pods {
        seen(&mut watchdog, pod).await;
        seen(&mut watchdog, pod).await;
    }
    let read: Vec<String> = locked(&server).calls.iter().map(|(call, _)| call.clone()).collect();
    let expected = ["GET /api/v1/namespaces/orchard/pods/mill-0", "GET /api/v1/namespaces/orchard/pods/mill-2"];
    assert_eq!(read, expected, "once each, and the others never");
    assert!(watchdog.uninjected.is_empty());
}

#[tokio::test]
async fn a_label_of_the_namespace_holds_for_all_its_pods() {
    let mut silent = pod("mill-0", &owner("ReplicaSet"));
    silent["metadata"]["annotations"] = json!({});
    let server = server(std::slice::from_ref(&silent));
    let mut watchdog = watchdog(&server);
    let namespace: Seen<Namespace> = serde_json::from_value(
        json!({ "metadata": { "name": "orchard", "labels": { "stowaway.dev/inject": "helper" } } }),
    )
    .unwrap();
    let mut listing = None;
    assert!(watchdog.namespace(Event::Apply(namespace.clone()), &mut listing));
    assert!(!watchdog.namespace(Event::Apply(namespace.clone()), &mut listing), "nothing changed");
    seen(&mut watchdog, &silent).await;
    assert_eq!(watchdog.uninjected.len(), 1);
    assert!(watchdog.namespace(Event::Delete(namespace), &mut listing));
    seen(&mut watchdog, &silent).await;
    assert!(watchdog.uninjected.is_empty());
}

#[tokio::test]
async fn a_pod_that_is_created_during_the_watch_is_checked_with_its_namespaces_label() {
    let mut made = pod("mill-0", &owner("ReplicaSet"));
    made["metadata"]["annotations"] = json!({});
    let server = server(std::slice::from_ref(&made));
    let labelled = json!({ "metadata": { "name": "orchard", "labels": { "stowaway.dev/inject": "helper" } } });
    let written = {
        let mut server = locked(&server);
        server.objects.insert("/api/v1/namespaces".into(), list(&[labelled]));
        server.objects.insert("/api/v1/pods".into(), list(&[]));
        server.watch_events.insert("/api/v1/pods".into(), json!({ "type": "ADDED", "object": made }));
        server.written.clone()
    };
    let gate = Arc::new(Notify::new());
    locked(&server).gates.insert("/api/v1/namespaces".into(), gate.clone());
    let token = CancellationToken::new();
    let running = tokio::spawn(watchdog(&server).run(token.clone()));
    // No pod is read before the namespaces are listed, even if all other tasks had many chances to run.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(locked(&server).gates.is_empty(), "the namespaces were requested");
    assert_eq!(locked(&server).calls, []);
    gate.notify_one();
    let outcome = tokio::time::timeout(Duration::from_secs(15), written.notified()).await;
    assert!(outcome.is_ok(), "{:?}", locked(&server).calls);
    token.cancel();
    running.await.unwrap();
    assert_eq!(events(&server).first(), Some(&reported("Pod", "mill-0", "NotInjected")));
}

#[tokio::test]
async fn pods_that_were_deleted_while_the_watch_was_broken_are_forgotten() {
    let pods = [pod("mill-0", &owner("ReplicaSet")), pod("mill-1", &owner("ReplicaSet"))];
    let server = server(&pods);
    let mut watchdog = watchdog(&server);
    for pod in &pods {
        seen(&mut watchdog, pod).await;
    }
    let mut listed = Listed::default();
    let there: Seen<Pod> = serde_json::from_value(json!({ "metadata": pods[1]["metadata"] })).unwrap();
    for event in [Event::Init, Event::InitApply(there), Event::InitDone] {
        watchdog.event(event, &mut listed).await;
    }
    assert_eq!(watchdog.uninjected.keys().collect::<Vec<_>>(), ["uid-of-mill-1"]);
}

#[tokio::test]
async fn repositories_are_listed_only_if_one_is_needed() {
    let mut sidecar = pod("mill-0", &owner("ReplicaSet"));
    sidecar["metadata"]["annotations"]["stowaway.dev/inject"] = "sidecar".into();
    let pods = [sidecar, pod("mill-1", &owner("ReplicaSet"))];
    let server = server(&pods);
    let path = "/apis/stowaway.dev/v1alpha1/namespaces/orchard/repositories";
    locked(&server).objects.insert(path.into(), list(&[]));
    let mut watchdog = watchdog(&server);
    seen(&mut watchdog, &pods[1]).await;
    assert_eq!(locked(&server).sent(&format!("GET {path}")).len(), 0);
    seen(&mut watchdog, &pods[0]).await;
    assert_eq!(locked(&server).sent(&format!("GET {path}")).len(), 1);
    assert!(events(&server).contains(&reported("Pod", "mill-0", "RepositoryNotFound")));
    // A new pod would not fix the cause.
    assert!(watchdog.uninjected.values().all(|pod| pod.candidate.is_none() || pod.name == "mill-1"));
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_checked_again() {
    let pods = [pod("mill-0", &owner("ReplicaSet"))];
    let server = server(&pods);
    let path = "/api/v1/namespaces/orchard/pods/mill-0";
    let broken = locked(&server).objects.insert(path.into(), json!(7)).unwrap();
    let mut watchdog = watchdog(&server);
    seen(&mut watchdog, &pods[0]).await;
    assert_eq!(events(&server), []);
    locked(&server).objects.insert(path.into(), broken);
    let Some(long_ago) = Instant::now().checked_sub(RECHECK_INTERVAL) else { return };
    watchdog.uninjected.values_mut().for_each(|pod| pod.checked = long_ago);
    watchdog.tick(now()).await;
    assert_eq!(events(&server).first(), Some(&reported("Pod", "mill-0", "NotInjected")));
}

#[tokio::test]
async fn one_pod_is_replaced_by_its_uid_and_its_deployment_gets_an_event() {
    let pods = [pod("mill-0", &owner("ReplicaSet")), pod("mill-1", &owner("ReplicaSet"))];
    let server = server(&pods);
    let mut watchdog = watchdog(&server);
    for pod in &pods {
        seen(&mut watchdog, pod).await;
    }
    watchdog.tick(now()).await;
    watchdog.repair = repair::Memory::default();
    watchdog.tick(now()).await;
    {
        let server = locked(&server);
        let sent = server.sent(EVICT);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0]["deleteOptions"]["preconditions"]["uid"], "uid-of-mill-0");
        assert_eq!(server.calls.iter().filter(|(call, _)| call.ends_with("/eviction")).count(), 1, "one at a time");
    }
    assert!(events(&server).contains(&reported("Deployment", "orchard-mill", "PodReplaced")));
}

#[tokio::test]
async fn nothing_is_replaced_that_must_not_be() {
    let good = || vec![pod("mill-0", &owner("ReplicaSet"))];
    let is_evicted = async |pods: Vec<Value>, change: &dyn Fn(&mut Server)| {
        let server = server(&pods);
        change(&mut locked(&server));
        let mut watchdog = watchdog(&server);
        seen(&mut watchdog, &pods[0]).await;
        assert_eq!(watchdog.uninjected.len(), 1);
        watchdog.tick(now()).await;
        locked(&server).sent(EVICT).len() == 1
    };
    assert!(is_evicted(good(), &|_| ()).await, "all is well");
    let without_right = |server: &mut Server| {
        server.posted.values_mut().for_each(|(_, answer)| {
            if answer["kind"] == "SelfSubjectAccessReview" {
                *answer = rights(false);
            }
        });
    };
    assert!(!is_evicted(good(), &without_right).await, "the controller has no right to evict");
    let webhook = format!("/apis/apps/v1/namespaces/{OWN}/deployments/stowaway-webhook");
    let not_ready = |server: &mut Server| {
        server.objects.get_mut(&webhook).unwrap()["status"]["readyReplicas"] = 0.into();
    };
    assert!(!is_evicted(good(), &not_ready).await, "the webhook is not Ready");
    let gone = |server: &mut Server| {
        server.objects.remove(&webhook);
    };
    assert!(!is_evicted(good(), &gone).await, "there is no webhook");
    let mut sibling = pod("mill-1", &owner("ReplicaSet"));
    sibling["status"]["conditions"][0]["status"] = "False".into();
    assert!(!is_evicted(vec![good().remove(0), sibling.clone()], &|_| ()).await, "another one is not Ready");
    sibling["metadata"]["ownerReferences"][0]["uid"] = "other".into();
    assert!(is_evicted(vec![good().remove(0), sibling], &|_| ()).await, "the other pod has another owner");
    assert!(!is_evicted(vec![pod("mill-0", &json!([]))], &|_| ()).await, "no owner would create it again");
    assert!(!is_evicted(vec![pod("mill-0", &owner("Job"))], &|_| ()).await, "its work would be lost");
}

#[tokio::test]
async fn a_disruption_budget_lets_the_next_pod_be_replaced() {
    let mut next = pod("well-0", &owner("StatefulSet"));
    next["metadata"]["ownerReferences"][0]["uid"] = "uid-of-well".into();
    let pods = [pod("mill-0", &owner("ReplicaSet")), next];
    let server = server(&pods);
    let refused =
        json!({ "kind": "Status", "status": "Failure", "code": 429, "reason": "TooManyRequests", "message": "budget" });
    locked(&server).posted.insert("/api/v1/namespaces/orchard/pods/mill-0/eviction".into(), (429, refused));
    let mut watchdog = watchdog(&server);
    for pod in &pods {
        seen(&mut watchdog, pod).await;
    }
    watchdog.tick(now()).await;
    let made: Vec<String> = locked(&server).calls.iter().map(|(call, _)| call.clone()).collect();
    assert!(made.contains(&EVICT.to_owned()));
    assert!(made.contains(&"POST /api/v1/namespaces/orchard/pods/well-0/eviction".to_owned()), "{made:?}");
}

#[tokio::test]
async fn metrics_exist_from_the_start_and_fall_again() {
    let mut registry = prometheus_client::registry::Registry::default();
    let mut metrics = Metrics::register(&mut registry);
    let mut shown = |reasons: &[&str]| {
        metrics.set_uninjected(reasons.iter().map(|reason| (*reason).to_owned()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    assert!(shown(&[]).contains("stowaway_uninjected_pods{reason=\"NotInjected\"} 0\n"));
    let text = shown(&["NotInjected", "NotInjected", "NameTaken"]);
    for line in ["{reason=\"NotInjected\"} 2\n", "{reason=\"NameTaken\"} 1\n"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(shown(&[]).contains("{reason=\"NameTaken\"} 0\n"));
    assert!(shown(&[]).contains("stowaway_pod_repairs_total{outcome=\"GivenUp\"} 0\n"));
}

#[tokio::test]
async fn pods_are_counted_by_the_version_of_what_they_have() {
    let mut registry = prometheus_client::registry::Registry::default();
    let with_helper = |name: &str, image: &str| {
        let mut pod = pod(name, &owner("ReplicaSet"));
        pod["spec"]["initContainers"] = json!([{ "name": "stowaway-helper", "image": image }]);
        pod
    };
    let pods = [
        with_helper("mill-0", "stowaway:test"),
        with_helper("mill-1", "stowaway:older"),
        with_helper("mill-2", "stowaway:older"),
        pod("mill-3", &owner("ReplicaSet")),
    ];
    let server = server(&pods);
    let mut watchdog = watchdog(&server);
    watchdog.metrics = Metrics::register(&mut registry);
    for pod in &pods {
        seen(&mut watchdog, pod).await;
    }
    watchdog.tick(now()).await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in ["stowaway_injected_pods{version=\"current\"} 1\n", "stowaway_injected_pods{version=\"other\"} 2\n"] {
        assert!(text.contains(line), "{text}");
    }
}
