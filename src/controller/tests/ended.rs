//! Tests of what the controller does when a run has ended: it opens a Repository again that the run has not found, and
//! deletes a Job which delays the deletion of a claim.

use super::*;
use crate::{model::Failure, plan::CLAIM_LOOK};

const REPOSITORY: &str = "/apis/stowaway.dev/v1alpha1/namespaces/orchard/repositories/cellar";
const CLAIM: &str = "/api/v1/namespaces/orchard/persistentvolumeclaims/books";

/// Ends the run of the first attempt of `pvc/books` with this report, and with this condition of its Job.
fn end(api: &Api, report: &RunReport, condition: &str) {
    let name = job_name("Backup", "evening", "pvc/books", 1);
    let path = format!("{JOBS}/{name}");
    let mut job = api.get(&path).unwrap();
    job["status"]["conditions"] = json!([{ "type": condition, "status": "True" }]);
    let uid = job["metadata"]["uid"].clone();
    api.put(&path, job);
    let pod = json!({
        "metadata": {
            "name": "ended", "namespace": "orchard",
            "labels": { "stowaway.dev/kind": "backup", "stowaway.dev/run": "evening" },
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true,
            }],
        },
        "spec": { "serviceAccountName": format!("stowaway-run-{name}"), "containers": [] },
        "status": { "containerStatuses": [{
            "name": "runner", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": { "terminated": { "exitCode": 1, "message": report.to_termination_message() } },
        }] },
    });
    api.put("/api/v1/namespaces/orchard/pods/ended", pod);
}

#[tokio::test]
async fn repository_that_a_run_does_not_find_is_opened_again_at_once() {
    for (reason, is_opened) in
        [(Reason::RepositoryNotFound, true), (Reason::RepositoryChanged, true), (Reason::CommandNotFound, false)]
    {
        let api = cluster();
        let mut cellar = repository(true);
        let opened = json!({
            "attempt": 1, "openedAttempt": 1, "nextAttemptTime": "2126-05-04T03:02:01Z", "repositoryId": "ab".repeat(32),
        });
        cellar["status"].as_object_mut().unwrap().extend(opened.as_object().unwrap().clone());
        api.put(REPOSITORY, cellar);
        backup(&api, &["books"]);
        reconcile_backup(&api).await.unwrap();
        let failure = Failure::new(reason, "there is no repository any more");
        end(&api, &RunReport::failed(failure, Duration::ZERO), "Failed");
        reconcile_backup(&api).await.unwrap();
        let source = sources(&api).remove(0);
        assert_eq!(source["verdict"], json!("Failed"), "{source}");
        let message = source["message"].as_str().unwrap();
        assert_eq!(message.contains("stowaway.dev/accept-repository="), is_opened, "{message}");
        reconcile_repository(&api).await.unwrap();
        let job = api.get(&format!("{JOBS}/{}", job_name("Repository", "cellar", "generation/1", 2)));
        assert_eq!(job.is_some(), is_opened, "{reason}: {:?}", api.changes());
    }
}

#[tokio::test]
async fn ended_run_does_not_delay_the_deletion_of_its_claim() {
    let api = cluster();
    api.put(REPOSITORY, repository(true));
    backup(&api, &["books"]);
    reconcile_backup(&api).await.unwrap();
    let path = format!("{JOBS}/{}", job_name("Backup", "evening", "pvc/books", 1));
    end(&api, &RunReport::done(Duration::ZERO), "Complete");
    for _ in 0..3 {
        reconcile_backup(&api).await.unwrap();
        assert!(api.get(&path).is_some(), "the Job is kept for its log");
    }
    assert_eq!(reconcile_backup(&api).await.unwrap(), Action::requeue(CLAIM_LOOK));
    let mut claim = api.get(CLAIM).unwrap();
    claim["metadata"]["deletionTimestamp"] = json!("2026-05-04T03:02:01Z");
    api.put(CLAIM, claim);
    assert_eq!(reconcile_backup(&api).await.unwrap(), Action::await_change());
    assert_eq!(api.get(&path), None);
}
