//! Every role, policy and webhook entry of an installation as golden files for reviewers, and invariants that apply to
//! all of them.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::*;
use crate::annotations::{KEYS, KeyId, own_key};

mod evaluated;
mod guarded;

fn documents(installation: &Installation<'_>) -> Vec<Value> {
    let yaml = install_yaml(installation).unwrap();
    yaml.split("\n---\n").map(|document| yaml_serde::from_str(document).unwrap()).collect()
}

fn of_kind(documents: &[Value], kinds: &[&str]) -> Vec<Value> {
    documents.iter().filter(|object| kinds.contains(&object["kind"].as_str().unwrap())).cloned().collect()
}

fn by_cert_manager() -> Installation<'static> {
    Installation { cert_manager: true, ..Installation::default() }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn is_golden(file: &str, objects: &[Value]) {
    let yaml: Vec<String> = objects.iter().map(|object| yaml_serde::to_string(object).unwrap()).collect();
    let yaml = yaml.join("---\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/resources/golden").join(file);
    if std::env::var_os("STOWAWAY_WRITE_GOLDEN").is_some() {
        fs::write(&path, &yaml).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == yaml, "{} differs; with STOWAWAY_WRITE_GOLDEN=1 it is rewritten:\n{yaml}", path.display());
}

#[test]
fn every_right_is_golden() {
    let kinds = ["ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"];
    is_golden("rights.yaml", &of_kind(&documents(&Installation::default()), &kinds));
}

#[test]
fn every_policy_and_every_entry_of_the_webhook_is_golden() {
    let documents = documents(&Installation::default());
    let policies = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
    is_golden("policies.yaml", &of_kind(&documents, &policies));
    let entries = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
    is_golden("webhook-configurations.yaml", &of_kind(&documents, &entries));
}

#[test]
fn every_object_has_the_labels_of_its_component() {
    let crds = crds_yaml().unwrap().into_iter().map(|(_, yaml)| yaml_serde::from_str::<Value>(&yaml).unwrap());
    let objects: Vec<Value> = crds.chain(documents(&Installation::default())).collect();
    for object in &objects {
        let label = |key: &str| object["metadata"]["labels"][format!("app.kubernetes.io/{key}")].as_str();
        let is_crd = object["kind"] == "CustomResourceDefinition";
        assert_eq!(label("name"), Some("stowaway"), "{object}");
        assert_eq!(label("component") == Some("api"), is_crd, "{object}");
        assert!(label("component").is_some(), "{object}");
    }
    assert!(objects.len() > 30, "{}", objects.len());
}

#[test]
fn changes_for_cert_manager_are_golden() {
    let (own, other) = (documents(&Installation::default()), documents(&by_cert_manager()));
    let changed: Vec<Value> = other.into_iter().filter(|object| !own.contains(object)).collect();
    is_golden("cert-manager.yaml", &changed);
}

#[test]
fn no_right_has_a_wildcard() {
    for role in of_kind(&documents(&Installation::default()), &["ClusterRole", "Role"]) {
        for rule in role["rules"].as_array().unwrap() {
            for field in ["apiGroups", "resources", "verbs"] {
                assert!(
                    !texts(&rule[field]).iter().any(|text| text.contains('*')),
                    "{}: {rule}",
                    role["metadata"]["name"]
                );
            }
        }
    }
}

#[test]
fn webhook_reads_no_pod_and_no_foreign_secret_and_writes_by_name_alone() {
    for (documents, has_own_role) in
        [(documents(&Installation::default()), true), (documents(&by_cert_manager()), false)]
    {
        let roles = of_kind(&documents, &["ClusterRole", "Role"]);
        let own: Vec<&Value> = roles.iter().filter(|role| role["metadata"]["name"] == WEBHOOK).collect();
        assert_eq!(own.len(), 1 + usize::from(has_own_role));
        for role in own {
            let is_cluster_wide = role["kind"] == "ClusterRole";
            for rule in role["rules"].as_array().unwrap() {
                let (resources, verbs) = (texts(&rule["resources"]), texts(&rule["verbs"]));
                let names = texts(&rule["resourceNames"]);
                for text in ["pods", "pods/exec", "serviceaccounts", "serviceaccounts/token", "namespaces", "events"] {
                    assert!(!resources.contains(&text), "{rule}");
                }
                assert!(!(is_cluster_wide && resources.contains(&"secrets")), "{rule}");
                let writes = verbs.iter().any(|verb| !["get", "list", "watch"].contains(verb));
                let guarded = writes || resources.contains(&"secrets");
                let is_own = names.len() == 1 && (names[0].starts_with(WEBHOOK) || names[0] == TRUST);
                assert!(!guarded || is_own, "{rule}");
            }
        }
        // The account has no other role.
        for binding in of_kind(&documents, &["ClusterRoleBinding", "RoleBinding"]) {
            let is_bound = binding["subjects"].as_array().unwrap().iter().any(|subject| subject["name"] == WEBHOOK);
            assert_eq!(is_bound, binding["roleRef"]["name"] == WEBHOOK, "{binding}");
        }
    }
}

