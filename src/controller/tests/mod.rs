//! Tests of the controller with conflicting objects of other authors, against a fake API server.

mod api;
mod claim_mark;
mod ended;
mod scaling;
mod unfilled;
mod unstarted;

use std::sync::Arc;

use kube::Resource;
use serde_json::{Value, json};

use super::{context::Settings, *};
use crate::{
    model::{Proof, Reason, RunReport, Verdict},
    resources::names,
};
use api::Api;

const GROUP: &str = "/apis/stowaway.dev/v1alpha1/namespaces";
const JOBS: &str = "/apis/batch/v1/namespaces/orchard/jobs";
const ACCOUNTS: &str = "/api/v1/namespaces/orchard/serviceaccounts";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/orchard/rolebindings";
const IMAGE: &str = "registry.example/stowaway:7";

fn context(api: &Api) -> Arc<Context> {
    let settings = Settings { image: IMAGE.into(), instance: None, metrics_port: 0 };
    Arc::new(Context::new(api.client(), settings, Default::default()))
}

/// A cluster with the namespaces `orchard` and `meadow`.
fn cluster() -> Api {
    let api = Api::default();
    for name in ["kube-system", "orchard", "meadow"] {
        let namespace = json!({ "metadata": { "name": name, "uid": format!("uid-of-{name}") } });
        api.put(&format!("/api/v1/namespaces/{name}"), namespace);
    }
    api
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "stowaway.dev/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": "orchard", "uid": format!("uid-of-{name}"), "generation": 1 },
        "spec": spec,
    })
}

fn repository(is_ready: bool) -> Value {
    let spec = json!({ "rest": { "url": "https://cellar.example/x" }, "passwordSecretRef": { "name": "key" } });
    let mut repository = object("Repository", "cellar", &spec);
    if is_ready {
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "Completed", "message": "", "lastTransitionTime": "2026-05-04T03:02:01Z",
        });
        repository["status"] = json!({ "observedGeneration": 1, "conditions": [ready] });
    }
    repository
}

/// A Backup whose source list is fixed: the claims of these names.
fn backup(api: &Api, claims: &[&str]) {
    let mut backup = object("Backup", "evening", &json!({}));
    let source = |claim: &&str| json!({ "name": format!("pvc/{claim}"), "state": "Waiting" });
    let sources: Vec<Value> = claims.iter().map(source).collect();
    backup["status"] = json!({ "startTime": "2026-05-04T03:02:01Z", "sources": sources });
    api.put(&format!("{GROUP}/orchard/backups/evening"), backup);
    for claim in claims {
        let claim_path = format!("/api/v1/namespaces/orchard/persistentvolumeclaims/{claim}");
        let claim = json!({
            "metadata": { "name": claim, "namespace": "orchard" },
            "spec": { "accessModes": ["ReadWriteOnce"], "volumeName": "v" },
            "status": { "phase": "Bound" },
        });
        api.put(&claim_path, claim);
    }
}

fn job_name(kind: &str, name: &str, source: &str, attempt: u32) -> String {
    let owner = names::OwnerRef {
        api_version: "stowaway.dev/v1alpha1".into(),
        kind: kind.into(),
        namespace: "orchard".into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
        since: None,
    };
    names::job_name(&owner, source, attempt)
}

/// A Job which another author created with a planned name.
fn forged_job(name: &str, owner: (&str, &str), account: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name, "namespace": "orchard", "uid": "uid-of-forged",
            "labels": { "stowaway.dev/kind": owner.0.to_lowercase(), "stowaway.dev/run": owner.1 },
            "ownerReferences": [{
                "apiVersion": "stowaway.dev/v1alpha1", "kind": owner.0, "name": owner.1, "uid": format!("uid-of-{}", owner.1),
                "controller": true,
            }],
        },
        "spec": {
            "suspend": true,
            "template": { "spec": {
                "serviceAccountName": account,
                "containers": [{ "name": "runner", "image": "mallory.example/shell", "args": ["runner"] }],
            } },
        },
    })
}

