//! Compares the injection plan with the entries that the pod already has, and builds the patch from the difference.
//!
//! A container or volume counts as Stowaway's if it has Stowaway's name *and* matches what Stowaway would create; an
//! annotation proves nothing. A container with Stowaway's image, or a volume of the right kind, which differs (an older
//! version in a pod that a cluster backup restored, or a forgery) is replaced as a whole, so that it does what its name
//! promises. A container with another image, or a volume of another kind, belongs to the app: it is never changed, and
//! never counts as Stowaway's. Two entries cannot have the same name, so nothing is injected then.

use serde_json::{Map, Value};

use super::{
    InjectionFacts, containers,
    outcome::{Cause, Finding},
    patch::PatchBuilder,
    plan::{InjectionPlan, is_our_volume},
    pod::{List, PodView},
};
use crate::model::{
    image::{is_same_content, is_same_program},
    injected::{HELPER_VOLUME, REPOSITORY_VOLUME, RESTORE_CONTAINER, SCRATCH_VOLUME, SIDECAR_CONTAINER, STORE_VOLUME},
};

/// The state of one of Stowaway's entries in the pod.
#[derive(Debug, Eq, PartialEq)]
enum EntryState {
    /// The pod has no entry of this name.
    Absent,
    /// The entry is present and up to date.
    Current,
    /// The entry at this index is Stowaway's, but differs.
    Outdated(usize),
    /// The name is taken by an entry of the app; with a message for the user.
    Foreign(String),
}

/// Adds missing entries to the patch, and conflicts to the findings.
pub(super) fn reconcile(
    view: &PodView<'_>,
    plan: &InjectionPlan<'_>,
    facts: &InjectionFacts<'_>,
    patch: &mut PatchBuilder,
    findings: &mut Vec<Finding>,
) {
    for volume in containers::volumes(plan) {
        match volume_state(view, &volume) {
            EntryState::Absent => patch.append(&["spec", "volumes"], volume),
            EntryState::Current => {}
            EntryState::Outdated(index) => patch.replace(&["spec", "volumes"], index, volume),
            EntryState::Foreign(message) => findings.push(Finding::new(Cause::NameTaken, message)),
        }
    }
    check_mounts(view, findings);
    check_leftovers(view, plan, findings);
    mount_into_targets(plan, patch, findings);

    // For each init container after the patch, whether it mounts a restored volume; see `mod.rs` for their order.
    let touches = |container: &Map<String, Value>| {
        let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
        mounts.filter_map(|mount| mount.get("name")?.as_str()).any(|name| plan.volumes.contains(&name))
    };
    let mut touching: Vec<bool> = view.in_list(List::Init).map(|container| touches(container.container)).collect();
    let mut append = |patch: &mut PatchBuilder, container: Value| match container_state(view, &container, facts.image) {
        EntryState::Absent => {
            touching.push(container.as_object().is_some_and(touches) || is_named(&container, SIDECAR_CONTAINER));
            patch.append(&["spec", List::Init.field()], container);
        }
        EntryState::Current => {}
        EntryState::Outdated(index) => patch.replace(&["spec", List::Init.field()], index, container),
        EntryState::Foreign(message) => findings.push(Finding::new(Cause::NameTaken, message)),
    };
    if plan.uses_helper() {
        append(patch, containers::helper(view, facts.image));
    }
    if plan.sidecar {
        append(patch, containers::sidecar(view, plan, facts.image));
    }
    if plan.restore {
        let container = containers::restore(view, plan, facts.image);
        let list = ["spec", List::Init.field()];
        match container_state(view, &container, facts.image) {
            EntryState::Absent => match touching.iter().position(|touching| *touching) {
                Some(index) => patch.insert(&list, index, container),
                None => patch.append(&list, container),
            },
            EntryState::Current => {}
            EntryState::Outdated(index) => patch.replace(&list, index, container),
            EntryState::Foreign(message) => findings.push(Finding::new(Cause::NameTaken, message)),
        }
    }
}

fn is_named(container: &Value, name: &str) -> bool {
    container.get("name").and_then(Value::as_str) == Some(name)
}

