//! Who may make us run a command in a pod, write into a claim, send an archive away, or scale a workload: only who could do
//! so anyway.
//!
//! It must not know what the command is for.
//!
//! A Restore brings a command, and its spec never changes after that. A pod's commands stand in its annotations, which are
//! read from the running pod; they can be changed by an update of `pods` or `pods/status`, and by a Binding, whose annotations
//! are laid over the pod's (`setPodNodeAndMetadata` of the API server). The other subresources (`ephemeralcontainers`,
//! `resize`) keep the annotations as they were. Creating a pod with a command is free: whoever makes a pod decides what runs
//! in it.
//!
//! Besides the commands themselves, all other keys of a pod count: which container a command runs in, where its output goes
//! (a dump in another repository is as good as a shell), and what makes a run green (a shorter timeout cuts a dump, and
//! `accept-unproven` or `allow-empty` call a cut one good). So a key that is added to the table is guarded from then on. To
//! remove a key may change what runs, too: a command of another tool's key comes to light, or the container is another one.
//! Only when nothing is left that requests a run, nothing can come of it.

use super::{
    super::conditions::{annotations_of, pod_keys, requesting_keys},
    Guard, MAY_CREATE_PODS, MAY_EXEC,
};
use crate::api;

/// The Restore's target is a claim, and it runs no command. (A `null` is no claim, and may stand there.)
const INTO_A_CLAIM: &str = "object.?spec.?to.?claim.orValue(null) != null";

/// The Restore makes an archive, and runs no command.
const AS_AN_ARCHIVE: &str = "object.?spec.?to.?archive.orValue(null) != null";

/// The author may do that with objects of this resource in the namespace.
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
            // Whoever makes pods mounts any claim, and writes into it as whoever the namespace lets him be.
            expression: format!(
                "{} && (object.spec.to.claim.?create.orValue(null) == null || {})",
                MAY_CREATE_PODS,
                may("''", "'persistentvolumeclaims'", "create"),
            ),
            message: "a Restore writes into a claim: its author needs the right to create pods in the namespace, and with \
                      create that to create persistentvolumeclaims",
        },
        Guard {
            name: "stowaway-restore-archives",
            rules: vec![(api::GROUP, &["restores"], &["CREATE"])],
            concerns: Some(("makes-an-archive", AS_AN_ARCHIVE.to_owned())),
            // Whoever makes pods mounts any Secret and any volume of the namespace, and sends what he reads wherever he likes.
            expression: MAY_CREATE_PODS.to_owned(),
            message: "a Restore sends data away with Secrets of the namespace, or onto a volume: its author needs the right to \
                      create pods in the namespace",
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
            message: "annotations that say what is run in this pod are changed: that needs the right to create pods/exec in the namespace",
        },
        Guard {
            name: "stowaway-binding-commands",
            rules: vec![("", &["pods/binding", "bindings"], &["CREATE"])],
            concerns: Some((
                "brings-a-command",
                format!("{}.exists(key, {})", annotations_of("object"), pod_keys("key")),
            )),
            expression: MAY_EXEC.to_owned(),
            message: "the Binding's annotations say what is run in the pod: that needs the right to create pods/exec in the namespace",
        },
    ]
}

/// Something requests a run after the change, and something of what decides about that run is not as before.
fn changes() -> String {
    let (new, old) = (annotations_of("object"), annotations_of("oldObject"));
    let (requests, counts) = (requesting_keys("key"), pod_keys("key"));
    format!(
        "{new} != {old} && {new}.exists(key, {requests}) && (\
         {new}.exists(key, ({counts}) && !(key in {old} && {old}[key] == {new}[key])) || \
         {old}.exists(key, ({counts}) && !(key in {new})))"
    )
}
