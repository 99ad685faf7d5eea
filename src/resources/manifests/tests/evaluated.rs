//! Evaluates the policies with an interpreter of CEL: which requests of which users are refused, and by which policy.
//!
//! The scenarios on a cluster check some of these decisions with the API server. Here every policy has an allowed and a
//! refused request. `controller` holds the requests of the controller's account.

use cel::{Context, extractors::This, objects::Value as CelValue, parser::Parser};
use serde_json::json;

use super::*;

mod controller;

const CONTROLLER_USER: &str = "system:serviceaccount:stowaway-system:stowaway-controller";
const JOB_CONTROLLER: &str = "system:serviceaccount:kube-system:job-controller";
const PODS: &str = "create pods";
const EXEC: &str = "create pods/exec";

/// A request as the API server admits it.
#[derive(Clone)]
struct Request {
    operation: &'static str,
    group: &'static str,
    /// With the subresource after a slash.
    resource: &'static str,
    user: Value,
    name: &'static str,
    namespace: &'static str,
    object: Value,
    old: Value,
    /// The user's rights in the namespace: verb and resource.
    granted: &'static [&'static str],
}

fn request(operation: &'static str, group: &'static str, resource: &'static str) -> Request {
    let user = json!({ "username": "tenant", "groups": ["system:authenticated"] });
    let (object, old) = (Value::Null, Value::Null);
    Request { operation, group, resource, user, name: "x", namespace: "shop", object, old, granted: &[] }
}

impl Request {
    fn by(self, username: &str) -> Self {
        Self { user: json!({ "username": username, "groups": ["system:authenticated"] }), ..self }
    }

    fn of(self, object: Value) -> Self {
        Self { object, ..self }
    }

    fn after(self, old: Value) -> Self {
        Self { old, ..self }
    }

    fn may(self, granted: &'static [&'static str]) -> Self {
        Self { granted, ..self }
    }

    /// The names of the policies that refuse the request. An expression that fails refuses it, too.
    fn refused_by(&self) -> Vec<String> {
        let policies = of_kind(&documents(&Installation::default()), &["ValidatingAdmissionPolicy"]);
        let is_concerned = |policy: &&Value| {
            policy["spec"]["matchConstraints"]["resourceRules"].as_array().unwrap().iter().any(|rule| {
                let has = |field: &str, text: &str| texts(&rule[field]).contains(&text);
                has("apiGroups", self.group) && has("resources", self.resource) && has("operations", self.operation)
            })
        };
        let holds = |expression: &Value| self.evaluate(expression["expression"].as_str().unwrap());
        let refuses = |policy: &&Value| {
            let conditions = policy["spec"]["matchConditions"].as_array().into_iter().flatten();
            let concerned: Result<Vec<bool>, String> = conditions.map(holds).collect();
            let mut validations = policy["spec"]["validations"].as_array().into_iter().flatten();
            concerned.map_or(true, |concerned| {
                concerned.into_iter().all(|one| one) && !validations.all(|validation| holds(validation) == Ok(true))
            })
        };
        let name = |policy: &Value| policy["metadata"]["name"].as_str().unwrap().to_owned();
        policies.iter().filter(is_concerned).filter(refuses).map(name).collect()
    }

    fn evaluate(&self, expression: &str) -> Result<bool, String> {
        let program = Parser::default().enable_optional_syntax(true).parse(expression).unwrap();
        let mut context = Context::default();
        let resource = self.resource.split('/').next();
        let facts = json!({
            "namespace": self.namespace, "name": self.name, "operation": self.operation, "userInfo": self.user,
            "resource": { "resource": resource },
        });
        for (name, value) in [
            ("object", &self.object),
            ("oldObject", &self.old),
            ("request", &facts),
            ("authorizer", &json!({ "granted": self.granted })),
        ] {
            context.add_variable(name, value).unwrap();
        }
        for step in ["group", "resource", "subresource", "namespace", "name", "check"] {
            let keep = move |This(so_far): This<CelValue>, value: CelValue| with(so_far, step, value);
            context.add_function(step, keep).unwrap();
        }
        context.add_function("allowed", |This(question): This<CelValue>| is_granted(&question)).unwrap();
        match CelValue::resolve(&program, &context) {
            Ok(CelValue::Bool(holds)) => Ok(holds),
            other => Err(format!("{expression}: {other:?}")),
        }
    }
}

/// Adds one step to a query of the authorizer.
fn with(so_far: CelValue, step: &'static str, value: CelValue) -> CelValue {
    let CelValue::Map(map) = so_far else { return CelValue::Null };
    let mut map = (*map.map).clone();
    map.insert(step.into(), value);
    CelValue::Map(map.into())
}

