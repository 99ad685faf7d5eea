//! Tests that a Repository becomes ready, or reports why not, and recovers.

use serde_json::json;

use super::*;
use crate::{
    api::{MaintenanceStatus, SourceState, condition},
    model::TaskKind,
    plan::fixtures::{Scene, at, failure, job, job_name, new_repository, refused, success},
};

/// Plans, and puts the new status into the object.
fn step(repository: &mut Repository, jobs: &[ObservedJob], seconds: i64) -> Actions {
    let (status, actions) = plan_repository(repository, jobs, "c-1", at(seconds));
    repository.status = Some(status);
    actions
}

fn current(repository: &Repository, scene: &Scene<'_>) -> ObservedJob {
    let status = repository.status.as_ref().unwrap();
    let spec = format!("generation/{}", status.observed_generation.unwrap());
    job(&job_name(repository, &spec, status.attempt), scene)
}

fn ready(repository: &Repository) -> (String, String) {
    let status = repository.status.as_ref().unwrap();
    let condition = &status.conditions[0];
    assert_eq!(condition.observed_generation, Some(repository.metadata.generation.unwrap()));
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn late_secret_makes_a_repository_ready() {
    let mut repository = new_repository("cellar");
    assert_eq!(step(&mut repository, &[], 0).start.len(), 1);
    let failed = current(&repository, &Scene::Ended(&failure(Reason::SecretMissing).to_termination_message()));
    let actions = step(&mut repository, std::slice::from_ref(&failed), 5);
    assert_eq!(ready(&repository), ("False".into(), "SecretMissing".into()));
    assert!(actions.events[0].is_warning && actions.start.is_empty());
    assert!(step(&mut repository, std::slice::from_ref(&failed), 14).start.is_empty(), "before the pause is over");
    assert_eq!(step(&mut repository, std::slice::from_ref(&failed), 15).start[0].attempt, 2);
    let opened = current(&repository, &Scene::Ended(&success().to_termination_message()));
    let actions = step(&mut repository, &[failed.clone(), opened], 20);
    assert_eq!(ready(&repository), ("True".into(), "Completed".into()));
    assert_eq!(repository.status.as_ref().unwrap().repository_id.as_deref(), Some("cd".repeat(32).as_str()));
    assert_eq!(actions.delete, [failed.job.name_any()], "the failed Job is not kept for ever");
    assert!(actions.requeue_after.is_some_and(|pause| pause > Duration::from_mins(50)), "it is opened again later");
}

#[test]
fn changed_spec_is_opened_again_and_old_results_do_not_count() {
    let mut repository = new_repository("cellar");
    step(&mut repository, &[], 0);
    let old = current(&repository, &Scene::Ended(&success().to_termination_message()));
    step(&mut repository, std::slice::from_ref(&old), 1);
    repository.metadata.generation = Some(2);
    let actions = step(&mut repository, std::slice::from_ref(&old), 2);
    assert_eq!(ready(&repository), ("False".into(), OPENING.into()));
    assert_eq!((actions.start.len(), actions.delete.len()), (1, 1));
    assert_ne!(job_name(&repository, &actions.start[0].source, 1), old.job.name_any());
}

#[test]
fn repository_that_is_pruned_stays_ready_and_is_opened_again_afterwards() {
    let mut repository = new_repository("cellar");
    step(&mut repository, &[], 0);
    let opened = current(&repository, &Scene::Ended(&success().to_termination_message()));
    step(&mut repository, &[opened], 1);
    let prune = MaintenanceStatus {
        state: Some(SourceState::Running),
        repacked_bytes: Some(0),
        ..MaintenanceStatus::default()
    };
    repository.status.as_mut().unwrap().prune = Some(prune);
    repository.metadata.generation = Some(2);
    assert_eq!(step(&mut repository, &[], 2).start, []);
    let status = repository.status.as_mut().unwrap();
    assert!(condition_is_true(&status.conditions, READY) && status.observed_generation == Some(1));
    status.prune.as_mut().unwrap().state = Some(SourceState::Done);
    assert_eq!(step(&mut repository, &[], 3).start.len(), 1);
    assert_eq!(ready(&repository), ("False".into(), OPENING.into()));
}

#[test]
fn password_is_created_only_if_requested_and_never_for_a_repository_that_was_open() {
    let mut repository = new_repository("cellar");
    assert!(!step(&mut repository.clone(), &[], 0).create_password);
    repository.spec.password_secret_ref.create_if_not_exists = true;
    assert!(step(&mut repository, &[], 0).create_password);
    let opened = current(&repository, &Scene::Ended(&success().to_termination_message()));
    step(&mut repository, &[opened], 1);
    repository.metadata.generation = Some(2);
    assert!(!step(&mut repository, &[], 2).create_password);
}

#[test]
fn interrupted_start_is_finished_and_a_deleted_job_is_replaced() {
    let mut repository = new_repository("cellar");
    step(&mut repository, &[], 0);
    let suspended = current(&repository, &Scene::Suspended);
    let again = step(&mut repository, std::slice::from_ref(&suspended), 1).start;
    assert_eq!(job_name(&repository, &again[0].source, again[0].attempt), suspended.job.name_any());
    step(&mut repository, &[], 2);
    assert_eq!(ready(&repository), ("False".into(), "ResultLost".into()));
    assert_eq!(step(&mut repository, &[], 12).start[0].attempt, 2);
}

#[test]
fn stuck_job_is_cut_short() {
    let mut repository = new_repository("cellar");
    step(&mut repository, &[], 0);
    let stuck = current(&repository, &Scene::Waits("ErrImagePull"));
    let actions = step(&mut repository, std::slice::from_ref(&stuck), 300);
    assert_eq!(actions.end, [stuck.job.name_any()]);
    assert_eq!(ready(&repository), ("False".into(), "PodNotStarted".into()));
}

#[test]
fn single_key_is_reported_until_there_is_another() {
    let mut repository = new_repository("cellar");
    let is_reported =
        |repository: &Repository| condition_is_true(&repository.status.as_ref().unwrap().conditions, KEY_NOT_ESCROWED);
    // A run of another version does not count keys.
    for (generation, keys, expected) in [(1, Some(1), true), (2, None, true), (3, Some(2), false), (4, None, false)] {
        repository.metadata.generation = Some(generation);
        step(&mut repository, &[], generation * 10);
        let report = RunReport { keys, ..success() };
        let opened = current(&repository, &Scene::Ended(&report.to_termination_message()));
        step(&mut repository, &[opened], generation * 10 + 1);
        assert_eq!(ready(&repository).0, "True");
        assert_eq!(is_reported(&repository), expected, "{keys:?}");
    }
}

#[test]
fn insecure_transport_is_reported_as_long_as_it_is_used() {
    let reason = |spec: serde_json::Value| {
        let mut repository = new_repository("cellar");
        repository.spec = serde_json::from_value(spec).unwrap();
        step(&mut repository, &[], 0);
        let status = repository.status.as_ref().unwrap();
        let condition = condition(&status.conditions, INSECURE_TRANSPORT)?;
        assert_eq!(
            (condition.status.as_str(), condition.observed_generation),
            ("True", repository.metadata.generation)
        );
        Some(condition.reason.clone())
    };
    let rest = |url: &str, tls: serde_json::Value| json!({ "rest": { "url": url }, "tls": tls, "passwordSecretRef": { "name": "x" } });
    let sftp = |ignore: bool| {
        json!({
            "sftp": {
                "host": "h", "user": "u", "path": "p", "insecureIgnoreHostKey": ignore,
                "credentials": { "passwordSecretRef": { "name": "x", "key": "y" } },
            },
            "passwordSecretRef": { "name": "x" },
        })
    };
    assert_eq!(reason(rest("https://h", json!({}))), None);
    let unverified = json!({ "insecureSkipVerify": true });
    assert_eq!(reason(rest("https://h", unverified)).as_deref(), Some("CertificateNotVerified"));
    assert_eq!(reason(rest("http://h", json!({}))).as_deref(), Some("PlainHttp"));
    assert_eq!(reason(sftp(false)), None);
    assert_eq!(reason(sftp(true)).as_deref(), Some("HostKeyNotVerified"));

    let mut mended = new_repository("cellar");
    mended.spec = serde_json::from_value(rest("http://h", json!({}))).unwrap();
    step(&mut mended, &[], 0);
    mended.spec = serde_json::from_value(rest("https://h", json!({}))).unwrap();
    mended.metadata.generation = Some(2);
    step(&mut mended, &[], 1);
    assert!(condition(&mended.status.unwrap().conditions, INSECURE_TRANSPORT).is_none());
}

#[test]
fn status_always_has_the_id_of_the_present_cluster() {
    let mut repository = new_repository("cellar");
    repository.status.get_or_insert_default().cluster_id = Some("another".to_owned());
    // Both before and after it is ready.
    for seconds in [0, 1] {
        step(&mut repository, &[], seconds);
        assert_eq!(repository.status.as_ref().unwrap().cluster_id.as_deref(), Some("c-1"));
        let opened = current(&repository, &Scene::Ended(&success().to_termination_message()));
        step(&mut repository, &[opened], 1);
        assert_eq!(ready(&repository).0, "True");
    }
    let (status, _) = plan_repository(&repository, &[], "", at(2));
    assert_eq!(status.cluster_id, None);
}

const OLD: &str = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";
const OTHER: &str = "abababababababababababababababababababababababababababababababab";

fn accept(repository: &mut Repository, value: Option<&str>) {
    let key = crate::api::ACCEPT_REPOSITORY.to_owned();
    let annotations = repository.metadata.annotations.get_or_insert_default();
    match value {
        Some(value) => annotations.insert(key, value.to_owned()),
        None => annotations.remove(&key),
    };
}

/// A repository that was opened at second 1.
fn opened_repository() -> Repository {
    let mut repository = new_repository("cellar");
    step(&mut repository, &[], 0);
    let opened = current(&repository, &Scene::Ended(&success().to_termination_message()));
    step(&mut repository, &[opened], 1);
    assert_eq!(ready(&repository).0, "True");
    repository
}

/// Advances to the next attempt, and ends it with this report. Returns the attempt's task, and the second of its end.
fn attempt(repository: &mut Repository, from: i64, report: &RunReport) -> (TaskKind, i64) {
    let due = (from..from + 20_000).find(|second| !step(&mut repository.clone(), &[], *second).start.is_empty());
    let due = due.expect("an attempt begins");
    let actions = step(repository, &[], due);
    let ended = current(repository, &Scene::Ended(&report.to_termination_message()));
    step(repository, &[ended], due + 1);
    (actions.start[0].task.clone(), due + 1)
}

fn found(id: &str) -> RunReport {
    RunReport { repository_id: Some(id.to_owned()), ..success() }
}

fn id(repository: &Repository) -> &str {
    repository.status.as_ref().unwrap().repository_id.as_deref().unwrap()
}

fn message(repository: &Repository) -> String {
    repository.status.as_ref().unwrap().conditions[0].message.clone()
}

#[test]
fn repository_that_was_open_is_never_created_again() {
    let mut repository = opened_repository();
    repository.metadata.generation = Some(2);
    let mut second = 2;
    for _ in 0..3 {
        let (task, ended) = attempt(&mut repository, second, &failure(Reason::RepositoryNotFound));
        assert_eq!(task, TaskKind::Open { accepted: None });
        assert_eq!(ready(&repository), ("False".into(), "RepositoryNotFound".into()));
        assert!(message(&repository).contains("accept-repository=new"), "{}", message(&repository));
        assert_eq!(id(&repository), OLD);
        second = ended;
    }
    // The repository is available again.
    attempt(&mut repository, second, &found(OLD));
    assert_eq!(ready(&repository).0, "True");
}

#[test]
fn another_repository_is_not_taken_for_the_one_that_was_open_until_a_person_accepts_it() {
    let mut repository = opened_repository();
    let (task, second) = attempt(&mut repository, 2, &failure(Reason::RepositoryChanged));
    assert_eq!(task, TaskKind::Open { accepted: None });
    assert_eq!(ready(&repository), ("False".into(), "RepositoryChanged".into()));
    assert!(message(&repository).contains("accept-repository=ID"), "{}", message(&repository));
    // Even if a Job reports that it opened the other repository.
    let (_, second) = attempt(&mut repository, second, &found(OTHER));
    assert_eq!((ready(&repository).1.as_str(), id(&repository)), ("RepositoryChanged", OLD));
    for useless in ["true", "ab", &"zz".repeat(32)] {
        accept(&mut repository, Some(useless));
        let (task, _) = attempt(&mut repository.clone(), second, &failure(Reason::RepositoryChanged));
        assert_eq!(task, TaskKind::Open { accepted: None }, "{useless}");
    }
    accept(&mut repository, Some(OTHER));
    let (task, second) = attempt(&mut repository, second, &found(OTHER));
    assert_eq!(task, TaskKind::Open { accepted: Some(OTHER.to_owned()) });
    assert_eq!((ready(&repository).0.as_str(), id(&repository)), ("True", OTHER));
    // It stays accepted, with and without the annotation. The old repository is now refused.
    for annotation in [Some(OTHER), None] {
        accept(&mut repository, annotation);
        let (_, second) = attempt(&mut repository, second, &found(OTHER));
        assert_eq!((ready(&repository).0.as_str(), id(&repository)), ("True", OTHER));
        attempt(&mut repository, second, &found(OLD));
        assert_eq!((ready(&repository).1.as_str(), id(&repository)), ("RepositoryChanged", OTHER));
    }
}

/// The current attempt's Job with its task, which failed for this reason.
fn failed_job(repository: &Repository, task: &TaskKind, reason: Reason) -> ObservedJob {
    let mut failed = current(repository, &Scene::Ended(&failure(reason).to_termination_message()));
    let value = json!({ "kind": task }).to_string();
    let container = json!({ "name": "runner", "env": [{ "name": "STOWAWAY_TASK", "value": value }] });
    let pod = serde_json::from_value(json!({ "containers": [container] })).unwrap();
    failed.job.spec.as_mut().unwrap().template.spec = Some(pod);
    failed
}

#[test]
fn acceptance_is_carried_out_at_once_and_its_failure_has_the_usual_pauses() {
    let mut repository = opened_repository();
    let mut second = 2;
    for _ in 0..5 {
        second = attempt(&mut repository, second, &failure(Reason::RepositoryNotFound)).1;
    }
    let (mut task, ended) = attempt(&mut repository, second, &failure(Reason::RepositoryNotFound));
    second = ended;
    let job = failed_job(&repository, &task, Reason::RepositoryNotFound);
    assert_eq!(step(&mut repository, std::slice::from_ref(&job), second + 1).start, [], "nothing was accepted");
    for (value, expected) in [
        (Some("new"), TaskKind::Init),
        (Some(OTHER), TaskKind::Open { accepted: Some(OTHER.to_owned()) }),
        (None, TaskKind::Open { accepted: None }),
    ] {
        second += 2;
        accept(&mut repository, value);
        let before = failed_job(&repository, &task, Reason::RepositoryNotFound);
        let actions = step(&mut repository, std::slice::from_ref(&before), second);
        assert_eq!(actions.start.iter().map(|start| &start.task).collect::<Vec<_>>(), [&expected], "{value:?}");
        task = expected;
        let failed = failed_job(&repository, &task, Reason::StoreUnavailable);
        for after in 1..9 {
            let start = step(&mut repository, std::slice::from_ref(&failed), second + after).start;
            assert_eq!(start, [], "{value:?} is not tried again and again");
        }
        second += 9;
    }
}

#[test]
fn acceptance_that_comes_while_the_job_runs_is_carried_out_after_it() {
    let mut repository = opened_repository();
    let (_, second) = attempt(&mut repository, 2, &failure(Reason::RepositoryNotFound));
    let due = (second..second + 3600).find(|at| !step(&mut repository.clone(), &[], *at).start.is_empty()).unwrap();
    let task = step(&mut repository, &[], due).start[0].task.clone();
    accept(&mut repository, Some("new"));
    let failed = failed_job(&repository, &task, Reason::RepositoryNotFound);
    assert_eq!(step(&mut repository, std::slice::from_ref(&failed), due + 1).start, []);
    assert_eq!(step(&mut repository, std::slice::from_ref(&failed), due + 2).start[0].task, TaskKind::Init);
}

#[test]
fn acceptance_of_a_ready_repository_whose_job_does_not_start_has_the_usual_pauses() {
    let mut repository = opened_repository();
    accept(&mut repository, Some(OTHER));
    let task = step(&mut repository, &[], 2).start[0].task.clone();
    let failed = failed_job(&repository, &task, Reason::PodNotStarted);
    for second in 3..9 {
        assert_eq!(step(&mut repository, std::slice::from_ref(&failed), second).start, []);
    }
    assert_eq!(ready(&repository).0, "True");
}

#[test]
fn changed_spec_is_opened_at_once_and_not_after_the_pause_of_the_old_one() {
    let mut repository = opened_repository();
    let mut second = 2;
    for _ in 0..6 {
        second = attempt(&mut repository, second, &failure(Reason::StoreUnavailable)).1;
    }
    assert_eq!(step(&mut repository, &[], second + 1).start, []);
    repository.metadata.generation = Some(2);
    assert_eq!(step(&mut repository, &[], second + 2).start.len(), 1);
}

#[test]
fn repository_whose_store_refuses_writes_is_ready_and_its_message_states_it() {
    let mut repository = new_repository("cellar");
    step(&mut repository, &[], 0);
    let report = RunReport { message: "the store refuses writes".to_owned(), ..success() };
    let opened = current(&repository, &Scene::Ended(&report.to_termination_message()));
    step(&mut repository, &[opened], 1);
    assert_eq!(ready(&repository).0, "True");
    assert!(message(&repository).ends_with("; the store refuses writes"), "{}", message(&repository));
}

#[test]
fn accepting_a_new_repository_creates_one_and_no_other_one_after_it() {
    let mut repository = opened_repository();
    let (_, second) = attempt(&mut repository, 2, &failure(Reason::RepositoryNotFound));
    accept(&mut repository, Some("new"));
    let (task, second) = attempt(&mut repository, second, &found(OTHER));
    assert_eq!(task, TaskKind::Init);
    assert_eq!((ready(&repository).0.as_str(), id(&repository)), ("True", OTHER));
    // The annotation is still set, and the store is emptied again.
    let (task, second) = attempt(&mut repository, second, &failure(Reason::RepositoryNotFound));
    assert_eq!(task, TaskKind::Open { accepted: None });
    assert_eq!(ready(&repository), ("False".into(), "RepositoryNotFound".into()));
    repository.metadata.generation = Some(2);
    let (task, second) = attempt(&mut repository, second, &failure(Reason::RepositoryNotFound));
    assert_eq!(task, TaskKind::Open { accepted: None });
    // The accepted repository is available again, and the annotation is removed.
    accept(&mut repository, None);
    let (_, second) = attempt(&mut repository, second, &found(OTHER));
    accept(&mut repository, Some("new"));
    let (task, _) = attempt(&mut repository, second, &found(OTHER));
    assert_eq!(task, TaskKind::Init, "a new annotation is valid for one opening");
}

#[test]
fn acceptance_that_was_used_is_removed_and_set_again_while_the_store_is_empty() {
    let mut repository = opened_repository();
    accept(&mut repository, Some("new"));
    // The value is used by an opening of the repository which is there.
    let (_, second) = attempt(&mut repository, 2, &found(OLD));
    let (task, second) = attempt(&mut repository, second, &failure(Reason::RepositoryNotFound));
    assert_eq!(task, TaskKind::Open { accepted: None });
    let text = message(&repository);
    let removal = text.find("`kubectl annotate repository cellar stowaway.dev/accept-repository-`");
    assert!(removal.is_some() && removal < text.find("accept-repository=new"), "{text}");
    accept(&mut repository, None);
    step(&mut repository, &[], second + 1);
    assert_eq!(repository.status.as_ref().unwrap().accepted, None);
    let (_, second) = attempt(&mut repository, second + 1, &failure(Reason::RepositoryNotFound));
    assert!(!message(&repository).contains("accept-repository-`"), "{}", message(&repository));
    accept(&mut repository, Some("new"));
    let (task, _) = attempt(&mut repository, second, &found(OTHER));
    assert_eq!((task, id(&repository)), (TaskKind::Init, OTHER));
}

#[test]
fn message_about_another_repository_names_the_annotation_that_has_to_be_removed_first() {
    let mut repository = opened_repository();
    accept(&mut repository, Some(OTHER));
    attempt(&mut repository, 2, &failure(Reason::RepositoryChanged));
    let text = message(&repository);
    let removal = text.find("stowaway.dev/accept-repository-`");
    assert!(removal.is_some() && removal < text.find("accept-repository=ID"), "{text}");
}

#[test]
fn readiness_is_checked_about_every_hour_and_recovers() {
    for reason in [Reason::StoreUnavailable, Reason::SecretMissing, Reason::WrongPassword] {
        let mut repository = opened_repository();
        let (task, second) = attempt(&mut repository, 2, &failure(reason));
        assert_eq!(task, TaskKind::Open { accepted: None });
        assert!((3240..=3970).contains(&second), "{second}");
        assert_eq!(ready(&repository), ("False".into(), reason.to_string()));
        let (_, again) = attempt(&mut repository, second, &found(OLD));
        assert!(again - second < 30, "it is repeated soon");
        assert_eq!(ready(&repository).0, "True");
    }
}

#[test]
fn attempt_that_shows_nothing_of_the_repository_leaves_it_ready() {
    for reason in [Reason::PodNotStarted, Reason::RepositoryLocked, Reason::ResultLost, Reason::Cancelled] {
        let mut repository = opened_repository();
        let (_, second) = attempt(&mut repository, 2, &failure(reason));
        assert_eq!(ready(&repository), ("True".into(), "Completed".into()), "{reason}");
        attempt(&mut repository, second, &failure(Reason::StoreUnavailable));
        assert_eq!(ready(&repository).0, "False");
    }
    let mut repository = opened_repository();
    let mut status = repository.status.clone().unwrap();
    let applied = refused(RunKind::Init, "generation/1", Reason::PodNotStarted, "quota");
    settle_repository(&repository, &mut status, &mut Actions::default(), &applied, at(5000));
    repository.status = Some(status);
    assert_eq!(ready(&repository).0, "True");
}

#[test]
fn repository_stays_ready_while_it_is_opened_again() {
    let mut repository = opened_repository();
    let due = repository.status.as_ref().unwrap().next_attempt_time.clone().unwrap().0;
    let seconds = due.duration_since(at(0)).as_secs();
    assert_eq!(step(&mut repository, &[], seconds).start.len(), 1);
    for scene in [Scene::Suspended, Scene::Waits("ContainerCreating")] {
        let job = current(&repository, &scene);
        step(&mut repository, &[job], seconds + 1);
        assert_eq!(ready(&repository).0, "True");
    }
}

#[test]
fn repository_of_a_new_cluster_is_not_created_where_the_annotation_names_its_id() {
    let mut repository = new_repository("cellar");
    accept(&mut repository, Some(OTHER));
    let actions = step(&mut repository, &[], 0);
    assert_eq!(actions.start[0].task, TaskKind::Open { accepted: Some(OTHER.to_owned()) });
}
