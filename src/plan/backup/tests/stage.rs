//! Tests of a source which is read from a CSI snapshot, from the `VolumeSnapshot` to the end of its Job.

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time};
use serde_json::{Value, json};

use super::*;
use crate::plan::{
    actions::CreateSnapshot,
    fixtures::{
        NAMESPACE, Scene, at, backup, failure, job, job_name, plan_of, planned, refused, repository, restoring, success,
    },
    sources::{ClaimSnapshot, PlanProblem},
};

const CASK: &str = "pvc/cask";

/// A cluster with one Backup, whose claims are read from snapshots.
struct World {
    backup: Backup,
    sources: SourcePlan,
    snapshots: Vec<kube::core::DynamicObject>,
    claims: Vec<StagedClaim>,
    jobs: Vec<ObservedJob>,
    active: Vec<(String, String)>,
    closed: BTreeSet<(String, String)>,
    uses: ClaimUses,
}

fn source(name: &str) -> PlannedSource {
    let mut source = planned(name, Some("mill-1"));
    source.target = Some(Target::Claim(ClaimMount {
        claim: name.trim_start_matches("pvc/").into(),
        device: false,
        pod: "mill-1".into(),
        node: None,
        tolerations: vec![],
        user: (70, None),
        groups: vec![],
        se_linux: None,
        snapshot: Some(Box::new(ClaimSnapshot {
            class: "frost".into(),
            storage_class: "cellar".into(),
            access_mode: "ReadWriteOnce".into(),
            size: Quantity("7Gi".into()),
        })),
    }));
    source
}

/// The `VolumeSnapshot` of an attempt, created at [`at`]`(1)`.
fn snapshot(name: &str, status: &Value) -> kube::core::DynamicObject {
    snapshot_of("cask", name, status)
}

fn snapshot_of(claim: &str, name: &str, status: &Value) -> kube::core::DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": { "name": name, "creationTimestamp": Time(at(1)) },
        "spec": { "volumeSnapshotClassName": "frost", "source": { "persistentVolumeClaimName": claim } },
        "status": status,
    }))
    .unwrap()
}

/// The temporary claim which was created from it, at [`at`]`(2)`.
fn claim(name: &str, phase: &str) -> StagedClaim {
    let claim = serde_json::from_value(json!({
        "metadata": { "name": name, "creationTimestamp": Time(at(2)) }, "status": { "phase": phase },
    }));
    StagedClaim { claim: claim.unwrap(), warning_events: vec!["ProvisioningFailed: no ice".into()] }
}

impl World {
    fn new(names: &[&str]) -> Self {
        let mut world = Self {
            backup: backup(&json!({})),
            sources: plan_of(&names.iter().map(|name| source(name)).collect::<Vec<_>>()),
            snapshots: vec![],
            claims: vec![],
            jobs: vec![],
            active: vec![],
            closed: BTreeSet::new(),
            uses: ClaimUses::default(),
        };
        assert_eq!(world.step(0).snapshots, [], "no snapshot is created before the sources are in the status");
        world
    }

    fn step(&mut self, seconds: i64) -> Actions {
        let facts = BackupFacts {
            repositories: &[repository("cellar", Ok(()))],
            jobs: &self.jobs,
            staged: Staged { snapshots: &self.snapshots, claims: &self.claims },
            sources: &self.sources,
            active: &self.active,
            closed: &self.closed,
            uses: &self.uses,
        };
        let (status, actions) = plan_backup(&self.backup, facts, at(seconds));
        assert!(status.verdict.is_some() || actions.requeue_after.is_some(), "a Backup without a verdict is requeued");
        self.backup.status = Some(status);
        actions
    }

    fn name(&self, attempt: u32) -> String {
        job_name(&self.backup, CASK, attempt)
    }

    fn source(&self) -> &SourceStatus {
        let sources = &self.backup.status.as_ref().unwrap().sources;
        sources.iter().find(|source| source.name.as_str() == CASK).unwrap()
    }

    fn verdict(&self) -> Option<Verdict> {
        self.backup.status.as_ref().unwrap().verdict
    }

    /// A Job runs on the temporary claim.
    fn running() -> Self {
        let mut world = Self::new(&[CASK]);
        world.step(1);
        let name = world.name(1);
        world.snapshots = vec![snapshot(&name, &json!({ "readyToUse": true, "restoreSize": "9Gi" }))];
        world.step(2);
        world.claims = vec![claim(&name, "Bound")];
        world.jobs = vec![job(&name, &Scene::Runs)];
        world
    }
}