fn is_granted(question: &CelValue) -> bool {
    let question = question.json().unwrap();
    let text = |key: &str| question[key].as_str();
    let subresource = text("subresource").map(|name| format!("/{name}")).unwrap_or_default();
    let right = format!("{} {}{subresource}", text("check").unwrap(), text("resource").unwrap());
    texts(&question["granted"]).contains(&right.as_str())
}

/// Checks each request with the policy that must refuse it; none if it must be allowed.
fn holds(table: Vec<(&str, Request, Option<&str>)>) {
    for (what, request, policy) in table {
        let expected: Vec<String> = policy.into_iter().map(str::to_owned).collect();
        assert_eq!(request.refused_by(), expected, "{what}");
    }
}

const GROUP: &str = api::GROUP;

#[test]
fn restores_are_created_only_by_users_who_may_do_the_same_without_them() {
    let restore =
        |spec: Value| request("CREATE", GROUP, "restores").of(json!({ "metadata": { "name": "x" }, "spec": spec }));
    let command = || restore(json!({ "from": { "source": "pod/db/main" } }));
    let claim = |to: Value| restore(json!({ "from": {}, "to": { "claim": to } }));
    let scaled = || {
        restore(json!({
            "from": {}, "to": { "claim": { "name": "data" } }, "scaleDown": { "kind": "StatefulSet", "name": "db" },
        }))
    };
    holds(vec![
        ("command", command(), Some("stowaway-restore-commands")),
        ("command, by a user who may create pods", command().may(&[PODS]), Some("stowaway-restore-commands")),
        ("command, by a user who may exec", command().may(&[EXEC]), None),
        ("claim", claim(json!({ "name": "data" })), Some("stowaway-restore-claims")),
        ("claim, by a user who may create pods", claim(json!({ "name": "data" })).may(&[PODS]), None),
        ("new claim", claim(json!({ "name": "data", "create": {} })).may(&[PODS]), Some("stowaway-restore-claims")),
        (
            "new claim, by a user who may create claims",
            claim(json!({ "name": "data", "create": {} })).may(&[PODS, "create persistentvolumeclaims"]),
            None,
        ),
        ("archive", restore(json!({ "from": {}, "to": { "archive": {} } })), Some("stowaway-restore-archives")),
        (
            "archive, by a user who may create pods",
            restore(json!({ "from": {}, "to": { "archive": {} } })).may(&[PODS]),
            None,
        ),
        ("workload", scaled().may(&[PODS]), Some("stowaway-restore-scales")),
        ("workload, by a user who may scale it", scaled().may(&[PODS, "patch statefulsets/scale"]), None),
    ]);
}

#[test]
fn commands_of_pods_are_changed_only_by_users_who_may_exec() {
    let pod = |annotations: Value| json!({ "metadata": { "name": "x", "annotations": annotations }, "spec": {} });
    let change = |old: Value, new: Value| request("UPDATE", "", "pods").of(pod(new)).after(pod(old));
    let (none, command) = (json!({}), json!({ "stowaway.dev/backupcommand": "dump" }));
    let looser = json!({ "stowaway.dev/backupcommand": "dump", "stowaway.dev/allow-empty": "true" });
    let commented = json!({ "stowaway.dev/backupcommand": "dump", "example.com/note": "x" });
    let policy = Some("stowaway-pod-commands");
    let binding = |annotations: &Value| {
        request("CREATE", "", "pods/binding").of(json!({ "metadata": { "annotations": annotations } }))
    };
    holds(vec![
        ("command", change(none.clone(), command.clone()), policy),
        ("command, by a user who may exec", change(none.clone(), command.clone()).may(&[EXEC]), None),
        ("command of K8up", change(none.clone(), json!({ "k8up.io/backupcommand": "dump" })), policy),
        ("what is green", change(command.clone(), looser), policy),
        ("note", change(command.clone(), commented), None),
        ("end of all", change(command.clone(), none.clone()), None),
        ("binding", binding(&command), Some("stowaway-binding-commands")),
        ("binding, by a user who may exec", binding(&command).may(&[EXEC]), None),
        ("binding without commands", binding(&none), None),
    ]);
}

