//! Only our Jobs use the accounts of runs.
//!
//! While a run lasts, its `ServiceAccount` may exec in every pod of its namespace. A tenant who may make pods there, but not
//! exec, must not come by it. The accounts are known by the prefix of their names. It must not know what a run does.
//!
//! The ways to an account, and what closes each:
//! - *A pod that claims it*, made by hand, by a `Deployment`, ...: only the Job controller makes such pods, and only for Jobs.
//!   (A cluster whose controllers have no accounts of their own makes all pods by one user, so the owner counts, too.)
//! - *A Job that claims it*, or a change of ours: only our controller writes the spec of such a Job. `CronJob`s make theirs by
//!   another account. Metadata are free: the garbage collector writes there.
//! - *The pod of a run, changed*: a new image runs with the old token, and an ephemeral container can mount it. That needs
//!   the right to exec, which is all there is to win.
//! - *A token*: only nodes ask for one, on behalf of a pod that runs there; and a Secret that would be filled with one which
//!   never ends is refused to everybody.
//! - *Impersonation*: who may impersonate the namespace's accounts (Kubernetes' own role `edit` may) comes without the
//!   mark of the pod that a real token is bound to.
//! - *An account made by the tenant* under the prefix, or ours made before us: free, since it can do nothing until it is
//!   bound to a role, and Kubernetes lets nobody bind a role that he does not hold. When our controller then binds it, all
//!   of the above holds for it; tokens are bound to its UID and cannot be had before, either.
//! - *A Job that only looks like one of a run*, by labels or owner: it would be counted as a run. Only the controller puts
//!   these marks on a Job; the CLI's Jobs that answer have marks of their own, which count nowhere.
//! - *Another subject in our `RoleBinding`*: for Kubernetes an escalation, unless the author may exec himself.

use super::{
    super::conditions::{list, text},
    Guard, MAY_EXEC, is_controller,
};
use crate::{
    api,
    model::PROGRESS_REASON,
    plan::{
        labels::{ATTEMPT, KIND, REPOSITORY, RUN, SOURCE_HASH},
        names::{ACCOUNT_PREFIX, RunKind},
    },
};

/// Who makes the pods of Jobs; the second where controllers have no accounts of their own.
const JOB_CONTROLLERS: [&str; 2] =
    ["system:serviceaccount:kube-system:job-controller", "system:kube-controller-manager"];

/// The labels by which runs are found.
const MARKS: [&str; 5] = [RUN, KIND, SOURCE_HASH, ATTEMPT, REPOSITORY];