#[test]
fn snapshot_is_made_then_waited_for_and_the_job_mounts_a_claim_that_is_made_of_it() {
    let mut world = World::new(&[CASK]);
    let name = world.name(1);
    let actions = world.step(1);
    assert_eq!((actions.snapshots.len(), actions.start.len()), (1, 0));
    let expected = CreateSnapshot {
        name: name.clone(),
        claim: "cask".into(),
        class: "frost".into(),
        source: CASK.into(),
        attempt: 1,
        repository: "cellar".into(),
    };
    assert_eq!(actions.snapshots[0], expected);
    assert_eq!(world.source().state, SourceState::Waiting);
    // A restarted controller finds the snapshot by its name.
    for status in [json!({}), json!({ "boundVolumeSnapshotContentName": "x", "readyToUse": false })] {
        world.snapshots = vec![snapshot(&name, &status)];
        let actions = world.step(2);
        assert_eq!((actions.snapshots, actions.start, actions.delete_snapshots), (vec![], vec![], vec![]));
        let Outcome { reason, message, .. } = &world.source().outcome;
        assert_eq!(reason, "Snapshot");
        assert!(message.contains(&name) && message.contains("frost"), "{message}");
    }
    world.snapshots = vec![snapshot(&name, &json!({ "readyToUse": true, "restoreSize": "9Gi" }))];
    let actions = world.step(3);
    let [start] = &actions.start[..] else { panic!("{actions:?}") };
    let made = start.data_source.clone().unwrap();
    assert_eq!((made.snapshot.as_str(), made.size.0.as_str()), (name.as_str(), "9Gi"), "the larger size");
    let mount = start.claim.clone().unwrap();
    assert_eq!((mount.claim, mount.snapshot), (name.clone(), None));
    let TaskKind::BackupClaim { claim, .. } = &start.task else { panic!("{:?}", start.task) };
    assert_eq!(claim, "cask", "the runner's messages name the source's claim");
    assert_eq!(world.source().jobs, [name], "one name for all three");
    assert_eq!(world.source().state, SourceState::Running);
}

#[test]
fn claim_keeps_its_size_if_its_snapshot_needs_less_or_reports_none() {
    for (restore_size, expected) in [(json!("6Gi"), "7Gi"), (json!("8000Mi"), "8000Mi"), (Value::Null, "7Gi")] {
        let mut world = World::new(&[CASK]);
        world.step(1);
        let status = json!({ "readyToUse": true, "restoreSize": restore_size });
        world.snapshots = vec![snapshot(&world.name(1), &status)];
        assert_eq!(world.step(2).start[0].data_source.clone().unwrap().size.0, expected);
    }
}

#[test]
fn both_are_deleted_as_soon_as_the_job_has_ended_and_the_job_stays_for_its_log() {
    for report in [success(), failure(Reason::EmptyStream), failure(Reason::StoreUnavailable)] {
        let mut world = World::running();
        let name = world.name(1);
        let actions = world.step(3);
        assert_eq!((actions.delete_claims, actions.delete_snapshots), (vec![], vec![]));
        world.jobs = vec![job(&name, &Scene::Ended(&report.to_termination_message()))];
        let actions = world.step(4);
        assert_eq!((actions.delete_claims, actions.delete_snapshots), (vec![name.clone()], vec![name.clone()]));
        assert_eq!(actions.delete, Vec::<String>::new());
        assert_eq!(world.step(5).delete, Vec::<String>::new());
    }
    // The deletion of the Job has ended it, too.
    let mut world = World::running();
    world.jobs.clear();
    assert_eq!(world.step(3).delete_snapshots, [world.name(1)]);
}

#[test]
fn verdict_waits_until_all_is_deleted_or_will_be_and_nothing_is_deleted_twice() {
    let mut world = World::running();
    let name = world.name(1);
    world.jobs = vec![job(&name, &Scene::Ended(&success().to_termination_message()))];
    for seconds in [3, 4] {
        world.step(seconds);
        assert_eq!((world.verdict(), world.source().state), (None, SourceState::Done));
    }
    let conditions = &world.backup.status.as_ref().unwrap().conditions;
    let condition = crate::api::condition(conditions, crate::api::COMPLETE).unwrap();
    assert_eq!(condition.reason, "CleaningUp", "{condition:?}");
    world.snapshots[0].metadata.deletion_timestamp = Some(Time(at(3)));
    world.claims[0].claim.metadata.deletion_timestamp = Some(Time(at(3)));
    let actions = world.step(5);
    assert_eq!((actions.delete_claims, actions.delete_snapshots), (vec![], vec![]));
    assert_eq!(
        world.verdict(),
        Some(Verdict::Succeeded),
        "the claim is deleted with the pod, and the pod when the Job expires"
    );
}

