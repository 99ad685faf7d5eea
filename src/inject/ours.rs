//! What is there already, and what is therefore added: the patch itself.
//!
//! It must not know what was asked for, only what is to be there.
//!
//! A container or volume is ours if it has our name *and* is what we would make; an annotation proves nothing. One of our
//! image that differs (an older version in a pod that a backup of the cluster brought back, or somebody's forgery) is
//! replaced as a whole, so that it is what it claims to be. One of any other image or kind is somebody else's: it is never
//! changed and never taken for ours, and since two cannot have one name, nothing is injected.

use serde_json::{Map, Value};

use super::{
    InjectionFacts,
    outcome::{Cause, Finding},
    patch::PatchBuilder,
    pod::{List, PodView},
    shapes,
    wishes::{Wishes, is_our_volume},
};
use crate::model::{
    image::{is_same_content, is_same_program},
    injected::{HELPER_VOLUME, REPOSITORY_VOLUME, RESTORE_CONTAINER, SCRATCH_VOLUME, SIDECAR_CONTAINER, STORE_VOLUME},
};

/// How an entry of ours stands in the pod.
#[derive(Debug, Eq, PartialEq)]
enum Standing {
    /// It is not there.
    Absent,
    /// It is there, and right.
    Current,
    /// One of ours is there at this place, but not this one.
    Outdated(usize),
    /// Somebody else's is there.
    Foreign(String),
}

/// Adds to the patch what is missing, and to the findings what stands in the way.
pub(super) fn reconcile(
    view: &PodView<'_>,
    wishes: &Wishes<'_>,
    facts: &InjectionFacts<'_>,
    patch: &mut PatchBuilder,
    findings: &mut Vec<Finding>,
) {
    for volume in shapes::volumes(wishes) {
        match volume_standing(view, &volume) {
            Standing::Absent => patch.append(&["spec", "volumes"], volume),
            Standing::Current => {}
            Standing::Outdated(index) => patch.replace(&["spec", "volumes"], index, volume),
            Standing::Foreign(message) => findings.push(Finding::new(Cause::NameTaken, message)),
        }
    }
    check_mounts(view, findings);
    check_leftovers(view, wishes, findings);
    mount_into_targets(wishes, patch, findings);

    // The init containers as they will be, by whether they touch a volume that is restored; see `mod.rs` for their order.
    let touches = |container: &Map<String, Value>| {
        let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
        mounts.filter_map(|mount| mount.get("name")?.as_str()).any(|name| wishes.volumes.contains(&name))
    };
    let mut touching: Vec<bool> = view.in_list(List::Init).map(|container| touches(container.container)).collect();
    let mut append =
        |patch: &mut PatchBuilder, container: Value| match container_standing(view, &container, facts.image) {
            Standing::Absent => {
                touching.push(container.as_object().is_some_and(touches) || is_named(&container, SIDECAR_CONTAINER));
                patch.append(&["spec", List::Init.field()], container);
            }
            Standing::Current => {}
            Standing::Outdated(index) => patch.replace(&["spec", List::Init.field()], index, container),
            Standing::Foreign(message) => findings.push(Finding::new(Cause::NameTaken, message)),
        };
    if wishes.uses_helper() {
        append(patch, shapes::helper(view, facts.image));
    }
    if wishes.sidecar {
        append(patch, shapes::sidecar(view, wishes, facts.image));
    }
    if wishes.restore {
        let container = shapes::restore(view, wishes, facts.image);
        let list = ["spec", List::Init.field()];
        match container_standing(view, &container, facts.image) {
            Standing::Absent => match touching.iter().position(|touching| *touching) {
                Some(index) => patch.insert(&list, index, container),
                None => patch.append(&list, container),
            },
            Standing::Current => {}
            Standing::Outdated(index) => patch.replace(&list, index, container),
            Standing::Foreign(message) => findings.push(Finding::new(Cause::NameTaken, message)),
        }
    }
}

