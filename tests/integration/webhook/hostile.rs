//! Requests which no honest client sends: each gets a clear answer quickly, and its content appears nowhere else.

use std::{
    convert::Infallible,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode},
};
use futures::stream;
use serde_json::{Value, json};
use stowaway::webhook::{router::MAX_REVIEW_BYTES, serve::Limits};

use super::{
    Webhook,
    client::{Server, request},
    creation, post,
};

const PATHS: [&str; 7] =
    ["/pods", "/pods/helper", "/pods/sidecar", "/pods/none", "/workloads", "/objects", "/annotations"];

fn pod() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": { "containers": [{ "name": "a" }] } })
}

/// Asserts that a failure is a `Status` of the API, whose message kubectl shows. Returns the message.
fn is_status(code: StatusCode, body: &[u8]) -> String {
    let status: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(
        (&status["kind"], &status["apiVersion"], &status["status"]),
        (&json!("Status"), &json!("v1"), &json!("Failure"))
    );
    assert_eq!(status["code"], code.as_u16());
    status["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn invalid_review_is_answered_with_the_reason() {
    let sound = creation(&pod());
    let changed = |change: fn(&mut Value)| {
        let mut review = sound.clone();
        change(&mut review);
        review.to_string()
    };
    let text = sound.to_string();
    let deep = format!("{{\"request\":{{\"object\":{{\"spec\":{}", "[".repeat(100_000));
    let deep_pod = text.replace(r#""name":"a""#, &format!(r#""name":"a","x":{}{}"#, "[".repeat(200), "]".repeat(200)));
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "EOF"),
        ("hello".into(), "expected value"),
        ("[]".into(), "AdmissionReview"),
        ("null".into(), "another structure"),
        ("{}".into(), "another kind or version"),
        (text[..text.len() / 2].to_owned(), "EOF"),
        (format!("{text}{text}"), "trailing characters"),
        (changed(|review| review["apiVersion"] = "admission.k8s.io/v1beta1".into()), "another kind or version"),
        (changed(|review| review["kind"] = "Pod".into()), "another kind or version"),
        (changed(|review| review["request"] = Value::Null), "no request"),
        (changed(|review| review["request"]["uid"] = "".into()), "no request"),
        (changed(|review| review["request"]["uid"] = 5.into()), "another structure"),
        (changed(|review| review["request"]["object"] = Value::Null), "no object"),
        (text.replace(r#""name":"a""#, r#""name":"a","name":"b""#), "\"name\" is there twice"),
        (text.replace(r#""operation":"CREATE""#, r#""operation":"DELETE","operation":"CREATE""#), "duplicate field"),
        (deep, "recursion limit"),
        (deep_pod, "recursion limit"),
        ("\u{feff}{}".into(), "expected value"),
    ];
    let webhook = Webhook::new();
    for path in PATHS {
        for (body, expected) in &cases {
            let (code, answer) = webhook.send(post(path, body.clone())).await;
            let message = is_status(code, &answer);
            assert_eq!(code, StatusCode::BAD_REQUEST, "{message}");
            let shown = &body[..body.floor_char_boundary(80)];
            assert!(message.contains(expected), "{shown}: {message}");
        }
    }
}

/// An object with valid outer types gets a decision. All others get an error.
async fn is_answered(webhook: &Webhook, path: &str, question: &Value) {
    let object = &question["request"]["object"];
    if object.is_object() && object.get("metadata").is_none_or(Value::is_object) {
        webhook.admit(path, question).await;
        return;
    }
    let (code, answer) = webhook.send(post(path, question.to_string())).await;
    assert!(is_status(code, &answer).contains("another structure"), "{question}");
}

#[tokio::test]
async fn objects_of_any_form_are_answered() {
    let webhook = Webhook::new();
    let values = [
        json!({}),
        json!([]),
        json!(1),
        json!("x"),
        json!({ "metadata": 1, "spec": [] }),
        json!({ "kind": "List", "items": [1] }),
    ];
    for (path, kind, group) in [
        ("/pods", "Pod", ""),
        ("/workloads", "Pod", ""),
        ("/workloads", "CronJob", "batch"),
        ("/workloads", "StatefulSet", "apps"),
        ("/objects", "Repository", "stowaway.dev"),
        ("/objects", "Backup", "stowaway.dev"),
        ("/objects", "Restore", "stowaway.dev"),
        ("/objects", "SomethingNewer", "stowaway.dev"),
        ("/annotations", "PersistentVolumeClaim", ""),
        ("/annotations", "Namespace", ""),
    ] {
        for value in &values {
            for operation in ["CREATE", "UPDATE"] {
                let mut question = super::review(operation, value, value);
                question["request"]["kind"] = json!({ "group": group, "version": "v1", "kind": kind });
                is_answered(&webhook, path, &question).await;
                if let Some(object) = question["request"]["object"].as_object_mut() {
                    object.insert("kind".into(), kind.into());
                }
                is_answered(&webhook, path, &question).await;
            }
        }
    }
    // Kinds which only a wrong webhook configuration sends.
    let mut question = creation(&pod());
    question["request"]["kind"]["kind"] = "ConfigMap".into();
    for path in ["/pods", "/objects", "/annotations"] {
        let (code, answer) = webhook.send(post(path, question.to_string())).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{}", is_status(code, &answer));
    }
}

#[tokio::test]
async fn other_paths_methods_and_media_types_are_refused() {
    let webhook = Webhook::new();
    let body = creation(&pod()).to_string();
    let (code, answer) = webhook.send(post("/pods/nothing", body.clone())).await;
    assert_eq!(code, StatusCode::NOT_FOUND, "{}", is_status(code, &answer));
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let request = Request::builder().method(method).uri("/pods").body(Body::from(body.clone())).unwrap();
        let (code, answer) = webhook.send(request).await;
        assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED, "{}", is_status(code, &answer));
    }
    for media in
        [Some("text/plain"), Some("application/json-patch+json"), Some("application/x-www-form-urlencoded"), None]
    {
        let request = Request::post("/pods");
        let request = media.into_iter().fold(request, |request, media| request.header("content-type", media));
        let (code, answer) = webhook.send(request.body(Body::from(body.clone())).unwrap()).await;
        assert_eq!(code, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{}", is_status(code, &answer));
    }
    let sound = Request::post("/pods").header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(webhook.send(sound.body(Body::from(body)).unwrap()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn reviews_as_big_as_they_can_be_are_answered_and_bigger_ones_are_not_read() {
    let webhook = Webhook::new();
    let mut big = pod();
    big["spec"]["containers"][0]["env"] = json!([{ "name": "A", "value": "x".repeat(1_500_000) }]);
    webhook.admit("/pods", &super::review("UPDATE", &big, &big)).await;
    big["metadata"]["annotations"] = json!({ "stowaway.dev/backupcommand": "dump" });
    assert!(!super::patch(&webhook.admit("/pods", &creation(&big)).await).is_empty());

    let (code, answer) = webhook.send(post("/pods", vec![b' '; MAX_REVIEW_BYTES + 1])).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(is_status(code, &answer).contains("at most"));
    // Small in transit, and many times larger in memory.
    let numbers = format!("{{\"request\":{{\"object\":[{}0]}}}}", "0,".repeat(1_000_000));
    let (code, answer) = webhook.send(post("/pods", numbers)).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(is_status(code, &answer).contains("commas"));
    // A body without a length and without an end is not read to its end.
    let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b' '; 65_536])));
    let (code, _) = webhook.send(post("/pods", Body::from_stream(endless))).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(webhook.metrics.render().unwrap().contains(r#"unanswered_total{reason="TooLarge"} 3"#));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_as_long_as_the_api_server_waits() {
    let webhook = Webhook::new();
    let cases =
        [("", 1000), ("?timeout=3s", 1000), ("?timeout=500ms", 500), ("?timeout=x", 1000), ("?a=b&timeout=100ms", 100)];
    let pending = cases.map(|(query, limit)| {
        let never = stream::pending::<Result<Bytes, Infallible>>();
        let answer = webhook.send(post(&format!("/pods{query}"), Body::from_stream(never)));
        async move { (query, limit, answer.await) }
    });
    for (query, limit, (code, answer)) in futures::future::join_all(pending).await {
        let message = is_status(code, &answer);
        assert_eq!(code, StatusCode::GATEWAY_TIMEOUT, "{message}");
        assert!(message.ends_with(&format!("within {limit} ms")), "{query}: {message}");
    }
}

#[tokio::test]
async fn many_big_bodies_at_once_do_not_take_all_memory() {
    let webhook = Arc::new(Webhook::new());
    // Each request sends as much as it may, and then nothing.
    let big = || {
        let half = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b' '; MAX_REVIEW_BYTES - 1]))]);
        Body::from_stream(futures::StreamExt::chain(half, stream::pending()))
    };
    let pending = (0..8).map(|_| webhook.send(post("/pods?timeout=200ms", big())));
    let codes: Vec<StatusCode> = futures::future::join_all(pending).await.into_iter().map(|(code, _)| code).collect();
    let busy = codes.iter().filter(|code| **code == StatusCode::SERVICE_UNAVAILABLE).count();
    assert!((4..8).contains(&busy), "{codes:?}");
    // The memory is free again, and small reviews never needed it.
    webhook.admit("/pods", &creation(&pod())).await;
    let (code, _) = webhook.send(post("/pods", vec![b' '; MAX_REVIEW_BYTES])).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn however_many_keys_there_are_few_are_looked_into() {
    let webhook = Webhook::new();
    let keys = |count: usize| -> Value {
        (0..count).map(|index| (format!("stowaway.dev/k{index}"), json!("x"))).collect::<serde_json::Map<_, _>>().into()
    };
    // Each examined key is compared with all known keys and reported. An object with more keys than the limit is not
    // examined.
    for (count, cause, warnings) in
        [(15, "NothingRequested", 15), (10_000, "NothingRequested", 16), (100_000, "TooLarge", 1)]
    {
        let mut object = pod();
        object["metadata"]["annotations"] = keys(count);
        object["metadata"]["labels"] = keys(10_000);
        let answer = webhook.admit("/pods", &creation(&object)).await;
        assert_eq!(
            (&answer["auditAnnotations"]["cause"], &answer["allowed"]),
            (&json!(cause), &json!(true)),
            "{count}"
        );
        assert_eq!(answer["warnings"].as_array().unwrap().len(), warnings, "{count}");
    }
}

