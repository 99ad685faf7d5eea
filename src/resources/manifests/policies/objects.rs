//! Guards who may make Stowaway use Secrets, stores and pods of a namespace through an object of Stowaway: only an
//! author who could use them without Stowaway. It also guards statuses, which only Stowaway may write. The commands,
//! claims and archives of Restores are guarded in `commands`.
//!
//! A Repository names Secrets, sends them to the server that it names, and configures the pods of runs. So its author
//! could read Secrets and create pods. Its spec is mutable, so an update is guarded like a creation: a changed endpoint
//! would get the existing credentials. The whole spec is guarded, not a list of its fields, so that a new field is
//! guarded from its start. A Repository that becomes the default receives the dumps of all pods that name no
//! Repository. A user who accepts another repository for a Repository chooses where all further backups are stored, and
//! what restores read.
//!
//! The controller and the CLI base decisions on statuses: which Job belongs to a run, whether two Repositories are the
//! same, what was stored. So the right to write statuses counts only if it applies in all namespaces, as the
//! controller's does. A role for one namespace that covers all resources of the group does not suffice.

use super::{Guard, MAY_CREATE_PODS};
use crate::api;

pub(super) fn guards() -> [Guard; 3] {
    let group = api::GROUP;
    let annotation = |object: &str, key: &str| format!("{object}.metadata.?annotations[?'{key}'].orValue('')");
    let changes = |key: &str| format!("{} != {}", annotation("object", key), annotation("oldObject", key));
    [
        Guard {
            name: "stowaway-repositories",
            rules: vec![(group, &["repositories"], &["CREATE", "UPDATE"])],
            concerns: Some((
                "changes-what-runs-use",
                format!(
                    "oldObject == null || object.spec != oldObject.spec || {} || {}",
                    changes(api::IS_DEFAULT),
                    changes(api::ACCEPT_REPOSITORY)
                ),
            )),
            expression: MAY_CREATE_PODS.to_owned(),
            message: "a Repository names Secrets and a store, and configures pods: its author needs the right to create pods \
                      in the namespace",
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
            message: "runnerPod configures a pod: its author needs the right to create pods in the namespace",
        },
        Guard {
            name: "stowaway-statuses",
            rules: vec![(group, &["repositories/status", "backups/status", "restores/status"], &["UPDATE"])],
            concerns: None,
            expression: format!(
                "authorizer.group('{group}').resource(request.resource.resource).subresource('status').check('patch')\
                 .allowed()"
            ),
            message: "Stowaway's controller writes statuses; the right to write them counts only if it applies in all \
                      namespaces",
        },
    ]
}
