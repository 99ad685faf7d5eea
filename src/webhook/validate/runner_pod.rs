//! Validates a `runnerPod` for errors which the API server would report only when a Job is created from it.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};

use super::objects::Findings;
use crate::{
    annotations::object_name,
    api::{RunnerPod, VariableSource},
    model::billionths,
};

const FIELD: [&str; 2] = ["spec", "runnerPod"];

/// Validates all fields.
pub(super) fn check(pod: &RunnerPod, findings: &mut Findings) {
    pairs("nodeSelector", &pod.node_selector, label_value, findings);
    pairs("labels", &pod.labels, label_value, findings);
    pairs("annotations", &pod.annotations, |_| true, findings);
    for (index, secret) in pod.image_pull_secrets.iter().enumerate() {
        let index = index.to_string();
        findings.name(&[&FIELD[..], &["imagePullSecrets", &index, "name"]].concat(), &secret.name);
    }
    for (index, toleration) in pod.tolerations.iter().enumerate() {
        let index = index.to_string();
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let mut wrong = |field: &str, value: &str, reason: &str| {
            findings.wrong(&[&FIELD[..], &["tolerations", &index, field]].concat(), value, reason);
        };
        match operator {
            "" | "Equal" if key.is_empty() => wrong("operator", operator, "without a key it has to be Exists"),
            "Exists" if !value.is_empty() => wrong("value", value, "has to be empty where the operator is Exists"),
            _ => {}
        }
        if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            wrong("effect", effect, "is neither NoSchedule, PreferNoSchedule nor NoExecute");
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            wrong("effect", effect, "has to be NoExecute where tolerationSeconds is set");
        }
    }
    for (index, variable) in pod.env.iter().enumerate() {
        let index = index.to_string();
        let path = [&FIELD[..], &["env", &index]].concat();
        let name = variable.name.as_str();
        if variable.is_reserved() {
            let reason = "is one of Stowaway's, Kubernetes' or the C library's own variables, which cannot be set";
            findings.wrong(&[&path[..], &["name"]].concat(), name, reason);
        }
        if pod.env.iter().filter(|other| other.name == name).count() > 1 {
            findings.wrong(&[&path[..], &["name"]].concat(), name, "is set twice");
        }
        let Some(VariableSource { secret_key_ref, config_map_key_ref }) = &variable.value_from else { continue };
        for (field, reference) in [("secretKeyRef", secret_key_ref), ("configMapKeyRef", config_map_key_ref)] {
            if let Some(reference) = reference {
                findings.name(&[&path[..], &["valueFrom", field, "name"]].concat(), &reference.name);
            }
        }
    }
    if let Some(class) = &pod.priority_class_name {
        findings.name(&[&FIELD[..], &["priorityClassName"]].concat(), class);
    }
    if let Some(wanted) = &pod.resources {
        resources(wanted, findings);
    }
    if let Some(context) = &pod.security_context
        && context.run_as_non_root == Some(true)
        && context.run_as_user == Some(0)
    {
        findings.wrong(&[&FIELD[..], &["securityContext", "runAsUser"]].concat(), 0, "contradicts runAsNonRoot");
    }
}

/// Validates the quantities, and that no request exceeds its limit.
fn resources(wanted: &ResourceRequirements, findings: &mut Findings) {
    let mut amount = |side: &str, kind: &str, Quantity(text): &Quantity| {
        let path = [&FIELD[..], &["resources", side, kind]].concat();
        let amount = billionths(text);
        match amount {
            None => findings.wrong(&path, text, "is not a quantity, such as 500m, 2 or 256Mi"),
            Some(..0) => findings.wrong(&path, text, "is negative"),
            Some(_) => {}
        }
        amount.filter(|amount| *amount >= 0)
    };
    let limits = wanted.limits.iter().flatten();
    let limits: BTreeMap<&str, (i128, &str)> =
        limits.filter_map(|(kind, limit)| Some((kind.as_str(), (amount("limits", kind, limit)?, &*limit.0)))).collect();
    let requests: Vec<(&str, i128, &str)> = wanted
        .requests
        .iter()
        .flatten()
        .filter_map(|(kind, request)| Some((kind.as_str(), amount("requests", kind, request)?, &*request.0)))
        .collect();
    for (kind, request, text) in requests {
        if let Some((_, limit)) = limits.get(kind).filter(|(limit, _)| request > *limit) {
            let path = [&FIELD[..], &["resources", "requests", kind]].concat();
            findings.wrong(&path, text, format_args!("is more than its limit, {limit}"));
        }
    }
}

/// Validates a map of labels or annotations.
fn pairs(field: &str, pairs: &BTreeMap<String, String>, sound: fn(&str) -> bool, findings: &mut Findings) {
    for (key, value) in pairs {
        let path = [&FIELD[..], &[field, key.as_str()]].concat();
        if !qualified(key) {
            findings.hidden(
                &path,
                "is not a key: [PREFIX/]NAME, of letters, digits, '-', '_' and '.', the name at most 63",
            );
        }
        if !sound(value) {
            findings.wrong(&path, value, "is not a label value: at most 63 letters, digits, '-', '_' and '.'");
        }
    }
}

fn qualified(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && label_value(name) && prefix.is_none_or(|prefix| object_name(prefix).is_ok())
}

fn label_value(value: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let bytes = value.as_bytes();
    value.len() <= 63 && value.bytes().all(allowed) && is_end(bytes.first()) && is_end(bytes.last())
}