#[test]
fn manifests_hold_no_secret_and_are_the_same_every_time() {
    for installation in [Installation::default(), by_cert_manager()] {
        let yaml = install_yaml(&installation).unwrap();
        assert_eq!(yaml, install_yaml(&installation).unwrap());
        for text in ["kind: Secret\n", "caBundle", "BEGIN", "\ndata:"] {
            assert!(!yaml.contains(text), "{text}");
        }
    }
}

#[test]
fn health_and_metrics_of_all_have_one_port_name() {
    for deployment in of_kind(&documents(&Installation::default()), &["Deployment"]) {
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let ports = container["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == "health").unwrap_or_else(|| panic!("{container}"));
        assert_eq!(port["containerPort"], 8080);
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "health", "{container}");
        }
    }
}

#[test]
fn another_namespace_is_used_everywhere() {
    let yaml = install_yaml(&Installation { namespace: "elsewhere", ..by_cert_manager() }).unwrap();
    assert!(!yaml.contains(NAMESPACE), "{yaml}");
    assert!(yaml.contains("system:serviceaccount:elsewhere:stowaway-controller"));
    assert!(yaml.contains("stowaway-webhook.elsewhere.svc"));
}

#[test]
fn parameters_reach_every_pod_of_the_installation_and_no_other_object() {
    let amounts = |requests: &str, limits: &str| (requests.parse().unwrap(), limits.parse().unwrap());
    let (requests, limits) = amounts("cpu=2", "memory=2Gi");
    let controller = Amounts::of_controller(requests, limits).unwrap();
    let (requests, limits) = amounts("memory=32Mi", "cpu=3");
    let webhook = Amounts::of_webhook(requests, limits).unwrap();
    let image = format!("registry.example/stowaway@sha256:{}", "0a".repeat(32));
    let installation = Installation {
        image: &image,
        pull_secrets: &["one".to_owned(), "two".to_owned()],
        json_logs: true,
        controller: Some(&controller),
        webhook: Some(&webhook),
        ..Installation::default()
    };
    let (default, other) = (documents(&Installation::default()), documents(&installation));
    let changed: Vec<&Value> = other.iter().filter(|object| !default.contains(object)).collect();
    let kinds: Vec<&str> = changed.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["ValidatingAdmissionPolicy", "Deployment", "Deployment", "Deployment"],
        "the policy names the image"
    );
    for deployment in &changed[1..] {
        let spec = &deployment["spec"]["template"]["spec"];
        assert_eq!(spec["imagePullSecrets"], serde_json::json!([{ "name": "one" }, { "name": "two" }]));
        assert_eq!(spec["containers"][0]["image"], image);
        let variables = spec["containers"][0]["env"].as_array().unwrap();
        assert!(variables.contains(&serde_json::json!({ "name": LOG_FORMAT_VARIABLE, "value": "json" })), "{spec}");
    }
    let resources = |name: &str| {
        let deployment = changed.iter().find(|object| object["metadata"]["name"] == name).unwrap();
        deployment["spec"]["template"]["spec"]["containers"][0]["resources"].clone()
    };
    let expected = serde_json::json!({ "requests": { "cpu": "2", "memory": "64Mi" }, "limits": { "memory": "2Gi" } });
    assert_eq!(resources(CONTROLLER), expected);
    let expected = serde_json::json!({ "requests": { "cpu": "20m", "memory": "32Mi" }, "limits": { "cpu": "3", "memory": "128Mi" } });
    assert_eq!(resources(WEBHOOK), expected);
}