#[test]
fn job_that_never_ran_is_deleted_since_it_has_no_log_and_would_hold_its_claim_for_ever() {
    let mut world = World::running();
    let name = world.name(1);
    world.jobs = vec![job(&name, &Scene::Suspended)];
    world.step(3);
    let mut deleted = snapshot(&name, &json!({ "readyToUse": true }));
    deleted.metadata.deletion_timestamp = Some(Time(at(4)));
    world.snapshots = vec![deleted];
    world.step(4);
    assert_eq!((world.source().state, world.verdict()), (SourceState::Waiting, None));
    assert_eq!(world.step(5).delete, [name]);
}

#[test]
fn job_of_a_live_volume_is_kept_for_its_log() {
    let mut world = World::running();
    (world.snapshots, world.claims) = (vec![], vec![]);
    world.jobs = vec![job(&world.name(1), &Scene::Ended(&success().to_termination_message()))];
    assert_eq!(world.step(3).delete, Vec::<String>::new());
    assert_eq!(world.verdict(), Some(Verdict::Succeeded));
}

#[test]
fn next_attempt_has_a_snapshot_of_its_own() {
    let mut world = World::running();
    let name = world.name(1);
    world.jobs = vec![job(&name, &Scene::Ended(&failure(Reason::StoreUnavailable).to_termination_message()))];
    world.step(4);
    (world.snapshots, world.claims) = (vec![], vec![]);
    assert_eq!(world.step(5).snapshots, []);
    let actions = world.step(15);
    assert_eq!((actions.snapshots[0].name.clone(), actions.snapshots[0].attempt), (world.name(2), 2));
}

