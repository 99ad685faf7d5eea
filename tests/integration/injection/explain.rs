//! `stowaway explain` as a process: its output and its exit status.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn explain(arguments: &[&str], input: &str) -> Output {
    let mut process = Command::new(env!("CARGO_BIN_EXE_stowaway"))
        .args(["explain", "-f", "-", "--image", "stowaway:test"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: { name: mill, namespace: orchard }
spec:
  selector: { matchLabels: { app: mill } }
  template:
    metadata:
      labels: { app: mill }
      annotations:
        stowaway.dev/backupcommand: pg_dump --password=hush cider
        stowaway.dev/file-extension: .sql
        stowaway.dev/secrets: login
    spec:
      containers:
      - { name: press, image: press }
";

#[test]
fn a_workload_is_explained_without_its_passwords() {
    let output = explain(&[], DEPLOYMENT);
    let expected = "\
Deployment mill in namespace orchard: injected (Injected)
  helper     into container press, at /stowaway
  secret     login into container press, at /stowaway-secrets/login; the Secret may be missing
  source     deployment/mill/press: pg_dump and 2 arguments, stored as /orchard-press.sql
  QoS class  BestEffort becomes Burstable
";
    assert_eq!((stdout(&output).as_str(), output.status.code()), (expected, Some(0)), "{output:?}");
}

#[test]
fn arguments_are_shown_as_the_program_receives_them_to_a_user_who_requests_them() {
    let value = "pg_dump --password=hush \"a b\" | gzip";
    let workload = DEPLOYMENT.replace("pg_dump --password=hush cider", &format!("'{value}'"));
    let workload = workload.replace("file-extension: .sql", "restorecommand: psql cider");
    let text = stdout(&explain(&["--show-arguments"], &workload));
    for line in [
        r#"  arguments  of the plain command: ["pg_dump","--password=hush","a b","|","gzip"]"#,
        r#"  arguments  of the plain command, restore: ["psql","cider"]"#,
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line} in {text}");
    }
    let json: Value = serde_json::from_slice(&explain(&["--show-arguments", "-o", "json"], &workload).stdout).unwrap();
    assert_eq!(json[0]["commandLines"][0]["arguments"][3], "|", "{json}");
    let without = stdout(&explain(&["-o", "json"], &workload));
    assert!(!without.contains("hush") && !without.contains("commandLines"), "{without}");
}

#[test]
fn command_whose_failure_would_be_green_is_warned_of() {
    for (command, part) in [
        ("sh -c 'pg_dump a; pg_dump b'", "only the last command of the script is judged"),
        ("sh -c 'pg_dump a & pg_dump b'", "does not collect its exit status"),
        ("pg_dump a | gzip", "`|` is passed to pg_dump as text"),
        ("echo $HOME", "`$NAME` is passed to echo as text"),
    ] {
        let workload = DEPLOYMENT.replace("pg_dump --password=hush cider", &format!("\"{command}\""));
        let output = explain(&[], &workload);
        let text = stdout(&output);
        let warnings: Vec<&str> = text.lines().filter(|line| line.starts_with("  warning ")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains(part), "{text}");
        assert_eq!(output.status.code(), Some(0), "a warning refuses nothing: {text}");
    }
}

#[test]
fn all_problems_of_all_objects_are_reported_at_once() {
    let wrong = DEPLOYMENT.replace("login", "kube-system/login").replace(".sql", "a/b");
    let bare = "\
kind: Pod
metadata: { name: well, annotations: { stowaway.dev/backupcommand: x, stowaway.dev/backupcommand-container: y } }
spec: { containers: [{ name: press }] }
";
    let output = explain(&[], &format!("{wrong}---\n{bare}---\nkind: Service\n"));
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("Deployment mill in namespace orchard: refused (InvalidAnnotation)"), "{text}");
    assert!(text.contains("Pod well in namespace default: refused (UnknownContainer)"), "{text}");
    for part in ["stowaway.dev/secrets", "stowaway.dev/file-extension", "no container \"y\"; it has press"] {
        assert_eq!(text.matches(part).count(), 1, "{part} in {text}");
    }
    assert!(!text.contains("hush"));
}

