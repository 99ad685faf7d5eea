//! The requests that the controller's account makes, and those that the holder of its stolen token could make.

use super::*;

/// The Job of a run as the controller creates it, with another value at a JSON pointer.
fn run_with(pointer: &str, value: Value) -> Value {
    let security = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    let container =
        json!({ "name": "runner", "image": IMAGE, "args": ["runner"], "command": [], "securityContext": security });
    let mut job = json!({
        "metadata": {
            "name": "x",
            "labels": { "app.kubernetes.io/managed-by": "stowaway", "stowaway.dev/kind": "backup" },
            "ownerReferences": [{ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup", "name": "b", "uid": "u", "controller": true }],
        },
        "spec": { "template": { "spec": {
            "serviceAccountName": "stowaway-run-x", "hostNetwork": false, "initContainers": [], "containers": [container],
            "volumes": [{ "name": "repository", "hostPath": { "path": "/srv" } }],
        } } },
    });
    *job.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    job
}

#[test]
fn controller_makes_and_deletes_what_is_its_own_alone() {
    let by_controller = |operation, group, resource| request(operation, group, resource).by(CONTROLLER_USER);
    let job = |pointer: &str, value: Value| by_controller("CREATE", "batch", "jobs").of(run_with(pointer, value));
    let pod = "/spec/template/spec";
    let policy = Some("stowaway-controller-jobs");
    let container = format!("{pod}/containers/0");
    holds(vec![
        ("run", job("/metadata/name", json!("x")), None),
        ("run of another account", job(&format!("{pod}/serviceAccountName"), json!("default")), policy),
        ("run of another image", job(&format!("{container}/image"), json!("thief")), policy),
        ("run by digest", job(&format!("{container}/image"), json!(format!("{IMAGE}@sha256:00"))), None),
        ("other arguments", job(&format!("{container}/args"), json!(["sidecar"])), policy),
        ("a command", job(&format!("{container}/command"), json!(["sh"])), policy),
        (
            "capabilities",
            job(&format!("{container}/securityContext/capabilities"), json!({ "add": ["SYS_ADMIN"] })),
            policy,
        ),
        ("escalation", job(&format!("{container}/securityContext/allowPrivilegeEscalation"), json!(true)), policy),
        ("network of the host", job(&format!("{pod}/hostNetwork"), json!(true)), policy),
        ("an init container", job(&format!("{pod}/initContainers"), json!([{ "name": "thief" }])), policy),
        ("another owner", job("/metadata/ownerReferences/0/apiVersion", json!("apps/v1")), policy),
        ("no label", job("/metadata/labels", json!({})), policy),
    ]);
    let job_owner = json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": "x", "uid": "u", "controller": true }]);
    let binding = |role: &str, account: &str, namespace: &str| {
        json!({
            "metadata": { "name": "x", "ownerReferences": job_owner },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
        })
    };
    let bind = |object: Value| by_controller("CREATE", "rbac.authorization.k8s.io", "rolebindings").of(object);
    let delete = |group, resource, old: Value| by_controller("DELETE", group, resource).after(old);
    let owned = |kind: &str| {
        let owner = json!([{ "apiVersion": "stowaway.dev/v1alpha1", "kind": kind, "uid": "u", "controller": true }]);
        json!({ "metadata": { "name": "x", "ownerReferences": owner }, "spec": {} })
    };
    let bindings = Some("stowaway-controller-bindings");
    let secret = |kind: &str, label: &str| {
        by_controller("CREATE", "", "secrets").of(json!({
            "metadata": { "name": "x", "labels": { "app.kubernetes.io/managed-by": label } }, "type": kind,
        }))
    };
    let account =
        |name: &str| by_controller("CREATE", "", "serviceaccounts").of(json!({ "metadata": { "name": name } }));
    let unowned = json!({ "metadata": { "name": "x" } });
    holds(vec![
        ("binding", bind(binding("stowaway-runner", "stowaway-run-x", "shop")), None),
        ("another role", bind(binding("cluster-admin", "stowaway-run-x", "shop")), bindings),
        ("another account", bind(binding("stowaway-runner", "default", "shop")), bindings),
        ("another namespace", bind(binding("stowaway-runner", "stowaway-run-x", "kube-system")), bindings),
        (
            "binding of others",
            delete("rbac.authorization.k8s.io", "rolebindings", binding("view", "default", "shop")),
            Some("stowaway-controller-binding-deletes"),
        ),
        (
            "own binding",
            delete("rbac.authorization.k8s.io", "rolebindings", binding("stowaway-locks", "stowaway-run-x", "shop")),
            None,
        ),
        ("claim of others", delete("", "persistentvolumeclaims", unowned), Some("stowaway-controller-deletes")),
        (
            "claim of a Restore",
            delete("", "persistentvolumeclaims", owned("Restore")),
            Some("stowaway-controller-deletes"),
        ),
        ("own claim", delete("", "persistentvolumeclaims", owned("Backup")), None),
        ("password", secret("Opaque", "stowaway"), None),
        (
            "secret of another kind",
            secret("bootstrap.kubernetes.io/token", "stowaway"),
            Some("stowaway-controller-secrets"),
        ),
        ("secret of others", secret("Opaque", "helm"), Some("stowaway-controller-secrets")),
        ("account", account("stowaway-run-x"), None),
        ("another account", account("default"), Some("stowaway-controller-accounts")),
    ]);
}

#[test]
fn controller_changes_nothing_of_a_claim_but_its_own_mark() {
    let claim = |annotations: Value, size: &str| {
        let spec = json!({ "resources": { "requests": { "storage": size } } });
        json!({ "metadata": { "name": "x", "labels": { "app": "mill" }, "annotations": annotations }, "spec": spec })
    };
    let marked = || json!({ "stowaway.dev/restore-unfinished": "undo", "note": "x" });
    let change = |new: Value| request("UPDATE", "", "persistentvolumeclaims").after(claim(marked(), "1Gi")).of(new);
    let by_controller = |new: Value| change(new).by(CONTROLLER_USER);
    let mut relabelled = claim(json!({ "note": "x" }), "1Gi");
    relabelled["metadata"]["labels"] = json!({ "stowaway.dev/backup": "false" });
    let mut kept = claim(json!({ "note": "x" }), "1Gi");
    kept["metadata"]["finalizers"] = json!(["example.com/keep"]);
    let policy = Some("stowaway-controller-claims");
    holds(vec![
        ("mark removed", by_controller(claim(json!({ "note": "x" }), "1Gi")), None),
        ("nothing", by_controller(claim(marked(), "1Gi")), None),
        ("size", by_controller(claim(marked(), "2Gi")), policy),
        ("another annotation removed", by_controller(claim(json!({}), "1Gi")), policy),
        ("another annotation changed", by_controller(claim(json!({ "note": "y" }), "1Gi")), policy),
        ("an annotation added", by_controller(claim(json!({ "note": "x", "a": "b" }), "1Gi")), policy),
        ("labels", by_controller(relabelled), policy),
        ("finalizers", by_controller(kept), policy),
        ("by its user", change(claim(json!({}), "2Gi")), None),
    ]);
}

/// Another author's Job.
fn job_of_others() -> Value {
    json!({
        "metadata": { "name": "x", "labels": { "app": "mill" } },
        "spec": { "suspend": false, "template": { "spec": { "serviceAccountName": "mill" } } },
    })
}

#[test]
fn controller_changes_and_deletes_only_jobs_of_runs_and_never_their_owners_and_labels() {
    let change = |old: Value, pointer: &str, value: Value| {
        let mut new = old.clone();
        *new.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        request("UPDATE", "batch", "jobs").by(CONTROLLER_USER).after(old).of(new)
    };
    let run = || {
        let mut run = run_with("/metadata/name", json!("x"));
        run["spec"]["suspend"] = json!(true);
        run["metadata"]["labels"]["team"] = json!("mill");
        run
    };
    let delete = |old: Value| request("DELETE", "batch", "jobs").by(CONTROLLER_USER).after(old);
    let owner = run()["metadata"]["ownerReferences"].clone();
    // A Job of another author, to which an owner and labels of Stowaway were added.
    let adopted = || {
        let mut job = job_of_others();
        job["metadata"]["ownerReferences"] = owner.clone();
        job["metadata"]["labels"] = run()["metadata"]["labels"].clone();
        job
    };
    let mut given = job_of_others();
    given["metadata"]["ownerReferences"] = json!([]);
    let mut without_owner = run();
    without_owner["metadata"]["ownerReferences"] = json!([]);
    let (changes, deletes) = (Some("stowaway-controller-job-changes"), Some("stowaway-controller-job-deletes"));
    let mut limited = run();
    limited["spec"]["activeDeadlineSeconds"] = json!(86_400);
    limited["spec"]["ttlSecondsAfterFinished"] = json!(null);
    holds(vec![
        ("start", change(run(), "/spec/suspend", json!(false)), None),
        ("early end", change(limited.clone(), "/spec/activeDeadlineSeconds", json!(1)), None),
        ("expiry", change(limited, "/spec/ttlSecondsAfterFinished", json!(60)), None),
        ("label of another client", change(run(), "/metadata/labels/team", json!("press")), None),
        ("kind", change(run(), "/metadata/labels/stowaway.dev~1kind", json!("prune")), changes),
        ("no labels", change(run(), "/metadata/labels", json!({})), changes),
        ("no owner", change(run(), "/metadata/ownerReferences", json!([])), changes),
        ("another owner", change(run(), "/metadata/ownerReferences/0/uid", json!("v")), changes),
        ("stop of a Job of others", change(job_of_others(), "/spec/suspend", json!(true)), changes),
        ("owner for a Job of others", change(given, "/metadata/ownerReferences", owner.clone()), changes),
        ("stop of an adopted Job", change(adopted(), "/spec/suspend", json!(true)), changes),
        ("stop of a run without an owner", change(without_owner.clone(), "/spec/suspend", json!(false)), changes),
        ("own job", delete(run()), None),
        ("job of others", delete(job_of_others()), deletes),
        ("adopted job", delete(adopted()), deletes),
        ("run without an owner", delete(without_owner), deletes),
    ]);
}

/// The Job of a run whose repository is in a directory of the host, with another value at a JSON pointer.
fn on_the_host(pointer: &str, value: Value) -> Request {
    let mut job = run_with(
        "/spec/template/spec/volumes",
        json!([
            { "name": "repository", "hostPath": { "path": "/srv/backups", "type": "Directory" } },
            { "name": "archive", "hostPath": { "path": "/srv/archives" } },
            { "name": "target", "persistentVolumeClaim": { "claimName": "casks" } },
        ]),
    );
    let container = &mut job["spec"]["template"]["spec"]["containers"][0];
    container["volumeMounts"] = json!([
        { "name": "repository", "mountPath": "/repository" },
        { "name": "archive", "mountPath": "/archive" },
        { "name": "target", "mountPath": "/target" },
    ]);
    container["env"] = json!([{ "name": "STOWAWAY_TASK", "value": "{}" }]);
    container["securityContext"]["capabilities"]["add"] = json!(crate::model::mounts::RIGHTS_TO_RESTORE);
    let pod = &mut job["spec"]["template"]["spec"];
    match pod.pointer_mut(pointer) {
        Some(found) => *found = value,
        None => {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"))[name] = value;
        }
    }
    request("CREATE", "batch", "jobs").by(CONTROLLER_USER).of(job)
}

#[test]
fn run_writes_to_no_directory_of_the_host_but_a_store_and_runs_no_program_there() {
    let policy = Some("stowaway-controller-host-paths");
    let volume = |value: Value| on_the_host("/volumes/2", value);
    let container = |field: &str, value: Value| on_the_host(&format!("/containers/0/{field}"), value);
    let mounts = |name: &str, path: &str| container("volumeMounts", json!([{ "name": name, "mountPath": path }]));
    let probe = || json!({ "exec": { "command": ["/target/thief"] } });
    holds(vec![
        ("restore from the host", on_the_host("/restartPolicy", json!("Never")), None),
        ("another volume", volume(json!({ "name": "target", "hostPath": { "path": "/srv" } })), policy),
        (
            "a socket",
            on_the_host("/volumes/1", json!({ "name": "archive", "hostPath": { "path": "/srv/s", "type": "Socket" } })),
            policy,
        ),
        ("repository as the target", mounts("repository", "/target"), policy),
        ("archive as the target", mounts("archive", "/target"), policy),
        ("a claim as the program", mounts("target", "/usr/bin"), policy),
        (
            "a part of the directory",
            container("volumeMounts", json!([{ "name": "repository", "mountPath": "/repository", "subPath": "x" }])),
            policy,
        ),
        ("another root", container("env", json!([{ "name": "STOWAWAY_ROOT", "value": "/repository" }])), policy),
        ("a library", container("env", json!([{ "name": "LD_PRELOAD", "value": "/target/thief.so" }])), policy),
        ("variables of a Secret", container("envFrom", json!([{ "secretRef": { "name": "thief" } }])), policy),
        ("a program at the start", container("lifecycle", json!({ "postStart": probe() })), policy),
        ("a program as a probe", container("livenessProbe", probe()), policy),
        ("a variable", container("env", json!([{ "name": "HTTPS_PROXY", "value": "http://proxy:3128" }])), None),
    ]);
}

#[test]
fn policy_and_webhook_refuse_the_same_directories_of_the_host() {
    let nodes = api::NODE_FOLDERS.iter().map(|folder| folder.trim_end_matches('/'));
    let nodes = nodes.flat_map(|folder| [folder.to_owned(), format!("{folder}-x")]);
    let others = [
        "",
        "/",
        "//",
        "/.",
        "relative",
        "/srv",
        "/srv/",
        "/srv//x",
        "/srv/x//",
        "/srv/../etc",
        "/srv/./x",
        "/srv/.x",
        "/home",
        "/home/",
        "/home/mill",
        "/home/mill/",
        "/home/mill/casks",
        "/home/mill/.ssh",
        "/var",
        "/var/",
        "/var/lib",
        "/opt",
        "/var/lib/stowaway",
        "/data/backups",
    ];
    let mut admitted = 0;
    for path in nodes.chain(others.map(str::to_owned)) {
        let refused = on_the_host("/volumes/0/hostPath/path", json!(path)).refused_by();
        let expected: &[&str] = match api::host_path_problem(&path) {
            Some(_) => &["stowaway-controller-host-paths"],
            None => &[],
        };
        assert_eq!(refused, expected, "{path}");
        admitted += usize::from(refused.is_empty());
    }
    assert!(admitted > 4, "{admitted}");
}

#[test]
fn controller_runs_nothing_in_the_namespaces_whose_pods_control_the_cluster() {
    let job = request("CREATE", "batch", "jobs").by(CONTROLLER_USER).of(run_with("/metadata/name", json!("x")));
    for namespace in ["kube-system", "stowaway-system"] {
        let refused = Request { namespace, ..job.clone() }.refused_by();
        assert_eq!(refused, ["stowaway-controller-namespaces"], "{namespace}");
        let by_another = Request { namespace, ..request("CREATE", "batch", "jobs").of(job_of_others()) };
        assert!(by_another.refused_by().is_empty(), "{namespace}");
    }
    assert!(job.refused_by().is_empty());
}

#[test]
fn jobs_are_admitted_as_the_controller_builds_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/resources/golden");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_of_jobs = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with("-job.yaml") || name.ends_with("-jobs.yaml")
    };
    let mut count = 0;
    for path in files.filter(is_of_jobs) {
        let text = fs::read_to_string(&path).unwrap();
        for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
            let mut job: Value = yaml_serde::from_str(document).unwrap();
            job["spec"]["template"]["spec"]["containers"][0]["image"] = json!(IMAGE);
            let volumes = job["spec"]["template"]["spec"]["volumes"].as_array().unwrap().clone();
            let create =
                |job: &Value| request("CREATE", "batch", "jobs").by(CONTROLLER_USER).of(job.clone()).refused_by();
            assert!(create(&job).is_empty(), "{}", path.display());
            // Every run can have its stores on the host.
            let mut on_host = job.clone();
            let stored = |volume: Value| match volume["name"].as_str() {
                Some(name @ ("repository" | "archive")) => {
                    json!({ "name": name, "hostPath": { "path": "/srv/stowaway", "type": "DirectoryOrCreate" } })
                }
                _ => volume,
            };
            on_host["spec"]["template"]["spec"]["volumes"] = volumes.into_iter().map(stored).collect();
            assert!(create(&on_host).is_empty(), "{} on the host", path.display());
            for (field, value) in
                [("suspend", json!(false)), ("activeDeadlineSeconds", json!(1)), ("ttlSecondsAfterFinished", json!(9))]
            {
                let mut changed = job.clone();
                changed["spec"][field] = value;
                let change = request("UPDATE", "batch", "jobs").by(CONTROLLER_USER).after(job.clone()).of(changed);
                assert!(change.refused_by().is_empty(), "{}: {field}", path.display());
            }
            let delete = request("DELETE", "batch", "jobs").by(CONTROLLER_USER).after(job);
            assert!(delete.refused_by().is_empty(), "{}", path.display());
            count += 1;
        }
    }
    assert!(count > 8, "{count}");
}

#[test]
fn controller_changes_nothing_of_a_restore_but_its_annotations_and_finalizers() {
    let restore = json!({
        "metadata": {
            "name": "x", "labels": { "app": "mill" }, "annotations": { "stowaway.dev/scaled-from": "u 3" },
            "finalizers": ["stowaway.dev/scaled"], "ownerReferences": [],
        },
        "spec": { "from": { "source": "pvc/casks" } },
    });
    let change = |pointer: &str, value: Value| {
        let mut new = restore.clone();
        *new.pointer_mut(pointer).unwrap() = value;
        request("UPDATE", GROUP, "restores").by(CONTROLLER_USER).after(restore.clone()).of(new)
    };
    let policy = Some("stowaway-controller-restores");
    let owner = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "u" }]);
    holds(vec![
        ("annotations", change("/metadata/annotations", json!({ "stowaway.dev/carried-out": "u" })), None),
        ("finalizers", change("/metadata/finalizers", json!([])), None),
        ("spec", change("/spec/from/source", json!("pvc/other")), policy),
        ("labels", change("/metadata/labels", json!({})), policy),
        ("owner, so that Kubernetes deletes it", change("/metadata/ownerReferences", owner), policy),
    ]);
}
