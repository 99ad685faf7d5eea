//! Conditions in the Common Expression Language, generated from the table of annotations, so that a key which is added
//! to the table is guarded automatically.

use crate::{
    annotations::{KEY_FRAGMENTS, KEYS, Key, KeyId, PREFIX, own_key},
    plan::{
        DEFAULT_CONTAINER, labels,
        names::{ACCOUNT_PREFIX, RunKind},
    },
};

/// A condition with its name.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub name: &'static str,
    pub expression: String,
}

/// The annotations of the object; an empty map if there are none.
pub(super) fn annotations_of(object: &str) -> String {
    format!("{object}.?metadata.?annotations.orValue({{}})")
}

/// An annotation in the map concerns Stowaway: it has Stowaway's prefix, or is a key of another tool that Stowaway reads.
/// Other keys request no injection.
pub(super) fn concerns_us(annotations: &str) -> String {
    let foreign = KEYS.iter().filter(|key| key.is_of_pods()).flat_map(|key| key.foreign).map(|(_, key)| *key);
    format!("{annotations}.exists(key, key.startsWith({}) || key in {})", text(PREFIX), list(foreign))
}

/// An annotation or label in the map may have been meant for Stowaway, so that the webhook checks the object for
/// mistakes. This includes the keys of [`concerns_us`].
pub(super) fn may_concern_us(texts: &str) -> String {
    let fragments = KEY_FRAGMENTS.map(|fragment| format!("key.contains({})", text(fragment)));
    format!("{texts}.exists(key, {})", fragments.join(" || "))
}

/// A label or annotation of a claim or a Namespace may have been meant for Stowaway.
pub(super) fn carries_keys() -> Condition {
    let of = |texts: &str| may_concern_us(&format!("object.metadata.?{texts}.orValue({{}})"));
    Condition { name: "concerns-us", expression: format!("{} || {}", of("annotations"), of("labels")) }
}

/// The pod has a restore step.
pub(super) fn restores() -> Condition {
    Condition { name: "restores", expression: restores_expression() }
}

/// The pod has no restore step.
pub(super) fn does_not_restore() -> Condition {
    Condition { name: "does-not-restore", expression: format!("!({})", restores_expression()) }
}

fn restores_expression() -> String {
    format!("{} in {}", text(&own_key(KeyId::Restore)), annotations_of("object"))
}

/// The pod is not a mirror pod of a static pod. Mirror pods are never changed.
pub(super) fn is_no_mirror() -> Condition {
    let annotations = annotations_of("object");
    Condition { name: "is-no-mirror", expression: format!("!('kubernetes.io/config.mirror' in {annotations})") }
}

/// The pod does not belong to a run of Stowaway, by the same rule as `labels::is_run_pod`. A label alone does not
/// exempt a pod from the webhook, because anyone may set it.
pub(super) fn is_no_run() -> Condition {
    let kind = text(labels::KIND);
    let is_of_job = "object.metadata.?ownerReferences.orValue([]).exists(owner, owner.?controller.orValue(false) && owner.kind == 'Job')";
    let expression = format!(
        "!({kind} in object.metadata.?labels.orValue({{}}) && {is_of_job} && \
         (object.spec.?serviceAccountName.orValue('').startsWith({}) || object.metadata.labels[{kind}] == {}))",
        text(ACCOUNT_PREFIX),
        text(&RunKind::Answer.to_string())
    );
    Condition { name: "is-no-run", expression }
}

/// The workload is not the Job of one of Stowaway's runs, which has its label. Workloads of other kinds never are.
pub(super) fn is_no_run_job() -> Condition {
    let kind = text(labels::KIND);
    let expression = format!("!(object.kind == 'Job' && {kind} in object.metadata.?labels.orValue({{}}))");
    Condition { name: "is-no-run", expression }
}

/// The pod has no controller: a user created it, or a program that does not recreate it.
pub(super) fn is_bare() -> Condition {
    let expression =
        "!object.metadata.?ownerReferences.orValue([]).exists(owner, owner.?controller.orValue(false))".to_owned();
    Condition { name: "is-bare", expression }
}

/// The keys that make a running pod a source of a backup, or the target of a restore.
const REQUESTING: [KeyId; 5] = [KeyId::Command, KeyId::RestoreCommand, KeyId::Inject, KeyId::Volumes, KeyId::Restore];

/// Whether `key`, a variable, is a key of pods: its value determines which command runs in the pod and in which
/// container, where its output is stored, or when a run is green.
pub(super) fn pod_keys(key: &str) -> String {
    keys_of(key, Key::is_of_pods, Some(DEFAULT_CONTAINER))
}

/// Whether `key`, a variable, is a key that requests a run.
pub(super) fn requesting_keys(key: &str) -> String {
    keys_of(key, |row| REQUESTING.contains(&row.id), None)
}

fn keys_of(key: &str, is_wanted: impl Fn(&Key) -> bool, another: Option<&str>) -> String {
    let rows: Vec<&Key> = KEYS.iter().filter(|row| is_wanted(row)).collect();
    let own = rows.iter().map(|row| own_key(row.id));
    let foreign = rows.iter().flat_map(|row| row.foreign).map(|(_, key)| (*key).to_owned());
    let plain: Vec<String> = own.chain(foreign).chain(another.map(str::to_owned)).collect();
    let named = rows.iter().filter(|row| row.named).map(|row| format!("{}.", own_key(row.id)));
    let named = named.map(|prefix| format!("{key}.startsWith({})", text(&prefix)));
    let plain = format!("{key} in {}", list(plain.iter().map(String::as_str)));
    std::iter::once(plain).chain(named).collect::<Vec<_>>().join(" || ")
}

/// A string literal. Stowaway's texts contain neither quotes nor backslashes.
pub(super) fn text(text: &str) -> String {
    format!("'{text}'")
}

/// A list of strings.
pub(super) fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(text).collect();
    format!("[{}]", texts.join(", "))
}
