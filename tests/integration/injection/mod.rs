//! Injection into pods, seen from outside: golden cases, properties of any pod, and attacks.

mod attacks;
mod explain;
mod foreign;
pub mod golden;
mod properties;
mod runner_pod;
mod store;
pub mod watchdog;

use std::sync::LazyLock;

use serde_json::{Value, json};
use stowaway::{
    api::Repository,
    inject::{InjectionFacts, Outcome, inject},
};

pub const IMAGE: &str = "registry.example/stowaway@sha256:5e1f";

/// The Repositories of the tests: the default one in a bucket, some on volumes, and one in another namespace.
static REPOSITORIES: LazyLock<Vec<Repository>> = LazyLock::new(|| {
    let key = |name: &str, key: &str| json!({ "name": name, "key": key });
    let s3 = |secret: &str| {
        json!({
            "s3": {
                "endpoint": "https://s3.example/", "bucket": "cellar", "prefix": "mill", "region": "eu",
                "credentials": {
                    "accessKeyIdSecretRef": key(secret, "id"),
                    "secretAccessKeySecretRef": key(secret, "key"),
                    "sessionTokenSecretRef": key("session", "token"),
                },
            },
            "passwordSecretRef": key("cellar-key", "restic"),
        })
    };
    let volume = |volume: &Value| json!({ "volume": volume, "passwordSecretRef": { "name": "cellar-key" } });
    let claim = json!({ "persistentVolumeClaim": { "claimName": "cellar", "readOnly": false }, "path": "mill" });
    let opened = json!({ "repositoryId": "5e1f", "clusterId": "c-1" });
    let mut main = repository("main", &s3("cellar-login"), &json!({}));
    main.metadata.annotations = Some([("stowaway.dev/is-default".to_owned(), "true".to_owned())].into());
    let mut foreign = repository("foreign", &s3("other"), &json!({}));
    foreign.metadata.namespace = Some("other".to_owned());
    vec![
        main,
        repository("cellar.eu", &s3("login-eu"), &json!({})),
        repository("cellar", &volume(&claim), &opened),
        repository("barn", &volume(&json!({ "nfs": { "server": "barn", "path": "/x", "readOnly": false } })), &opened),
        repository("new", &volume(&json!({ "hostPath": { "path": "/x", "type": "" } })), &json!({})),
        foreign,
    ]
});

fn repository(name: &str, spec: &Value, status: &Value) -> Repository {
    serde_json::from_value(json!({
        "apiVersion": "stowaway.dev/v1alpha1",
        "kind": "Repository",
        "metadata": { "name": name, "namespace": "orchard" },
        "spec": spec,
        "status": status,
    }))
    .unwrap()
}

fn facts() -> InjectionFacts<'static> {
    InjectionFacts {
        namespace: "orchard",
        on_create: true,
        by_namespace: None,
        image: IMAGE,
        repositories: &REPOSITORIES,
    }
}

/// The names of injected containers and volumes, without those of the volumes of Secrets.
const RESERVED_NAMES: [&str; 7] = [
    "stowaway-helper",
    "stowaway-sidecar",
    "stowaway-restore",
    "stowaway-socket",
    "stowaway-store",
    "stowaway-repository",
    "stowaway-scratch",
];

fn has_reserved_name(entry: &Value) -> bool {
    entry["name"].as_str().is_some_and(|name| RESERVED_NAMES.contains(&name) || name.starts_with("stowaway-secret-"))
}

fn decide(pod: &Value) -> Outcome {
    inject(pod, &facts())
}

/// The first field which Pod Security `restricted` would reject in an injected container, in a pod which complies
/// otherwise.
fn unrestricted(container: &Value) -> Option<String> {
    let context = &container["securityContext"];
    let fields = [
        ("allowPrivilegeEscalation", Value::Bool(false)),
        ("readOnlyRootFilesystem", Value::Bool(true)),
        ("runAsNonRoot", Value::Bool(true)),
        ("capabilities", serde_json::json!({ "drop": ["ALL"] })),
        ("seccompProfile", serde_json::json!({ "type": "RuntimeDefault" })),
        ("privileged", Value::Null),
    ];
    let wrong = fields.iter().find(|(field, expected)| context[field] != *expected);
    wrong.map(|(field, _)| (*field).to_owned()).or_else(|| (context["runAsUser"] == 0).then(|| "runAsUser".to_owned()))
}

/// Whether Pod Security `restricted` admits all users which the pod's own containers may run as.
fn is_restricted(pod: &Value) -> bool {
    let of_pod = &pod["spec"]["securityContext"];
    let containers = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let non_root = containers.into_iter().flatten().all(|container| {
        let own = &container["securityContext"];
        let declared = if own["runAsNonRoot"].is_null() { &of_pod["runAsNonRoot"] } else { &own["runAsNonRoot"] };
        declared == true && own["runAsUser"] != 0
    });
    non_root && of_pod["runAsUser"] != 0
}