fn is_named(container: &Value, name: &str) -> bool {
    container.get("name").and_then(Value::as_str) == Some(name)
}

/// Mounts what the containers of commands need.
fn mount_into_targets(wishes: &Wishes<'_>, patch: &mut PatchBuilder, findings: &mut Vec<Finding>) {
    for target in &wishes.targets {
        let index = target.index.to_string();
        for mount in shapes::mounts_of_target(wishes) {
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

/// Whether one path is, or is in, the other one.
fn overlap(one: &str, other: &str) -> bool {
    let parts = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
    };
    let (one, other) = (parts(one), parts(other));
    // Nothing is mounted at the root itself, and `..` is refused by the API server.
    !one.is_empty() && one.iter().zip(&other).all(|(one, other)| one == other)
}

/// Finds containers of the user that mount our volumes in another way than we do: what can be written there could be made
/// to run, or to be taken for a proof.
fn check_mounts(view: &PodView<'_>, findings: &mut Vec<Finding>) {
    for container in view.of_the_user() {
        for (name, mount) in container.mounts() {
            let private = [STORE_VOLUME, REPOSITORY_VOLUME, SCRATCH_VOLUME].contains(&name);
            let read_only = mount.get("readOnly") == Some(&Value::Bool(true));
            if is_our_volume(name) && (private || !read_only) {
                let message = format!(
                    "container {:?} mounts {name:?}, a volume that Stowaway makes for itself; remove that mount",
                    container.name
                );
                findings.push(Finding::new(Cause::NameTaken, message));
            }
        }
    }
}

/// Finds containers and volumes of our names that nothing asks for. Nobody would look at what they are, so whoever sees them
/// in the pod later would take them for ours.
fn check_leftovers(view: &PodView<'_>, wishes: &Wishes<'_>, findings: &mut Vec<Finding>) {
    let mut wanted: Vec<String> =
        shapes::volumes(wishes).iter().filter_map(|volume| Some(volume.get("name")?.as_str()?.to_owned())).collect();
    if wishes.uses_store() {
        // The Repository may have been on a volume when the pod was first made. Nobody but ours mounts it.
        wanted.extend([STORE_VOLUME, REPOSITORY_VOLUME].map(str::to_owned));
    }
    for (name, _) in
        view.volumes.iter().filter(|(name, _)| is_our_volume(name) && !wanted.iter().any(|own| own == name))
    {
        let message = format!(
            "the pod has a volume {:?}, a name of Stowaway's, which nothing asks for; remove it",
            shortened(name)
        );
        findings.push(Finding::new(Cause::NameTaken, message));
    }
    let asked = [
        (HELPER_VOLUME, wishes.uses_helper()),
        (SIDECAR_CONTAINER, wishes.sidecar),
        (RESTORE_CONTAINER, wishes.restore),
    ];
    for container in &view.containers {
        if asked.iter().any(|(name, asked)| *name == container.name && !asked) {
            let message = format!(
                "the pod has a container {:?}, a name of Stowaway's, which nothing asks for; remove it",
                container.name
            );
            findings.push(Finding::new(Cause::NameTaken, message));
        }
    }
}

fn volume_standing(view: &PodView<'_>, wanted: &Value) -> Standing {
    let name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut found = view.volumes.iter().enumerate().filter(|(_, (other, _))| *other == name);
    let Some((index, (_, volume))) = found.next() else { return Standing::Absent };
    let kinds = |volume: &Value| -> Vec<String> {
        let set = |(_, value): &(&String, &Value)| !value.is_null();
        let mut keys: Vec<String> =
            volume.as_object().into_iter().flatten().filter(set).map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys
    };
    if found.next().is_some() || kinds(volume) != kinds(wanted) {
        return Standing::Foreign(format!(
            "the pod has a volume {name:?} of its own, a name that Stowaway needs; rename that volume"
        ));
    }
    if covers(volume, wanted) { Standing::Current } else { Standing::Outdated(index) }
}

fn container_standing(view: &PodView<'_>, wanted: &Value, image: &str) -> Standing {
    let name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut found = view.containers.iter().filter(|container| container.name == name);
    let Some(container) = found.next() else { return Standing::Absent };
    let theirs = container.container.get("image").and_then(Value::as_str).unwrap_or_default();
    let same_content = is_same_content(theirs, image);
    let ours = is_same_program(theirs, image);
    if found.next().is_some() || container.list != List::Init || !ours {
        return Standing::Foreign(format!(
            "the pod has a container {name:?} of its own (image {:?}), a name that Stowaway needs; rename that container",
            shortened(theirs)
        ));
    }
    let current = same_content && wanted.as_object().is_some_and(|wanted| is_current(container.container, wanted));
    if current { Standing::Current } else { Standing::Outdated(container.index) }
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(128)]
}

/// Whether a container of ours is as we would make it, apart from what the API server and other webhooks put into every
/// container. Anything else could change what it does: a further mount over our program, or a capability.
fn is_current(theirs: &Map<String, Value>, ours: &Map<String, Value>) -> bool {
    let all_there = ours.iter().all(|(key, ours)| {
        let theirs = theirs.get(key);
        match key.as_str() {
            // A registry's mirror, and the admission plugin that pulls always.
            "image" | "imagePullPolicy" => theirs.is_some(),
            "env" | "volumeMounts" => theirs.is_some_and(|theirs| each_covered(theirs, ours)),
            _ => theirs.is_some_and(|theirs| covers(theirs, ours)),
        }
    });
    let harmless = |(key, theirs): (&String, &Value)| {
        let ours = ours.get(key);
        match key.as_str() {
            "env" => further(theirs, ours).all(|variable| {
                let name = variable.get("name").and_then(Value::as_str).unwrap_or_default();
                !["STOWAWAY", "RUST", "LD_", "MALLOC_", "POD_", "TMP", "PATH"].iter().any(|ours| name.starts_with(ours))
            }),
            // The tokens of service accounts.
            "volumeMounts" => further(theirs, ours).all(|mount| {
                mount.get("mountPath").and_then(Value::as_str).is_some_and(|path| path.starts_with("/var/run/secrets/"))
            }),
            "securityContext" => theirs.as_object().is_some_and(|theirs| {
                let known = ours.and_then(Value::as_object);
                theirs.iter().all(|(key, value)| match key.as_str() {
                    "runAsUser" => value != 0 || known.is_some_and(|known| known.get(key) == Some(value)),
                    "runAsGroup" | "seLinuxOptions" | "appArmorProfile" => true,
                    "procMount" => value == "Default",
                    _ => known.is_some_and(|known| known.get(key) == Some(value)),
                })
            }),
            // The defaults of a LimitRange, and of the API server.
            "resources" | "terminationMessagePath" | "terminationMessagePolicy" => true,
            _ => ours.is_some(),
        }
    };
    all_there && theirs.iter().all(harmless)
}

/// Those entries of a list that none of ours is.
fn further<'a>(theirs: &'a Value, ours: Option<&'a Value>) -> impl Iterator<Item = &'a Value> {
    let ours = ours.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let theirs = theirs.as_array().into_iter().flatten();
    theirs.filter(move |theirs| !ours.iter().any(|ours| covers(theirs, ours)))
}

/// Whether each entry of our list is in theirs.
fn each_covered(theirs: &Value, ours: &Value) -> bool {
    let (Some(theirs), Some(ours)) = (theirs.as_array(), ours.as_array()) else { return false };
    ours.iter().all(|ours| theirs.iter().any(|theirs| covers(theirs, ours)))
}

/// Whether theirs says all that ours says: objects may have further fields (defaults), lists no further entries.
fn covers(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            ours.iter().all(|(key, ours)| theirs.get(key).is_some_and(|theirs| covers(theirs, ours)))
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(theirs, ours)| covers(theirs, ours))
        }
        _ => theirs == ours,
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
