//! Restores that name the same workload do not take each other's scale for the one before.

use super::*;
use crate::{api::Scaled, plan::actions::Around};

#[test]
fn workload_that_another_restore_holds_down_is_waited_for_and_comes_back_as_it_was_before_both() {
    let mut cellar = scaled_down(0, 0);
    cellar.held_down_by = Some("earlier");
    for second in [0, 3600] {
        let actions = cellar.look(second);
        assert!(actions.start.is_empty() && actions.around == Around::default(), "{actions:?}");
        assert!(cellar.status().conditions.iter().any(|condition| condition.message.contains("earlier")));
    }
    cellar.held_down_by = None;
    cellar.scale = Some(ObservedScale { replicas: 3, ..cellar.scale.clone().unwrap() });
    cellar.look(3601);
    assert_eq!(cellar.status().scaled.as_ref().unwrap().replicas, 3);
    // Who has it itself waits for nobody.
    cellar.held_down_by = Some("later");
    assert_eq!(cellar.look(3602).around.scale.unwrap().replicas, 0);
}

#[test]
fn workload_is_held_down_by_who_has_scaled_it_and_not_back() {
    let named = |uid: &str, workload: &str, is_back: Option<bool>| {
        let mut one = scaled_down(3, 0).world.restore;
        one.metadata.uid = Some(uid.into());
        one.metadata.name = Some(format!("of-{uid}"));
        one.spec.scale_down.as_mut().unwrap().name = workload.into();
        let scaled = is_back.map(|is_back| Scaled { uid: "u".into(), replicas: 3, since: Time(at(0)), is_back });
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
    assert_eq!(held_down_by(&own, &others), None);
    assert_eq!(held_down_by(&own, &[named("busy", "press", Some(false))]), Some("of-busy".to_owned()));
}
