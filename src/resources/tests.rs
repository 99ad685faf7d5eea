//! The objects that Stowaway creates, as golden files in `golden/` for reviewers. A change there affects every cluster.

mod job_names;
mod pods;
mod se_linux;
mod snapshots;

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use k8s_openapi::{
    api::{batch::v1::Job, core::v1::PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use super::{names::OwnerRef, names::RunKind, *};
use crate::{
    api::{RepositorySpec, RestoreArchive, RunnerPod},
    model::{
        ArchiveRestore, DamagedPacks, Retention, SnapshotIdentity, TargetCommand, Task, TaskKind, VolumeRestore,
        WantedSnapshot, mounts,
    },
    plan::{ClaimMount, RestoreTarget, TargetMount},
};

fn newest_of(source: &str) -> WantedSnapshot {
    let (source, host) = (source.parse().unwrap(), Some("orchard".into()));
    WantedSnapshot { source, id: None, as_of: None, host, cluster: String::new() }
}

fn owner(kind: &str, name: &str) -> OwnerRef {
    OwnerRef {
        api_version: "stowaway.dev/v1alpha1".into(),
        kind: kind.into(),
        namespace: "orchard".into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
        since: None,
    }
}

fn on_s3() -> RepositorySpec {
    serde_json::from_value(json!({
        "s3": {
            "endpoint": "http://cellar.example:7070/",
            "bucket": "barrels",
            "prefix": "year/one",
            "credentials": {
                "accessKeyIdSecretRef": { "name": "cellar-access", "key": "id" },
                "secretAccessKeySecretRef": { "name": "cellar-access", "key": "secret" },
                "sessionTokenSecretRef": { "name": "cellar-session", "key": "token" }
            }
        },
        "passwordSecretRef": { "name": "cellar-key", "key": "phrase" },
        "runnerPod": {
            "nodeSelector": { "disk": "fast" },
            "labels": { "team": "mill", "stowaway.dev/kind": "forged" },
            "resources": { "limits": { "memory": "1Gi" } }
        }
    }))
    .unwrap()
}

fn on_volume() -> RepositorySpec {
    serde_json::from_value(json!({
        "volume": { "persistentVolumeClaim": { "claimName": "cellar" }, "path": "year/two" },
        "passwordSecretRef": { "name": "cellar-key" }
    }))
    .unwrap()
}

fn target() -> TargetCommand {
    TargetCommand {
        namespace: "orchard".into(),
        pod: "mill-7f9c".into(),
        pod_uid: "uid-of-mill-7f9c".into(),
        container: "press".into(),
        command: Some("roles".into()),
    }
}

fn task(repository: &RepositorySpec, kind: TaskKind) -> Task {
    let (backend, connection) = (backend_config(repository).unwrap(), connection(repository));
    Task {
        backend,
        connection,
        cluster: "uid-of-kube-system".into(),
        repository_id: None,
        damaged_packs: DamagedPacks::default(),
        not_before: None,
        kind,
        note: String::new(),
    }
}

/// Compares with the golden file, or writes it when `STOWAWAY_WRITE_GOLDEN` is set.
fn is_golden(file: &str, objects: &[serde_json::Value]) {
    let mut yaml = String::new();
    for object in objects {
        write!(yaml, "---\n{}", yaml_serde::to_string(object).unwrap()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/resources/golden").join(file);
    if std::env::var_os("STOWAWAY_WRITE_GOLDEN").is_some() {
        fs::write(&path, &yaml).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == yaml, "{} differs; with STOWAWAY_WRITE_GOLDEN=1 it is rewritten:\n{yaml}", path.display());
}

fn value(object: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(object).unwrap()
}

#[test]
fn backup_job_on_s3_is_golden() {
    let repository = on_s3();
    let source = "deployment/mill/press/roles";
    let kind = TaskKind::Backup {
        target: target(),
        source: source.parse().unwrap(),
        identity: SnapshotIdentity {
            host: "orchard".into(),
            path: "/orchard-press-roles.sql".into(),
            tags: vec![format!("source={source}")],
        },
        alternative_path: "/orchard-mill-press-roles.sql".into(),
        timeout: Some(Duration::from_mins(90)),
        idle_timeout: None,
        allow_empty: false,
        accept_unproven: false,
        skip_format_check: false,
    };
    let runner_pod = serde_json::from_value(json!({
        "securityContext": { "runAsUser": 1234 },
        "imagePullSecrets": [{ "name": "pull" }],
        "annotations": { "note": "evening" }
    }))
    .unwrap();
    let made = job(&JobRequest {
        owner: &owner("Backup", "evening"),
        kind: RunKind::Backup,
        source,
        attempt: 2,
        task: &task(&repository, kind),
        repository_name: "cellar",
        repository: &repository,
        runner_pod: Some(&runner_pod),
        claim: None,
        assigns_users: false,
        timeout: Some(Duration::from_mins(90)),
        target: None,
        image: "registry.example/runner:9",
    });
    is_golden("backup-job.yaml", &[value(&made.unwrap())]);
}

fn claim_job(mount: &ClaimMount, runner_pod: Option<&RunnerPod>, assigns_users: bool) -> Job {
    let repository = on_s3();
    let kind = TaskKind::BackupClaim {
        claim: mount.claim.clone(),
        device: mount.device,
        source: "pvc/cask".parse().unwrap(),
        identity: SnapshotIdentity {
            host: "orchard".into(),
            path: "/data/cask".into(),
            tags: vec!["source=pvc/cask".into()],
        },
        exclude: Vec::new(),
        accept_shrunken: false,
        timeout: None,
    };
    job(&JobRequest {
        owner: &owner("Backup", "evening"),
        kind: RunKind::Backup,
        source: "pvc/cask",
        attempt: 1,
        task: &task(&repository, kind),
        repository_name: "cellar",
        repository: &repository,
        runner_pod,
        claim: Some(mount),
        assigns_users,
        timeout: None,
        target: None,
        image: "registry.example/runner:9",
    })
    .unwrap()
}

fn mount(user: (u64, Option<u64>), node: Option<&str>) -> ClaimMount {
    let tolerations = node.map(|_| json!([{ "key": "press", "operator": "Exists" }])).unwrap_or(json!([]));
    ClaimMount {
        claim: "cask".into(),
        device: false,
        pod: "mill-1".into(),
        node: node.map(str::to_owned),
        tolerations: serde_json::from_value(tolerations).unwrap(),
        user,
        groups: vec![72],
        se_linux: None,
        snapshot: None,
    }
}

fn pod_of(job: Job) -> PodSpec {
    job.spec.unwrap().template.spec.unwrap()
}

#[test]
fn job_that_mounts_a_claim_is_golden() {
    is_golden("backup-claim-job.yaml", &[value(&claim_job(&mount((70, Some(71)), Some("cellar-7")), None, false))]);
}

#[test]
fn volume_that_is_backed_up_is_mounted_to_be_read_only() {
    let pod = pod_of(claim_job(&mount((0, None), None), None, false));
    let volume = pod.volumes.unwrap().into_iter().find(|volume| volume.name == "data").unwrap();
    assert_eq!(volume.persistent_volume_claim.unwrap().read_only, Some(true));
    let mounts = pod.containers[0].volume_mounts.clone().unwrap();
    assert_eq!(mounts.into_iter().find(|mount| mount.name == "data").unwrap().read_only, Some(true));
}

#[test]
fn root_reads_by_one_capability_and_no_other_user_has_any() {
    let added = |mount: &ClaimMount, requested: Option<&RunnerPod>| {
        let pod = pod_of(claim_job(mount, requested, false));
        let context = pod.security_context.unwrap();
        let own = pod.containers[0].security_context.clone().unwrap();
        (context.run_as_user, context.run_as_non_root, own.capabilities.unwrap().add)
    };
    let override_all = Some(vec!["DAC_OVERRIDE".to_owned()]);
    assert_eq!(added(&mount((0, None), None), None), (Some(0), Some(false), override_all));
    assert_eq!(added(&mount((70, None), None), None), (Some(70), Some(true), None));
    let requested: RunnerPod = serde_json::from_value(json!({ "securityContext": { "runAsUser": 1000 } })).unwrap();
    assert_eq!(added(&mount((0, None), None), Some(&requested)), (Some(1000), Some(true), None));
}

#[test]
fn namespace_that_assigns_users_gets_pods_that_name_none() {
    let namespace = |annotations: serde_json::Value| {
        serde_json::from_value(json!({ "metadata": { "annotations": annotations } })).unwrap()
    };
    assert!(assigns_users(&namespace(json!({ "openshift.io/sa.scc.uid-range": "1000680000/10000" }))));
    assert!(!assigns_users(&namespace(json!({ "note": "x" }))));
    let context = pod_of(claim_job(&mount((0, Some(5)), None), None, true)).security_context.unwrap();
    assert_eq!((context.run_as_user, context.run_as_group, context.fs_group), (None, None, None));
    assert_eq!((context.supplemental_groups, context.run_as_non_root), (None, Some(true)));
}

#[test]
fn node_of_a_claim_is_wanted_in_each_term_of_an_affinity() {
    let requested: RunnerPod = serde_json::from_value(json!({ "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": "disk", "operator": "Exists" }] },
            { "matchExpressions": [{ "key": "tape", "operator": "Exists" }] }
        ] }
    } } }))
    .unwrap();
    let pod = pod_of(claim_job(&mount((70, None), Some("cellar-7")), Some(&requested), false));
    let required = pod.affinity.unwrap().node_affinity.unwrap().required_during_scheduling_ignored_during_execution;
    let terms = required.unwrap().node_selector_terms;
    assert_eq!(terms.len(), 2);
    for term in terms {
        assert!(term.match_expressions.is_some(), "the requested expressions are kept");
        let field = &term.match_fields.unwrap()[0];
        assert_eq!(
            (field.key.as_str(), field.values.as_deref()),
            ("metadata.name", Some(&["cellar-7".to_owned()][..]))
        );
    }
}

