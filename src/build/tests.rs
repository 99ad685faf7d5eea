//! What is made, word for word: `golden/` holds it for people to read. A change there is a change for every cluster.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use serde_json::json;

use super::{names::Owner, names::RunKind, *};
use crate::{
    api::RepositorySpec,
    model::{SnapshotIdentity, TargetCommand, Task, TaskKind},
};

fn owner(kind: &str, name: &str) -> Owner {
    Owner {
        api_version: "stowaway.dev/v1alpha1".into(),
        kind: kind.into(),
        namespace: "orchard".into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
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
    Task { backend: backend_config(repository).unwrap(), connection: connection(repository), kind }
}

/// Compares with the golden file, or writes it when `STOWAWAY_WRITE_GOLDEN` is set.
fn is_golden(file: &str, objects: &[serde_json::Value]) {
    let mut yaml = String::new();
    for object in objects {
        write!(yaml, "---\n{}", serde_norway::to_string(object).unwrap()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/build/golden").join(file);
    if std::env::var_os("STOWAWAY_WRITE_GOLDEN").is_some() {
        fs::write(&path, &yaml).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == yaml, "{} differs; with STOWAWAY_WRITE_GOLDEN=1 it is written anew:\n{yaml}", path.display());
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
        timeout: Some(Duration::from_mins(90)),
        image: "registry.example/runner:9",
    });
    is_golden("backup-job.yaml", &[value(&made.unwrap())]);
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
        timeout: None,
        idle_timeout: None,
    };
    let mut made = job(&JobRequest {
        owner: &owner("Restore", "undo"),
        kind: RunKind::Restore,
        source,
        attempt: 1,
        task: &task(&repository, kind),
        repository_name: "cellar",
        repository: &repository,
        runner_pod: None,
        timeout: None,
        image: "registry.example/runner:9",
    })
    .unwrap();
    assert!(service_account(&made).is_none(), "a Job that was not stored cannot own anything");
    made.metadata.uid = Some("uid-of-the-job".into());
    let identity = [value(&service_account(&made).unwrap()), value(&role_binding(&made).unwrap())];
    is_golden("restore-job.yaml", &[value(&made)]);
    is_golden("identity.yaml", &identity);
}

#[test]
fn init_job_has_no_identity() {
    let repository = on_volume();
    let made = job(&JobRequest {
        owner: &owner("Repository", "cellar"),
        kind: RunKind::Init,
        source: "generation/3",
        attempt: 1,
        task: &task(&repository, TaskKind::Init),
        repository_name: "cellar",
        repository: &repository,
        runner_pod: None,
        timeout: None,
        image: "registry.example/runner:9",
    })
    .unwrap();
    is_golden("init-job.yaml", &[value(&made)]);
    let pod = made.spec.unwrap().template.spec.unwrap();
    assert_eq!((pod.service_account_name, pod.automount_service_account_token), (None, Some(false)));
}

#[test]
fn names_are_short_readable_and_differ_by_owner_source_and_attempt() {
    let evening = owner("Backup", "evening");
    let long = owner("Backup", &format!("{}.x", "e".repeat(61)));
    let all = [
        names::job_name(&evening, "pod/a/b", 1),
        names::job_name(&evening, "pod/a/b", 2),
        names::job_name(&evening, "pod/a/c", 1),
        names::job_name(&Owner { uid: "another".into(), ..evening.clone() }, "pod/a/b", 1),
        names::job_name(&long, "pod/a/b", 1),
    ];
    for (index, name) in all.iter().enumerate() {
        assert!(name.len() <= 63 && !name.contains('.') && !name.contains("--"), "{name}");
        assert!(!all[..index].contains(name), "{name}");
    }
    assert!(all[0].starts_with("evening-") && all[0].len() == "evening-".len() + 10, "{}", all[0]);
    assert_eq!(all[0], names::job_name(&evening, "pod/a/b", 1));
}