#[tokio::test]
async fn however_many_keys_resemble_stowaways_few_are_reported_on_every_kind_of_object() {
    let webhook = Webhook::new();
    let named =
        |kind: &str, version: &str| json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "mill" } });
    let workload = |kind: &str| {
        let mut workload = named(kind, "apps/v1");
        workload["spec"]["template"] = json!({ "metadata": {}, "spec": { "containers": [{ "name": "a" }] } });
        workload
    };
    for prefix in ["stowawy.dev/backupcommand.k", "stowaway.dev/k"] {
        let keys: serde_json::Map<_, _> = (0..5000).map(|index| (format!("{prefix}{index}"), json!("x"))).collect();
        for (path, mut object, pointers) in [
            ("/pods", pod(), &["/metadata/annotations"][..]),
            ("/workloads", workload("Deployment"), &["/metadata/annotations"]),
            ("/workloads", workload("StatefulSet"), &["/spec/template/metadata/annotations"]),
            ("/annotations", named("PersistentVolumeClaim", "v1"), &["/metadata/annotations", "/metadata/labels"]),
            ("/annotations", named("Namespace", "v1"), &["/metadata/labels"]),
        ] {
            for pointer in pointers {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                object.pointer_mut(parent).unwrap()[name] = keys.clone().into();
            }
            let answer = webhook.admit(path, &creation(&object)).await;
            assert_eq!(answer["allowed"], true, "{answer}");
            let warnings = answer["warnings"].as_array().unwrap();
            let last = warnings.last().unwrap().as_str().unwrap();
            assert!((10..=17).contains(&warnings.len()), "{prefix} on {path}: {answer}");
            assert!(last.contains("more"), "{prefix} on {path}: {last}");
        }
    }
}