#[test]
fn every_pod_matches_at_most_one_entry_and_only_restores_fail_closed() {
    let configuration = of_kind(&documents(&Installation::default()), &["MutatingWebhookConfiguration"]).remove(0);
    let entries = configuration["webhooks"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for label in [None, Some("helper"), Some("sidecar"), Some("none"), Some("something")] {
        let chosen: Vec<&Value> = entries.iter().filter(|entry| selects(entry, label)).collect();
        let [inject, restore] = chosen[..] else { panic!("{label:?} has {} entries", chosen.len()) };
        names.extend([inject["name"].to_string(), restore["name"].to_string()]);
        let condition = |entry: &Value, name: &str| {
            let conditions = entry["matchConditions"].as_array().unwrap();
            conditions.iter().find(|condition| condition["name"] == name).map(|found| found["expression"].clone())
        };
        assert_eq!((&inject["failurePolicy"], &restore["failurePolicy"]), (&"Ignore".into(), &"Fail".into()));
        let (without, with) = (condition(inject, "does-not-restore").unwrap(), condition(restore, "restores").unwrap());
        assert_eq!(
            without.as_str().unwrap(),
            format!("!({})", with.as_str().unwrap()),
            "they are not each other's opposite"
        );
        let path = label.filter(|label| *label != "something").map(|label| format!("/{label}")).unwrap_or_default();
        for entry in [inject, restore] {
            assert_eq!(entry["clientConfig"]["service"]["path"], format!("/pods{path}"));
        }
        assert_eq!(
            condition(inject, "concerns-us").is_none(),
            matches!(label, Some("helper" | "sidecar")),
            "{label:?}"
        );
    }
    assert_eq!(names.len(), entries.len(), "some entry matches nothing");
}

/// Whether the entry matches namespaces whose label has this value.
fn selects(entry: &Value, label: Option<&str>) -> bool {
    let expressions = entry["namespaceSelector"]["matchExpressions"].as_array().unwrap();
    let expression = expressions.iter().find(|expression| expression["key"] == own_key(KeyId::Inject)).unwrap();
    let is_in = label.is_some_and(|label| texts(&expression["values"]).contains(&label));
    if expression["operator"] == "In" { is_in } else { !is_in }
}

#[test]
fn network_policies_are_golden_and_let_metrics_go_to_labelled_namespaces_alone() {
    let yaml = network_policies_yaml(&Installation::default()).unwrap();
    let policies: Vec<Value> = yaml.split("\n---\n").map(|text| yaml_serde::from_str(text).unwrap()).collect();
    is_golden("network-policies.yaml", &policies);
    for policy in &policies {
        for rule in policy["spec"]["ingress"].as_array().unwrap() {
            let ports: Vec<&Value> = rule["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
            let is_of_metrics = ports.iter().any(|port| **port == 8080);
            assert_eq!(rule["from"].is_array(), is_of_metrics, "{rule}");
            assert!(!is_of_metrics || ports.len() == 1, "{rule}");
        }
        let deployments = of_kind(&documents(&Installation::default()), &["Deployment"]);
        let selected = |deployment: &&Value| {
            deployment["spec"]["template"]["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
        };
        assert_eq!(deployments.iter().filter(selected).count(), 1, "{policy}");
    }
}

/// The accounts that have this verb on webhook configurations.
fn may_to_configurations(documents: &[Value], verb: &str) -> BTreeSet<String> {
    let is_granting = |rule: &Value| {
        texts(&rule["verbs"]).contains(&verb)
            && texts(&rule["resources"]).iter().any(|resource| resource.ends_with("webhookconfigurations"))
    };
    let roles = of_kind(documents, &["ClusterRole", "Role"]);
    let granting = roles.iter().filter(|role| role["rules"].as_array().into_iter().flatten().any(is_granting));
    let names: BTreeSet<&str> = granting.map(|role| role["metadata"]["name"].as_str().unwrap()).collect();
    let bindings = of_kind(documents, &["ClusterRoleBinding", "RoleBinding"]);
    let bound = bindings.iter().filter(|binding| names.contains(binding["roleRef"]["name"].as_str().unwrap()));
    bound
        .flat_map(|binding| binding["subjects"].as_array().unwrap().clone())
        .map(|subject| subject["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn webhook_configurations_are_written_by_an_account_that_nothing_calls_and_never_by_the_webhook() {
    let (own, other) = (documents(&Installation::default()), documents(&by_cert_manager()));
    assert_eq!(may_to_configurations(&own, "patch"), BTreeSet::from([TRUST.to_owned()]));
    assert_eq!(may_to_configurations(&other, "patch"), BTreeSet::new(), "cert-manager has its own account");
    for verb in ["create", "update", "delete", "deletecollection"] {
        assert_eq!(may_to_configurations(&own, verb), BTreeSet::new(), "{verb}");
    }
    // The account that may write them may otherwise only read one ConfigMap, and has no Service.
    for role in of_kind(&own, &["ClusterRole", "Role"]).iter().filter(|role| role["metadata"]["name"] == TRUST) {
        for rule in role["rules"].as_array().unwrap() {
            let is_configmap = texts(&rule["resources"]) == ["configmaps"];
            let verbs = texts(&rule["verbs"]);
            assert!(
                verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb) || (*verb == "patch" && !is_configmap))
            );
            assert_eq!(texts(&rule["resourceNames"]), [if is_configmap { TRUST } else { WEBHOOK }], "{rule}");
        }
    }
    for service in of_kind(&own, &["Service"]) {
        assert_ne!(service["spec"]["selector"]["app.kubernetes.io/component"], "trust", "{service}");
    }
    assert!(other.iter().all(|object| object["metadata"]["name"] != TRUST), "no unused object is left");
}
