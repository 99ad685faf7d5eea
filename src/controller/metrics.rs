//! What is told of Repositories in figures.
//!
//! It must not know where they are shown. A Repository that is gone has none.

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
    INSECURE_TRANSPORT, KEY_NOT_ESCROWED, READY, RepositoryStatus, SIZE_ANOMALY, SOUND, UpkeepStatus, condition,
};

/// The conditions that are shown.
const CONDITIONS: [&str; 5] = [READY, SOUND, SIZE_ANOMALY, INSECURE_TRANSPORT, KEY_NOT_ESCROWED];
/// What a condition can be.
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
#[allow(non_camel_case_types, reason = "the label's value is the name as it stands")]
enum Kind {
    prune,
    check,
}

/// The figures, from each Repository's status.
#[derive(Clone, Debug, Default)]
pub(super) struct RepositoryMetrics {
    last_success: Family<RunLabels, Gauge>,
    last_end: Family<RunLabels, Gauge>,
    sound: Family<RepositoryLabels, Gauge>,
    conditions: Family<ConditionLabels, Gauge>,
    /// The Repositories that are shown, by namespace and name.
    known: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl RepositoryMetrics {
    /// Figures that are shown with the others of the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "stowaway_repository_last_success_timestamp_seconds",
            "When the last prune or check of a Repository ended that was green",
            metrics.last_success.clone(),
        );
        registry.register(
            "stowaway_repository_last_end_timestamp_seconds",
            "When the last attempt of a prune or check of a Repository ended, however",
            metrics.last_end.clone(),
        );
        registry.register(
            "stowaway_repository_sound",
            "1 if the last check found all of a Repository as it was written, 0 if something is damaged",
            metrics.sound.clone(),
        );
        registry.register(
            "stowaway_repository_condition",
            "1 for the status that a condition of a Repository has, 0 for the others",
            metrics.conditions.clone(),
        );
        metrics
    }

    /// Shows what the status says.
    pub fn show(&self, namespace: &str, name: &str, status: &RepositoryStatus) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((namespace.to_owned(), name.to_owned()));
        self.set_all(namespace, name, status);
    }

    fn set_all(&self, namespace: &str, name: &str, status: &RepositoryStatus) {
        let runs = [(Kind::prune, status.prune.as_ref()), (Kind::check, status.check.as_ref().map(|check| &check.run))];
        for (kind, run) in runs {
            let labels = RunLabels { namespace: namespace.to_owned(), repository: name.to_owned(), kind };
            let time = |of: fn(&UpkeepStatus) -> Option<&Time>| run.and_then(of).map(|Time(time)| *time);
            set(&self.last_success, &labels, time(|run| run.last_success_time.as_ref()).map(Timestamp::as_second));
            set(&self.last_end, &labels, time(|run| run.completion_time.as_ref()).map(Timestamp::as_second));
        }
        let labels = RepositoryLabels { namespace: namespace.to_owned(), repository: name.to_owned() };
        let sound = condition(&status.conditions, SOUND).filter(|sound| sound.status != "Unknown");
        set(&self.sound, &labels, sound.map(|sound| i64::from(sound.status == "True")));
        for kind in CONDITIONS {
            let found = condition(&status.conditions, kind);
            for status in STATUSES {
                let RepositoryLabels { namespace, repository } = labels.clone();
                let labels = ConditionLabels { namespace, repository, condition: kind, status };
                set(&self.conditions, &labels, found.map(|found| i64::from(found.status == status)));
            }
        }
    }

    /// Shows nothing more of Repositories that are not among these, each by namespace and name, because they are gone.
    pub fn keep(&self, there: &BTreeSet<(String, String)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (namespace, name) in known.difference(there) {
            self.set_all(namespace, name, &RepositoryStatus::default());
        }
        known.retain(|repository| there.contains(repository));
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
    fn figures_follow_the_status_and_go_with_the_repository() {
        let mut registry = Registry::default();
        let metrics = RepositoryMetrics::register(&mut registry);
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let run = UpkeepStatus {
            last_success_time: Some(Time(at(1000))),
            completion_time: Some(Time(at(2000))),
            ..UpkeepStatus::default()
        };
        let mut status = RepositoryStatus {
            check: Some(CheckStatus { run, ..CheckStatus::default() }),
            ..RepositoryStatus::default()
        };
        metrics.show("orchard", "cellar", &status);
        assert!(!shown(&registry).contains("sound{"), "nobody has looked");
        set_condition(&mut status.conditions, SOUND, false, ("DamageFound", ""), None, at(0));
        set_condition_status(&mut status.conditions, READY, "Unknown", ("Opening", ""), None, at(0));
        metrics.show("orchard", "cellar", &status);
        let text = shown(&registry);
        let labels = r#"namespace="orchard",repository="cellar""#;
        for line in [
            format!("stowaway_repository_last_success_timestamp_seconds{{{labels},kind=\"check\"}} 1000"),
            format!("stowaway_repository_last_end_timestamp_seconds{{{labels},kind=\"check\"}} 2000"),
            format!("stowaway_repository_sound{{{labels}}} 0"),
            format!("stowaway_repository_condition{{{labels},condition=\"Ready\",status=\"Unknown\"}} 1"),
            format!("stowaway_repository_condition{{{labels},condition=\"Sound\",status=\"False\"}} 1"),
            format!("stowaway_repository_condition{{{labels},condition=\"Sound\",status=\"True\"}} 0"),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert!(!text.contains("prune\"") && !text.contains("SizeAnomaly"), "{text}");
        set_condition_status(&mut status.conditions, SOUND, "Unknown", ("CheckOverdue", ""), None, at(0));
        metrics.show("orchard", "cellar", &status);
        assert!(!shown(&registry).contains("sound{"), "that nobody has checked for long is no damage");
        metrics.keep(&[("orchard".to_owned(), "cellar".to_owned())].into());
        assert!(shown(&registry).contains("orchard"));
        metrics.keep(&[("orchard".to_owned(), "loft".to_owned())].into());
        assert!(!shown(&registry).contains("orchard"));
    }
}
