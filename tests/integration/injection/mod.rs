//! What is put into pods, seen from outside: golden pairs, properties of any pod, and those who want more than they may.

mod attacks;
mod explain;
pub mod golden;
mod properties;

use serde_json::Value;
use stowaway::inject::{InjectionFacts, Outcome, inject};

/// The image of the tests.
pub const IMAGE: &str = "registry.example/stowaway@sha256:5e1f";

const FACTS: InjectionFacts<'static> =
    InjectionFacts { namespace: "orchard", on_create: true, by_namespace: None, image: IMAGE, repositories: &[] };

/// The names of containers and volumes that are ours, but for those of Secrets.
const OURS: [&str; 6] = [
    "stowaway-helper",
    "stowaway-sidecar",
    "stowaway-restore",
    "stowaway-socket",
    "stowaway-store",
    "stowaway-scratch",
];

fn is_ours(entry: &Value) -> bool {
    entry["name"].as_str().is_some_and(|name| OURS.contains(&name) || name.starts_with("stowaway-secret-"))
}

fn decide(pod: &Value) -> Outcome {
    inject(pod, &FACTS)
}

/// What keeps a container of ours out of a namespace that enforces Pod Security `restricted`, under a pod that is in it.
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