async fn run<K>(
    api: &Api,
    path: &str,
    reconcile: impl AsyncFnOnce(Arc<Seen<K>>, Arc<Context>) -> Result<Action, ReconcileError>,
) -> Result<Action, ReconcileError>
where
    K: Resource<DynamicType = ()> + Clone,
{
    let stored = api.get(path).unwrap();
    let kind = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": stored["metadata"] });
    reconcile(Arc::new(serde_json::from_value(kind).unwrap()), context(api)).await
}

async fn reconcile_repository(api: &Api) -> Result<Action, ReconcileError> {
    run(api, &format!("{GROUP}/orchard/repositories/cellar"), repository::reconcile).await
}

async fn reconcile_backup(api: &Api) -> Result<Action, ReconcileError> {
    run(api, &format!("{GROUP}/orchard/backups/evening"), backup::reconcile).await
}

fn sources(api: &Api) -> Vec<Value> {
    let backup = api.get(&format!("{GROUP}/orchard/backups/evening")).unwrap();
    backup["status"]["sources"].as_array().unwrap().clone()
}

#[tokio::test]
async fn job_of_another_author_gets_no_identity_and_its_account_no_right() {
    for account in ["default", "stowaway-run-elsewhere"] {
        let api = cluster();
        api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(false));
        api.put(&format!("{ACCOUNTS}/default"), json!({ "metadata": { "name": "default", "namespace": "orchard" } }));
        let before = api.below(ACCOUNTS);
        let name = job_name("Repository", "cellar", "generation/1", 1);
        api.put(&format!("{JOBS}/{name}"), forged_job(&name, ("Repository", "cellar"), account));
        reconcile_repository(&api).await.unwrap();
        assert_eq!((api.below(BINDINGS), api.below(ACCOUNTS)), (vec![], before));
        let repository = api.get(&format!("{GROUP}/orchard/repositories/cellar")).unwrap();
        let ready = &repository["status"]["conditions"][0];
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("NameTaken")));
        assert!(ready["message"].as_str().unwrap().contains(&name), "{ready}");
        assert_eq!(api.get(&format!("{JOBS}/{name}")).unwrap()["spec"]["suspend"], json!(true));
    }
}

#[tokio::test]
async fn result_of_a_forged_job_is_not_trusted_and_other_sources_continue() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    backup(&api, &["books", "pictures"]);
    let name = job_name("Backup", "evening", "pvc/books", 1);
    let mut forged = forged_job(&name, ("Backup", "evening"), "default");
    forged["spec"]["suspend"] = json!(false);
    api.put(&format!("{JOBS}/{name}"), forged);
    let report = RunReport {
        verdict: Verdict::Succeeded,
        reason: Reason::Completed,
        proof: Proof::Sealed,
        ..RunReport::done(std::time::Duration::ZERO)
    };
    let pod = json!({
        "metadata": {
            "name": "forged", "namespace": "orchard",
            "labels": { "stowaway.dev/kind": "backup", "stowaway.dev/run": "evening" },
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": "uid-of-forged", "controller": true,
            }],
        },
        "spec": { "serviceAccountName": "default", "containers": [] },
        "status": { "containerStatuses": [{
            "name": "runner", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": { "terminated": { "exitCode": 0, "message": report.to_termination_message() } },
        }] },
    });
    api.put("/api/v1/namespaces/orchard/pods/forged", pod);
    for _ in 0..2 {
        reconcile_backup(&api).await.unwrap();
        let sources = sources(&api);
        assert_eq!((&sources[0]["reason"], &sources[0]["verdict"]), (&json!("NameTaken"), &Value::Null));
        assert_eq!(sources[1]["state"], json!("Running"), "{sources:?}");
    }
}

