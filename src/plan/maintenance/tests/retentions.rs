//! Tests that no prune forgets a snapshot which another Repository object of the same repository keeps.

use super::*;
use crate::api::RETENTION_DIFFERS;

#[test]
fn prune_forgets_nothing_while_another_object_of_the_repository_has_another_retention() {
    let mut cellar = pruned();
    mark(&mut cellar, DUE);
    let differing = || Seen { differing_retentions: vec!["slow".into()], ..Seen::default() };
    let started = step(&mut cellar, &differing(), DUE);
    let TaskKind::Repack { retention, .. } = &started.start[0].task else { panic!("{started:?}") };
    assert!(retention.is_empty(), "{retention:?}");
    let warned: Vec<_> = started.events.iter().filter(|event| event.is_warning).collect();
    assert!(warned.len() == 1 && warned[0].reason == RETENTION_DIFFERS, "{warned:?}");
    for text in ["cellar", "slow", "forgets no snapshot", "set the same retention"] {
        assert!(warned[0].note.contains(text), "{text}: {warned:?}");
    }
    let repacked = ended_with(&cellar, &green(MaintenanceReport::Repack { bytes: 70 }));
    step(&mut cellar, &repacked, DUE);
    let started = step(&mut cellar, &differing(), DUE);
    let TaskKind::Prune { retention, .. } = &started.start[0].task else { panic!("{started:?}") };
    assert!(retention.is_empty() && started.events.is_empty(), "reported once: {started:?}");
    let seen = ended_with(&cellar, &prune_of(&[]));
    step(&mut cellar, &seen, 200);
    assert_eq!(state_of(&cellar, RETENTION_DIFFERS), Some(("True".into(), "NothingForgotten".into())));
    // The retentions are equal at the next slot.
    step(&mut cellar, &seen, 120 + 3600);
    let started = step(&mut cellar, &seen, 120 + 3600);
    let TaskKind::Repack { retention, .. } = &started.start[0].task else { panic!("{started:?}") };
    assert_eq!((retention.keep_last, state_of(&cellar, RETENTION_DIFFERS)), (Some(3), None));
}

#[test]
fn only_objects_of_one_namespace_and_repository_whose_retention_differs_are_found() {
    let object = |name: &str, spec: &serde_json::Value| {
        let mut object = cellar(spec);
        object.metadata.name = Some(name.to_owned());
        object.metadata.uid = Some(format!("uid-of-{name}"));
        object.status.as_mut().unwrap().repository_id = Some("a".into());
        object
    };
    let keep_last = |count: u32| json!({ "retention": { "keepLast": count } });
    let own = object("own", &keep_last(3));
    let differs = |other: &Repository| {
        let all = [own.clone(), other.clone()];
        let found = differing_retentions(&all, &own);
        assert!(found.is_empty() || found == [other.name_any()], "{found:?}");
        !found.is_empty()
    };
    assert!(differs(&object("stricter", &keep_last(1))) && differs(&object("more", &keep_last(5))));
    assert!(!differs(&object("equal", &keep_last(3))));
    assert!(differs(&object("all", &json!({}))), "without a retention all snapshots are kept");
    assert!(differs(&object("days", &json!({ "retention": { "keepLast": 3 }, "timeZone": "Asia/Tokyo" }))));
    assert!(!differs(&object("utc", &json!({ "retention": { "keepLast": 3 }, "timeZone": "UTC" }))));
    let mut elsewhere = object("elsewhere", &keep_last(1));
    elsewhere.metadata.namespace = Some("mill".into());
    assert!(!differs(&elsewhere), "its snapshots have another host");
    let mut another = object("another", &keep_last(1));
    another.status.as_mut().unwrap().repository_id = Some("b".into());
    assert!(!differs(&another), "the store had another repository then");
    another.status.as_mut().unwrap().repository_id = None;
    assert!(differs(&another), "it was never opened");
    let claim = json!({ "persistentVolumeClaim": { "claimName": "barn" } });
    assert!(!differs(&object("barn", &json!({ "retention": { "keepLast": 1 }, "volume": claim }))));
    // A Repository that keeps all snapshots has nothing to report.
    let all = object("all", &json!({}));
    assert!(differing_retentions(&[own, all.clone()], &all).is_empty());
}
