//! Derives the pods that a workload's controller would create from the workload, so that they can be checked before
//! they exist.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{annotations::workload_warnings, plan::Workload};

/// A pod as the webhook would receive it.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The object that the pod belongs to, for users: `Deployment shop`.
    pub title: String,
    pub namespace: String,
    pub pod: Value,
    pub workload: Workload,
    /// Warnings about annotations on the workload itself, where they have no effect.
    pub warnings: Vec<String>,
}

/// Why no pods can be derived from an object.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateError {
    /// The object has no kind.
    #[error("this is not a Kubernetes object: it has no kind")]
    NoKind,
    /// The workload has no pod template.
    #[error("{0} has no pod template (spec.template with metadata and spec)")]
    NoTemplate(String),
}

/// The pods of an object; empty if its kind has no pods. A list has the pods of its items.
///
/// # Errors
/// If the JSON is not an object with a kind, or a workload has no pod template.
pub fn pods_of(object: &Value, namespace: &str) -> Result<Vec<Template>, TemplateError> {
    let kind = object.get("kind").and_then(Value::as_str).ok_or(TemplateError::NoKind)?;
    if kind.ends_with("List")
        && let Some(items) = object.get("items").and_then(Value::as_array)
    {
        // The items of a typed list have no kind of their own.
        let of_items = kind.strip_suffix("List").unwrap_or_default();
        let pods = items.iter().map(|item| match item.get("kind") {
            None if !of_items.is_empty() => {
                let mut item = item.clone();
                if let Some(item) = item.as_object_mut() {
                    item.insert("kind".into(), of_items.into());
                }
                pods_of(&item, namespace)
            }
            _ => pods_of(item, namespace),
        });
        return Ok(pods.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect());
    }
    let metadata =
        |field: &str| object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
    let name = metadata("name").map(str::to_owned);
    let name = name.or_else(|| metadata("generateName").map(|prefix| format!("{prefix}xxxxx"))).unwrap_or_default();
    let namespace = metadata("namespace").unwrap_or(namespace).to_owned();
    let title = format!("{kind} {name}");
    let workload = Workload { kind: kind.to_lowercase(), name: name.clone() };
    let template = match kind {
        "Pod" => return Ok(vec![Template { title, namespace, pod: object.clone(), workload, warnings: Vec::new() }]),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            object.pointer("/spec/template")
        }
        "CronJob" => object.pointer("/spec/jobTemplate/spec/template"),
        _ => return Ok(Vec::new()),
    };
    let spec = template.and_then(|template| template.get("spec")).and_then(Value::as_object);
    let Some(spec) = spec else { return Err(TemplateError::NoTemplate(title)) };
    let mut spec = spec.clone();
    if kind == "StatefulSet" {
        add_claims(object, &name, &mut spec);
    }
    let of_template = template.and_then(|template| template.get("metadata"));
    let found = workload_warnings(annotations(object.get("metadata")).as_ref(), annotations(of_template).as_ref());
    let warnings = found.iter().map(|warning| format!("{title}: {warning}")).collect();
    let mut metadata = of_template.and_then(Value::as_object).cloned().unwrap_or_default();
    metadata.insert("namespace".into(), namespace.clone().into());
    match kind {
        "StatefulSet" => metadata.insert("name".into(), format!("{name}-0").into()),
        _ => metadata.insert("generateName".into(), format!("{name}-").into()),
    };
    // The owner's UID does not matter, only that there is an owner.
    let owner =
        json!([{ "apiVersion": object.get("apiVersion"), "kind": kind, "name": name, "uid": "", "controller": true }]);
    metadata.insert("ownerReferences".into(), owner);
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
    Ok(vec![Template { title, namespace, pod, workload, warnings }])
}

/// The annotations of an object's metadata.
fn annotations(metadata: Option<&Value>) -> Option<BTreeMap<String, String>> {
    let annotations = metadata?.get("annotations")?.as_object()?;
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    Some(annotations.iter().filter_map(text).collect())
}

/// Adds the volumes which the `StatefulSet` controller creates from claim templates. They replace volumes of the same
/// name.
fn add_claims(object: &Value, name: &str, spec: &mut Map<String, Value>) {
    let claims = object.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array).into_iter().flatten();
    let claims: Vec<&str> = claims.filter_map(|claim| claim.pointer("/metadata/name")?.as_str()).collect();
    if claims.is_empty() {
        return;
    }
    let mut volumes: Vec<Value> = spec.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
    volumes.retain(|volume| !volume.get("name").and_then(Value::as_str).is_some_and(|name| claims.contains(&name)));
    volumes.extend(
        claims.iter().map(
            |claim| json!({ "name": claim, "persistentVolumeClaim": { "claimName": format!("{claim}-{name}-0") } }),
        ),
    );
    spec.insert("volumes".into(), volumes.into());
}