#[tokio::test]
async fn pod_of_another_author_reports_for_no_job() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    backup(&api, &["books"]);
    reconcile_backup(&api).await.unwrap();
    let name = job_name("Backup", "evening", "pvc/books", 1);
    let job = api.get(&format!("{JOBS}/{name}")).unwrap();
    assert_eq!(job["spec"]["suspend"], json!(false));
    let pod = json!({
        "metadata": {
            "name": "forged", "namespace": "orchard",
            "labels": { "stowaway.dev/kind": "backup", "stowaway.dev/run": "evening" },
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": true,
            }],
        },
        "spec": { "serviceAccountName": "default", "containers": [] },
        "status": { "containerStatuses": [{
            "name": "runner", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": { "terminated": { "exitCode": 0, "message": RunReport::done(std::time::Duration::ZERO).to_termination_message() } },
        }] },
    });
    api.put("/api/v1/namespaces/orchard/pods/forged", pod.clone());
    reconcile_backup(&api).await.unwrap();
    assert_eq!((&sources(&api)[0]["state"], &sources(&api)[0]["verdict"]), (&json!("Running"), &Value::Null));
    // Only Kubernetes can create a pod with the account of the run.
    let mut own = pod;
    own["spec"]["serviceAccountName"] = json!(format!("stowaway-run-{name}"));
    api.put("/api/v1/namespaces/orchard/pods/forged", own);
    reconcile_backup(&api).await.unwrap();
    assert_eq!(sources(&api)[0]["verdict"], json!("Succeeded"));
}

#[tokio::test]
async fn account_and_binding_of_another_author_are_neither_changed_nor_used() {
    let name = job_name("Backup", "evening", "pvc/books", 1);
    let account = format!("{ACCOUNTS}/stowaway-run-{name}");
    let binding = format!("{BINDINGS}/{name}");
    let subject = json!({ "kind": "ServiceAccount", "name": "default", "namespace": "orchard" });
    let forged_binding = json!({
        "metadata": { "name": name, "namespace": "orchard" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin" },
        "subjects": [subject],
    });
    let metadata = json!({ "metadata": { "name": format!("stowaway-run-{name}"), "namespace": "orchard" } });
    for (path, forged) in [(account, metadata), (binding, forged_binding)] {
        let api = cluster();
        api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
        backup(&api, &["books"]);
        api.put(&path, forged);
        let before = api.get(&path);
        reconcile_backup(&api).await.unwrap();
        assert_eq!(api.get(&path), before, "{path}");
        assert_eq!(sources(&api)[0]["reason"], json!("NameTaken"), "{path}");
        assert_eq!(api.get(&format!("{JOBS}/{name}")).unwrap()["spec"]["suspend"], json!(true));
    }
}

#[tokio::test]
async fn binding_that_is_not_the_runs_own_is_never_deleted() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    backup(&api, &["books"]);
    let name = job_name("Backup", "evening", "pvc/books", 1);
    let path = format!("{GROUP}/orchard/backups/evening");
    let mut lost = api.get(&path).unwrap();
    let running = json!({ "name": "pvc/books", "state": "Running", "attempt": 1, "jobs": ["admins"] });
    lost["status"]["sources"] = json!([running]);
    api.put(&path, lost);
    for binding in ["admins", name.as_str()] {
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin" });
        api.put(
            &format!("{BINDINGS}/{binding}"),
            json!({ "metadata": { "name": binding, "namespace": "orchard" }, "roleRef": role }),
        );
    }
    reconcile_backup(&api).await.unwrap();
    assert_eq!(sources(&api)[0]["reason"], json!("ResultLost"));
    assert_eq!(api.below(BINDINGS).len(), 2, "{:?}", api.changes());
}