pub(super) fn guards(namespace: &str) -> [Guard; 8] {
    let prefix = text(ACCOUNT_PREFIX);
    let claims = |spec: &str| format!("{spec}.?serviceAccountName.orValue('').startsWith({prefix})");
    [
        Guard {
            name: "stowaway-run-pods",
            rules: vec![("", &["pods"], &["CREATE"])],
            concerns: Some(("claims-an-account-of-runs", claims("object.spec"))),
            expression: format!(
                "request.userInfo.username in {} && object.metadata.?ownerReferences.orValue([]).exists(owner, \
                 owner.?controller.orValue(false) && owner.apiVersion == 'batch/v1' && owner.kind == 'Job')",
                list(JOB_CONTROLLERS)
            ),
            message: "accounts that begin with stowaway-run- are for the Jobs of Stowaway's runs alone",
        },
        Guard {
            name: "stowaway-run-pod-changes",
            rules: vec![("", &["pods", "pods/ephemeralcontainers"], &["UPDATE"])],
            concerns: Some((
                "changes-the-pod-of-a-run",
                format!("{} && object.spec != oldObject.spec", claims("oldObject.spec")),
            )),
            expression: MAY_EXEC.to_owned(),
            message: "the pod of a run holds a token that may exec: a change needs the right to create pods/exec in the namespace",
        },
        Guard {
            name: "stowaway-run-jobs",
            rules: vec![("batch", &["jobs"], &["CREATE", "UPDATE"])],
            concerns: Some((
                "claims-an-account-of-runs",
                format!(
                    "{} && (oldObject == null || object.spec != oldObject.spec)",
                    claims("object.spec.template.spec")
                ),
            )),
            expression: is_controller(namespace),
            message: "Jobs whose account begins with stowaway-run- are written by Stowaway's controller alone",
        },
        Guard {
            name: "stowaway-run-marks",
            rules: vec![("batch", &["jobs"], &["CREATE", "UPDATE"])],
            concerns: Some(("bears-new-marks-of-a-run", bears_new_marks())),
            // The CLI's Job answers its creator; nothing else of Stowaway's reads it.
            expression: format!(
                "{} || {} && (oldObject == null || {})",
                is_controller(namespace),
                answers("object"),
                answers("oldObject")
            ),
            message: "Jobs with labels or owners of Stowaway's runs are written by Stowaway's controller alone",
        },
        Guard {
            name: "stowaway-run-tokens",
            rules: vec![("", &["serviceaccounts/token"], &["CREATE"])],
            concerns: Some(("is-an-account-of-runs", format!("request.name.startsWith({prefix})"))),
            expression: "'system:nodes' in request.userInfo.groups".to_owned(),
            message: "tokens of accounts that begin with stowaway-run- are given to their pods alone",
        },
        Guard {
            name: "stowaway-run-token-secrets",
            rules: vec![("", &["secrets"], &["CREATE", "UPDATE"])],
            concerns: Some((
                "asks-for-a-token-of-runs",
                format!(
                    "object.?type.orValue('') == 'kubernetes.io/service-account-token' && \
                     object.metadata.?annotations[?'kubernetes.io/service-account.name'].orValue('').startsWith({prefix})"
                ),
            )),
            expression: "false".to_owned(),
            message: "tokens of accounts that begin with stowaway-run- are given to their pods alone",
        },
        Guard {
            name: "stowaway-run-exec",
            rules: vec![("", &["pods/exec"], &["CONNECT"])],
            concerns: Some(user_is_account_of_runs()),
            expression: "size(request.userInfo.?extra[?'authentication.kubernetes.io/pod-name'].orValue([])) > 0"
                .to_owned(),
            message: "accounts that begin with stowaway-run- exec from their pods alone",
        },
        Guard {
            name: "stowaway-run-events",
            rules: vec![("", &["events"], &["CREATE", "UPDATE"])],
            concerns: Some(user_is_account_of_runs()),
            expression: format!(
                "request.userInfo.?extra[?'authentication.kubernetes.io/pod-name'].orValue([]).exists(pod, \
                 object.metadata.name == pod + '.progress' && object.involvedObject.?name.orValue('') == pod) && \
                 object.?reason.orValue('') == {} && object.?type.orValue('') == 'Normal'",
                text(PROGRESS_REASON)
            ),
            message: "accounts that begin with stowaway-run- write the Event of their own pod's progress alone",
        },
    ]
}

fn user_is_account_of_runs() -> (&'static str, String) {
    let pattern = text(&format!("^system:serviceaccount:[^:]+:{ACCOUNT_PREFIX}"));
    ("is-an-account-of-runs", format!("request.userInfo.username.matches({pattern})"))
}

/// A label by which runs are found or an owner of Stowaway's kinds is there that was not there before, or another value, or is
/// missing. An owner that is missing counts as nothing: the garbage collector removes those that are gone.
fn bears_new_marks() -> String {
    let prefix = text(&format!("{}/", api::GROUP));
    let marks = list(MARKS);
    let labels = |object: &str| format!("{object}.metadata.?labels.orValue({{}})");
    let owners = |object: &str| format!("{object}.metadata.?ownerReferences.orValue([])");
    let (new, old) = (labels("object"), labels("oldObject"));
    format!(
        "oldObject == null ? ({new}.exists(key, key in {marks}) || \
         {new_owners}.exists(owner, owner.apiVersion.startsWith({prefix}))) : \
         ({new}.exists(key, key in {marks} && !(key in {old} && {old}[key] == {new}[key])) || \
         {old}.exists(key, key in {marks} && !(key in {new})) || \
         {new_owners}.exists(owner, owner.apiVersion.startsWith({prefix}) && \
         !{old_owners}.exists(known, known.uid == owner.uid)))",
        new_owners = owners("object"),
        old_owners = owners("oldObject"),
    )
}

/// The Job is one that answers the CLI.
fn answers(object: &str) -> String {
    format!("{object}.metadata.?labels[?{}].orValue('') == {}", text(KIND), text(&RunKind::Answer.to_string()))
}
