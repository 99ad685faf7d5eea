//! The claims of a file, which are `PersistentVolumeClaims` and the claim templates of `StatefulSets`: whether Backups
//! would store them, and why or why not. `plan::declared_claim` decides.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::Value;

use crate::{
    annotations::Carrier,
    api::Repository,
    plan::{DeclaredClaim, declared_claim},
    webhook::validate,
};

/// The facts which the claims are explained from.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    /// The namespace of objects which name none.
    pub namespace: &'a str,
    /// The objects of the file. A Namespace among them may exclude its claims.
    pub documents: &'a [Value],
    /// The Repositories of the file.
    pub repositories: &'a [Repository],
    /// The namespace and name of each source of the file's pods.
    pub requested: &'a BTreeSet<(String, String)>,
}

/// The output for one claim.
pub(super) struct ExplainedClaim {
    pub lines: Vec<String>,
    /// Whether a Backup of it would fail.
    pub is_wrong: bool,
}

/// A claim, or the claims of one template.
struct Claim<'a> {
    title: String,
    /// The name of the claim, or of the one of the first pod.
    name: String,
    /// The name by which the output shows all its claims.
    shown: String,
    object: &'a Value,
}

/// The claims of one object of the file.
pub(super) fn explained(object: &Value, facts: Facts<'_>) -> Vec<ExplainedClaim> {
    let namespace = text(object, "/metadata/namespace").unwrap_or(facts.namespace);
    claims(object, namespace).into_iter().map(|claim| explain(&claim, namespace, facts)).collect()
}

fn claims<'a>(object: &'a Value, namespace: &str) -> Vec<Claim<'a>> {
    let name_of = |object: &Value| text(object, "/metadata/name").unwrap_or("without a name").to_owned();
    let name = name_of(object);
    match (text(object, "/apiVersion"), text(object, "/kind")) {
        (Some("v1"), Some("PersistentVolumeClaim")) => {
            let title = format!("PersistentVolumeClaim {name} in namespace {namespace}");
            vec![Claim { title, shown: name.clone(), name, object }]
        }
        (_, Some("StatefulSet")) => {
            let templates = object.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array);
            let claim = |template: &'a Value| {
                let begin = format!("{}-{name}", name_of(template));
                let shown = format!("{begin}-N");
                let title = format!("claims {shown} of StatefulSet {name} in namespace {namespace}");
                Claim { title, name: format!("{begin}-0"), shown, object: template }
            };
            templates.into_iter().flatten().map(claim).collect()
        }
        _ => Vec::new(),
    }
}

fn explain(claim: &Claim<'_>, namespace: &str, facts: Facts<'_>) -> ExplainedClaim {
    let here = |repository: &&Repository| repository.namespace().as_deref() == Some(namespace);
    let repositories: Vec<Repository> = facts.repositories.iter().filter(here).cloned().collect();
    let is_namespace = |object: &&Value| {
        text(object, "/apiVersion") == Some("v1")
            && text(object, "/kind") == Some("Namespace")
            && text(object, "/metadata/name") == Some(namespace)
    };
    let of_namespace = facts.documents.iter().find(is_namespace).map(metadata).unwrap_or_default();
    let is_requested = facts.requested.contains(&(namespace.to_owned(), format!("pvc/{}", claim.name)));
    let declared = declared_claim(&claim.name, &metadata(claim.object), &of_namespace, &repositories);
    let (effect, is_wrong) = match declared {
        DeclaredClaim::Problem(why) => (format!("no backup is possible: {why}"), true),
        // The request of a pod overrides the annotations of the claim.
        _ if is_requested => (format!("backed up as pvc/{}, which its pod requests", claim.shown), false),
        DeclaredClaim::Source => (format!("backed up as pvc/{}", claim.shown), false),
        DeclaredClaim::Skip(reason, why) => (format!("not backed up ({reason:?}): {why}"), false),
    };
    let mut lines = vec![format!("{}: {effect}", claim.title)];
    let warnings = validate::carrier(Carrier::Claim, claim.object).warnings;
    lines.extend(warnings.iter().map(|warning| format!("  {:<10} {warning}", "warning")));
    ExplainedClaim { lines, is_wrong }
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// The annotations and labels of an object.
fn metadata(object: &Value) -> ObjectMeta {
    let texts = |field: &str| {
        let texts = object.pointer(field)?.as_object()?;
        Some(texts.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
    };
    ObjectMeta {
        annotations: texts("/metadata/annotations"),
        labels: texts("/metadata/labels"),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(documents: &[Value], requested: &[&str]) -> Vec<String> {
        let requested = requested.iter().map(|name| ("orchard".to_owned(), (*name).to_owned())).collect();
        let facts = Facts { namespace: "orchard", documents, repositories: &[], requested: &requested };
        documents.iter().flat_map(|object| explained(object, facts)).flat_map(|claim| claim.lines).collect()
    }

    fn claim(annotations: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": "cask", "annotations": annotations },
        })
    }

    #[test]
    fn claims_are_explained_by_the_key_that_decides() {
        let out = json!({ "k8up.io/backup": "false" });
        let title = "PersistentVolumeClaim cask in namespace orchard";
        assert_eq!(lines(&[claim(&json!({}))], &[]), [format!("{title}: backed up as pvc/cask")]);
        let excluded = format!("{title}: not backed up (OptedOut): k8up.io/backup excludes it");
        assert_eq!(lines(&[claim(&out)], &[]), [excluded]);
        let requested = format!("{title}: backed up as pvc/cask, which its pod requests");
        assert_eq!(lines(&[claim(&out)], &["pvc/cask"]), [requested]);
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "orchard", "annotations": { "stowaway.dev/backup": "false" } },
        });
        let lines = lines(&[claim(&json!({})), namespace], &[]);
        assert!(lines.len() == 1 && lines[0].contains("of the namespace excludes it"), "{lines:?}");
    }

    #[test]
    fn claim_templates_of_a_stateful_set_are_claims() {
        let set = json!({
            "kind": "StatefulSet", "metadata": { "name": "well" },
            "spec": { "volumeClaimTemplates": [
                { "metadata": { "name": "water" } },
                { "metadata": { "name": "log", "annotations": { "stowaway.dev/backup": "false" } } },
            ] },
        });
        let of = |name: &str| format!("claims {name}-well-N of StatefulSet well in namespace orchard");
        let expected = [
            format!("{}: backed up as pvc/water-well-N", of("water")),
            format!("{}: not backed up (OptedOut): stowaway.dev/backup excludes it", of("log")),
        ];
        assert_eq!(lines(&[set], &[]), expected);
    }
}