/// Mounts the plan's volumes into the containers of commands.
fn mount_into_targets(plan: &InjectionPlan<'_>, patch: &mut PatchBuilder, findings: &mut Vec<Finding>) {
    for target in &plan.targets {
        let index = target.index.to_string();
        for mount in containers::mounts_of_target(plan) {
            if target.mounts().any(|(_, existing)| covers(existing, &mount)) {
                continue;
            }
            let needed = mount.get("mountPath").and_then(Value::as_str).unwrap_or_default();
            if let Some(taken) = target.paths().find(|taken| overlap(taken, needed)) {
                let message = format!(
                    "container {:?} has {taken:?} mounted, where Stowaway needs {needed:?}; mount it elsewhere",
                    target.name
                );
                findings.push(Finding::new(Cause::PathTaken, message));
                continue;
            }
            patch.append(&["spec", target.list.field(), &index, "volumeMounts"], mount);
        }
    }
}

/// Whether one path equals, or is below, the other.
fn overlap(one: &str, other: &str) -> bool {
    let parts = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
    };
    let (one, other) = (parts(one), parts(other));
    // Nothing is mounted at the root itself, and the API server rejects `..`.
    !one.is_empty() && one.iter().zip(&other).all(|(one, other)| one == other)
}

/// Finds containers of the app that mount Stowaway's volumes in another manner than Stowaway does. If such a container
/// could write to them, it could make Stowaway run its content, or forge a proof.
fn check_mounts(view: &PodView<'_>, findings: &mut Vec<Finding>) {
    for container in view.of_the_user() {
        for (name, mount) in container.mounts() {
            let private = [STORE_VOLUME, REPOSITORY_VOLUME, SCRATCH_VOLUME].contains(&name);
            let read_only = mount.get("readOnly") == Some(&Value::Bool(true));
            if is_our_volume(name) && (private || !read_only) {
                let message = format!(
                    "container {:?} mounts {name:?}, a volume that Stowaway creates for itself; remove that mount",
                    container.name
                );
                findings.push(Finding::new(Cause::NameTaken, message));
            }
        }
    }
}

/// Finds containers and volumes which have Stowaway's names although no annotation requests them. Their content was
/// never checked, so code that sees them in the pod later would take them for Stowaway's.
fn check_leftovers(view: &PodView<'_>, plan: &InjectionPlan<'_>, findings: &mut Vec<Finding>) {
    let mut wanted: Vec<String> =
        containers::volumes(plan).iter().filter_map(|volume| Some(volume.get("name")?.as_str()?.to_owned())).collect();
    if plan.uses_store() {
        // The Repository may have been on a volume when the pod was first created. Only Stowaway's containers mount
        // that volume.
        wanted.extend([STORE_VOLUME, REPOSITORY_VOLUME].map(str::to_owned));
    }
    for (name, _) in
        view.volumes.iter().filter(|(name, _)| is_our_volume(name) && !wanted.iter().any(|own| own == name))
    {
        let message = format!(
            "the pod has a volume {:?}, a name of Stowaway's, which no annotation requests; remove it",
            shortened(name)
        );
        findings.push(Finding::new(Cause::NameTaken, message));
    }
    let requested =
        [(HELPER_VOLUME, plan.uses_helper()), (SIDECAR_CONTAINER, plan.sidecar), (RESTORE_CONTAINER, plan.restore)];
    for container in &view.containers {
        if requested.iter().any(|(name, is_requested)| *name == container.name && !is_requested) {
            let message = format!(
                "the pod has a container {:?}, a name of Stowaway's, which no annotation requests; remove it",
                container.name
            );
            findings.push(Finding::new(Cause::NameTaken, message));
        }
    }
}

fn volume_state(view: &PodView<'_>, wanted: &Value) -> EntryState {
    let name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut found = view.volumes.iter().enumerate().filter(|(_, (other, _))| *other == name);
    let Some((index, (_, volume))) = found.next() else { return EntryState::Absent };
    let kinds = |volume: &Value| -> Vec<String> {
        let set = |(_, value): &(&String, &Value)| !value.is_null();
        let mut keys: Vec<String> =
            volume.as_object().into_iter().flatten().filter(set).map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys
    };
    if found.next().is_some() || kinds(volume) != kinds(wanted) {
        return EntryState::Foreign(format!(
            "the pod has a volume {name:?} of its own, a name that Stowaway needs; rename that volume"
        ));
    }
    if covers(volume, wanted) { EntryState::Current } else { EntryState::Outdated(index) }
}

