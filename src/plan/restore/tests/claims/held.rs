//! Tests that a Restore does not record the replicas of a workload while another Restore has it scaled down.

use super::*;
use crate::{api::Scaled, plan::actions::RestoreActions};

#[test]
fn workload_that_another_restore_holds_down_is_waited_for_and_comes_back_as_it_was_before_both() {
    let mut cellar = scaled_down(0, 0);
    cellar.scaled_down_by = Some("earlier");
    for second in [0, 3600] {
        let actions = cellar.step(second);
        assert!(actions.start.is_empty() && actions.restore == RestoreActions::default(), "{actions:?}");
        assert!(cellar.status().conditions.iter().any(|condition| condition.message.contains("earlier")));
    }
    cellar.scaled_down_by = None;
    cellar.scale = Some(ObservedScale { replicas: 3, ..cellar.scale.clone().unwrap() });
    cellar.step(3601);
    assert_eq!(cellar.status().scaled.as_ref().unwrap().replicas, 3);
    // The Restore which has scaled it down does not wait.
    cellar.scaled_down_by = Some("later");
    assert_eq!(cellar.step(3602).restore.scale.unwrap().replicas, 0);
}

#[test]
fn workload_is_scaled_down_by_the_restore_that_has_not_scaled_it_back() {
    let named = |uid: &str, workload: &str, is_back: Option<bool>| {
        let mut one = scaled_down(3, 0).world.restore;
        one.metadata.uid = Some(uid.into());
        one.metadata.name = Some(format!("of-{uid}"));
        one.spec.scale_down.as_mut().unwrap().name = workload.into();
        let scaled = is_back.map(|is_back| Scaled {
            uid: "u".into(),
            replicas: 3,
            since: Time(at(0)),
            disturbed_time: None,
            is_back,
        });
        one.status = Some(RestoreStatus { scaled, ..RestoreStatus::default() });
        one
    };
    let own = named("own", "press", Some(false));
    let others = [
        own.clone(),
        named("new", "press", None),
        named("done", "press", Some(true)),
        named("elsewhere", "mill", Some(false)),
    ];
    assert_eq!(scaled_down_by(&own, &others), None);
    assert_eq!(scaled_down_by(&own, &[named("busy", "press", Some(false))]), Some("of-busy".to_owned()));
}

#[test]
fn replicas_come_from_what_was_written_down_and_not_from_the_status() {
    let mut cellar = scaled_down(3, 0);
    cellar.step(0);
    cellar.step(1);
    cellar.started(2);
    // A client which may write a status may have no right to scale workloads.
    cellar.world.restore.status.as_mut().unwrap().scaled.as_mut().unwrap().replicas = 1_000_000;
    cellar.ends(&proven());
    assert_eq!(cellar.step(3).restore.scale.unwrap().replicas, 3);

    // A lost status does not leave it down either.
    let mut cellar = scaled_down(3, 0);
    cellar.step(0);
    cellar.step(1);
    cellar.world.restore.status = None;
    cellar.started(2);
    cellar.ends(&proven());
    assert_eq!(cellar.step(3).restore.scale.unwrap().replicas, 3);
}

#[test]
fn status_alone_scales_no_workload() {
    let mut cellar = scaled_down(0, 0);
    let scaled =
        Scaled { uid: "uid-of-pump".into(), replicas: 7, since: Time(at(0)), disturbed_time: None, is_back: false };
    let status = RestoreStatus { scaled: Some(scaled), ..RestoreStatus::default() };
    cellar.world.restore.status = Some(status);
    cellar.world.restore.status.as_mut().unwrap().outcome.verdict = Some(Verdict::Failed);
    let actions = cellar.step(1);
    assert_eq!(actions.restore.scale, None);
}

