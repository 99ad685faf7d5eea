//! Tests that mistakes in annotations are in the status and the message of a Backup, and do not change its verdict.

use super::*;
use crate::{annotations::Warning, plan::sources::PlanWarning};

fn warning(object: &str, key: &str, is_mistake: bool) -> PlanWarning {
    let message = "is not known and has no effect".to_owned();
    PlanWarning { object: object.into(), warning: Warning { key: key.into(), message, is_mistake } }
}

fn message(world: &World) -> &str {
    &condition(&world.status().conditions, COMPLETE).unwrap().message
}

fn ended_with(warnings: Vec<PlanWarning>) -> World {
    let mut world = World::new(&[MILL]);
    world.sources.warnings = warnings;
    world.step(0);
    // The annotation is corrected while the Backup runs, which covers what it found at its start.
    world.sources.warnings = vec![];
    world.step(0);
    world.end(MILL, &success());
    world.step(1);
    world
}

#[test]
fn misspelt_annotation_is_in_the_status_and_the_message_of_a_green_backup() {
    let world = ended_with(vec![
        warning("deployment well", "stowaway.dev/backup-comand", true),
        warning("pod mill-1", "stowaway.dev/backupcommand", false),
    ]);
    let status = world.status();
    assert_eq!(status.verdict, Some(Verdict::Succeeded));
    let [mistake] = &status.annotation_warnings[..] else { panic!("{status:?}") };
    assert_eq!((mistake.object.as_str(), mistake.key.as_str()), ("deployment well", "stowaway.dev/backup-comand"));
    assert_eq!(
        message(&world),
        "1 of 1 sources are green; 1 annotation or label probably has a mistake: deployment well: \
         stowaway.dev/backup-comand: is not known and has no effect"
    );
    let silent = ended_with(vec![warning("pod mill-1", "stowaway.dev/backupcommand", false)]);
    assert_eq!((silent.status().annotation_warnings.len(), message(&silent)), (0, "1 of 1 sources are green"));
}

#[test]
fn misspelt_annotation_is_named_although_nothing_was_found_to_back_up() {
    let mut world = World::new(&[]);
    world.sources.warnings = vec![warning("pod well-1", "stowawy.dev/backupcommand", true)];
    world.step(0);
    assert_eq!(world.status().verdict, Some(Verdict::Failed));
    assert_eq!(message(&world).matches("stowawy.dev/backupcommand").count(), 1, "{}", message(&world));
}

#[test]
fn number_of_named_mistakes_is_bounded_and_the_others_are_counted() {
    let many = (0..300).map(|number| warning(&format!("pod a-{number:03}\n\u{1b}[31m"), &"k".repeat(1000), true));
    let mut world = World::new(&[MILL]);
    world.sources.warnings = many.collect();
    let events = world.step(0).events;
    assert_eq!(events.iter().filter(|event| event.reason == "AnnotationWarning").count(), 33);
    let status = world.status();
    assert_eq!((status.annotation_warnings.len(), status.annotation_warnings_not_listed), (32, 268));
    assert!(serde_json::to_vec(status).unwrap().len() < 50_000);
    assert!(status.annotation_warnings.iter().all(|one| !one.object.contains(char::is_control)));
    world.sources.warnings.iter_mut().for_each(|one| one.warning.key.truncate(20));
    let world = ended_with(world.sources.warnings);
    assert!(message(&world).contains("300 annotations") && message(&world).ends_with("; and 297 more"));
}
