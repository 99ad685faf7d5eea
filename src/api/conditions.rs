//! Conditions as the Kubernetes API conventions define them: one per type, and `lastTransitionTime` changes only with
//! the status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{COMPLETE, FAILED, RECONCILING, STALLED};
use crate::model::{Verdict, escape};

/// Kubernetes allows 32 KiB for a condition's message, but a sentence is enough.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Sets the condition of this type. `lastTransitionTime` changes only when the status does.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: bool,
    (reason, message): (&str, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    set_condition_status(conditions, kind, if status { "True" } else { "False" }, (reason, message), generation, now);
}

/// Like [`set_condition`], with the status as in the API: `True`, `False` or `Unknown`.
pub fn set_condition_status(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: &str,
    (reason, message): (&str, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let message = escape(message);
    let since = conditions
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == status)
        .map_or_else(|| Time(now), |condition| condition.last_transition_time.clone());
    let new = Condition {
        last_transition_time: since,
        message: message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)].to_owned(),
        observed_generation: generation,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: kind.to_owned(),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// Renames the condition that an earlier version wrote under another type, unless the present type is there already.
pub fn rename_condition(conditions: &mut Vec<Condition>, former: &str, kind: &str) {
    if condition(conditions, kind).is_some() {
        remove_condition(conditions, former);
    }
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == former) {
        kind.clone_into(&mut condition.type_);
    }
}

pub fn remove_condition(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|condition| condition.type_ != kind);
}

/// Sets the conditions of a run: `Reconciling` as long as it has no verdict, `Stalled` and `Failed` once it has a
/// verdict that is not green, and `Complete`, which is `True` only when the verdict is green.
pub fn set_run_conditions(
    conditions: &mut Vec<Condition>,
    verdict: Option<Verdict>,
    text: (&str, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let is_green = verdict.is_some_and(Verdict::is_green);
    let has_failed = verdict.is_some() && !is_green;
    for (kind, holds) in [(RECONCILING, verdict.is_none()), (STALLED, has_failed), (FAILED, has_failed)] {
        if holds {
            set_condition(conditions, kind, true, text, generation, now);
        } else {
            remove_condition(conditions, kind);
        }
    }
    set_condition(conditions, COMPLETE, is_green, text, generation, now);
}

pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of this type is present and `True`.
pub fn condition_is_true(conditions: &[Condition], kind: &str) -> bool {
    condition(conditions, kind).is_some_and(|condition| condition.status == "True")
}
