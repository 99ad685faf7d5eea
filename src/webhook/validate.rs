//! What is wrong with a workload's annotations, or an object of ours, told to whoever writes it: all of it at once.
//!
//! Pure. It must not know HTTP, nor how a review is written.
//!
//! Who only changes something else is not held up by an old mistake: a problem that the object had before, of the same key
//! with the same value, about parts of the object that are as they were, is told as a warning. And only people are refused:
//! what a controller makes is admitted (it may be a node drain at night), and what is being deleted as well.

mod objects;
mod runner_pod;
mod upkeep;

pub use objects::object;

use std::collections::BTreeMap;

use serde_json::Value;

use super::review::RefusedField;
use crate::{
    annotations::{Carrier, carrier_warnings},
    inject::{Cause, Finding, InjectionFacts, Template, explain, pods_of},
};

/// Group and kind of what has a pod template and is written by people; and bare pods. A `ReplicaSet` is a Deployment's.
pub const WORKLOADS: [(&str, &str); 6] = [
    ("", "Pod"),
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
    ("batch", "CronJob"),
];

/// What is to be said of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// What keeps it out.
    pub refused: Vec<RefusedField>,
    /// What is as wrong, but keeps nothing out.
    pub tolerated: Vec<RefusedField>,
    /// Nobody who could be told has made it, or it is being deleted.
    pub not_by_hand: bool,
    /// What was probably not meant.
    pub warnings: Vec<String>,
}

impl Judgement {
    fn of(object: &Value, warnings: Vec<String>) -> Self {
        Self { not_by_hand: is_controlled(object) || is_leaving(object), warnings, ..Self::default() }
    }

    /// Takes in one problem; `known` says that it was there before and was not touched.
    fn add(&mut self, problem: RefusedField, known: bool) {
        let list = if known || self.not_by_hand { &mut self.tolerated } else { &mut self.refused };
        list.push(problem);
    }
}

/// Path of an annotation, as people write it.
pub(super) fn field_of(metadata: &[&str], key: &str) -> String {
    format!("{}.annotations[{key}]", metadata.join("."))
}

/// Looks at a workload as it is to be, and, when it is changed, as it was. What would be found on its pods is found here.
pub fn workload(object: &Value, old: Option<&Value>, facts: &InjectionFacts<'_>) -> Judgement {
    let Some(template) = template(object, facts.namespace) else { return Judgement::of(object, Vec::new()) };
    let explanation = explain(&template, facts);
    let mut judgement = Judgement::of(object, explanation.warnings);
    let is_running = old.is_some() && template.workload.kind == "pod";
    let mut before: Option<Option<Before>> = None;
    for finding in explanation.findings {
        match finding.cause {
            // Form and size are the API server's own matter: it says so itself.
            Cause::NotAPod | Cause::TooLarge => continue,
            // The containers of a pod that is there cannot be changed, whatever its annotations would want now.
            Cause::NameTaken | Cause::PathTaken if is_running => continue,
            cause if is_of_the_template(cause) && !finding.is_of_others() => {}
            _ => {
                judgement.warnings.push(finding.message);
                continue;
            }
        }
        let before = before.get_or_insert_with(|| Before::of(old?, facts));
        let known = before.as_ref().is_some_and(|before| before.knows(&finding, &template.pod));
        let path = metadata_path(object);
        judgement.add(
            RefusedField {
                reason: finding.cause.to_string(),
                field: finding.annotation.map(|key| field_of(path, &key)).unwrap_or_default(),
                message: finding.message,
            },
            known,
        );
    }
    judgement
}

/// Looks at the keys of a claim or a Namespace: they refuse nothing, because a claim is often made by a controller.
pub fn carrier(carrier: Carrier, object: &Value) -> Judgement {
    let texts = |field: &str| -> Option<BTreeMap<String, String>> {
        let texts = object.get("metadata")?.get(field)?.as_object()?;
        Some(texts.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
    };
    let warnings = carrier_warnings(carrier, texts("annotations").as_ref(), texts("labels").as_ref());
    Judgement::of(object, warnings.iter().map(ToString::to_string).collect())
}

fn template(object: &Value, namespace: &str) -> Option<Template> {
    pods_of(object, namespace).ok()?.into_iter().next()
}

/// Whether what is wrong stands in the template itself. What may change elsewhere is no reason to refuse a workload.
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

/// A workload as it was.
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

    /// Whether this was found before, and neither its annotation nor what it is about was touched. Findings show a value
    /// in part at most, so that the values themselves are compared.
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

/// The parts of a pod that a finding of this kind is about.
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

/// Whether a controller made it.
fn is_controlled(object: &Value) -> bool {
    let references = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    references.into_iter().flatten().any(|reference| reference.get("controller") == Some(&Value::Bool(true)))
}

/// Whether it is being deleted: then only finalizers go, and whoever takes them away must be let.
fn is_leaving(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}
