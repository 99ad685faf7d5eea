//! Only Stowaway's Jobs may use the service accounts of runs.
//!
//! While a run lasts, its `ServiceAccount` may exec in every pod of its namespace. A tenant who may create pods there,
//! but may not exec, must not get the account's rights. The accounts are recognized by the prefix of their names.
//!
//! The attacks, and what prevents each:
//! - *A pod with the account*, created by hand or by a `Deployment`: only the Job controller may create such pods, and
//!   only for Jobs. (In a cluster whose controllers have no accounts of their own, one user creates all pods, so the
//!   owner counts, too.)
//! - *A Job with the account*, or a change of Stowaway's Job: only Stowaway's controller may write the spec of such a
//!   Job. The `CronJob` controller has another account. Metadata may be changed, because the garbage collector writes
//!   there.
//! - *A change of a run's pod*: a new image would run with the old token, and an ephemeral container can mount the
//!   token. Such a change requires the right to exec, which is all that an attacker would gain.
//! - *A token*: only nodes may request one, for a pod that runs there. A Secret that Kubernetes would fill with a token
//!   that never expires is refused for every user.
//! - *Impersonation*: a user who may impersonate the namespace's accounts (Kubernetes' own role `edit` may) has no pod
//!   name in the user info, which a real token of a pod has.
//! - *An account created by the tenant* under the prefix, before or without Stowaway: this is allowed. The account has
//!   no rights until it is bound to a role, and Kubernetes lets no user bind a role whose rights the user does not
//!   have. When Stowaway's controller binds the account later, all of the above applies to it. Tokens are bound to its
//!   UID and cannot be requested before, either.
//! - *A Job that imitates a run's* by labels or owner would be counted as a run. Only the controller may set these
//!   labels and owners on a Job. The CLI's Jobs that answer queries have labels of their own, which do not count as a
//!   run.
//! - *Another subject in Stowaway's `RoleBinding`*: Kubernetes prevents this escalation, unless the author may exec.

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

/// The users that create the pods of Jobs; the second one in clusters whose controllers have no accounts of their own.
const JOB_CONTROLLERS: [&str; 2] =
    ["system:serviceaccount:kube-system:job-controller", "system:kube-controller-manager"];

/// The labels by which the controller finds runs.
pub(super) const MARKS: [&str; 5] = [RUN, KIND, SOURCE_HASH, ATTEMPT, REPOSITORY];

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
            message: "only the Jobs of Stowaway's runs may use accounts that begin with stowaway-run-",
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
            message: "only Stowaway's controller may write Jobs whose account begins with stowaway-run-",
        },
        Guard {
            name: "stowaway-run-marks",
            rules: vec![("batch", &["jobs"], &["CREATE", "UPDATE"])],
            concerns: Some(("bears-new-marks-of-a-run", bears_new_marks())),
            // The CLI's Job answers its creator; no other part of Stowaway reads it.
            expression: format!(
                "{} || {} && (oldObject == null || {})",
                is_controller(namespace),
                answers("object"),
                answers("oldObject")
            ),
            message: "only Stowaway's controller may write Jobs with labels or owners of Stowaway's runs",
        },
        Guard {
            name: "stowaway-run-tokens",
            rules: vec![("", &["serviceaccounts/token"], &["CREATE"])],
            concerns: Some(("is-an-account-of-runs", format!("request.name.startsWith({prefix})"))),
            expression: "'system:nodes' in request.userInfo.groups".to_owned(),
            message: "only their own pods get tokens of accounts that begin with stowaway-run-",
        },
        Guard {
            name: "stowaway-run-token-secrets",
            rules: vec![("", &["secrets"], &["CREATE", "UPDATE"])],
            concerns: Some((
                "requests-a-token-of-runs",
                format!(
                    "object.?type.orValue('') == 'kubernetes.io/service-account-token' && \
                     object.metadata.?annotations[?'kubernetes.io/service-account.name'].orValue('').startsWith({prefix})"
                ),
            )),
            expression: "false".to_owned(),
            message: "only their own pods get tokens of accounts that begin with stowaway-run-",
        },
        Guard {
            name: "stowaway-run-exec",
            rules: vec![("", &["pods/exec"], &["CONNECT"])],
            concerns: Some(user_is_account_of_runs()),
            expression: "size(request.userInfo.?extra[?'authentication.kubernetes.io/pod-name'].orValue([])) > 0"
                .to_owned(),
            message: "accounts that begin with stowaway-run- may exec only from their own pods",
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
            message: "accounts that begin with stowaway-run- may write only the Event of their own pod's progress",
        },
    ]
}

fn user_is_account_of_runs() -> (&'static str, String) {
    let pattern = text(&format!("^system:serviceaccount:[^:]+:{ACCOUNT_PREFIX}"));
    ("is-an-account-of-runs", format!("request.userInfo.username.matches({pattern})"))
}

/// The change adds, changes or removes a label by which runs are found, or adds an owner of Stowaway's kinds. Removing
/// an owner is allowed, because the garbage collector removes owners that no longer exist.
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

/// The Job answers the CLI.
fn answers(object: &str) -> String {
    format!("{object}.metadata.?labels[?{}].orValue('') == {}", text(KIND), text(&RunKind::Answer.to_string()))
}
