//! The metrics of Backups and Restores: the number of objects of each verdict, and when the last one with it ended. A
//! namespace without runs has no metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::set;
use crate::model::Verdict;

/// The kind of a run.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the variant's name is the label's value")]
pub(in crate::controller) enum Kind {
    backup,
    restore,
}

/// The value of the label `verdict`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
enum Shown {
    /// The run has no verdict yet.
    Running,
    Succeeded,
    Unproven,
    Incomplete,
    Suspect,
    Failed,
}

impl Shown {
    const ALL: [Self; 6] =
        [Self::Running, Self::Succeeded, Self::Unproven, Self::Incomplete, Self::Suspect, Self::Failed];

    fn of(verdict: Option<Verdict>) -> Self {
        match verdict {
            None => Self::Running,
            Some(Verdict::Succeeded) => Self::Succeeded,
            Some(Verdict::Unproven) => Self::Unproven,
            Some(Verdict::Incomplete) => Self::Incomplete,
            Some(Verdict::Suspect) => Self::Suspect,
            Some(Verdict::Failed) => Self::Failed,
        }
    }
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Labels {
    namespace: String,
    kind: Kind,
    verdict: Shown,
}

/// The verdict of a run, and when it ended.
#[derive(Clone, Copy, Debug)]
struct Run {
    verdict: Shown,
    end: Option<Timestamp>,
}

/// The runs of one namespace and kind, by name.
type Runs = BTreeMap<String, Run>;

/// The metrics, which are set from each run's status.
#[derive(Clone, Debug, Default)]
pub(in crate::controller) struct RunMetrics {
    runs: Family<Labels, Gauge>,
    last_end: Family<Labels, Gauge>,
    known: Arc<Mutex<BTreeMap<(String, Kind), Runs>>>,
}

impl RunMetrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("stowaway_runs", "Number of Backups and Restores, by verdict", metrics.runs.clone());
        registry.register(
            "stowaway_run_last_end_timestamp_seconds",
            "When the last Backup or Restore with this verdict ended",
            metrics.last_end.clone(),
        );
        metrics
    }

    /// Sets the metrics from the status of a run.
    pub fn update(
        &self,
        kind: Kind,
        (namespace, name): (&str, &str),
        (verdict, end): (Option<Verdict>, Option<Timestamp>),
    ) {
        self.change(kind, namespace, |runs| {
            runs.insert(name.to_owned(), Run { verdict: Shown::of(verdict), end });
        });
    }

    /// Removes all runs of this kind from the metrics except `existing`, each by namespace and name.
    pub fn keep(&self, kind: Kind, existing: &BTreeSet<(String, String)>) {
        let namespaces: Vec<String> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.keys().filter(|(_, of)| *of == kind).map(|(namespace, _)| namespace.clone()).collect()
        };
        for namespace in namespaces {
            self.change(kind, &namespace, |runs| {
                runs.retain(|name, _| existing.contains(&(namespace.clone(), name.clone())));
            });
        }
    }

    fn change(&self, kind: Kind, namespace: &str, change: impl FnOnce(&mut Runs)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), kind);
        let runs = known.entry(key.clone()).or_default();
        change(runs);
        for verdict in Shown::ALL {
            let labels = Labels { namespace: namespace.to_owned(), kind, verdict };
            let of_it = || runs.values().filter(|run| run.verdict == verdict);
            let count = i64::try_from(of_it().count()).unwrap_or(i64::MAX);
            set(&self.runs, &labels, (!runs.is_empty()).then_some(count));
            // The time of the last end stays when the run's object is deleted.
            let shown = if runs.is_empty() { None } else { self.last_end.get(&labels).map(|gauge| gauge.get()) };
            let last = of_it().filter_map(|run| run.end).map(Timestamp::as_second).max();
            set(&self.last_end, &labels, shown.max(last));
        }
        if runs.is_empty() {
            known.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn runs_are_counted_by_verdict_and_the_last_end_outlives_the_object() {
        let mut registry = Registry::default();
        let metrics = RunMetrics::register(&mut registry);
        let shown = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        let has = |line: &str| assert!(shown().lines().any(|shown| shown == line), "{line}\n{}", shown());
        let end = |seconds| Timestamp::from_second(seconds).ok();
        metrics.update(Kind::backup, ("orchard", "a"), (Some(Verdict::Succeeded), end(100)));
        metrics.update(Kind::backup, ("orchard", "b"), (None, None));
        metrics.update(Kind::backup, ("orchard", "b"), (Some(Verdict::Failed), end(200)));
        let labels = r#"namespace="orchard",kind="backup""#;
        has(&format!("stowaway_runs{{{labels},verdict=\"Failed\"}} 1"));
        has(&format!("stowaway_runs{{{labels},verdict=\"Running\"}} 0"));
        has(&format!("stowaway_run_last_end_timestamp_seconds{{{labels},verdict=\"Failed\"}} 200"));
        let there = |names: &[&str]| names.iter().map(|name| ("orchard".to_owned(), (*name).to_owned())).collect();
        metrics.keep(Kind::restore, &there(&[]));
        metrics.keep(Kind::backup, &there(&["b", "c"]));
        has(&format!("stowaway_runs{{{labels},verdict=\"Succeeded\"}} 0"));
        has(&format!("stowaway_run_last_end_timestamp_seconds{{{labels},verdict=\"Succeeded\"}} 100"));
        has(&format!("stowaway_runs{{{labels},verdict=\"Failed\"}} 1"));
        metrics.keep(Kind::backup, &there(&[]));
        assert!(!shown().contains("orchard"), "{}", shown());
    }
}
