//! Tests that a Restore is not green if its claim does not keep what was restored.

use super::*;

fn of_uid(uid: &str, more: &serde_json::Value) -> PersistentVolumeClaim {
    let mut metadata = json!({ "name": "casks", "uid": uid });
    for (key, value) in more.as_object().unwrap() {
        metadata[key] = value.clone();
    }
    claim(&json!({ "metadata": metadata }))
}

fn in_deletion(uid: &str) -> PersistentVolumeClaim {
    of_uid(uid, &json!({ "deletionTimestamp": "2026-05-04T03:02:01Z" }))
}

#[test]
fn restore_into_a_claim_that_is_being_deleted_is_not_green() {
    for to in [json!({}), json!({ "overwrite": true })] {
        for (at_the_end, expected) in [
            (Some(of_uid("first", &json!({}))), None),
            (Some(in_deletion("first")), Some("claim casks is being deleted")),
            (Some(of_uid("second", &json!({}))), Some("claim casks was deleted and created again")),
            (None, Some("claim casks was deleted")),
        ] {
            let mut cellar = Cellar::new(&to, &json!({}));
            cellar.claim = Some(of_uid("first", &json!({})));
            cellar.started(0);
            cellar.claim = at_the_end;
            cellar.ends(&proven());
            cellar.step(60);
            let outcome = &cellar.status().outcome;
            let Some(expected) = expected else {
                assert_eq!(outcome.verdict, Some(Verdict::Succeeded), "{outcome:?}");
                continue;
            };
            assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(Verdict::Incomplete), "TargetInUse"));
            assert!(outcome.message.contains(expected) && outcome.message.contains("restore again"), "{outcome:?}");
            assert!(!condition_is_true(&cellar.status().conditions, COMPLETE));
        }
    }
}

#[test]
fn created_claim_that_was_replaced_is_not_green_and_keeps_its_mark() {
    let mark = json!({ "annotations": { "stowaway.dev/restore-unfinished": "undo" } });
    let new = json!({ "create": { "storageClassName": "oak", "accessModes": ["ReadWriteOnce"], "size": "5Gi", "volumeMode": "Filesystem" } });
    for is_replaced in [false, true] {
        let mut cellar = Cellar::new(&new, &json!({}));
        cellar.claim = None;
        let actions = cellar.step(0);
        assert!(actions.restore.create_claim.is_some() && actions.start.len() == 1, "{actions:?}");
        cellar.claim = Some(of_uid("first", &mark));
        let name = cellar.status().job.clone().unwrap();
        cellar.world.jobs = vec![job(&name, &Scene::Runs)];
        cellar.step(1);
        cellar.world.jobs.clear();
        if is_replaced {
            cellar.claim = Some(of_uid("second", &mark));
        }
        cellar.ends(&proven());
        let actions = cellar.step(60);
        assert_eq!(actions.restore.claim_is_filled, !is_replaced, "another author's claim has its own mark");
        let expected = if is_replaced { Verdict::Incomplete } else { Verdict::Succeeded };
        assert_eq!(cellar.status().outcome.verdict, Some(expected));
    }
}

#[test]
fn incomplete_restore_into_a_claim_that_is_being_deleted_states_it_and_a_failed_one_keeps_its_reason() {
    let incomplete = RunReport { verdict: Verdict::Incomplete, reason: Reason::MetadataNotKept, ..proven() };
    for (report, verdict, reason) in [
        (incomplete, Verdict::Incomplete, "TargetInUse"),
        (failure(Reason::StoreUnavailable), Verdict::Failed, "StoreUnavailable"),
    ] {
        let mut cellar = Cellar::new(&json!({}), &json!({}));
        cellar.claim = Some(of_uid("first", &json!({})));
        cellar.started(0);
        cellar.claim = Some(in_deletion("first"));
        cellar.ends(&report);
        cellar.step(60);
        let outcome = &cellar.status().outcome;
        assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(verdict), reason));
    }
}
