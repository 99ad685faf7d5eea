//! Checks that every field which names a Secret, a store, a command, an account, an image or a user is guarded by a
//! policy, for each operation that can write it. A new field or kind without a policy fails here.

use kube::ResourceExt;

use super::*;

/// The match condition of a policy, and the operations that it matches.
struct Known {
    name: String,
    rules: Value,
    condition: String,
}

fn known() -> Vec<Known> {
    let policies = policies::all(&Installation::default()).into_iter().map(|(policy, _)| {
        let policy = serde_json::to_value(policy).unwrap();
        let condition = policy["spec"]["matchConditions"][0]["expression"].as_str().unwrap_or("true").to_owned();
        Known {
            name: policy["metadata"]["name"].as_str().unwrap().to_owned(),
            rules: policy["spec"]["matchConstraints"]["resourceRules"].clone(),
            condition,
        }
    });
    policies.collect()
}

/// The policies that match this operation on this resource.
fn policies_of<'a>(known: &'a [Known], resource: &str, operation: &str) -> Vec<&'a Known> {
    let concerns =
        |rule: &Value| texts(&rule["resources"]).contains(&resource) && texts(&rule["operations"]).contains(&operation);
    known.iter().filter(|policy| policy.rules.as_array().unwrap().iter().any(concerns)).collect()
}

/// Fields of specs that need only the right to the object itself: they name objects of Stowaway, times and numbers.
const FREE: &[(&str, &[&str])] = &[
    ("repositories", &[]),
    // A Backup stores data of its namespace in a Repository of its namespace, and that Repository is guarded itself.
    ("backups", &["selector", "repositoryRef", "timeout", "idleTimeout", "retryLimit"]),
    ("restores", &["repositoryRef", "timeout", "idleTimeout"]),
];

/// Fields that are guarded whatever their value is: the conditions of the guards for commands, claims and archives
/// exclude each other, and one of them matches every Restore.
const GUARDED_AS_A_WHOLE: &[(&str, &[&str])] = &[("restores", &["from", "to"])];

/// Parts of the names of fields whose value is used on behalf of the author.
const SENSITIVE: [&str; 24] = [
    "secret",
    "configmap",
    "command",
    "image",
    "serviceaccount",
    "runas",
    "security",
    "url",
    "endpoint",
    "hostpath",
    "nfs",
    "csi",
    "azurefile",
    "persistentvolumeclaim",
    "volume",
    "user",
    "hostkey",
    "tls",
    "cabundle",
    "insecure",
    "credential",
    "runnerpod",
    "env",
    "pod",
];

fn fields_of(table: &'static [(&str, &[&str])], resource: &str) -> &'static [&'static str] {
    table.iter().find(|(kind, _)| *kind == resource).map_or(&[], |(_, fields)| fields)
}

/// The names of all fields below a schema.
fn names_below(schema: &Value, found: &mut Vec<String>) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        found.push(name.clone());
        names_below(below, found);
    }
    if schema["items"].is_object() {
        names_below(&schema["items"], found);
    }
}

#[test]
fn every_field_that_names_what_is_used_for_its_author_is_guarded() {
    let known = known();
    for crd in api::crds() {
        let plural = crd.spec.names.plural.clone();
        assert!(
            FREE.iter().any(|(kind, _)| *kind == plural),
            "{plural} has no row: which of its fields need no guard?"
        );
        let crd = serde_json::to_value(&crd).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let rules = spec["x-kubernetes-validations"].as_array();
        let is_fixed = rules.into_iter().flatten().any(|rule| rule["rule"] == "self == oldSelf");
        let operations: &[&str] = if is_fixed { &["CREATE"] } else { &["CREATE", "UPDATE"] };
        for (field, schema) in spec["properties"].as_object().unwrap() {
            if fields_of(FREE, &plural).contains(&field.as_str()) {
                let mut names = vec![field.clone()];
                names_below(schema, &mut names);
                for name in names {
                    let name = name.to_lowercase();
                    assert!(
                        !SENSITIVE.iter().any(|part| name.contains(part)),
                        "{plural}: spec.{field} is free, and has {name}"
                    );
                }
                continue;
            }
            for operation in operations {
                let policies = policies_of(&known, &plural, operation);
                let is_guarded = policies.iter().any(|policy| {
                    policy.condition.contains("oldObject == null || object.spec != oldObject.spec ||")
                        || policy.condition.contains(&format!("object.?spec.?{field}."))
                });
                let is_whole = fields_of(GUARDED_AS_A_WHOLE, &plural).contains(&field.as_str());
                assert!(is_guarded || is_whole, "{plural}: nothing guards {operation} of spec.{field}");
            }
        }
    }
}