#[test]
fn restore_beside_which_the_workload_ran_is_not_green() {
    for disturb in [|scale: &mut ObservedScale| scale.replicas = 1, |scale: &mut ObservedScale| scale.pods = 1] {
        let mut cellar = scaled_down(3, 0);
        cellar.step(0);
        cellar.step(1);
        cellar.started(2);
        let name = cellar.status().job.clone().unwrap();
        cellar.world.jobs = vec![job(&name, &Scene::Runs)];
        disturb(cellar.scale.as_mut().unwrap());
        cellar.step(3);
        *cellar.scale.as_mut().unwrap() =
            ObservedScale { uid: "uid-of-pump".into(), replicas: 0, pods: 0, deletes_claims: Some(false) };
        cellar.world.jobs.clear();
        cellar.ends(&proven());
        cellar.step(60);
        let outcome = &cellar.status().outcome;
        assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(Verdict::Incomplete), "TargetInUse"));
        assert!(outcome.message.contains("scaled up by another author"), "{}", outcome.message);
        assert_eq!(cellar.scale.as_ref().unwrap().replicas, 3);
    }
}

#[test]
fn lookup_of_a_snapshot_is_never_taken_for_the_restore_whose_status_is_lost() {
    let mut cellar = Cellar::new(&json!({ "create": {} }), &json!({}));
    let lookup = job_name(&cellar.world.restore, SOURCE, 1);
    let report = RunReport { proof: Proof::None, ..success() };
    cellar.world.jobs = vec![job(&lookup, &Scene::Ended(&report.to_termination_message()))];
    cellar.world.restore.annotations_mut().insert(crate::api::CARRIED_OUT.into(), "uid-of-undo".into());
    for second in [0, 1] {
        cellar.step(second);
    }
    assert_eq!(cellar.status().outcome.verdict, Some(Verdict::Failed));
    assert_eq!(cellar.status().outcome.reason, "ResultLost");
}

