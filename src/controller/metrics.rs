//! The metrics of Repositories. The metrics of a deleted Repository are removed.

mod runs;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

pub(super) use self::runs::{Kind as RunKind, RunMetrics};
use crate::api::{
    HEALTHY, INSECURE_TRANSPORT, KEY_NOT_ESCROWED, MaintenanceStatus, READY, RETENTION_DIFFERS, RepositoryStatus,
    SIZE_ANOMALY, condition,
};

/// The conditions which have a metric.
const CONDITIONS: [&str; 6] = [READY, HEALTHY, SIZE_ANOMALY, RETENTION_DIFFERS, INSECURE_TRANSPORT, KEY_NOT_ESCROWED];
/// The possible statuses of a condition.
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct RepositoryLabels {
    namespace: String,
    repository: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct RunLabels {
    namespace: String,
    repository: String,
    kind: Kind,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct ConditionLabels {
    namespace: String,
    repository: String,
    condition: &'static str,
    status: &'static str,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the variant's name is the label's value")]
enum Kind {
    prune,
    check,
}

/// The metrics, which are set from each Repository's status.
#[derive(Clone, Debug, Default)]
pub(super) struct RepositoryMetrics {
    last_success: Family<RunLabels, Gauge>,
    last_end: Family<RunLabels, Gauge>,
    healthy: Family<RepositoryLabels, Gauge>,
    conditions: Family<ConditionLabels, Gauge>,
    /// The Repositories which have metrics, by namespace and name.
    known: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl RepositoryMetrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "stowaway_repository_last_success_timestamp_seconds",
            "When the last green prune or check of a Repository ended",
            metrics.last_success.clone(),
        );
        registry.register(
            "stowaway_repository_last_end_timestamp_seconds",
            "When the last attempt of a prune or check of a Repository ended, with any verdict",
            metrics.last_end.clone(),
        );
        registry.register(
            "stowaway_repository_healthy",
            "1 if the last check of a Repository found no errors, 0 if something is damaged",
            metrics.healthy.clone(),
        );
        registry.register(
            "stowaway_repository_condition",
            "1 for the present status of a condition of a Repository, 0 for the other statuses",
            metrics.conditions.clone(),
        );
        metrics
    }

    /// Sets the metrics of a Repository from its status.
    pub fn update(&self, namespace: &str, name: &str, status: &RepositoryStatus) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((namespace.to_owned(), name.to_owned()));
        self.set_all(namespace, name, status);
    }

    fn set_all(&self, namespace: &str, name: &str, status: &RepositoryStatus) {
        let runs = [(Kind::prune, status.prune.as_ref()), (Kind::check, status.check.as_ref().map(|check| &check.run))];
        for (kind, run) in runs {
            let labels = RunLabels { namespace: namespace.to_owned(), repository: name.to_owned(), kind };
            let time = |of: fn(&MaintenanceStatus) -> Option<&Time>| run.and_then(of).map(|Time(time)| *time);
            set(&self.last_success, &labels, time(|run| run.last_success_time.as_ref()).map(Timestamp::as_second));
            set(&self.last_end, &labels, time(|run| run.completion_time.as_ref()).map(Timestamp::as_second));
        }
        let labels = RepositoryLabels { namespace: namespace.to_owned(), repository: name.to_owned() };
        let healthy = condition(&status.conditions, HEALTHY).filter(|condition| condition.status != "Unknown");
        set(&self.healthy, &labels, healthy.map(|condition| i64::from(condition.status == "True")));
        for kind in CONDITIONS {
            let found = condition(&status.conditions, kind);
            for status in STATUSES {
                let RepositoryLabels { namespace, repository } = labels.clone();
                let labels = ConditionLabels { namespace, repository, condition: kind, status };
                set(&self.conditions, &labels, found.map(|found| i64::from(found.status == status)));
            }
        }
    }

    /// Removes the metrics of all Repositories except `existing`, each by namespace and name.
    pub fn keep(&self, existing: &BTreeSet<(String, String)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (namespace, name) in known.difference(existing) {
            self.set_all(namespace, name, &RepositoryStatus::default());
        }
        known.retain(|repository| existing.contains(repository));
    }
}

fn set<L>(family: &Family<L, Gauge>, labels: &L, value: Option<i64>)
where
    L: Clone + Eq + std::hash::Hash,
{
    match value {
        Some(value) => {
            family.get_or_create(labels).set(value);
        }
        None => {
            family.remove(labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::api::{CheckStatus, set_condition, set_condition_status};

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn metrics_follow_the_status_and_are_removed_with_the_repository() {
        let mut registry = Registry::default();
        let metrics = RepositoryMetrics::register(&mut registry);
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let run = MaintenanceStatus {
            last_success_time: Some(Time(at(1000))),
            completion_time: Some(Time(at(2000))),
            ..MaintenanceStatus::default()
        };
        let mut status = RepositoryStatus {
            check: Some(CheckStatus { run, ..CheckStatus::default() }),
            ..RepositoryStatus::default()
        };
        metrics.update("orchard", "cellar", &status);
        assert!(!shown(&registry).contains("healthy{"), "there was no check");
        set_condition(&mut status.conditions, HEALTHY, false, ("DamageFound", ""), None, at(0));
        set_condition_status(&mut status.conditions, READY, "Unknown", ("Opening", ""), None, at(0));
        metrics.update("orchard", "cellar", &status);
        let text = shown(&registry);
        let labels = r#"namespace="orchard",repository="cellar""#;
        for line in [
            format!("stowaway_repository_last_success_timestamp_seconds{{{labels},kind=\"check\"}} 1000"),
            format!("stowaway_repository_last_end_timestamp_seconds{{{labels},kind=\"check\"}} 2000"),
            format!("stowaway_repository_healthy{{{labels}}} 0"),
            format!("stowaway_repository_condition{{{labels},condition=\"Ready\",status=\"Unknown\"}} 1"),
            format!("stowaway_repository_condition{{{labels},condition=\"Healthy\",status=\"False\"}} 1"),
            format!("stowaway_repository_condition{{{labels},condition=\"Healthy\",status=\"True\"}} 0"),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert!(!text.contains("prune\"") && !text.contains("SizeAnomaly"), "{text}");
        set_condition_status(&mut status.conditions, HEALTHY, "Unknown", ("CheckOverdue", ""), None, at(0));
        metrics.update("orchard", "cellar", &status);
        assert!(!shown(&registry).contains("healthy{"), "an overdue check is no damage");
        metrics.keep(&[("orchard".to_owned(), "cellar".to_owned())].into());
        assert!(shown(&registry).contains("orchard"));
        metrics.keep(&[("orchard".to_owned(), "loft".to_owned())].into());
        assert!(!shown(&registry).contains("orchard"));
    }
}