#[test]
fn objects_with_a_key_that_was_probably_meant_for_stowaway_reach_the_validation() {
    let configuration = of_kind(&documents(&Installation::default()), &["ValidatingWebhookConfiguration"]).remove(0);
    let reaches = |entry: &str, object: &Value| {
        let entries = configuration["webhooks"].as_array().unwrap();
        let entry = entries.iter().find(|one| one["name"] == format!("{entry}.{GROUP}")).unwrap();
        let conditions = entry["matchConditions"].as_array().unwrap();
        let condition = conditions.iter().find(|condition| condition["name"] == "concerns-us").unwrap();
        request("CREATE", "", "pods").of(object.clone()).evaluate(condition["expression"].as_str().unwrap()).unwrap()
    };
    for (key, expected) in [
        ("stowaway.dev/backup", true),
        ("stowaway.io/backup", true),
        ("stowawy.dev/backup", true),
        ("stwoaway.dev/backup", true),
        ("k8up.io/backups", true),
        ("k8up/backup", true),
        ("backup.appuio.ch/file-extension", true),
        ("velero.io/backup", false),
        ("example.com/backupcommand", false),
    ] {
        let with = |field: &str| json!({ "metadata": { field: { key: "x" } }, "spec": { "template": {} } });
        let in_template = json!({ "metadata": {}, "spec": { "template": with("annotations") } });
        assert_eq!(reaches("workloads", &with("annotations")), expected, "{key}");
        assert_eq!(reaches("workloads", &in_template), expected, "{key}");
        assert_eq!(reaches("pods", &with("annotations")), expected, "{key}");
        for entry in ["claims", "namespaces"] {
            assert_eq!(reaches(entry, &with("annotations")), expected, "{key}");
            assert_eq!(reaches(entry, &with("labels")), expected, "{key}");
        }
    }
}

#[test]
fn repositories_shapes_of_pods_and_statuses_have_their_rights() {
    let object = |spec: Value| json!({ "metadata": { "name": "x" }, "spec": spec });
    let default =
        json!({ "metadata": { "name": "x", "annotations": { "stowaway.dev/is-default": "true" } }, "spec": {} });
    let accepted = |value: &str| {
        let annotations = json!({ "stowaway.dev/accept-repository": value });
        json!({ "metadata": { "name": "x", "annotations": annotations }, "spec": {} })
    };
    let repository = |old: Value, new: Value| {
        let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
        request(operation, GROUP, "repositories").of(new).after(old)
    };
    let policy = Some("stowaway-repositories");
    let shaped = || request("CREATE", GROUP, "backups").of(object(json!({ "runnerPod": {} })));
    let status = || request("UPDATE", GROUP, "backups/status").of(object(json!({}))).after(object(json!({})));
    holds(vec![
        ("repository", repository(Value::Null, object(json!({}))), policy),
        ("repository, by a user who may create pods", repository(Value::Null, object(json!({}))).may(&[PODS]), None),
        ("store", repository(object(json!({})), object(json!({ "s3": {} }))), policy),
        ("default", repository(object(json!({})), default), policy),
        ("acceptance", repository(object(json!({})), accepted("new")), policy),
        ("another acceptance", repository(accepted("new"), accepted(&"ab".repeat(32))), policy),
        ("no acceptance any more", repository(accepted("new"), object(json!({}))), policy),
        (
            "acceptance, by a user who may create pods",
            repository(object(json!({})), accepted("new")).may(&[PODS]),
            None,
        ),
        ("the same acceptance", repository(accepted("new"), accepted("new")), None),
        ("nothing", repository(object(json!({})), object(json!({}))), None),
        ("shape", shaped(), Some("stowaway-runner-pods")),
        ("shape, by a user who may create pods", shaped().may(&[PODS]), None),
        ("backup", request("CREATE", GROUP, "backups").of(object(json!({}))), None),
        ("status", status(), Some("stowaway-statuses")),
        ("status, by a user who may write all", status().may(&["patch backups/status"]), None),
    ]);
}

