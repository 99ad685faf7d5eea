//! Tests of the controller with a workload which a Restore scales down, and with an API server that refuses it.

use jiff::{SignedDuration, Timestamp};

use super::*;

const RESTORE: &str = "/apis/stowaway.dev/v1alpha1/namespaces/orchard/restores/undo";
const CLAIM: &str = "/api/v1/namespaces/orchard/persistentvolumeclaims/books";
const WORKLOAD: &str = "/apis/apps/v1/namespaces/orchard/statefulsets/press";

/// A Restore into the claim of a StatefulSet with two replicas and this `whenScaled`.
fn restore_of(when_scaled: &str) -> Api {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    let spec = json!({
        "from": { "source": "pvc/books" }, "to": { "claim": { "name": "books" } },
        "scaleDown": { "kind": "StatefulSet", "name": "press" },
    });
    api.put(RESTORE, object("Restore", "undo", &spec));
    api.put(CLAIM, json!({ "metadata": { "name": "books", "namespace": "orchard" }, "spec": {} }));
    let workload = json!({
        "metadata": { "name": "press", "namespace": "orchard" },
        "spec": {
            "replicas": 2, "serviceName": "press", "selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": when_scaled },
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
        },
        "status": { "replicas": 0 },
    });
    api.put(WORKLOAD, workload);
    api
}

async fn reconcile(api: &Api) -> Result<Action, ReconcileError> {
    run(api, RESTORE, restore::reconcile).await
}

fn status(api: &Api) -> Value {
    api.get(RESTORE).unwrap()["status"].clone()
}

fn replicas(api: &Api) -> Value {
    api.get(WORKLOAD).unwrap()["spec"]["replicas"].clone()
}

/// The name of the Job, which runs while the workload is down.
async fn started() -> (Api, String) {
    let api = restore_of("Retain");
    for _ in 0..4 {
        reconcile(&api).await.unwrap();
    }
    assert_eq!(replicas(&api), json!(0));
    let name = job_name("Restore", "undo", "pvc/books", 2);
    assert_eq!(api.get(&format!("{JOBS}/{name}")).unwrap()["spec"]["suspend"], json!(false));
    (api, name)
}

/// The run has ended green so many minutes ago.
fn end(api: &Api, job: &str, minutes: i64) {
    let report = RunReport { proof: Proof::Sealed, ..RunReport::done(std::time::Duration::ZERO) };
    let end = format!("{:.0}", Timestamp::now() - SignedDuration::from_mins(minutes));
    let message = report.to_termination_message();
    put_ended_pod(api, job, &json!({ "exitCode": 0, "finishedAt": end, "message": message }));
}

#[tokio::test]
async fn stateful_set_whose_policy_deletes_claims_is_not_scaled() {
    let api = restore_of("Delete");
    for _ in 0..3 {
        reconcile(&api).await.unwrap();
    }
    let status = status(&api);
    assert_eq!((&status["verdict"], &status["reason"]), (&json!("Failed"), &json!("InvalidRequest")), "{status}");
    assert!(status["message"].as_str().unwrap().contains("whenScaled is Delete"), "{status}");
    assert!(!api.changes().iter().any(|change| change.contains("statefulsets")), "{:?}", api.changes());
    assert!(api.below(JOBS).is_empty());
}

#[tokio::test]
async fn refused_scaling_back_delays_no_verdict_and_is_tried_again() {
    for (code, minutes, has_verdict) in [(403, 0, true), (422, 0, true), (500, 0, false), (500, 6, true)] {
        let case = format!("{code} after {minutes} min");
        let (api, job) = started().await;
        end(&api, &job, minutes);
        let call = format!("PATCH {WORKLOAD}/scale");
        api.refuse(&call, code);
        for _ in 0..2 {
            assert_eq!(reconcile(&api).await.is_ok(), has_verdict, "{case}");
        }
        let held = api.get(RESTORE).unwrap()["metadata"]["finalizers"].clone();
        assert_eq!(held, json!(["stowaway.dev/scaled-workload"]), "{case}");
        let ended = status(&api);
        if has_verdict {
            assert_eq!(
                (&ended["verdict"], &ended["reason"]),
                (&json!("Incomplete"), &json!("NotScaledBack")),
                "{case}: {ended}"
            );
            let message = ended["message"].as_str().unwrap();
            assert!(message.contains("kubectl scale statefulset/press --replicas=2"), "{case}: {message}");
            assert!(api.below(BINDINGS).is_empty(), "the run's rights are revoked: {case}");
        } else {
            assert_eq!(ended["verdict"], Value::Null, "{case}");
        }
        api.admit(&call);
        for _ in 0..2 {
            reconcile(&api).await.unwrap();
        }
        assert_eq!(replicas(&api), json!(2), "{case}");
        let verdict = if has_verdict { "Incomplete" } else { "Succeeded" };
        assert_eq!(status(&api)["verdict"], json!(verdict), "{case}");
        let held = api.get(RESTORE).unwrap()["metadata"]["finalizers"].clone();
        assert!(held.as_array().is_none_or(Vec::is_empty), "{case}: {held}");
    }
}

#[tokio::test]
async fn refused_scaling_down_beside_the_job_does_not_end_the_restore() {
    let (api, job) = started().await;
    let mut workload = api.get(WORKLOAD).unwrap();
    workload["spec"]["replicas"] = json!(2);
    api.put(WORKLOAD, workload);
    api.refuse(&format!("PATCH {WORKLOAD}/scale"), 403);
    reconcile(&api).await.unwrap();
    let running = status(&api);
    assert_eq!((&running["verdict"], &running["job"]), (&Value::Null, &json!(job)), "{running}");
    assert!(!running["scaled"]["disturbedTime"].is_null(), "{running}");
    end(&api, &job, 0);
    reconcile(&api).await.unwrap();
    let ended = status(&api);
    assert_eq!((&ended["verdict"], &ended["reason"]), (&json!("Incomplete"), &json!("TargetInUse")), "{ended}");
}
