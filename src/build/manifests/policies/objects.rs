//! Who may make Stowaway use Secrets, stores and pods of a namespace by an object of Stowaway's: only an author who could use
//! them without Stowaway. And who may write what Stowaway reports: Stowaway.
//!
//! It must not know what the objects are for; the commands, claims and archives of Restores are guarded in `commands`.
//!
//! A Repository names Secrets, sends them to the server that it names, and shapes the pods of runs: its author reads Secrets
//! and creates pods. Its spec can be changed, so that an update counts as much as a creation: another endpoint gets
//! the credentials that are there. The whole spec is guarded rather than a list of its fields, so that a new field is
//! guarded from its first day on. A Repository that becomes the default one gets the dumps of all that name none.
//!
//! A status is input of the controller's and of the CLI's decisions: which Job is the run's, whether two Repositories are
//! the same, what was stored. So the right to write statuses counts only if it holds in all namespaces, as the controller's
//! does; a role for one namespace that covers all resources of the group does not include it.

use super::{Guard, MAY_CREATE_PODS};
use crate::api;

pub(super) fn guards() -> [Guard; 3] {
    let group = api::GROUP;
    let is_default = |object: &str| format!("{object}.metadata.?annotations[?'{}'].orValue('')", api::IS_DEFAULT);
    [
        Guard {
            name: "stowaway-repositories",
            rules: vec![(group, &["repositories"], &["CREATE", "UPDATE"])],
            concerns: Some((
                "changes-what-runs-use",
                format!(
                    "oldObject == null || object.spec != oldObject.spec || {} != {}",
                    is_default("object"),
                    is_default("oldObject")
                ),
            )),
            expression: MAY_CREATE_PODS.to_owned(),
            message: "a Repository names Secrets, a store and the shape of pods: its author needs the right to create pods in \
                      the namespace",
        },
        Guard {
            name: "stowaway-runner-pods",
            rules: vec![(group, &["backups", "restores"], &["CREATE", "UPDATE"])],
            concerns: Some((
                "shapes-the-pod-of-a-run",
                "object.?spec.?runnerPod.orValue(null) != null && (oldObject == null || object.spec != oldObject.spec)"
                    .to_owned(),
            )),
            expression: MAY_CREATE_PODS.to_owned(),
            message: "runnerPod shapes a pod: its author needs the right to create pods in the namespace",
        },
        Guard {
            name: "stowaway-statuses",
            rules: vec![(group, &["repositories/status", "backups/status", "restores/status"], &["UPDATE"])],
            concerns: None,
            expression: format!(
                "authorizer.group('{group}').resource(request.resource.resource).subresource('status').check('patch')\
                 .allowed()"
            ),
            message: "statuses are written by Stowaway's controller; the right to write them counts only if it holds in all \
                      namespaces",
        },
    ]
}
