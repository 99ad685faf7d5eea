//! What `--wait` prints while a Backup or Restore does not run: the phase, the reason and the message in its status.
//! Nothing is printed at once, because most runs start within seconds, and nothing is printed twice.

use std::time::Duration;

use crate::{
    api::{Backup, COMPLETE, Restore, SourceState, condition},
    model::Verdict,
};

/// How long an object may wait before its state is printed, and how often the state is compared with the printed one.
pub(super) const PERIOD: Duration = Duration::from_secs(10);
/// How many sources that wait for the same reason are named; all are counted.
const NAMED: usize = 3;
/// The reason of a run whose Job is being started or runs.
const RUNNING: &str = "Running";
/// The reason of a run that waits, where the message alone names the cause.
const WAITING: &str = "Waiting";

/// A part of a run that waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Waiting {
    /// The source; empty for the run as a whole.
    source: String,
    phase: &'static str,
    /// The machine-readable reason; empty if the status has none.
    reason: String,
    message: String,
}

/// An object which the CLI waits for.
pub(super) trait Awaited {
    /// The verdict, once the object has one.
    fn verdict(&self) -> Option<Verdict>;
    /// The parts which wait at present. Empty if all of them run or have ended.
    fn waiting(&self) -> Vec<Waiting>;
}

impl Awaited for Backup {
    fn verdict(&self) -> Option<Verdict> {
        self.status.as_ref().and_then(|status| status.verdict)
    }

    fn waiting(&self) -> Vec<Waiting> {
        let Some(status) = self.status.as_ref() else { return vec![not_reconciled(String::new())] };
        let part = |source: String, phase, (reason, message): (&str, &str)| {
            let (reason, message) = (reason.to_owned(), message.to_owned());
            Waiting { source, phase, reason, message }
        };
        if status.sources.iter().all(|source| source.state == SourceState::Done) {
            let condition = condition(&status.conditions, COMPLETE).filter(|_| status.verdict.is_none());
            let text = condition.map(|condition| (condition.reason.as_str(), condition.message.as_str()));
            return text.map(|text| part(String::new(), WAITING, text)).into_iter().collect();
        }
        let parts = status.sources.iter().filter_map(|source| {
            let (name, outcome) = (source.name.to_string(), &source.outcome);
            match source.state {
                SourceState::Waiting if source.next_attempt_time.is_some() => {
                    let message = format!("the next attempt follows soon; the last one failed: {}", outcome.message);
                    Some(part(name, WAITING, (&outcome.reason, &message)))
                }
                SourceState::Waiting => Some(part(name, WAITING, (&outcome.reason, &outcome.message))),
                // A message without a verdict is that of Kubernetes about a pod which does not start.
                SourceState::Running if !outcome.message.is_empty() => {
                    Some(part(name, "Starting", (&outcome.reason, &outcome.message)))
                }
                SourceState::Running | SourceState::Done => None,
            }
        });
        parts.collect()
    }
}

impl Awaited for Restore {
    fn verdict(&self) -> Option<Verdict> {
        self.status.as_ref().and_then(|status| status.outcome.verdict)
    }

    fn waiting(&self) -> Vec<Waiting> {
        let source = self.spec.from.source.to_string();
        let condition = self.status.as_ref().and_then(|status| condition(&status.conditions, COMPLETE));
        match condition {
            None => vec![not_reconciled(source)],
            Some(_) if self.verdict().is_some() => Vec::new(),
            Some(condition) if condition.reason == RUNNING => Vec::new(),
            Some(condition) => {
                let (reason, message) = (condition.reason.clone(), condition.message.clone());
                vec![Waiting { source, phase: WAITING, reason, message }]
            }
        }
    }
}

fn not_reconciled(source: String) -> Waiting {
    let message = "the controller has not processed it yet".to_owned();
    Waiting { source, phase: "Pending", reason: String::new(), message }
}

impl Waiting {
    /// The text without its numbers. Counters, such as the position in a queue, are not printed again and again.
    fn key(&self) -> (&str, &str, String) {
        (self.phase, &self.reason, self.message.chars().filter(|character| !character.is_ascii_digit()).collect())
    }

    fn text(&self) -> String {
        let Self { phase, reason, message, .. } = self;
        let reason = if [phase, ""].contains(&reason.as_str()) { String::new() } else { format!(" ({reason})") };
        let message = if message.is_empty() { String::new() } else { format!(": {message}") };
        format!("{phase}{reason}{message}")
    }
}

/// The lines to print about a run that was created `waited` ago: one for each text that is new for its source.
/// `printed` is what was observed at the last call, and becomes `now`.
pub(super) fn lines(waited: Duration, printed: &mut Vec<Waiting>, now: Vec<Waiting>) -> Vec<String> {
    if waited < PERIOD {
        return Vec::new();
    }
    let before = std::mem::replace(printed, now);
    let is_new = |one: &&Waiting| !before.iter().any(|old| (&old.source, old.key()) == (&one.source, one.key()));
    let mut groups: Vec<Vec<&Waiting>> = Vec::new();
    for one in printed.iter().filter(is_new) {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| first.key() == one.key())) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups.iter().filter_map(|group| Some(format!("{}{}", subject(group), group.first()?.text()))).collect()
}

