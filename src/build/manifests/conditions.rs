//! Conditions in the Common Expression Language, made from the table of annotations, so that a key which is added there is
//! guarded here.
//!
//! It must not know which webhook or policy asks.

use crate::{
    annotations::{KEYS, Key, PREFIX, Role, own_key},
    plan::{DEFAULT_CONTAINER, labels},
};

/// A condition with its name.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub name: &'static str,
    pub expression: String,
}

/// The annotations of that object; none are an empty map.
pub(super) fn annotations_of(object: &str) -> String {
    format!("{object}.?metadata.?annotations.orValue({{}})")
}

/// Some annotation in the map concerns us: one of our prefix, so that typos are told, or one of another tool that we read.
pub(super) fn concerns_us(annotations: &str) -> String {
    let foreign = KEYS.iter().filter(|key| key.is_of_pods()).flat_map(|key| key.foreign).map(|(_, key)| *key);
    format!("{annotations}.exists(key, key.startsWith({}) || key in {})", text(PREFIX), list(foreign))
}

/// The pod is to be restored before it starts.
pub(super) fn restores() -> Condition {
    Condition { name: "restores", expression: restores_expression() }
}

/// The pod is not.
pub(super) fn does_not_restore() -> Condition {
    Condition { name: "does-not-restore", expression: format!("!({})", restores_expression()) }
}

fn restores_expression() -> String {
    format!("{} in {}", text(&own_key(Role::Restore)), annotations_of("object"))
}

/// The pod is no image of one that a node runs by itself; such a one is never changed.
pub(super) fn is_no_mirror() -> Condition {
    let annotations = annotations_of("object");
    Condition { name: "is-no-mirror", expression: format!("!('kubernetes.io/config.mirror' in {annotations})") }
}

/// The pod is none of our own runs.
pub(super) fn is_no_run() -> Condition {
    let labels_of_object = "object.metadata.?labels.orValue({})";
    Condition { name: "is-no-run", expression: format!("!({} in {labels_of_object})", text(labels::KIND)) }
}

/// The pod has no controller: a person made it, or something that does not mend it.
pub(super) fn is_bare() -> Condition {
    let expression =
        "!object.metadata.?ownerReferences.orValue([]).exists(owner, owner.?controller.orValue(false))".to_owned();
    Condition { name: "is-bare", expression }
}

/// The keys that make a running pod a source of a backup, or the target of a restore.
const REQUESTING: [Role; 5] = [Role::Command, Role::RestoreCommand, Role::Inject, Role::Volumes, Role::Restore];

/// Whether `key`, a variable, is one that a pod may carry: its value decides what is run in the pod, in which of its
/// containers, where the output goes, or what counts as green.
pub(super) fn pod_keys(key: &str) -> String {
    keys_of(key, Key::is_of_pods, Some(DEFAULT_CONTAINER))
}

/// Whether `key`, a variable, is one whose value requests a run.
pub(super) fn requesting_keys(key: &str) -> String {
    keys_of(key, |row| REQUESTING.contains(&row.role), None)
}

fn keys_of(key: &str, is_wanted: impl Fn(&Key) -> bool, another: Option<&str>) -> String {
    let rows: Vec<&Key> = KEYS.iter().filter(|row| is_wanted(row)).collect();
    let own = rows.iter().map(|row| own_key(row.role));
    let foreign = rows.iter().flat_map(|row| row.foreign).map(|(_, key)| (*key).to_owned());
    let plain: Vec<String> = own.chain(foreign).chain(another.map(str::to_owned)).collect();
    let named = rows.iter().filter(|row| row.named).map(|row| format!("{}.", own_key(row.role)));
    let named = named.map(|prefix| format!("{key}.startsWith({})", text(&prefix)));
    let plain = format!("{key} in {}", list(plain.iter().map(String::as_str)));
    std::iter::once(plain).chain(named).collect::<Vec<_>>().join(" || ")
}

/// A string of the language. What we write holds neither quotes nor backslashes.
pub(super) fn text(text: &str) -> String {
    format!("'{text}'")
}

/// A list of strings.
pub(super) fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(text).collect();
    format!("[{}]", texts.join(", "))
}
