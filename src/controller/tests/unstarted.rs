//! Jobs which the API server cannot create now.

use super::*;

#[tokio::test]
async fn creation_that_fails_is_in_the_sources_messages_and_in_an_event_and_is_repeated() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    backup(&api, &["books", "pictures"]);
    // As if an admission webhook did not answer in time.
    api.refuse(&format!("POST {JOBS}"), 500);
    for _ in 0..2 {
        let action = reconcile_backup(&api).await.unwrap();
        assert_ne!(action, Action::await_change());
        for source in sources(&api) {
            assert_eq!((&source["state"], &source["verdict"]), (&json!("Waiting"), &Value::Null), "{source}");
            let message = source["message"].as_str().unwrap();
            assert!(message.contains("failed to create Job") && message.contains("is repeated"), "{message}");
        }
    }
    let events = api.below("/apis/events.k8s.io/v1/namespaces/orchard/events/");
    assert!(!events.is_empty() && events.iter().all(|event| event["type"] == json!("Warning")), "{events:?}");
    api.admit(&format!("POST {JOBS}"));
    reconcile_backup(&api).await.unwrap();
    assert!(sources(&api).iter().all(|source| source["state"] == json!("Running")), "{:?}", sources(&api));
}

#[tokio::test]
async fn restore_whose_job_cannot_be_created_is_repeated_and_reported_by_an_event() {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    let spec = json!({ "from": { "source": "pvc/books" }, "to": { "claim": { "name": "books" } } });
    let path = format!("{GROUP}/orchard/restores/undo");
    api.put(&path, object("Restore", "undo", &spec));
    let claim = json!({ "metadata": { "name": "books", "namespace": "orchard" }, "spec": {} });
    api.put("/api/v1/namespaces/orchard/persistentvolumeclaims/books", claim);
    api.refuse(&format!("POST {JOBS}"), 500);
    run(&api, &path, restore::reconcile).await.unwrap_err();
    let events = api.below("/apis/events.k8s.io/v1/namespaces/orchard/events/");
    let is_warning = |event: &Value| event["type"] == json!("Warning") && event["regarding"]["name"] == json!("undo");
    assert!(events.iter().any(is_warning), "{events:?}");
    api.admit(&format!("POST {JOBS}"));
    run(&api, &path, restore::reconcile).await.unwrap();
    assert!(!api.below(JOBS).is_empty());
}