#[test]
fn a_mistake_in_another_tools_annotation_is_reported_and_is_no_refusal() {
    let bare = "\
kind: Pod
metadata: { name: well, annotations: { k8up.io/backupcommand: '' } }
spec: { containers: [{ name: press }] }
";
    let output = explain(&[], bare);
    let text = stdout(&output);
    // The mistake has to be fixed all the same before anything is backed up.
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("Pod well in namespace default: not injected (InvalidAnnotation)"), "{text}");
    assert_eq!(text.matches("k8up.io/backupcommand").count(), 1, "{text}");
}

#[test]
fn json_holds_patches_and_reasons() {
    let list = format!(
        "kind: List\nitems:\n{}",
        ["StatefulSet", "DaemonSet", "Job", "CronJob"]
            .map(|kind| {
                let template = "template: { metadata: { annotations: { stowaway.dev/backupcommand: dump, stowaway.dev/restore: on-empty, stowaway.dev/volumes: data } }, spec: { containers: [{ name: press }], volumes: [{ name: data, emptyDir: {} }] } }";
                let spec = if kind == "CronJob" { format!("jobTemplate: {{ spec: {{ {template} }} }}") } else { template.into() };
                format!("- {{ kind: {kind}, metadata: {{ name: mill }}, spec: {{ {spec} }} }}\n")
            })
            .concat()
    );
    let output = explain(&["-o", "json", "-n", "orchard"], &list);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let explanations: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> =
        explanations.as_array().unwrap().iter().map(|pod| pod["sources"][0]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["pod/mill-0/press", "daemonset/mill_node/press", "job/mill/press", "cronjob/mill/press"]);
    for pod in explanations.as_array().unwrap() {
        assert_eq!((pod["effect"].as_str(), pod["cause"].as_str()), (Some("Inject"), Some("Injected")), "{pod}");
        assert_eq!(pod["namespace"], "orchard");
        assert!(pod["patch"].as_array().unwrap().iter().all(|operation| operation["op"] == "add"));
    }
}

#[test]
fn claims_of_a_stateful_set_are_volumes_that_can_be_restored() {
    let set = "\
kind: StatefulSet
metadata: { name: well }
spec:
  template:
    metadata: { annotations: { stowaway.dev/restore: on-empty, stowaway.dev/inject: sidecar, stowaway.dev/volumes: water } }
    spec:
      containers: [{ name: pump, volumeMounts: [{ name: water, mountPath: /w }], securityContext: { runAsUser: 999 } }]
  volumeClaimTemplates: [{ metadata: { name: water } }]
";
    let output = explain(&[], set);
    let expected = "\
StatefulSet well in namespace default: injected (Injected)
  sidecar    mounts water (read-only) in /stowaway-volumes
  restore    restores water before the app starts, if empty
  store      Repository (the default one); the pod starts without its Secrets, but backups need them
  assumed    there is one Repository, or a default one, in namespace default when the pod is created
  source     pvc/water-well-0: its files, read by the sidecar, stored as /data/water-well-0
  QoS class  BestEffort becomes Burstable
claims water-well-N of StatefulSet well in namespace default: backed up as pvc/water-well-N, which its pod requests
";
    assert_eq!((stdout(&output).as_str(), output.status.code()), (expected, Some(0)), "{output:?}");
}

#[test]
fn repositories_of_the_file_are_used_and_others_assumed() {
    let workload = DEPLOYMENT.replace("stowaway.dev/secrets: login", "stowaway.dev/inject: sidecar");
    let main = "\
apiVersion: stowaway.dev/v1alpha1
kind: Repository
metadata: { name: main, namespace: orchard }
spec:
  s3:
    endpoint: https://s3.example
    bucket: cellar
    credentials:
      accessKeyIdSecretRef: { name: login, key: id }
      secretAccessKeySecretRef: { name: login, key: key }
  passwordSecretRef: { name: cellar-key }
";
    let on_volume = "\
apiVersion: stowaway.dev/v1alpha1
kind: Repository
metadata: { name: barn }
spec: { volume: { nfs: { server: barn, path: /x } }, passwordSecretRef: { name: cellar-key } }
";
    let named = |name: &str| {
        workload.replace("inject: sidecar", &format!("inject: sidecar\n        stowaway.dev/repository: {name}"))
    };
    for (text, store, assumed) in [
        (format!("{workload}---\n{main}"), "main", None),
        // The Repository is in another namespace.
        (format!("{workload}---\n{on_volume}"), "(the default one)", Some("there is one Repository")),
        (format!("{}---\n{main}", named("attic")), "attic", Some("there is a Repository attic in namespace orchard")),
    ] {
        let output = explain(&[], &text);
        let printed = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{printed}");
        assert!(printed.contains(&format!("store      Repository {store};")), "{printed}");
        let line = printed.lines().find_map(|line| line.strip_prefix("  assumed    "));
        assert!(
            line.is_none() == assumed.is_none() && line.unwrap_or_default().starts_with(assumed.unwrap_or_default()),
            "{printed}"
        );
    }
    let in_orchard = explain(&["-n", "orchard"], &format!("{workload}---\n{on_volume}"));
    assert!(
        stdout(&in_orchard).contains("assumed    Repository barn is ready when the pod is created"),
        "{in_orchard:?}"
    );
    let two = format!("{workload}---\n{main}---\n{}", main.replace("main", "further"));
    let ambiguous = explain(&[], &two);
    assert_eq!(ambiguous.status.code(), Some(2));
    assert!(stdout(&ambiguous).contains("there are several: further, main"), "{ambiguous:?}");
    let broken = explain(&[], &main.replace("cellar-key", "[]"));
    assert_eq!(broken.status.code(), Some(2), "{broken:?}");
}

