//! Who may make us run a command in a pod: only who could run it there anyway.
//!
//! It must not know what the command is for.
//!
//! A Restore brings a command, and its spec never changes after that. A pod's commands stand in its annotations, which are
//! read from the running pod; they can be changed by an update of `pods` or `pods/status`, and by a Binding, whose annotations
//! are laid over the pod's (`setPodNodeAndMetadata` of the API server). The other subresources (`ephemeralcontainers`,
//! `resize`) keep the annotations as they were. Creating a pod with a command is free: whoever makes a pod decides what runs
//! in it.
//!
//! Besides the commands themselves, what counts is which container they run in and where their output goes: a dump in
//! somebody else's repository is as good as a shell. To take something away may change what runs, too: a command of another
//! tool's key comes to light, or the container is another one. Only when no command is left, nothing can come of it.

use super::{
    super::conditions::{annotations_of, command_keys, commands},
    Guard, MAY_EXEC,
};
use crate::api;

pub(super) fn guards() -> [Guard; 3] {
    [
        Guard {
            name: "stowaway-restore-commands",
            rules: vec![(api::GROUP, &["restores"], &["CREATE"])],
            concerns: None,
            expression: MAY_EXEC.to_owned(),
            message: "a Restore runs a command in a pod: its author needs the right to create pods/exec in the namespace",
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
                format!("{}.exists(key, {})", annotations_of("object"), commands("key")),
            )),
            expression: MAY_EXEC.to_owned(),
            message: "the Binding's annotations say what is run in the pod: that needs the right to create pods/exec in the namespace",
        },
    ]
}

/// A command is there after the change, and something of what decides about it is not as before.
fn changes() -> String {
    let (new, old) = (annotations_of("object"), annotations_of("oldObject"));
    let (is_command, counts) = (command_keys("key"), commands("key"));
    format!(
        "{new} != {old} && {new}.exists(key, {is_command}) && (\
         {new}.exists(key, ({counts}) && !(key in {old} && {old}[key] == {new}[key])) || \
         {old}.exists(key, ({counts}) && !(key in {new})))"
    )
}