/// Creates the ended pod of the Job of the Restore `undo`.
fn put_ended_pod(api: &Api, job: &str, terminated: &Value) {
    let pod = json!({
        "metadata": {
            "name": "filled", "namespace": "orchard",
            "labels": { "stowaway.dev/kind": "restore", "stowaway.dev/run": "undo" },
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": job, "controller": true,
                "uid": api.get(&format!("{JOBS}/{job}")).unwrap()["metadata"]["uid"],
            }],
        },
        "spec": { "serviceAccountName": format!("stowaway-run-{job}"), "containers": [] },
        "status": { "containerStatuses": [{
            "name": "runner", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": { "terminated": terminated },
        }] },
    });
    api.put("/api/v1/namespaces/orchard/pods/filled", pod);
}

/// The spec of the Job without the time of its creation in the task.
fn timeless_spec(job: &Value) -> Value {
    let mut spec = job["spec"].clone();
    let text = &mut spec["template"]["spec"]["containers"][0]["env"][0]["value"];
    let mut task: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert!(task.as_object_mut().unwrap().remove("notBefore").is_some());
    *text = task;
    spec
}

#[tokio::test]
async fn interrupted_start_is_finished_and_a_job_of_an_earlier_plan_is_replaced() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    backup(&api, &["books"]);
    let fresh = api.get(&format!("{GROUP}/orchard/backups/evening")).unwrap();
    reconcile_backup(&api).await.unwrap();
    let path = format!("{JOBS}/{}", job_name("Backup", "evening", "pvc/books", 1));
    let started = api.get(&path).unwrap();
    for image in [IMAGE, "registry.example/stowaway:6"] {
        // The Job was created, and neither started nor written into the status.
        let mut job = started.clone();
        job["spec"]["suspend"] = json!(true);
        job["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        api.put(&path, job);
        api.put(&format!("{GROUP}/orchard/backups/evening"), fresh.clone());
        reconcile_backup(&api).await.unwrap();
        let again = api.get(&path).unwrap();
        assert_eq!(timeless_spec(&again), timeless_spec(&started));
        let is_same = again["metadata"]["uid"] == started["metadata"]["uid"];
        assert_eq!(is_same, image == IMAGE);
        assert_eq!(sources(&api)[0]["state"], json!("Running"));
        for part in api.below(ACCOUNTS).iter().chain(&api.below(BINDINGS)) {
            // The garbage collector has deleted the objects of the deleted Job.
            assert_eq!(part["metadata"]["ownerReferences"][0]["name"], again["metadata"]["name"]);
        }
        if !is_same {
            continue;
        }
        for part in [ACCOUNTS, BINDINGS] {
            assert_eq!(api.below(part).len(), 1);
        }
        api.remove(ACCOUNTS);
        api.remove(BINDINGS);
    }
}

#[tokio::test]
async fn jobs_that_are_only_labelled_use_no_slot() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    backup(&api, &["books"]);
    for number in 0..16 {
        let labels = json!({ "stowaway.dev/kind": "backup", "stowaway.dev/repository": "cellar" });
        let metadata = json!({ "name": format!("fake-{number}"), "namespace": "meadow", "labels": labels });
        api.put(
            &format!("/apis/batch/v1/namespaces/meadow/jobs/fake-{number}"),
            json!({ "metadata": metadata, "spec": { "template": { "spec": { "containers": [] } } } }),
        );
    }
    reconcile_backup(&api).await.unwrap();
    assert_eq!(sources(&api)[0]["state"], json!("Running"));
}

#[tokio::test]
async fn object_that_cannot_be_read_stops_no_other_one_and_is_reported_itself() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    backup(&api, &["books"]);
    let mut poisoned = repository(true);
    poisoned["metadata"]["namespace"] = json!("meadow");
    poisoned["status"]["attempt"] = json!(-1);
    poisoned["spec"]["rest"]["url"] = json!("https://hunter2.example");
    api.put(&format!("{GROUP}/meadow/repositories/cellar"), poisoned);
    reconcile_backup(&api).await.unwrap();
    assert_eq!(sources(&api)[0]["state"], json!("Running"));

    let path = format!("{GROUP}/meadow/repositories/cellar");
    let action = run(&api, &path, repository::reconcile).await.unwrap();
    assert_eq!(action, Action::await_change());
    let events = api.below("/apis/events.k8s.io/v1/namespaces/meadow/events/");
    assert!(matches!(&events[..], [event] if event["reason"] == json!("Unreadable")), "{events:?}");
    assert!(!events[0].to_string().contains("hunter2"));
}

