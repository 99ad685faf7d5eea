//! Reviews of pods, as the API server sends them.

use axum::http::StatusCode;
use serde_json::{Value, json};
use stowaway::{
    annotations::Injection,
    inject::{Effect, inject},
};

use super::{Webhook, creation, patch, post, review};
use crate::injection::golden::cases;

#[tokio::test]
async fn every_golden_pod_gets_by_http_what_inject_returns() {
    let mut count = 0;
    for case in cases() {
        let path = match case.facts.by_namespace {
            None => "/pods",
            Some(Injection::Helper) => "/pods/helper",
            Some(Injection::Sidecar) => "/pods/sidecar",
            Some(Injection::None) => "/pods/none",
        };
        count += 1;
        let webhook = Webhook::knowing(case.facts.repositories).await;
        let operation = if case.facts.on_create { "CREATE" } else { "UPDATE" };
        let answer = webhook.admit(path, &review(operation, &with_kind(&case.pod), &Value::Null)).await;
        let expected = inject(&with_kind(&case.pod), &case.facts);
        assert_eq!(patch(&answer), expected.patch, "{}", case.name);
        assert_eq!(answer["allowed"], expected.effect != Effect::Refuse, "{}", case.name);
        assert_eq!(answer["auditAnnotations"]["cause"], expected.cause.to_string(), "{}", case.name);
        assert_eq!(answer["auditAnnotations"]["effect"], format!("{:?}", expected.effect), "{}", case.name);
        assert_eq!(answer["auditAnnotations"].get("injected").is_some(), expected.effect == Effect::Inject);
        let warnings = answer["warnings"].as_array().map_or(0, Vec::len);
        assert_eq!(warnings, expected.warnings.len(), "{}", case.name);
        if expected.effect == Effect::Refuse {
            let status = &answer["status"];
            assert!(status["code"] == 422 && status["reason"] == "Invalid" || status["code"] == 403, "{status}");
            assert_eq!(status["details"]["causes"].as_array().unwrap().len(), expected.findings.len(), "{}", case.name);
            for finding in &expected.findings {
                assert!(status["message"].as_str().unwrap().contains(&finding.message), "{}", case.name);
            }
        } else {
            assert!(answer.get("status").is_none());
        }
    }
    assert!(count >= 60, "{count}");
}

/// The object of a review always has a kind and an API version.
fn with_kind(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(pod) = pod.as_object_mut() {
        pod.entry("apiVersion").or_insert_with(|| "v1".into());
        pod.entry("kind").or_insert_with(|| "Pod".into());
    }
    pod
}

fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "mill", "annotations": annotations },
        "spec": { "containers": [{ "name": "press", "image": "press:3" }] },
    })
}

#[tokio::test]
async fn a_dry_run_gets_the_same_bytes_and_counts_nowhere() {
    for annotations in [
        json!({ "stowaway.dev/backupcommand": "dump" }),
        json!({ "stowaway.dev/backupcommand": "", "stowaway.dev/unknown": "x" }),
        json!({}),
    ] {
        let webhook = Webhook::new();
        let mut question = creation(&pod(&annotations));
        question["request"]["dryRun"] = true.into();
        let dry = webhook.send(post("/pods", question.to_string())).await;
        assert!(!webhook.metrics.render().unwrap().contains("effect="));
        question["request"]["dryRun"] = false.into();
        let wet = webhook.send(post("/pods", question.to_string())).await;
        assert_eq!(dry, wet);
        assert!(webhook.metrics.render().unwrap().contains("effect="));
    }
}

#[tokio::test]
async fn only_the_making_of_a_pod_is_looked_at() {
    let webhook = Webhook::new();
    let annotated = pod(&json!({ "stowaway.dev/backupcommand": "dump" }));
    let mut other = creation(&annotated);
    other["request"]["subResource"] = "eviction".into();
    for question in [
        review("UPDATE", &annotated, &annotated),
        review("DELETE", &Value::Null, &annotated),
        review("CONNECT", &Value::Null, &Value::Null),
        other,
    ] {
        let answer = webhook.admit("/pods", &question).await;
        assert_eq!((&answer["allowed"], answer.get("patch")), (&json!(true), None), "{question}");
    }
    let answer = webhook.admit("/pods", &creation(&annotated)).await;
    assert!(!patch(&answer).is_empty());
}

#[tokio::test]
async fn warnings_are_cut_to_what_the_api_server_takes() {
    let annotations: Value = (0..40)
        .map(|index| (format!("stowaway.dev/unknown-{index}"), json!("x")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let answer = Webhook::new().admit("/pods", &creation(&pod(&annotations))).await;
    let warnings: Vec<&str> = answer["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(warnings.len() > 10 && warnings.iter().all(|warning| warning.len() <= 256));
    assert!(warnings.iter().map(|warning| warning.len()).sum::<usize>() <= 4096);
}

#[tokio::test]
async fn reserved_names_that_are_already_taken_are_forbidden() {
    let mut taken = pod(&json!({ "stowaway.dev/backupcommand": "dump" }));
    taken["spec"]["volumes"] = json!([{ "name": "stowaway-helper", "hostPath": { "path": "/" } }]);
    let answer = Webhook::new().admit("/pods", &creation(&taken)).await;
    assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(403)));
    assert_eq!(answer["status"]["reason"], "Forbidden");
}

#[tokio::test]
async fn decisions_are_counted_by_effect_and_cause() {
    let webhook = Webhook::new();
    for annotations in [json!({ "stowaway.dev/backupcommand": "dump" }), json!({ "stowaway.dev/backupcommand": "" })] {
        webhook.admit("/pods", &creation(&pod(&annotations))).await;
    }
    let (status, _) = webhook.send(post("/pods", "{")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let text = webhook.metrics.render().unwrap();
    for line in [
        r#"stowaway_webhook_decisions_total{subject="Pods",effect="Inject",cause="Injected"} 1"#,
        r#"stowaway_webhook_decisions_total{subject="Pods",effect="Refuse",cause="InvalidAnnotation"} 1"#,
        r#"stowaway_webhook_unanswered_total{reason="BadRequest"} 1"#,
        "stowaway_webhook_latency_seconds_count 3",
        "stowaway_webhook_certificate_expiry_timestamp_seconds 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(text.contains(r#"latency_seconds_bucket{le="5e-5"}"#) || text.contains(r#"le="0.00005"}"#), "{text}");
}
