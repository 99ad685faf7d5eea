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
        *cellar.scale.as_mut().unwrap() = ObservedScale { uid: "uid-of-pump".into(), replicas: 0, pods: 0 };
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
