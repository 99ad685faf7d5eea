//! The webhook configurations: which requests the API server sends to the webhook. Only requests that concern Stowaway
//! match, each of them exactly one entry.
//!
//! A pod with a restore step must never start without it, so its entries fail closed. All others fail open, and the
//! controller finds what was missed. The path contains the namespace's label, because the webhook does not read
//! namespaces.
//!
//! Names of entries must never change. Server-side apply keeps an entry that a newer installation no longer contains,
//! as long as another field manager owns one of its fields, and the webhook owns the bundle. The remaining entry would
//! be invalid, so the API server would refuse the newer installation.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
        ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
};

use super::{
    Installation, WEBHOOK, cert_manager,
    conditions::{
        Condition, annotations_of, carries_keys, concerns_us, does_not_restore, is_bare, is_no_mirror, is_no_run,
        is_no_run_job, may_concern_us, restores,
    },
    metadata,
};
use crate::{
    annotations::{KeyId, own_key},
    api,
};

/// Timeout of the API server's calls.
const TIMEOUT_SECONDS: i32 = 3;
/// The label with the name of a namespace, which Kubernetes sets on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// The values of the namespace's label with their own path below `/pods`.
const LABELLED: [&str; 3] = ["helper", "sidecar", "none"];

/// The entries that mutate pods.
pub(super) fn mutating(installation: &Installation<'_>) -> MutatingWebhookConfiguration {
    let namespace = installation.namespace;
    let mut webhooks = vec![injecting(namespace, None, false), injecting(namespace, None, true)];
    for label in LABELLED {
        webhooks.extend([injecting(namespace, Some(label), false), injecting(namespace, Some(label), true)]);
    }
    MutatingWebhookConfiguration { metadata: configuration(installation), webhooks: Some(webhooks) }
}

/// One entry, for the namespaces with this value of the label (none: any other value or no label), and for pods with or
/// without a restore step.
fn injecting(namespace: &str, label: Option<&str>, restore: bool) -> MutatingWebhook {
    let suffix = |separator: char| label.map(|label| format!("{separator}{label}")).unwrap_or_default();
    let mut conditions = vec![is_no_mirror()];
    if restore {
        conditions.push(restores());
    } else {
        conditions.extend([does_not_restore(), is_no_run()]);
        if !label.is_some_and(injects_all) {
            let expression = concerns_us(&annotations_of("object"));
            conditions.push(Condition { name: "concerns-us", expression });
        }
    }
    let requirement = match label {
        Some(label) => label_is("In", &own_key(KeyId::Inject), &[label]),
        None => label_is("NotIn", &own_key(KeyId::Inject), &LABELLED),
    };
    MutatingWebhook {
        name: format!("{}{}.{}", if restore { "restore" } else { "inject" }, suffix('-'), api::GROUP),
        client_config: client_config(namespace, &format!("/pods{}", suffix('/'))),
        rules: Some(vec![rule("", "v1", &["pods"], &["CREATE"])]),
        namespace_selector: Some(selector(namespace, Some(requirement))),
        match_conditions: Some(match_conditions(conditions)),
        match_policy: Some("Equivalent".into()),
        failure_policy: Some(if restore { "Fail" } else { "Ignore" }.into()),
        // Other webhooks may add containers or volumes later.
        reinvocation_policy: Some("IfNeeded".into()),
        side_effects: "None".into(),
        timeout_seconds: Some(TIMEOUT_SECONDS),
        admission_review_versions: vec!["v1".into()],
        ..MutatingWebhook::default()
    }
}

/// Whether this label of a namespace injects into all its pods, annotated or not.
fn injects_all(label: &str) -> bool {
    label != "none"
}

