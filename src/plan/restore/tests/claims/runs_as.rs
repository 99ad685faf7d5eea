//! Tests of the user which a Restore into a claim runs as.

use super::*;

#[test]
fn user_of_the_repositorys_runs_counts_where_the_restore_names_none() {
    let context = |context: serde_json::Value| serde_json::from_value(json!({ "securityContext": context })).unwrap();
    for (of_repository, of_restore, expected) in [
        (json!({ "runAsUser": 1000 }), json!({}), false),
        (json!({ "runAsNonRoot": true }), json!({}), false),
        (json!({ "runAsUser": 0 }), json!({}), true),
        (json!({ "fsGroup": 7 }), json!({}), true),
        (json!({ "runAsUser": 1000 }), json!({ "runnerPod": { "securityContext": { "runAsUser": 0 } } }), true),
        (json!({ "runAsUser": 1000 }), json!({ "runnerPod": { "nodeSelector": { "disk": "fast" } } }), false),
    ] {
        let mut cellar = Cellar::new(&json!({}), &of_restore);
        cellar.world.repositories[0].spec.runner_pod = Some(context(of_repository.clone()));
        assert_eq!(cellar.mount(0).as_root, expected, "{of_repository} {of_restore}");
    }
}