fn container_state(view: &PodView<'_>, wanted: &Value, image: &str) -> EntryState {
    let name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut found = view.containers.iter().filter(|container| container.name == name);
    let Some(container) = found.next() else { return EntryState::Absent };
    let actual_image = container.container.get("image").and_then(Value::as_str).unwrap_or_default();
    let same_content = is_same_content(actual_image, image);
    let is_own = is_same_program(actual_image, image);
    if found.next().is_some() || container.list != List::Init || !is_own {
        return EntryState::Foreign(format!(
            "the pod has a container {name:?} of its own (image {:?}), a name that Stowaway needs; rename that container",
            shortened(actual_image)
        ));
    }
    let current = same_content && wanted.as_object().is_some_and(|wanted| is_current(container.container, wanted));
    if current { EntryState::Current } else { EntryState::Outdated(container.index) }
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(128)]
}

/// Whether one of Stowaway's containers is as Stowaway would create it, apart from what the API server and other
/// webhooks add to every container. Any other difference could change what the container does, for example a further
/// mount over its program, or a capability.
fn is_current(actual: &Map<String, Value>, expected: &Map<String, Value>) -> bool {
    let all_there = expected.iter().all(|(key, expected)| {
        let actual = actual.get(key);
        match key.as_str() {
            // A registry mirror may change the image, and the admission plugin `AlwaysPullImages` the pull policy.
            "image" | "imagePullPolicy" => actual.is_some(),
            "env" | "volumeMounts" => actual.is_some_and(|actual| each_covered(actual, expected)),
            _ => actual.is_some_and(|actual| covers(actual, expected)),
        }
    });
    let harmless = |(key, actual): (&String, &Value)| {
        let expected = expected.get(key);
        match key.as_str() {
            "env" => further(actual, expected).all(|variable| {
                let name = variable.get("name").and_then(Value::as_str).unwrap_or_default();
                !["STOWAWAY", "RUST", "LD_", "MALLOC_", "POD_", "TMP", "PATH"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            }),
            // The tokens of service accounts.
            "volumeMounts" => further(actual, expected).all(|mount| {
                mount.get("mountPath").and_then(Value::as_str).is_some_and(|path| path.starts_with("/var/run/secrets/"))
            }),
            "securityContext" => actual.as_object().is_some_and(|actual| {
                let known = expected.and_then(Value::as_object);
                actual.iter().all(|(key, value)| match key.as_str() {
                    "runAsUser" => value != 0 || known.is_some_and(|known| known.get(key) == Some(value)),
                    "runAsGroup" | "seLinuxOptions" | "appArmorProfile" => true,
                    "procMount" => value == "Default",
                    _ => known.is_some_and(|known| known.get(key) == Some(value)),
                })
            }),
            // Defaults of a `LimitRange`, and of the API server.
            "resources" | "terminationMessagePath" | "terminationMessagePolicy" => true,
            _ => expected.is_some(),
        }
    };
    all_there && actual.iter().all(harmless)
}

/// The entries of a list which match no expected entry.
fn further<'a>(actual: &'a Value, expected: Option<&'a Value>) -> impl Iterator<Item = &'a Value> {
    let expected = expected.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let actual = actual.as_array().into_iter().flatten();
    actual.filter(move |actual| !expected.iter().any(|expected| covers(actual, expected)))
}

/// Whether each expected entry is in the list.
fn each_covered(actual: &Value, expected: &Value) -> bool {
    let (Some(actual), Some(expected)) = (actual.as_array(), expected.as_array()) else { return false };
    expected.iter().all(|expected| actual.iter().any(|actual| covers(actual, expected)))
}

/// Whether `actual` contains everything in `expected`. Objects may have further fields (defaults), lists no further
/// entries.
fn covers(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => {
            expected.iter().all(|(key, expected)| actual.get(key).is_some_and(|actual| covers(actual, expected)))
        }
        (Value::Array(actual), Value::Array(expected)) => {
            actual.len() == expected.len()
                && actual.iter().zip(expected).all(|(actual, expected)| covers(actual, expected))
        }
        _ => actual == expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_overlap_by_whole_names() {
        for (one, other, expected) in [
            ("/stowaway", "/stowaway", true),
            ("/stowaway/", "/stowaway", true),
            ("//stowaway/./x", "/stowaway", true),
            ("/stowaway-secrets", "/stowaway-secrets/login", true),
            ("/stowaway-more", "/stowaway", false),
            ("/", "/stowaway", false),
            ("/data", "/stowaway", false),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
        }
    }
}