#[test]
fn restore_job_on_a_volume_and_its_identity_are_golden() {
    let repository = on_volume();
    let source = "pod/well-0/press";
    let kind = TaskKind::Restore {
        restore: "undo".into(),
        target: target(),
        source: source.parse().unwrap(),
        snapshot: Some("abcdef12".into()),
        as_of: None,
        host: None,
        timeout: None,
        idle_timeout: None,
    };
    let made = job(&JobRequest {
        owner: &owner("Restore", "undo"),
        kind: RunKind::Restore,
        source,
        attempt: 1,
        task: &task(&repository, kind),
        repository_name: "cellar",
        repository: &repository,
        runner_pod: None,
        claim: None,
        assigns_users: false,
        timeout: None,
        target: None,
        image: "registry.example/runner:9",
    })
    .unwrap();
    let uid = "uid-of-the-job";
    let identity = [value(&service_account(&made, uid).unwrap()), value(&role_binding(&made, uid).unwrap())];
    is_golden(
        "restore-job.yaml",
        &[value(&Job { metadata: ObjectMeta { uid: Some(uid.into()), ..made.metadata.clone() }, ..made })],
    );
    is_golden("identity.yaml", &identity);
}

/// The Job of a Restore to a claim.
fn restore_into_a_claim(mount: &TargetMount, runner_pod: &serde_json::Value) -> serde_json::Value {
    let repository = on_s3();
    let source = "pvc/casks";
    let from = newest_of(source);
    let run = VolumeRestore {
        from,
        paths: vec![],
        folder: "old".into(),
        overwrite: None,
        device: mount.device,
        timeout: None,
    };
    let made = job(&JobRequest {
        owner: &owner("Restore", "undo"),
        kind: RunKind::Restore,
        source,
        attempt: 2,
        task: &task(&repository, TaskKind::RestoreVolume(run)),
        repository_name: "cellar",
        repository: &repository,
        runner_pod: Some(&serde_json::from_value(runner_pod.clone()).unwrap()),
        claim: None,
        assigns_users: false,
        timeout: None,
        target: Some(&RestoreTarget::Claim(mount.clone())),
        image: "registry.example/runner:9",
    });
    value(&made.unwrap())
}