#[test]
fn each_restore_concerns_exactly_the_guards_of_what_it_does() {
    let known = known();
    let guards = policies_of(&known, "restores", "CREATE");
    let condition = |name: &str| guards.iter().find(|guard| guard.name == name).unwrap().condition.clone();
    let (claim, archive) = (condition("stowaway-restore-claims"), condition("stowaway-restore-archives"));
    assert_eq!(condition("stowaway-restore-commands"), format!("!({claim}) && !({archive})"));
}

#[test]
fn status_of_every_kind_is_written_by_the_controller_alone() {
    let known = known();
    for crd in api::crds() {
        let resource = format!("{}/status", crd.spec.names.plural);
        let policies = policies_of(&known, &resource, "UPDATE");
        assert!(policies.iter().any(|policy| policy.name == "stowaway-statuses"), "{} ", crd.name_any());
    }
}

#[test]
fn every_annotation_of_a_running_pod_is_guarded() {
    let known = known();
    for (resource, operation, policy) in [
        ("pods", "UPDATE", "stowaway-pod-commands"),
        ("pods/status", "UPDATE", "stowaway-pod-commands"),
        ("pods/binding", "CREATE", "stowaway-binding-commands"),
        ("bindings", "CREATE", "stowaway-binding-commands"),
    ] {
        let policies = policies_of(&known, resource, operation);
        let condition = &policies.iter().find(|known| known.name == policy).unwrap().condition;
        for key in KEYS.iter().filter(|key| key.is_of_pods()) {
            let own = own_key(key.id);
            assert!(condition.contains(&format!("'{own}'")), "{policy}: {own}");
            assert!(!key.named || condition.contains(&format!("startsWith('{own}.')")), "{policy}: {own}.<name>");
            for (_, foreign) in key.foreign {
                assert!(condition.contains(&format!("'{foreign}'")), "{policy}: {foreign}");
            }
        }
        assert!(condition.contains("'kubectl.kubernetes.io/default-container'"), "{policy}");
    }
}

#[test]
fn every_right_of_the_controller_to_create_change_bind_and_delete_is_limited_to_what_is_its_own() {
    let documents = documents(&Installation::default());
    let role =
        of_kind(&documents, &["ClusterRole"]).into_iter().find(|role| role["metadata"]["name"] == CONTROLLER).unwrap();
    let known = known();
    // Harmless for other clients, limited by the API server, or stated in docs/security.md: creating a claim, Events,
    // objects of Stowaway, their statuses, and the scale of a workload. No object has the subresource `finalizers`.
    let harmless = [
        "persistentvolumeclaims create",
        "volumesnapshots create",
        "events create",
        "events patch",
        "deployments/scale patch",
        "statefulsets/scale patch",
    ];
    let of_stowaway = ["/status patch", "/finalizers update"];
    let mut guarded = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for resource in texts(&rule["resources"]) {
            for verb in texts(&rule["verbs"]) {
                let right = format!("{resource} {verb}");
                let operation = match verb {
                    "create" => "CREATE",
                    "patch" | "update" => "UPDATE",
                    "delete" => "DELETE",
                    _ => continue,
                };
                if harmless.contains(&right.as_str()) || of_stowaway.iter().any(|end| right.ends_with(end)) {
                    continue;
                }
                let of_controller = |policy: &&Known| policy.condition.contains(":stowaway-controller'");
                let policies = policies_of(&known, resource, operation);
                assert!(policies.iter().any(of_controller), "the controller may {verb} any {resource}");
                guarded.insert(right);
            }
        }
    }
    assert!(["jobs patch", "restores patch", "persistentvolumeclaims patch"].iter().all(|one| guarded.contains(*one)));
}

#[test]
fn people_write_no_status_and_read_no_command_without_its_name() {
    let documents = documents(&Installation::default());
    let mut roles = of_kind(&documents, &["ClusterRole"]);
    roles.retain(|role| ["stowaway-view", "stowaway-edit"].iter().any(|name| role["metadata"]["name"] == *name));
    assert_eq!(roles.len(), 2);
    for role in roles {
        let is_view = role["metadata"]["name"] == "stowaway-view";
        for rule in role["rules"].as_array().unwrap() {
            let (resources, verbs) = (texts(&rule["resources"]), texts(&rule["verbs"]));
            let only_gets = verbs == ["get"];
            assert!(only_gets || !resources.iter().any(|resource| resource.contains('/')), "{rule}");
            assert!(!is_view || only_gets || !resources.contains(&"restores"), "{rule}");
            assert!(!is_view || verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)), "{rule}");
        }
        let labels = role["metadata"]["labels"].as_object().unwrap();
        assert_eq!(labels.contains_key("rbac.authorization.k8s.io/aggregate-to-view"), is_view);
        assert!(labels.contains_key("rbac.authorization.k8s.io/aggregate-to-admin"));
    }
}
