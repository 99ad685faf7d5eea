//! Tests of the controller with a database whose claim was left unfilled by a Restore: it is not dumped, and it can be
//! restored into by its command.

use super::*;

const CLAIM: &str = "/api/v1/namespaces/orchard/persistentvolumeclaims/books";
const SOURCE: &str = "pod/press/main";

/// A namespace with a Ready pod, whose command dumps a database on the claim `books`. The claim has the mark, and is
/// opted out of the backups.
fn database() -> Api {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    let annotations = json!({ "stowaway.dev/restore-unfinished": "undo", "stowaway.dev/backup": "false" });
    let claim = json!({
        "metadata": { "name": "books", "namespace": "orchard", "annotations": annotations },
        "spec": { "accessModes": ["ReadWriteOnce"], "volumeName": "v" },
        "status": { "phase": "Bound" },
    });
    api.put(CLAIM, claim);
    let commands = json!({ "stowaway.dev/backupcommand": "dump", "stowaway.dev/restorecommand": "load" });
    let pod = json!({
        "metadata": { "name": "press", "namespace": "orchard", "annotations": commands },
        "spec": {
            "nodeName": "node-1", "containers": [{ "name": "main" }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "books" } }],
        },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    api.put("/api/v1/namespaces/orchard/pods/press", pod);
    api
}

#[tokio::test]
async fn database_on_a_claim_that_no_restore_has_filled_is_dumped_only_after_the_mark_is_removed() {
    let api = database();
    let mut evening = object("Backup", "evening", &json!({}));
    evening["status"] = json!({
        "startTime": format!("{:.0}", jiff::Timestamp::now()), "sources": [{ "name": SOURCE, "state": "Waiting" }],
    });
    api.put(&format!("{GROUP}/orchard/backups/evening"), evening);
    reconcile_backup(&api).await.unwrap();
    let job = format!("{JOBS}/{}", job_name("Backup", "evening", SOURCE, 1));
    let waiting = &sources(&api)[0];
    assert_eq!((&waiting["state"], &waiting["reason"]), (&json!("Waiting"), &json!("RestoreUnfinished")));
    let message = waiting["message"].as_str().unwrap();
    assert!(message.contains("Restore undo has created claim books, which pod press mounts"), "{message}");
    assert!(api.get(&job).is_none());
    let mut claim = api.get(CLAIM).unwrap();
    claim["metadata"]["annotations"].as_object_mut().unwrap().remove("stowaway.dev/restore-unfinished");
    api.put(CLAIM, claim);
    reconcile_backup(&api).await.unwrap();
    assert!(api.get(&job).is_some(), "{:?}", sources(&api));
}

#[tokio::test]
async fn restore_into_the_command_of_such_a_database_succeeds_and_names_how_the_mark_is_removed() {
    let api = database();
    let path = format!("{GROUP}/orchard/restores/undo");
    api.put(&path, object("Restore", "undo", &json!({ "from": { "source": SOURCE } })));
    run(&api, &path, restore::reconcile).await.unwrap();
    let name = api.get(&path).unwrap()["status"]["job"].as_str().unwrap().to_owned();
    let report = RunReport { proof: Proof::Sealed, ..RunReport::done(std::time::Duration::ZERO) };
    put_ended_pod(&api, &name, &json!({ "exitCode": 0, "message": report.to_termination_message() }));
    run(&api, &path, restore::reconcile).await.unwrap();
    let status = &api.get(&path).unwrap()["status"];
    assert_eq!(status["verdict"], json!("Succeeded"), "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("kubectl annotate persistentvolumeclaim books stowaway.dev/restore-unfinished-"),
        "{message}"
    );
    let mark = &api.get(CLAIM).unwrap()["metadata"]["annotations"]["stowaway.dev/restore-unfinished"];
    assert_eq!(mark, &json!("undo"), "only a user knows whether all of the claim is restored");
}
