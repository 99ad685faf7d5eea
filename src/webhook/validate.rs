//! Validates the annotations of a workload, or an object of Stowaway, and reports all problems at once. Pure, and
//! independent of HTTP and of the review format.
//!
//! An update of something else is not refused because of an old mistake. A problem is only a warning if the object had
//! it before, with the same key and value, and if the parts of the object that it concerns are unchanged. Only users
//! are refused: an object that a controller creates is admitted (it may be a node drain at night), and so is an object
//! that is being deleted.

mod maintenance;
mod objects;
mod runner_pod;

pub use objects::object;

use std::collections::BTreeMap;

use serde_json::Value;

use super::review::RefusedField;
use crate::{
    annotations::{Carrier, carrier_warnings},
    inject::{Cause, Finding, InjectionFacts, Template, explain, pods_of},
};

/// Group and kind of the workloads that users write, and of bare pods. A `ReplicaSet` belongs to a Deployment.
pub const WORKLOADS: [(&str, &str); 6] = [
    ("", "Pod"),
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
    ("batch", "CronJob"),
];

/// The result of validating an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidationResult {
    /// Problems for which the object is refused.
    pub refused: Vec<RefusedField>,
    /// Problems that are only reported as warnings.
    pub tolerated: Vec<RefusedField>,
    /// Whether a controller created the object, or it is being deleted. Then no user can fix it, and it is not refused.
    pub not_by_hand: bool,
    /// Warnings about settings that are probably mistakes.
    pub warnings: Vec<String>,
}

impl ValidationResult {
    fn of(object: &Value, warnings: Vec<String>) -> Self {
        Self { not_by_hand: is_controlled(object) || is_leaving(object), warnings, ..Self::default() }
    }

    /// Adds a problem. `known`: the object had it before, and the update did not touch it.
    fn add(&mut self, problem: RefusedField, known: bool) {
        let list = if known || self.not_by_hand { &mut self.tolerated } else { &mut self.refused };
        list.push(problem);
    }
}

/// Path of an annotation, as users write it.
pub(super) fn field_of(metadata: &[&str], key: &str) -> String {
    format!("{}.annotations[{key}]", metadata.join("."))
}

/// Validates a workload and, for an update, compares with the old version. Its pods would have the same findings.
pub fn workload(object: &Value, old: Option<&Value>, facts: &InjectionFacts<'_>) -> ValidationResult {
    let Some(template) = template(object, facts.namespace) else { return ValidationResult::of(object, Vec::new()) };
    let explanation = explain(&template, facts);
    let mut result = ValidationResult::of(object, explanation.warnings);
    let is_running = old.is_some() && template.workload.kind == "pod";
    let mut before: Option<Option<Before>> = None;
    for finding in explanation.findings {
        match finding.cause {
            // The API server itself reports errors of format and size.
            Cause::NotAPod | Cause::TooLarge => continue,
            // The containers of an existing pod are immutable, whatever its annotations specify.
            Cause::NameTaken | Cause::PathTaken if is_running => continue,
            cause if is_of_the_template(cause) && !finding.is_of_others() => {}
            _ => {
                result.warnings.push(finding.message);
                continue;
            }
        }
        let before = before.get_or_insert_with(|| Before::of(old?, facts));
        let known = before.as_ref().is_some_and(|before| before.knows(&finding, &template.pod));
        let path = metadata_path(object);
        result.add(
            RefusedField {
                reason: finding.cause.to_string(),
                field: finding.annotation.map(|key| field_of(path, &key)).unwrap_or_default(),
                message: finding.message,
            },
            known,
        );
    }
    result
}

/// Checks the annotations of a claim or a Namespace. They are only warned about, because claims are often created by
/// controllers.
pub fn carrier(carrier: Carrier, object: &Value) -> ValidationResult {
    let texts = |field: &str| -> Option<BTreeMap<String, String>> {
        let texts = object.get("metadata")?.get(field)?.as_object()?;
        Some(texts.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
    };
    let warnings = carrier_warnings(carrier, texts("annotations").as_ref(), texts("labels").as_ref());
    ValidationResult::of(object, warnings.iter().map(ToString::to_string).collect())
}

fn template(object: &Value, namespace: &str) -> Option<Template> {
    pods_of(object, namespace).ok()?.into_iter().next()
}

/// Whether the problem is within the template itself. A workload is not refused for anything that may change elsewhere.
fn is_of_the_template(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::InvalidAnnotation
            | Cause::UnknownContainer
            | Cause::UnknownVolume
            | Cause::UnsuitableVolume
            | Cause::NameTaken
            | Cause::PathTaken
            | Cause::WindowsPod
    )
}

fn metadata_path(object: &Value) -> &'static [&'static str] {
    match object.get("kind").and_then(Value::as_str) {
        Some("Pod") => &["metadata"],
        Some("CronJob") => &["spec", "jobTemplate", "spec", "template", "metadata"],
        _ => &["spec", "template", "metadata"],
    }
}

/// The old version of a workload.
struct Before {
    pod: Value,
    findings: Vec<Finding>,
}

impl Before {
    fn of(old: &Value, facts: &InjectionFacts<'_>) -> Option<Self> {
        let template = template(old, facts.namespace)?;
        let findings = explain(&template, facts).findings;
        Some(Self { pod: template.pod, findings })
    }

    /// Whether the old version had this finding, and neither its annotation nor the parts that it concerns have
    /// changed. A finding shows a value only in part, so the values themselves are compared.
    fn knows(&self, finding: &Finding, pod: &Value) -> bool {
        let value = |pod: &Value| {
            let key = finding.annotation.as_ref()?;
            pod.get("metadata")?.get("annotations")?.get(key).cloned()
        };
        self.findings.contains(finding)
            && value(&self.pod) == value(pod)
            && parts(finding.cause, &self.pod) == parts(finding.cause, pod)
    }
}

/// The parts of a pod that a finding with this cause concerns.
fn parts(cause: Cause, pod: &Value) -> Vec<Option<&Value>> {
    let spec = pod.get("spec");
    let of_spec = |field: &str| spec.and_then(|spec| spec.get(field));
    let containers = |fields: &[&'static str]| -> Vec<Option<&Value>> {
        let lists = ["containers", "initContainers"].into_iter().filter_map(of_spec).filter_map(Value::as_array);
        lists.flatten().flat_map(|container| fields.iter().map(|field| container.get(*field))).collect()
    };
    let volumes = [of_spec("volumes")];
    match cause {
        Cause::UnknownContainer => containers(&["name", "restartPolicy"]),
        Cause::UnknownVolume => volumes.to_vec(),
        Cause::UnsuitableVolume => [containers(&["volumeDevices"]), volumes.to_vec()].concat(),
        Cause::NameTaken | Cause::PathTaken => {
            [containers(&["name", "image", "volumeMounts", "volumeDevices"]), volumes.to_vec()].concat()
        }
        _ => Vec::new(),
    }
}

/// Whether a controller owns the object.
fn is_controlled(object: &Value) -> bool {
    let references = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    references.into_iter().flatten().any(|reference| reference.get("controller") == Some(&Value::Bool(true)))
}

/// Whether the object is being deleted. Then updates only remove finalizers, and they must succeed.
fn is_leaving(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}