#[test]
fn error_of_a_snapshot_that_lasts_fails_the_attempt_with_class_claim_and_reason() {
    let mut world = World::new(&[CASK]);
    world.step(1);
    let error = json!({ "readyToUse": false, "error": { "message": "no ice", "time": "2026-01-01T00:00:00Z" } });
    world.snapshots = vec![snapshot(&world.name(1), &error)];
    world.step(60);
    assert_eq!(world.source().outcome.reason, "Snapshot", "conflicts between controllers are temporary");
    assert!(world.source().outcome.message.contains("no ice"));
    let (mut now, mut attempts) = (61, 0);
    while world.verdict().is_none() {
        let actions = world.step(now);
        attempts += 1;
        assert_eq!(actions.delete_snapshots, [world.name(attempts)]);
        assert_eq!((world.source().attempt, world.source().jobs.len()), (attempts, 0));
        now += 400;
        world.snapshots.clear();
        let made = world.step(now).snapshots.len();
        if world.verdict().is_none() {
            assert_eq!(made, 1);
            world.snapshots = vec![snapshot(&world.name(attempts + 1), &error)];
        }
    }
    assert_eq!((attempts, world.verdict()), (3, Some(Verdict::Failed)));
    let Outcome { reason, message, .. } = &world.source().outcome;
    assert_eq!(reason, "VolumeSnapshotFailed");
    for part in ["PersistentVolumeClaim cask", "class frost", "no ice", "csi-snapshotter"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn snapshot_that_no_controller_binds_or_that_never_is_ready_fails_for_good() {
    let taken_up = json!({ "boundVolumeSnapshotContentName": "x", "readyToUse": false });
    for (status, limit, text) in
        [(Value::Null, 5 * 60, "snapshot controller"), (taken_up, 60 * 60, "is not ready to use")]
    {
        let mut world = World::new(&[CASK]);
        world.step(1);
        world.snapshots = vec![snapshot(&world.name(1), &status)];
        world.step(limit);
        assert_eq!(world.verdict(), None);
        let actions = world.step(limit + 1);
        assert_eq!(world.source().outcome.verdict, Some(Verdict::Failed), "it is not repeated: {text}");
        assert_eq!(world.source().outcome.reason, "Timeout");
        assert!(world.source().outcome.message.contains(text), "{}", world.source().outcome.message);
        assert_eq!(actions.delete_snapshots, [world.name(1)]);
    }
}

#[test]
fn snapshot_that_a_user_deletes_fails_the_attempt() {
    let mut world = World::new(&[CASK]);
    world.step(1);
    let mut deleted = snapshot(&world.name(1), &json!({ "readyToUse": true }));
    deleted.metadata.deletion_timestamp = Some(Time(at(2)));
    world.snapshots = vec![deleted];
    assert_eq!(world.step(2).start, []);
    assert_eq!((world.source().attempt, world.source().outcome.reason.as_str()), (1, "VolumeSnapshotFailed"));
}

#[test]
fn volume_that_is_copied_from_its_snapshot_may_take_longer_than_a_pod_to_start() {
    let mut world = World::running();
    let name = world.name(1);
    world.claims = vec![claim(&name, "Pending")];
    world.jobs = vec![job(&name, &Scene::NoPod)];
    world.step(10);
    assert!(world.source().outcome.message.contains("no ice"), "{}", world.source().outcome.message);
    let actions = world.step(40 * 60);
    assert_eq!((world.source().state, actions.end.len()), (SourceState::Running, 0));
    assert!(world.source().outcome.message.contains("ProvisioningFailed: no ice"));
    assert_eq!(actions.delete_claims, Vec::<String>::new());
    let actions = world.step(60 * 60 + 2);
    assert_eq!((actions.end, actions.delete_claims), (vec![name.clone()], vec![name]));
    assert!(world.source().outcome.message.contains("no ice"), "{}", world.source().outcome.message);
    // Once the claim is bound, the pod's start limit applies.
    let mut world = World::running();
    world.jobs = vec![job(&world.name(1), &Scene::NoPod)];
    assert_eq!(world.step(6 * 60).end, [world.name(1)]);
}

#[test]
fn snapshots_have_their_turn_as_jobs_do_and_keep_it() {
    let names = ["pvc/a", "pvc/b", "pvc/c", "pvc/d", "pvc/e"];
    let mut world = World::new(&names);
    let actions = world.step(1);
    assert_eq!(actions.snapshots.len(), JOBS_PER_REPOSITORY);
    let taken = |is_ready: bool| {
        let one = move |made: &CreateSnapshot| snapshot_of(&made.claim, &made.name, &json!({ "readyToUse": is_ready }));
        actions.snapshots.iter().map(one).collect()
    };
    world.snapshots = taken(false);
    assert_eq!(world.step(2).snapshots, [], "the fifth waits for its turn");
    world.snapshots = taken(true);
    let actions = world.step(3);
    assert_eq!((actions.start.len(), actions.snapshots.len()), (JOBS_PER_REPOSITORY, 0));
    assert_eq!(actions.delete_snapshots, Vec::<String>::new());
}

#[test]
fn prune_that_comes_between_is_waited_for_with_the_snapshot() {
    let mut world = World::new(&[CASK]);
    world.step(1);
    world.snapshots = vec![snapshot(&world.name(1), &json!({ "readyToUse": true }))];
    world.closed = [(NAMESPACE.into(), "cellar".into())].into();
    let actions = world.step(2);
    assert_eq!((actions.start, actions.delete_snapshots), (vec![], vec![]));
    assert_eq!(world.source().outcome.reason, "Queued");
    world.closed.clear();
    assert_eq!(world.step(3).start.len(), 1);
}

#[test]
fn class_that_is_deleted_meanwhile_fails_the_source_and_its_snapshot_is_deleted() {
    let mut world = World::new(&[CASK]);
    world.step(1);
    world.snapshots = vec![snapshot(&world.name(1), &json!({}))];
    let name = CASK.parse().unwrap();
    world.sources = plan_of(&[]);
    world.sources.problems = vec![PlanProblem::Claim { name, message: "no class frost".into() }];
    assert_eq!(world.step(2).delete_snapshots, Vec::<String>::new());
    assert!(world.source().outcome.message.contains("no class frost"), "{}", world.source().outcome.message);
    assert_eq!(world.step(302).delete_snapshots, [world.name(1)]);
    assert_eq!((world.source().outcome.verdict, world.verdict()), (Some(Verdict::Failed), None));
    world.snapshots.clear();
    world.step(304);
    assert_eq!(world.verdict(), Some(Verdict::Failed));
}

#[test]
fn source_that_is_read_live_after_all_needs_no_snapshot_any_more() {
    let mut world = World::new(&[CASK]);
    world.step(1);
    world.snapshots = vec![snapshot(&world.name(1), &json!({}))];
    if let Some(Target::Claim(mount)) = &mut world.sources.sources[0].target {
        mount.snapshot = None;
    }
    let actions = world.step(2);
    assert_eq!((actions.start[0].data_source.clone(), actions.delete_snapshots.len()), (None, 1));
    assert_eq!(actions.start[0].claim.clone().unwrap().claim, "cask");
}

#[test]
fn refused_snapshot_waits_and_then_fails_with_the_api_servers_message() {
    let mut world = World::new(&[CASK]);
    for (seconds, verdict) in [(1, None), (200, None), (301, Some(Verdict::Failed))] {
        let before = world.backup.status.clone();
        let mut actions = world.step(seconds);
        assert_eq!(actions.snapshots.len(), 1);
        let status = world.backup.status.as_mut().unwrap();
        let applied = refused(RunKind::Backup, CASK, Reason::PodNotStarted, "exceeded quota");
        settle_backup(before.as_ref(), status, &mut actions, &applied, false, at(seconds));
        assert_eq!(status.verdict, verdict, "{seconds}");
    }
    assert_eq!(world.source().attempt, 0);
    assert_eq!(world.source().outcome.reason, "VolumeSnapshotFailed");
    assert!(world.source().outcome.message.contains("exceeded quota"));
}

#[test]
fn job_whose_claim_is_refused_leaves_no_snapshot_when_it_is_given_up() {
    let mut world = World::new(&[CASK]);
    world.step(1);
    world.snapshots = vec![snapshot(&world.name(1), &json!({ "readyToUse": true }))];
    for seconds in [2, 302] {
        let before = world.backup.status.clone();
        let mut actions = world.step(seconds);
        assert_eq!(actions.start.len(), 1);
        let status = world.backup.status.as_mut().unwrap();
        let applied = refused(RunKind::Backup, CASK, Reason::PodNotStarted, "exceeded quota");
        settle_backup(before.as_ref(), status, &mut actions, &applied, true, at(seconds));
        assert_eq!((status.verdict, world.source().outcome.reason.as_str()), (None, "PodNotStarted"));
    }
    assert_eq!(world.step(303).delete_snapshots, [world.name(1)]);
}

#[test]
fn snapshot_is_not_created_while_its_claim_is_restored_and_an_existing_one_is_used() {
    let mut world = World::new(&[CASK]);
    world.uses = restoring("cask", false, false);
    assert_eq!(world.step(1).snapshots, []);
    assert_eq!(world.source().outcome.reason, "Queued");
    world.uses = ClaimUses::default();
    assert_eq!(world.step(2).snapshots.len(), 1);
    world.snapshots = vec![snapshot(&world.name(1), &json!({ "readyToUse": true, "restoreSize": "1Gi" }))];
    world.uses = restoring("cask", false, true);
    assert_eq!(world.step(3).start.len(), 1);
}

#[test]
fn snapshot_of_another_claim_or_from_before_the_backup_is_not_used() {
    let ready = json!({ "readyToUse": true });
    let mut world = World::new(&[CASK]);
    world.backup.metadata.creation_timestamp = Some(Time(at(0)));
    let mut of_another = snapshot(&world.name(1), &ready);
    of_another.data["spec"]["source"]["persistentVolumeClaimName"] = json!("decoy");
    let mut old = snapshot(&world.name(1), &ready);
    old.metadata.creation_timestamp = Some(Time(at(-1)));
    for forged in [of_another, old] {
        world.snapshots = vec![forged];
        let actions = world.step(2);
        assert_eq!(
            (actions.start, actions.snapshots.len()),
            (vec![], 1),
            "the snapshot is created, and the API server reports why it cannot be"
        );
    }
}

#[test]
fn object_that_merely_names_the_backup_as_its_owner_is_not_deleted() {
    let mut world = World::new(&[CASK]);
    world.snapshots = vec![snapshot("heirloom", &json!({}))];
    world.claims = vec![claim("ledger", "Bound")];
    let actions = world.step(2);
    assert_eq!((actions.delete_claims, actions.delete_snapshots), (Vec::<String>::new(), Vec::<String>::new()));
}