/// The entries that validate. An object without a key that may have been meant for Stowaway after the change matches
/// none.
pub(super) fn validating(installation: &Installation<'_>) -> ValidatingWebhookConfiguration {
    let namespace = installation.namespace;
    let entry =
        |name: &str, path: &str, rules: Vec<RuleWithOperations>, conditions: Vec<Condition>| ValidatingWebhook {
            name: format!("{name}.{}", api::GROUP),
            client_config: client_config(namespace, path),
            rules: Some(rules),
            namespace_selector: Some(selector(namespace, None)),
            match_conditions: (!conditions.is_empty()).then(|| match_conditions(conditions)),
            match_policy: Some("Equivalent".into()),
            failure_policy: Some("Ignore".into()),
            side_effects: "None".into(),
            timeout_seconds: Some(TIMEOUT_SECONDS),
            admission_review_versions: vec!["v1".into()],
            ..ValidatingWebhook::default()
        };
    let written = ["CREATE", "UPDATE"];
    let (path, template) = ("/workloads", "object.spec.template");
    let workloads = vec![
        rule("apps", "v1", &["deployments", "statefulsets", "daemonsets"], &written),
        rule("batch", "v1", &["jobs"], &written),
    ];
    let cron_jobs = vec![rule("batch", "v1", &["cronjobs"], &written)];
    let pods = vec![rule("", "v1", &["pods"], &written)];
    let claims = vec![rule("", "v1", &["persistentvolumeclaims"], &written)];
    let of_cluster = RuleWithOperations { scope: Some("Cluster".into()), ..rule("", "v1", &["namespaces"], &written) };
    let namespaces = vec![of_cluster];
    let kinds: Vec<String> = api::crds().into_iter().map(|crd| crd.spec.names.plural).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let webhooks = vec![
        entry("workloads", path, workloads, vec![is_no_run_job(), concerns_workload(template)]),
        entry("cron-jobs", path, cron_jobs, vec![concerns_workload("object.spec.jobTemplate.spec.template")]),
        entry("pods", path, pods, vec![is_no_run(), is_no_mirror(), is_bare(), may_concern()]),
        entry("claims", "/annotations", claims, vec![carries_keys()]),
        entry("namespaces", "/annotations", namespaces, vec![carries_keys()]),
        entry("objects", "/objects", vec![rule(api::GROUP, api::VERSION, &kinds, &written)], Vec::new()),
    ];
    ValidatingWebhookConfiguration { metadata: configuration(installation), webhooks: Some(webhooks) }
}

fn may_concern() -> Condition {
    Condition { name: "concerns-us", expression: may_concern_us(&annotations_of("object")) }
}

/// The same for a workload. Its own annotations count, too, because they are probably meant for the template.
fn concerns_workload(template: &str) -> Condition {
    let (own, of_template) = (may_concern_us(&annotations_of("object")), may_concern_us(&annotations_of(template)));
    Condition { name: "concerns-us", expression: format!("{of_template} || {own}") }
}

fn configuration(installation: &Installation<'_>) -> ObjectMeta {
    let from = |namespace: &str| format!("{namespace}/{WEBHOOK}");
    let annotations = installation
        .cert_manager
        .then(|| BTreeMap::from([(cert_manager::INJECT.to_owned(), from(installation.namespace))]));
    ObjectMeta { annotations, ..metadata(WEBHOOK, "webhook", None) }
}

/// Without a bundle. The issuer of the certificate writes the bundle in the cluster.
fn client_config(namespace: &str, path: &str) -> WebhookClientConfig {
    WebhookClientConfig {
        service: Some(ServiceReference {
            name: WEBHOOK.into(),
            namespace: namespace.to_owned(),
            path: Some(path.to_owned()),
            port: None,
        }),
        ..WebhookClientConfig::default()
    }
}

/// All namespaces that match `requirement`, except Stowaway's and `kube-system`: their pods must start before anything
/// else runs.
fn selector(namespace: &str, requirement: Option<LabelSelectorRequirement>) -> LabelSelector {
    let others = label_is("NotIn", NAMESPACE_NAME, &["kube-system", namespace]);
    LabelSelector { match_expressions: Some(std::iter::once(others).chain(requirement).collect()), match_labels: None }
}

fn label_is(operator: &str, key: &str, values: &[&str]) -> LabelSelectorRequirement {
    LabelSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: Some(owned(values)) }
}

fn rule(group: &str, version: &str, resources: &[&str], operations: &[&str]) -> RuleWithOperations {
    RuleWithOperations {
        api_groups: Some(owned(&[group])),
        api_versions: Some(owned(&[version])),
        resources: Some(owned(resources)),
        operations: Some(owned(operations)),
        scope: Some("Namespaced".into()),
    }
}

fn match_conditions(conditions: Vec<Condition>) -> Vec<MatchCondition> {
    let condition = |Condition { name, expression }: Condition| MatchCondition { name: name.to_owned(), expression };
    conditions.into_iter().map(condition).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