#[test]
fn accounts_of_runs_are_for_runs_alone() {
    const RUN: &str = "stowaway-run-x";
    let owner = json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": "x", "uid": "u", "controller": true }]);
    let pod = |account: &str, owners: &Value, image: &str| {
        json!({
            "metadata": { "name": "x", "ownerReferences": owners },
            "spec": { "serviceAccountName": account, "containers": [{ "name": "runner", "image": image }] },
        })
    };
    let create = |account: &str, owners: &Value| request("CREATE", "", "pods").of(pod(account, owners, "i"));
    let change = |old: &str, new: &str, image: &str| {
        request("UPDATE", "", "pods").after(pod(old, &owner, "i")).of(pod(new, &owner, image))
    };
    let job = |metadata: Value, account: &str| json!({ "metadata": metadata, "spec": { "template": { "spec": { "serviceAccountName": account } } } });
    let jobs = |metadata: Value, account: &str| request("CREATE", "batch", "jobs").of(job(metadata, account));
    let of_backup = json!([{ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup", "name": "b", "uid": "u" }]);
    let marked = json!({ "name": "x", "labels": { "stowaway.dev/kind": "backup" } });
    let answer = json!({ "name": "x", "labels": { "stowaway.dev/kind": "answer" } });
    let token = |account: &'static str| Request { name: account, ..request("CREATE", "", "serviceaccounts/token") };
    let secret = |account: &str| {
        request("CREATE", "", "secrets").of(json!({
            "metadata": { "name": "x", "annotations": { "kubernetes.io/service-account.name": account } },
            "type": "kubernetes.io/service-account-token",
        }))
    };
    let exec = |extra: Value| Request {
        user: json!({ "username": format!("system:serviceaccount:shop:{RUN}"), "groups": [], "extra": extra }),
        ..request("CONNECT", "", "pods/exec")
    };
    let event = |of: &str, name: &str, reason: &str| Request {
        user: json!({
            "username": format!("system:serviceaccount:shop:{RUN}"),
            "groups": [],
            "extra": if of.is_empty() { json!({}) } else { json!({ "authentication.kubernetes.io/pod-name": [of] }) },
        }),
        ..request("CREATE", "", "events").of(json!({
            "metadata": { "name": name }, "involvedObject": { "kind": "Pod", "name": "x-1" },
            "reason": reason, "type": "Normal",
        }))
    };
    let node = || Request { user: json!({ "username": "n", "groups": ["system:nodes"] }), ..token(RUN) };
    holds(vec![
        ("pod", create(RUN, &json!([])), Some("stowaway-run-pods")),
        ("pod that names a Job", create(RUN, &owner), Some("stowaway-run-pods")),
        ("pod of a Job", create(RUN, &owner).by(JOB_CONTROLLER), None),
        ("pod of another account", create("default", &json!([])), None),
        ("image of a run", change(RUN, RUN, "other"), Some("stowaway-run-pod-changes")),
        ("image of a run, by a user who may exec", change(RUN, RUN, "other").may(&[EXEC]), None),
        ("image of another pod", change("default", "default", "other"), None),
        ("job", jobs(json!({ "name": "x" }), RUN), Some("stowaway-run-jobs")),
        ("job, by the controller", jobs(json!({ "name": "y" }), "default").by(JOB_CONTROLLER), None),
        ("job with a label", jobs(marked.clone(), "default"), Some("stowaway-run-marks")),
        (
            "job with an owner",
            jobs(json!({ "name": "x", "ownerReferences": of_backup }), "default"),
            Some("stowaway-run-marks"),
        ),
        ("job that answers", jobs(answer.clone(), "default"), None),
        (
            "job that is relabelled",
            request("UPDATE", "batch", "jobs").after(job(answer, "default")).of(job(marked, "default")),
            Some("stowaway-run-marks"),
        ),
        ("token", token(RUN), Some("stowaway-run-tokens")),
        ("token, by a node", node(), None),
        ("token of another account", token("default"), None),
        ("token as a Secret", secret(RUN), Some("stowaway-run-token-secrets")),
        ("token of another account as a Secret", secret("default"), None),
        ("exec without a pod", exec(json!({})), Some("stowaway-run-exec")),
        ("exec from a pod", exec(json!({ "authentication.kubernetes.io/pod-name": ["x-1"] })), None),
        ("exec of a person", request("CONNECT", "", "pods/exec"), None),
        ("progress of its own pod", event("x-1", "x-1.progress", "Progress"), None),
        ("progress without a pod", event("", "x-1.progress", "Progress"), Some("stowaway-run-events")),
        ("progress of another pod", event("x-2", "x-1.progress", "Progress"), Some("stowaway-run-events")),
        ("another Event", event("x-1", "shop.17ab", "Progress"), Some("stowaway-run-events")),
        ("a warning", event("x-1", "x-1.progress", "NotInjected"), Some("stowaway-run-events")),
    ]);
}

#[test]
fn marks_of_restores_are_changed_by_the_controller_alone() {
    let restore = |annotations: Value| json!({ "metadata": { "name": "x", "annotations": annotations }, "spec": {} });
    let change = |old: Value, new: Value| request("UPDATE", GROUP, "restores").after(restore(old)).of(restore(new));
    let carried_out = || json!({ "stowaway.dev/carried-out": "u" });
    let policy = Some("stowaway-restore-marks");
    holds(vec![
        ("set", change(json!({}), carried_out()), policy),
        ("taken away", change(carried_out(), json!({})), policy),
        ("replicas", change(json!({}), json!({ "stowaway.dev/scaled-from": "u 3" })), policy),
        ("by the controller", change(json!({}), carried_out()).by(CONTROLLER_USER), None),
        ("a note", change(carried_out(), json!({ "stowaway.dev/carried-out": "u", "note": "x" })), None),
    ]);
}

#[test]
fn every_policy_refuses_something_here() {
    let text = [include_str!("evaluated.rs"), include_str!("evaluated/controller.rs")].concat();
    for policy in of_kind(&documents(&Installation::default()), &["ValidatingAdmissionPolicy"]) {
        let name = policy["metadata"]["name"].as_str().unwrap();
        assert!(text.contains(&format!("\"{name}\"")), "{name} has no case");
    }
}