#[test]
fn restore_beside_which_another_pod_started_on_the_claim_is_not_green() {
    let with_pod = |to: &serde_json::Value, status: &serde_json::Value| {
        let mut cellar = Cellar::new(to, &json!({}));
        cellar.started(0);
        let mut pod = user("late");
        pod.pod.status = serde_json::from_value(status.clone()).unwrap();
        cellar.world.pods.push(pod);
        cellar.ends(&proven());
        cellar.step(60);
        let outcome = cellar.status().outcome.clone();
        (outcome.verdict, outcome.reason, outcome.message)
    };
    let since = |state: &str, second: i64| json!({ "name": "app", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": { state: { "startedAt": at(second), "exitCode": 0 } } });
    let alone = json!({});
    for status in [
        json!({ "phase": "Running", "containerStatuses": [since("running", 30)] }),
        json!({ "phase": "Pending", "initContainerStatuses": [since("terminated", 30)] }),
        json!({ "phase": "Succeeded", "containerStatuses": [since("terminated", 30)] }),
    ] {
        let (verdict, reason, message) = with_pod(&alone, &status);
        assert_eq!((verdict, reason.as_str()), (Some(Verdict::Incomplete), "TargetInUse"), "{status}");
        assert!(message.contains("pod late mounts claim casks") && message.contains("scaleDown"), "{message}");
    }
    let mut step = since("running", 30);
    step["name"] = json!("stowaway-restore");
    for (to, status) in [
        // It starts once the restore has ended, waits for the volume in its restore step, or has not started.
        (&alone, json!({ "phase": "Running", "containerStatuses": [since("running", 61)] })),
        (&alone, json!({ "phase": "Pending", "initContainerStatuses": [step] })),
        (&alone, json!({ "phase": "Pending" })),
        // A user who allows overwriting restores beside the running app.
        (&json!({ "overwrite": true }), json!({ "phase": "Running", "containerStatuses": [since("running", 30)] })),
    ] {
        assert_eq!(with_pod(to, &status).0, Some(Verdict::Succeeded), "{status}");
    }
}

#[test]
fn repository_that_the_pod_named_counts_after_the_pod_has_been_scaled_down() {
    let mut cellar = scaled_down(1, 1);
    let named =
        crate::plan::sources::PlannedSource { repository: Some("attic".into()), ..planned(SOURCE, Some("pump-0")) };
    cellar.world.repositories.push(repository("attic", Ok(())));
    cellar.world.repositories[0].annotations_mut().insert(crate::api::IS_DEFAULT.into(), "true".into());
    cellar.world.sources = plan_of(&[named]);
    cellar.step(0);
    cellar.step(1);
    cellar.world.sources = plan_of(&[]);
    cellar.scale.as_mut().unwrap().pods = 0;
    assert_eq!(cellar.started(2).0.repository, "attic");
}

#[test]
fn workload_that_was_replaced_after_it_was_scaled_down_is_refused() {
    let mut cellar = scaled_down(3, 3);
    cellar.step(0);
    cellar.step(1);
    cellar.scale = Some(ObservedScale { uid: "another".into(), replicas: 3, pods: 4, deletes_claims: Some(false) });
    assert_eq!(cellar.failed_for(2), "TargetInUse");
    let message = &cellar.status().outcome.message;
    assert!(message.contains("StatefulSet pump was deleted and created again"), "{message}");
    assert_eq!(cellar.scale.as_ref().unwrap().replicas, 3, "it is another author's");
}

#[test]
fn job_starts_only_when_no_pod_mounts_the_claim_that_the_workload_was_scaled_down_for() {
    for (gone, is_late) in [(false, false), (false, true), (true, false), (true, true)] {
        let scale_down = json!({ "scaleDown": { "kind": "StatefulSet", "name": "pump" } });
        let mut cellar = Cellar::new(&json!({ "overwrite": true }), &scale_down);
        cellar.scale =
            Some(ObservedScale { uid: "uid-of-pump".into(), replicas: 1, pods: 0, deletes_claims: Some(false) });
        cellar.step(0);
        cellar.step(1);
        // The pods of a workload which was deleted are still ending.
        cellar.scale = cellar.scale.take().filter(|_| !gone);
        cellar.world.pods = vec![user("pump-0")];
        cellar.world.pods[0].pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
        assert!(cellar.step(2).start.is_empty());
        let waiting = condition(&cellar.status().conditions, COMPLETE).unwrap().message.clone();
        assert!(waiting.contains("claim casks (pump-0)"), "{waiting}");
        if is_late {
            assert_eq!(cellar.failed_for(300), "TargetInUse");
            let message = &cellar.status().outcome.message;
            assert!(message.contains("pump-0") && message.contains("if node node-of-pump-0 is lost"), "{message}");
        } else {
            cellar.world.pods.clear();
            cellar.started(3);
        }
    }
}

#[test]
fn overwrite_with_scale_down_beside_a_pod_on_the_claim_is_not_green() {
    let scale_down = json!({ "scaleDown": { "kind": "StatefulSet", "name": "pump" } });
    let mut cellar = Cellar::new(&json!({ "overwrite": true }), &scale_down);
    cellar.scale = Some(ObservedScale { uid: "uid-of-pump".into(), replicas: 0, pods: 0, deletes_claims: Some(false) });
    cellar.step(0);
    cellar.started(1);
    let mut pod = user("late");
    let status = json!({ "name": "app", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": at(30) } } });
    pod.pod.status = serde_json::from_value(json!({ "phase": "Running", "containerStatuses": [status] })).unwrap();
    cellar.world.pods = vec![pod];
    cellar.ends(&proven());
    cellar.step(60);
    let outcome = &cellar.status().outcome;
    assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(Verdict::Incomplete), "TargetInUse"));
}

#[test]
fn pod_that_ended_before_the_job_began_or_does_not_mount_the_claim_disturbs_no_restore() {
    let ended = json!({ "name": "app", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
        "state": { "terminated": { "startedAt": at(-60), "finishedAt": at(-30), "exitCode": 0 } } });
    let proxy = json!({ "name": "proxy", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": at(30) } } });
    for (phase, status) in [("Succeeded", ended), ("Pending", proxy)] {
        let mut cellar = Cellar::new(&json!({}), &json!({}));
        cellar.started(0);
        let mut pod = user("beside");
        pod.pod.spec.as_mut().unwrap().containers = vec![Container { name: "proxy".into(), ..Container::default() }];
        pod.pod.status = serde_json::from_value(json!({ "phase": phase, "containerStatuses": [status] })).unwrap();
        cellar.world.pods = vec![pod];
        cellar.ends(&proven());
        cellar.step(60);
        assert_eq!(cellar.status().outcome.verdict, Some(Verdict::Succeeded), "{phase}");
    }
}

#[test]
fn stateful_set_that_deletes_its_claims_is_never_scaled_down() {
    for (replicas, pods, deletes_claims, expected) in [
        (3, 3, Some(true), Some("whenScaled is Delete")),
        // Another client scales it down at the moment.
        (0, 1, Some(true), Some("set it to Retain")),
        (3, 3, None, Some("may not list StatefulSets")),
        (3, 3, Some(false), None),
        (0, 0, Some(true), None),
        (0, 0, None, None),
    ] {
        let mut cellar = scaled_down(replicas, pods);
        cellar.scale.as_mut().unwrap().deletes_claims = deletes_claims;
        let actions = cellar.step(0);
        let outcome = &cellar.status().outcome;
        let Some(expected) = expected else {
            assert!(actions.restore.hold.is_some() && outcome.verdict.is_none(), "{outcome:?}");
            continue;
        };
        assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(Verdict::Failed), "InvalidRequest"));
        assert!(outcome.message.contains(expected) && outcome.message.contains("nothing was changed"), "{outcome:?}");
        assert!(actions.restore == RestoreActions::default() && actions.start.is_empty(), "{actions:?}");
        assert!(cellar.status().scaled.is_none());
    }
}

#[test]
fn workload_that_cannot_be_scaled_back_is_named_in_the_verdict_and_scaled_back_later() {
    let incomplete = RunReport { verdict: Verdict::Incomplete, reason: Reason::MetadataNotKept, ..proven() };
    for (report, verdict, reason) in [
        (proven(), Verdict::Incomplete, "NotScaledBack"),
        (incomplete, Verdict::Incomplete, "MetadataNotKept"),
        (failure(Reason::StoreUnavailable), Verdict::Failed, "StoreUnavailable"),
    ] {
        let mut cellar = scaled_down(3, 0);
        cellar.step(0);
        cellar.step(1);
        cellar.started(2);
        cellar.ends(&report);
        let mut first = None;
        for second in [3, 63] {
            let held = cellar.world.restore.metadata.clone();
            let mut actions = cellar.step(second);
            let mut status = cellar.status().clone();
            scaling_refused(&mut status, &mut actions, "forbidden", at(second));
            assert!(!actions.restore.release && actions.requeue_after.is_some(), "{actions:?}");
            let notes: Vec<_> = actions.events.iter().map(|event| event.note.as_str()).collect();
            assert!(!notes.iter().any(|note| note.contains("is scaled back")), "{notes:?}");
            assert_eq!(notes.len(), usize::from(second == 3), "it is reported once: {notes:?}");
            let scaled = status.scaled.as_ref().unwrap();
            assert!(!scaled.is_back, "another Restore must not record the 0 replicas");
            let outcome = &status.outcome;
            assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(verdict), reason));
            for part in [
                "StatefulSet pump could not be scaled back to 3 replicas",
                "forbidden",
                "kubectl scale statefulset/pump --replicas=3",
            ] {
                assert!(outcome.message.contains(part), "{}", outcome.message);
            }
            assert!(!condition_is_true(&status.conditions, COMPLETE));
            assert_eq!(first.get_or_insert(status.clone()), &status);
            cellar.world.restore.status = Some(status);
            cellar.world.restore.metadata = held;
            cellar.scale.as_mut().unwrap().replicas = 0;
        }
        let actions = cellar.step(123);
        assert_eq!(actions.restore.scale.unwrap().replicas, 3);
        assert!(actions.restore.release && cellar.status().scaled.as_ref().unwrap().is_back);
    }
}

#[test]
fn deleted_restore_whose_workload_cannot_be_scaled_back_stays_and_states_why() {
    let mut cellar = scaled_down(3, 0);
    cellar.step(0);
    cellar.step(1);
    cellar.world.restore.metadata.deletion_timestamp = Some(Time(at(3)));
    let mut actions = cellar.step(3);
    let mut status = cellar.status().clone();
    scaling_refused(&mut status, &mut actions, "forbidden", at(3));
    assert!(!actions.restore.release && actions.events.iter().all(|event| event.is_warning), "{actions:?}");
    assert_eq!(actions.events.len(), 1);
    assert!(!status.scaled.unwrap().is_back && status.outcome.verdict.is_none());
    assert!(status.outcome.message.contains("kubectl scale statefulset/pump"), "{}", status.outcome.message);
}