#[test]
fn job_that_writes_into_a_claim_is_golden_and_execs_nowhere() {
    let tolerations = serde_json::from_value(json!([{ "key": "damp", "operator": "Exists" }])).unwrap();
    let mount =
        TargetMount { claim: "casks".into(), device: false, as_root: true, node: Some("node-7".into()), tolerations };
    let requested = json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "disk", "operator": "Exists" }] }]
    } } } });
    let made = restore_into_a_claim(&mount, &requested);
    let planned: Job = serde_json::from_value(made.clone()).unwrap();
    assert_eq!(role_binding(&planned, "uid").unwrap().role_ref.name, rbac::LOCKS_ROLE);
    is_golden("restore-volume-job.yaml", &[made]);
}

#[test]
fn job_that_makes_an_archive_has_the_keys_of_both_stores_and_execs_nowhere() {
    let repository = on_s3();
    let source = "pvc/casks";
    let key = |key: &str| json!({ "name": "shed-access", "key": key });
    let stores = [
        (
            "archive-s3-job.yaml",
            json!({
                "format": "tar.zst",
                "s3": { "endpoint": "https://shed.example", "bucket": "crates", "credentials": {
                    "accessKeyIdSecretRef": key("id"), "secretAccessKeySecretRef": key("secret"),
                } },
                "tls": { "caConfigMapRef": { "name": "shed-authority", "key": "ca.crt" } },
            }),
        ),
        (
            "archive-volume-job.yaml",
            json!({ "volume": { "nfs": { "server": "shed", "path": "/crates" }, "path": "x" } }),
        ),
    ];
    for (file, to) in stores {
        let to: RestoreArchive = serde_json::from_value(to).unwrap();
        let from = newest_of(source);
        let run = ArchiveRestore {
            from,
            paths: vec![],
            format: to.format,
            name: to.name.clone(),
            overwrite: to.overwrite,
            backend: backend_config(&to).unwrap(),
            volume: String::new(),
            connection: connection(&to),
            timeout: None,
        };
        let made = job(&JobRequest {
            owner: &owner("Restore", "away"),
            kind: RunKind::Restore,
            source,
            attempt: 1,
            task: &task(&repository, TaskKind::RestoreArchive(Box::new(run))),
            repository_name: "cellar",
            repository: &repository,
            runner_pod: None,
            claim: None,
            assigns_users: false,
            timeout: None,
            target: Some(&RestoreTarget::Archive(Box::new(to))),
            image: "registry.example/runner:9",
        })
        .unwrap();
        is_golden(file, &[value(&made)]);
        assert_eq!(role_binding(&made, "uid").unwrap().role_ref.name, rbac::LOCKS_ROLE);
    }
}

