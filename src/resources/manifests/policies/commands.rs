//! Guards who may make Stowaway run a command in a pod, write to a claim, send an archive, or scale a workload: only a
//! user who could do the same without Stowaway.
//!
//! A Restore contains a command, and its spec is immutable. A pod's commands are in its annotations, which Stowaway
//! reads from the running pod. They can be changed by an update of `pods` or `pods/status`, and by a Binding, whose
//! annotations are merged into the pod's (`setPodNodeAndMetadata` of the API server). The other subresources
//! (`ephemeralcontainers`, `resize`) keep the annotations. Creating a pod with a command is allowed, because the
//! creator of a pod decides what runs in it.
//!
//! Besides the commands, all other keys of a pod count: the container in which a command runs, the repository to which
//! its output is sent (a dump in another repository is as good as a shell), and the conditions of a green run (a
//! shorter timeout cuts a dump, and `accept-unproven` or `allow-empty` accept a cut one). So a key that is added to the
//! table is guarded automatically. Removing a key may change what runs, too: then a command under another tool's key
//! takes effect, or another container. Only if no remaining key requests a run, a change has no effect.

use super::{
    super::conditions::{annotations_of, pod_keys, requesting_keys},
    Guard, MAY_CREATE_PODS, MAY_EXEC,
};
use crate::api;

/// The Restore's target is a claim, and it runs no command. (The field may be `null`, which is no claim.)
const INTO_A_CLAIM: &str = "object.?spec.?to.?claim.orValue(null) != null";

/// The Restore creates an archive, and runs no command.
const AS_AN_ARCHIVE: &str = "object.?spec.?to.?archive.orValue(null) != null";

/// The author may use this verb on objects of this resource in the namespace.
fn may(group: &str, resource: &str, verb: &str) -> String {
    format!("authorizer.group({group}).resource({resource}).namespace(request.namespace).check('{verb}').allowed()")
}

pub(super) fn guards() -> [Guard; 6] {
    [
        Guard {
            name: "stowaway-restore-commands",
            rules: vec![(api::GROUP, &["restores"], &["CREATE"])],
            concerns: Some(("feeds-a-command", format!("!({INTO_A_CLAIM}) && !({AS_AN_ARCHIVE})"))),
            expression: MAY_EXEC.to_owned(),
            message: "a Restore runs a command in a pod: its author needs the right to create pods/exec in the namespace",
        },
        Guard {
            name: "stowaway-restore-claims",
            rules: vec![(api::GROUP, &["restores"], &["CREATE"])],
            concerns: Some(("writes-into-a-claim", INTO_A_CLAIM.to_owned())),
            // A user who may create pods can mount any claim, and write to it as any user that the namespace allows.
            expression: format!(
                "{} && (object.spec.to.claim.?create.orValue(null) == null || {})",
                MAY_CREATE_PODS,
                may("''", "'persistentvolumeclaims'", "create"),
            ),
            message: "a Restore writes to a claim: its author needs the right to create pods in the namespace, and with \
                      create also the right to create persistentvolumeclaims",
        },
        Guard {
            name: "stowaway-restore-archives",
            rules: vec![(api::GROUP, &["restores"], &["CREATE"])],
            concerns: Some(("makes-an-archive", AS_AN_ARCHIVE.to_owned())),
            // A user who may create pods can mount any Secret and any volume of the namespace, and send their content
            // anywhere.
            expression: MAY_CREATE_PODS.to_owned(),
            message: "a Restore sends data to a store with Secrets of the namespace, or to a volume: its author needs the \
                      right to create pods in the namespace",
        },
        Guard {
            name: "stowaway-restore-scales",
            rules: vec![(api::GROUP, &["restores"], &["CREATE"])],
            concerns: Some(("scales-a-workload", "object.?spec.?scaleDown.orValue(null) != null".to_owned())),
            expression:
                "authorizer.group('apps').resource(object.spec.scaleDown.kind == 'Deployment' ? 'deployments' : \
                         'statefulsets').subresource('scale').namespace(request.namespace)\
                         .name(object.spec.scaleDown.name).check('patch').allowed()"
                    .to_owned(),
            message: "a Restore scales a workload down and up: its author needs the right to patch its scale",
        },
        Guard {
            name: "stowaway-pod-commands",
            rules: vec![("", &["pods", "pods/status"], &["UPDATE"])],
            concerns: Some(("changes-a-command", changes())),
            expression: MAY_EXEC.to_owned(),
            message: "annotations that determine which commands run in this pod are changed: that needs the right to create pods/exec in the namespace",
        },
        Guard {
            name: "stowaway-binding-commands",
            rules: vec![("", &["pods/binding", "bindings"], &["CREATE"])],
            concerns: Some((
                "contains-a-command",
                format!("{}.exists(key, {})", annotations_of("object"), pod_keys("key")),
            )),
            expression: MAY_EXEC.to_owned(),
            message: "the Binding's annotations determine which commands run in the pod: that needs the right to create pods/exec in the namespace",
        },
    ]
}

/// An annotation requests a run after the change, and a key that affects the run has changed.
fn changes() -> String {
    let (new, old) = (annotations_of("object"), annotations_of("oldObject"));
    let (requests, counts) = (requesting_keys("key"), pod_keys("key"));
    format!(
        "{new} != {old} && {new}.exists(key, {requests}) && (\
         {new}.exists(key, ({counts}) && !(key in {old} && {old}[key] == {new}[key])) || \
         {old}.exists(key, ({counts}) && !(key in {new})))"
    )
}