#[test]
fn files_that_are_not_read_are_wrong_usage() {
    for (text, expected) in [
        ("kind: [", "document 1"),
        ("kind: Pod\nkind: Pod\n", "kind"),
        ("- 1\n", "no kind"),
        ("kind: Deployment\nmetadata: {name: x}\n", "Deployment x has no pod template"),
    ] {
        let output = explain(&[], text);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(complaint.contains(expected), "{text}: {complaint}");
    }
    let nothing = explain(&[], "kind: Service\n---\nkind: ConfigMap\n");
    assert_eq!(
        (stdout(&nothing).as_str(), nothing.status.code()),
        ("no pods in the file (only Service, ConfigMap)\n", Some(0))
    );
}

#[test]
fn misspelt_keys_are_explained_with_the_right_spelling_on_every_object() {
    let misspelt = DEPLOYMENT.replace("stowaway.dev/backupcommand", "stowawy.dev/backup-comand");
    let claim = "\
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: cask, namespace: orchard, labels: { stowaway.io/backup: 'false' } }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: keg, labels: { stowaway.dev/backup: 'false' } }
";
    let output = explain(&[], &(misspelt + claim));
    let text = stdout(&output);
    for part in [
        "annotation stowawy.dev/backup-comand: is not known and has no effect; the nearest known one is stowaway.dev/backupcommand",
        "PersistentVolumeClaim cask in namespace orchard: backed up as pvc/cask\n  warning    annotation stowaway.io/backup: ",
        "the nearest known one is stowaway.dev/backup (it is a label)",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let keg =
        "PersistentVolumeClaim keg in namespace default: not backed up (OptedOut): stowaway.dev/backup excludes it\n";
    assert!(text.ends_with(keg) && !text.contains("hush"), "{text}");
}

#[test]
fn object_of_k8up_is_explained_by_what_does_the_same_and_is_no_success() {
    let schedule = "\
apiVersion: k8up.io/v1
kind: Schedule
metadata: { name: nightly }
spec:
  backend:
    s3: { endpoint: http://minio:9000, bucket: backups }
    repoPasswordSecretRef: { name: backup-repo, key: password }
  backup: { schedule: '0 1 * * *', keepJobs: 4 }
  check: { schedule: '@weekly' }
";
    let output = explain(&["--namespace", "orchard"], schedule);
    let expected = "\
Schedule nightly in namespace orchard: of K8up (k8up.io/v1); Stowaway reads K8up's annotations, but not its objects
  backup     \"0 1 * * *\"; instead: Backups that a CronJob creates (docs/nightly.md)
  check      \"@weekly\"; instead: spec.check.schedule of a Repository
  backend    s3, bucket \"backups\" at \"http://minio:9000\"; instead: spec.s3 of a Repository
  password   Secret \"backup-repo\"; instead: spec.passwordSecretRef of a Repository, which opens the same repository
";
    assert_eq!((stdout(&output).as_str(), output.status.code()), (expected, Some(2)), "{output:?}");
    let output = explain(&["-o", "json"], schedule);
    assert_eq!((stdout(&output).trim(), output.status.code()), ("[]", Some(2)), "{output:?}");
}
