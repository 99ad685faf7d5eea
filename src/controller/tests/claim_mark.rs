//! Tests that the mark of a claim which a Restore has filled is removed, and does not hold up the verdict for ever.

use jiff::{SignedDuration, Timestamp};

use super::*;

const RESTORE: &str = "/apis/stowaway.dev/v1alpha1/namespaces/orchard/restores/undo";
const CLAIM: &str = "/api/v1/namespaces/orchard/persistentvolumeclaims/books";

/// A Restore into a marked claim, whose run has ended with this report so many minutes ago. `paths` are the restored
/// ones, or all if there are none.
async fn ended(paths: &[&str], report: &RunReport, minutes: i64) -> Api {
    let api = cluster();
    api.put(&format!("{GROUP}/orchard/repositories/cellar"), repository(true));
    let spec = json!({ "from": { "source": "pvc/books", "paths": paths }, "to": { "claim": { "name": "books" } } });
    api.put(RESTORE, object("Restore", "undo", &spec));
    let annotations = json!({ "stowaway.dev/restore-unfinished": "undo", "note": "x" });
    let claim =
        json!({ "metadata": { "name": "books", "namespace": "orchard", "annotations": annotations }, "spec": {} });
    api.put(CLAIM, claim);
    reconcile(&api).await.unwrap();
    let name = job_name("Restore", "undo", "pvc/books", 2);
    let end = format!("{:.0}", Timestamp::now() - SignedDuration::from_mins(minutes));
    let terminated = json!({ "exitCode": 0, "finishedAt": end, "message": report.to_termination_message() });
    put_ended_pod(&api, &name, &terminated);
    api
}

async fn reconcile(api: &Api) -> Result<Action, ReconcileError> {
    run(api, RESTORE, restore::reconcile).await
}

fn green() -> RunReport {
    RunReport { proof: Proof::Sealed, ..RunReport::done(std::time::Duration::ZERO) }
}

/// Its Job fails, so that Kubernetes sets no `completionTime`.
fn incomplete() -> RunReport {
    RunReport { verdict: Verdict::Incomplete, reason: Reason::MetadataNotKept, ..green() }
}

fn verdict(api: &Api) -> Value {
    api.get(RESTORE).unwrap()["status"]["verdict"].clone()
}

fn annotations(api: &Api) -> Value {
    api.get(CLAIM).unwrap()["metadata"]["annotations"].clone()
}

#[tokio::test]
async fn mark_of_a_filled_claim_is_removed_before_the_verdict_is_stored() {
    for report in [green(), incomplete()] {
        let api = ended(&[], &report, 0).await;
        reconcile(&api).await.unwrap();
        assert_eq!(verdict(&api), json!(report.verdict.to_string()));
        assert_eq!(annotations(&api), json!({ "note": "x" }));
        let changes = api.changes();
        let at =
            |call: String| changes.iter().rposition(|change| *change == call).unwrap_or_else(|| panic!("{changes:?}"));
        assert!(at(format!("PATCH {CLAIM}")) < at(format!("PATCH {RESTORE}/status")));
    }
}

#[tokio::test]
async fn mark_that_cannot_be_removed_holds_up_the_verdict_for_5_minutes_and_is_then_named_in_it() {
    for report in [green(), incomplete()] {
        // 403 is an answer that another attempt does not change.
        for (code, minutes, has_verdict) in [(500, 0, false), (500, 4, false), (500, 6, true), (403, 0, true)] {
            let case = format!("{} {code} after {minutes} min", report.verdict);
            let api = ended(&[], &report, minutes).await;
            api.refuse(&format!("PATCH {CLAIM}"), code);
            assert_eq!(reconcile(&api).await.is_ok(), has_verdict, "{case}");
            let expected = if has_verdict { json!(report.verdict.to_string()) } else { Value::Null };
            assert_eq!(verdict(&api), expected, "{case}");
            assert_eq!(annotations(&api)["stowaway.dev/restore-unfinished"], "undo", "{case}");
            if has_verdict {
                let status = api.get(RESTORE).unwrap()["status"].clone();
                let command = "kubectl annotate persistentvolumeclaim books stowaway.dev/restore-unfinished-";
                let message = status["message"].as_str().unwrap();
                assert!(message.contains("the annotation") && message.contains(command), "{case}: {message}");
            }
        }
    }
}

#[tokio::test]
async fn restore_of_single_paths_leaves_the_mark_and_is_green() {
    let api = ended(&["ledger"], &green(), 0).await;
    reconcile(&api).await.unwrap();
    assert_eq!(
        (verdict(&api), &annotations(&api)["stowaway.dev/restore-unfinished"]),
        (json!("Succeeded"), &json!("undo"))
    );
    assert!(!api.changes().contains(&format!("PATCH {CLAIM}")), "{:?}", api.changes());
}