#[tokio::test]
async fn restore_is_marked_before_its_job_may_run() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    let spec = json!({ "from": { "source": "pvc/books" }, "to": { "claim": { "name": "books" } } });
    let path = format!("{GROUP}/orchard/restores/undo");
    api.put(&path, object("Restore", "undo", &spec));
    let claim = json!({ "metadata": { "name": "books", "namespace": "orchard" }, "spec": {} });
    api.put("/api/v1/namespaces/orchard/persistentvolumeclaims/books", claim);
    run(&api, &path, restore::reconcile).await.unwrap();
    assert_eq!(api.get(&path).unwrap()["metadata"]["annotations"]["stowaway.dev/carried-out"], json!("uid-of-undo"));
    let changes = api.changes();
    let at = |call: String| changes.iter().position(|change| *change == call).unwrap_or_else(|| panic!("{changes:?}"));
    let job = job_name("Restore", "undo", "pvc/books", 2);
    assert!(at(format!("PATCH {path}")) < at(format!("PATCH {JOBS}/{job}")));
}

#[tokio::test]
async fn slow_namespace_delays_no_other_one() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    backup(&api, &["books"]);
    let context = context(&api);
    let seen = |namespace: &str, kind: &str, name: &str| {
        json!({
            "apiVersion": "stowaway.dev/v1alpha1", "kind": kind,
            "metadata": { "name": name, "namespace": namespace },
        })
    };
    let mut other = repository(false);
    other["metadata"]["namespace"] = json!("meadow");
    other["metadata"]["uid"] = json!("uid-of-other");
    api.put(&format!("{GROUP}/meadow/repositories/cellar"), other);
    // A webhook of that namespace never answers.
    let come = api.hold(&format!("POST {JOBS}"));
    let slow = seen("orchard", "Backup", "evening");
    let slow = tokio::spawn(backup::reconcile(Arc::new(serde_json::from_value(slow).unwrap()), context.clone()));
    come.notified().await;
    let quick = Arc::new(serde_json::from_value(seen("meadow", "Repository", "cellar")).unwrap());
    repository::reconcile(quick, context.clone()).await.unwrap();
    assert_eq!(api.below("/apis/batch/v1/namespaces/meadow/jobs/").len(), 1);
    // The runs which it is starting count for other reconciles until it has ended.
    assert_eq!(context.being_started().len(), 1);
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    assert!(context.being_started().is_empty());
}

/// A cluster which answers every request with this status and body.
fn answering(status: u16, body: &Value) -> Client {
    let body = body.to_string();
    let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
        let answer = http::Response::builder().status(status).body(axum::body::Body::from(body.clone()));
        async move { Ok::<_, std::convert::Infallible>(answer.unwrap()) }
    });
    Client::new(service, "stowaway-system")
}

#[tokio::test]
async fn cluster_that_is_too_old_is_refused_and_an_unknown_version_is_not() {
    let version = |minor: &str| {
        json!({
            "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.7"), "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        })
    };
    let refused = refuse_outdated(&answering(200, &version("32"))).await.unwrap_err().to_string();
    assert!(refused.starts_with("the cluster runs Kubernetes v1.32.7, which Stowaway does not support"), "{refused}");
    refuse_outdated(&answering(200, &version("33"))).await.unwrap();
    let forbidden =
        json!({ "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no" });
    refuse_outdated(&answering(403, &forbidden)).await.unwrap();
}