/// The names of the sources of a group, before their common text.
fn subject(group: &[&Waiting]) -> String {
    let names: Vec<&str> =
        group.iter().map(|one| one.source.as_str()).filter(|source| !source.is_empty()).take(NAMED).collect();
    match (names.len(), group.len().saturating_sub(NAMED)) {
        (0, _) => String::new(),
        (_, 0) => format!("{}: ", names.join(", ")),
        (_, more) => format!("{} and {more} more: ", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn backup(status: &Value) -> Backup {
        let object = json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup", "metadata": { "name": "one" }, "spec": {}, "status": status });
        serde_json::from_value(object).unwrap()
    }

    fn restore(status: &Value) -> Restore {
        let spec = json!({ "from": { "source": "pvc/data" } });
        let object = json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": { "name": "one" }, "spec": spec, "status": status });
        serde_json::from_value(object).unwrap()
    }

    fn complete(reason: &str, message: &str) -> Value {
        json!([{ "type": "Complete", "status": "False", "reason": reason, "message": message, "lastTransitionTime": "2026-05-04T03:02:01Z" }])
    }

    fn waits(name: &str, reason: &str, message: &str) -> Value {
        json!({ "name": name, "state": "Waiting", "reason": reason, "message": message })
    }

    /// The lines which one state after the other prints, at each period.
    fn printed<K: Awaited>(states: &[K]) -> Vec<Vec<String>> {
        let mut last = Vec::new();
        states.iter().map(|state| lines(PERIOD, &mut last, state.waiting())).collect()
    }

    #[test]
    fn run_that_waits_is_reported_once_for_each_reason() {
        let sealed = "Repository main is not ready: Secret \"store\" does not exist";
        let states = [
            waits("pvc/a", "SecretMissing", sealed),
            waits("pvc/a", "SecretMissing", sealed),
            waits("pvc/a", "Queued", "waits for the prune of Repository main (number 2 in the queue of this Backup)"),
            waits("pvc/a", "Queued", "waits for the prune of Repository main (number 1 in the queue of this Backup)"),
            json!({ "name": "pvc/a", "state": "Running", "message": "Unschedulable: no node has enough memory" }),
            json!({ "name": "pvc/a", "state": "Running" }),
            json!({ "name": "pvc/a", "state": "Waiting", "nextAttemptTime": "2026-05-04T03:02:01Z", "reason": "StreamCut", "message": "cut" }),
        ];
        let states: Vec<Backup> = states.iter().map(|source| backup(&json!({ "sources": [source] }))).collect();
        assert_eq!(
            printed(&states),
            [
                vec![format!("pvc/a: Waiting (SecretMissing): {sealed}")],
                vec![],
                vec!["pvc/a: Waiting (Queued): waits for the prune of Repository main (number 2 in the queue of this Backup)".to_owned()],
                vec![],
                vec!["pvc/a: Starting: Unschedulable: no node has enough memory".to_owned()],
                vec![],
                vec!["pvc/a: Waiting (StreamCut): the next attempt follows soon; the last one failed: cut".to_owned()],
            ]
        );
    }

    #[test]
    fn run_that_starts_within_seconds_prints_nothing() {
        let (mut last, state) =
            (Vec::new(), || backup(&json!({ "sources": [waits("pvc/a", "Queued", "b")] })).waiting());
        assert!(lines(PERIOD.checked_sub(Duration::from_millis(1)).unwrap(), &mut last, state()).is_empty());
        assert_eq!(lines(PERIOD, &mut last, state()), ["pvc/a: Waiting (Queued): b"]);
    }

    #[test]
    fn sources_that_wait_for_the_same_are_one_line() {
        let wait = |name: &str| waits(name, "Queued", "waits for its turn");
        let sources: Vec<Value> = ["pvc/a", "pvc/b", "pvc/c", "pvc/d", "pvc/e"].map(wait).to_vec();
        let all = backup(&json!({ "sources": sources }));
        let fewer = backup(&json!({ "sources": [wait("pvc/e"), waits("pvc/f", "PodGone", "no pod")] }));
        assert_eq!(
            printed(&[all, fewer]),
            [
                ["pvc/a, pvc/b, pvc/c and 2 more: Waiting (Queued): waits for its turn"],
                ["pvc/f: Waiting (PodGone): no pod"]
            ]
        );
    }

    #[test]
    fn run_that_the_controller_does_not_process_or_that_has_no_sources_yet_is_reported() {
        let states = [
            backup(&Value::Null),
            backup(&json!({ "conditions": complete("Waiting", "pod db-0 is not Ready") })),
            backup(
                &json!({ "conditions": complete("CleaningUp", "VolumeSnapshots are being deleted"), "sources": [{ "name": "pvc/a", "state": "Done" }] }),
            ),
            backup(
                &json!({ "verdict": "Succeeded", "conditions": complete("Completed", "all"), "sources": [{ "name": "pvc/a", "state": "Done" }] }),
            ),
        ];
        let expected: [&[&str]; 4] = [
            &["Pending: the controller has not processed it yet"],
            &["Waiting: pod db-0 is not Ready"],
            &["Waiting (CleaningUp): VolumeSnapshots are being deleted"],
            &[],
        ];
        assert_eq!(printed(&states), expected);
    }

    #[test]
    fn restore_that_waits_is_reported_and_a_running_one_is_not() {
        let states = [
            restore(&Value::Null),
            restore(&json!({ "conditions": complete("Waiting", "waits for backup one of pvc/data") })),
            restore(&json!({ "conditions": complete("TargetInUse", "claim data is being deleted") })),
            restore(&json!({ "conditions": complete("Running", "the Job runs") })),
        ];
        let expected: [&[&str]; 4] = [
            &["pvc/data: Pending: the controller has not processed it yet"],
            &["pvc/data: Waiting: waits for backup one of pvc/data"],
            &["pvc/data: Waiting (TargetInUse): claim data is being deleted"],
            &[],
        ];
        assert_eq!(printed(&states), expected);
    }
}