#[test]
fn group_of_files_in_a_claim_is_changed_only_where_that_is_requested() {
    let mount =
        |as_root| TargetMount { claim: "casks".into(), device: false, as_root, node: None, tolerations: vec![] };
    let security = |as_root, requested: serde_json::Value| {
        let made = restore_into_a_claim(&mount(as_root), &json!({ "securityContext": requested }));
        let pod = &made["spec"]["template"]["spec"];
        let added = pod["containers"][0]["securityContext"]["capabilities"]["add"].clone();
        (pod["securityContext"].clone(), added)
    };
    let (root, added) = security(true, json!({}));
    assert_eq!((&root["runAsUser"], &root["fsGroup"]), (&json!(0), &json!(null)));
    assert_eq!(added, json!(mounts::RIGHTS_TO_RESTORE));
    assert_eq!(security(true, json!({ "fsGroup": 7 })).0["fsGroup"], 7);
    let (user, added) = security(false, json!({ "runAsUser": 1000, "fsGroup": 1000 }));
    assert_eq!(
        (&user["runAsUser"], &user["runAsNonRoot"], &user["fsGroup"]),
        (&json!(1000), &json!(true), &json!(1000))
    );
    assert_eq!(added, json!(null));
}

/// A Job of the Repository itself.
fn of_repository(kind: RunKind, source: &str, doing: TaskKind) -> Job {
    let repository = on_volume();
    job(&JobRequest {
        owner: &owner("Repository", "cellar"),
        kind,
        source,
        attempt: 1,
        task: &task(&repository, doing),
        repository_name: "cellar",
        repository: &repository,
        runner_pod: None,
        claim: None,
        assigns_users: false,
        timeout: None,
        target: None,
        image: "registry.example/runner:9",
    })
    .unwrap()
}

#[test]
fn init_and_prune_jobs_may_see_pods_and_exec_nowhere() {
    let retention: Retention = serde_json::from_value(json!({ "keepDaily": 7, "keepWithin": "30d" })).unwrap();
    let time_zone = "Europe/Berlin".to_owned();
    let repack = TaskKind::Repack { retention: retention.clone(), time_zone: time_zone.clone() };
    let prune = TaskKind::Prune { retention, time_zone, repacked_bytes: 1234 };
    let check = TaskKind::Check { part: "3/7".parse().unwrap() };
    for (file, made) in [
        ("init-job.yaml", of_repository(RunKind::Init, "generation/3", TaskKind::Init)),
        ("repack-job.yaml", of_repository(RunKind::Repack, "repack/2026-05-04T03:30:00Z", repack)),
        ("prune-job.yaml", of_repository(RunKind::Prune, "prune/2026-05-04T03:30:00Z", prune)),
        ("check-job.yaml", of_repository(RunKind::Check, "check/2026-05-04T03:30:00Z", check)),
    ] {
        is_golden(file, &[value(&made)]);
        assert_eq!(role_binding(&made, "uid").unwrap().role_ref.name, rbac::LOCKS_ROLE);
    }
}

#[test]
fn job_that_answers_the_cli_has_no_identity() {
    let answer = TaskKind::Answer { timeout: Duration::from_mins(1) };
    let made = of_repository(RunKind::Answer, "answer/1", answer);
    assert!(service_account(&made, "uid").is_none());
    let pod = made.spec.unwrap().template.spec.unwrap();
    assert_eq!((pod.service_account_name, pod.automount_service_account_token), (None, Some(false)));
}

#[test]
fn jobs_of_block_devices_are_golden() {
    let read =
        claim_job(&ClaimMount { device: true, groups: vec![], ..mount((0, None), Some("cellar-7")) }, None, false);
    let target = TargetMount { claim: "casks".into(), device: true, as_root: true, node: None, tolerations: vec![] };
    let written = restore_into_a_claim(&target, &json!({}));
    for job in [&value(&read), &written] {
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        let paths = container["volumeMounts"].as_array().unwrap().iter().map(|mount| mount["mountPath"].clone());
        assert!(paths.into_iter().all(|path| path != "/data" && path != "/target"), "{container}");
        assert_eq!(container["securityContext"]["capabilities"], json!({ "drop": ["ALL"] }));
    }
    is_golden("device-jobs.yaml", &[value(&read), written]);
}