/// The log at the finest level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn secrets_of_a_pod_get_nowhere_beyond_the_patch() {
    const CANARY: &str = "canary-71c1";
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::trace!("the log works");
        runtime.block_on(async {
            let webhook = Webhook::new();
            let commands = [
                format!("dump --password={CANARY}"),
                format!("[\"{CANARY}\", 5]"),
                format!("[{CANARY}"),
                format!("\"\" {CANARY}"),
                format!("dump '{CANARY}"),
            ];
            for command in commands {
                for extra in ["", "-container", ".x y"] {
                    let mut object = pod();
                    object["metadata"]["annotations"] = json!({ "stowaway.dev/backupcommand": command, "other.example/token": CANARY });
                    if !extra.is_empty() {
                        object["metadata"]["annotations"][format!("stowaway.dev/backupcommand{extra}")] = "no such".into();
                    }
                    object["metadata"]["annotations"]["stowaway.dev/restorecommand"] = command.clone().into();
                    object["spec"]["containers"][0]["env"] = json!([{ "name": "PASSWORD", "value": CANARY }]);
                    let question = creation(&object);
                    let mut job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "mill" } });
                    job["spec"]["template"] = object;
                    for (path, question) in [("/pods", question), ("/workloads", creation(&job))] {
                        let mut answer = webhook.admit(path, &question).await;
                        answer.as_object_mut().unwrap().remove("patch");
                        assert!(!answer.to_string().contains(CANARY), "{answer}");
                    }
                }
            }
            let restore = json!({
                "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": { "name": "x" },
                "spec": { "from": { "source": "pod/a/b" }, "to": { "command": ["", CANARY, "\0", CANARY.repeat(2000)] } },
            });
            let answer = webhook.admit("/objects", &creation(&restore)).await;
            assert_eq!(answer["status"]["details"]["causes"].as_array().unwrap().len(), 3, "{answer}");
            assert!(!answer.to_string().contains(CANARY), "{answer}");
            let typed_wrong = json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": {}, "spec": CANARY });
            let answer = webhook.admit("/objects", &creation(&typed_wrong)).await;
            assert!(!answer.to_string().contains(CANARY) && answer["allowed"] == false, "{answer}");
            // A review which cannot be parsed is covered as well.
            for broken in [format!("{{\"request\": \"{CANARY}\"}}"), format!("{{\"request\": {{\"uid\": [\"{CANARY}\"]}}}}"), CANARY.to_owned()] {
                let (_, body) = webhook.send(post("/pods", broken)).await;
                assert!(!String::from_utf8_lossy(&body).contains(CANARY));
            }
            assert!(!webhook.metrics.render().unwrap().contains(CANARY));
            // TLS and HTTP are covered as well, with whole and with broken requests.
            let server = Server::start(Limits::default(), Duration::ZERO).await;
            let mut object = pod();
            object["spec"]["containers"][0]["env"] = json!([{ "name": "PASSWORD", "value": CANARY }]);
            let whole = request(&creation(&object).to_string());
            let mut client = server.connect().await;
            assert!(!client.exchange(&whole).await.unwrap().body.contains(CANARY));
            client.send(&whole[..whole.len() - 1]).await.unwrap();
            drop(client);
            let head = format!("POST /{CANARY} HTTP/1.1\r\nAuthorization: {CANARY}\r\n\r\n");
            assert!(!server.connect().await.exchange(head.as_bytes()).await.unwrap().body.contains(CANARY));
            let broken = format!("{CANARY}\r\n{CANARY}: \0\r\n\r\n");
            let answer = server.connect().await.exchange(broken.as_bytes()).await.unwrap();
            assert!(answer.status == 400 && !answer.body.contains(CANARY));
            assert!(!server.health("/metrics").await.1.contains(CANARY));
        });
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("the log works") && !log.contains(CANARY), "{log}");
}
