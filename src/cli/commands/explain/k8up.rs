//! K8up's objects in a file, and their counterparts in Stowaway, which ignores these objects. K8up's annotations are
//! not handled here, because Stowaway reads them like its own.

use serde_json::Value;

/// Prefixes of the API groups of K8up, for all its versions.
const GROUPS: [&str; 3] = ["k8up.io/", "backup.appuio.ch/", "k8up.syn.tools/"];
/// The document with the recipes.
const RECIPES: &str = "docs/nightly.md";

/// The lines about an object of K8up; none for another object.
pub(super) fn lines(object: &Value, namespace: &str) -> Option<Vec<String>> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let group = text("/apiVersion").filter(|version| GROUPS.iter().any(|group| version.starts_with(group)))?;
    let kind = text("/kind").unwrap_or("object");
    let name = text("/metadata/name").unwrap_or("without a name");
    let namespace = text("/metadata/namespace").unwrap_or(namespace);
    let mut lines = vec![format!(
        "{kind} {name} in namespace {namespace}: of K8up ({group}); Stowaway reads K8up's annotations, but not its objects"
    )];
    let mut row = |label: &str, text: &str| lines.push(format!("  {label:<10} {text}"));
    if kind == "Schedule" {
        for (part, instead) in [
            ("backup", format!("Backups that a CronJob creates ({RECIPES})")),
            ("check", "spec.check.schedule of a Repository".to_owned()),
            ("prune", "spec.prune.schedule and spec.retention of a Repository".to_owned()),
            ("archive", format!("Restores with spec.to.archive that a CronJob creates ({RECIPES})")),
            ("restore", format!("Restores that a CronJob creates ({RECIPES})")),
        ] {
            if object.pointer(&format!("/spec/{part}")).is_some() {
                let schedule = text(&format!("/spec/{part}/schedule")).unwrap_or("without a schedule");
                row(part, &format!("{schedule:?}; instead: {instead}"));
            }
        }
    } else {
        row("instead", &counterpart(kind));
    }
    if let Some(backend) = object.pointer("/spec/backend").and_then(Value::as_object) {
        for (kind, store) in
            backend.iter().filter(|(kind, _)| !matches!(kind.as_str(), "repoPasswordSecretRef" | "envFrom"))
        {
            let part = |field: &str| store.get(field).and_then(Value::as_str).unwrap_or("none");
            let text = if kind == "s3" {
                format!("s3, bucket {:?} at {:?}; instead: spec.s3 of a Repository", part("bucket"), part("endpoint"))
            } else {
                format!("{kind}; instead: a Repository")
            };
            row("backend", &text);
        }
        if let Some(secret) = text("/spec/backend/repoPasswordSecretRef/name") {
            row(
                "password",
                &format!(
                    "Secret {secret:?}; instead: spec.passwordSecretRef of a Repository, which opens the same repository"
                ),
            );
        }
    }
    Some(lines)
}

/// The counterpart of an object of K8up, except the Schedule.
fn counterpart(kind: &str) -> String {
    match kind {
        "Backup" => "a Backup".to_owned(),
        "Restore" | "Archive" => "a Restore".to_owned(),
        "Check" => "spec.check of a Repository".to_owned(),
        "Prune" => "spec.prune and spec.retention of a Repository".to_owned(),
        "PreBackupPod" => {
            "nothing: annotate a pod that has the client program, such as a Deployment that idles".to_owned()
        }
        _ => "nothing".to_owned(),
    }
}
