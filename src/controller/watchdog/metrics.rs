//! The metrics of the watchdog. The values of their labels are closed lists.

use std::collections::{BTreeMap, BTreeSet};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::watchdog::NOT_INJECTED;

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct VersionLabel {
    version: Version,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the variant's name is the label's value")]
enum Version {
    current,
    other,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Repaired,
}

/// The result of an attempt to replace a pod.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
pub(super) enum Repaired {
    /// The pod was evicted.
    Replaced,
    /// A `PodDisruptionBudget` did not allow the eviction.
    Blocked,
    /// The new pods of the owner are repeatedly not injected.
    GivenUp,
}

#[derive(Clone, Debug, Default)]
pub(in crate::controller) struct Metrics {
    uninjected: Family<ReasonLabel, Gauge>,
    repairs: Family<OutcomeLabel, Counter>,
    injected: Family<VersionLabel, Gauge>,
    reasons: BTreeSet<String>,
}

impl Metrics {
    /// Registers the metrics, with the value 0.
    pub fn register(registry: &mut Registry) -> Self {
        let mut metrics = Self::default();
        registry.register(
            "stowaway_uninjected_pods",
            "Pods which run without the requested injection, by reason",
            metrics.uninjected.clone(),
        );
        registry.register(
            "stowaway_pod_repairs",
            "Attempts to replace an uninjected pod by evicting it, by outcome",
            metrics.repairs.clone(),
        );
        registry.register(
            "stowaway_injected_pods",
            "Pods with a helper, sidecar or restore step, by whether its version is the controller's",
            metrics.injected.clone(),
        );
        metrics.set_injected(0, 0);
        metrics.set_uninjected(std::iter::empty());
        for outcome in [Repaired::Replaced, Repaired::Blocked, Repaired::GivenUp] {
            drop(metrics.repairs.get_or_create(&OutcomeLabel { outcome }));
        }
        metrics
    }

    /// Sets the number of uninjected pods from the reasons of all of them.
    pub fn set_uninjected(&mut self, reasons: impl Iterator<Item = String>) {
        // A reason which no pod has any more is set to 0, and its metric stays.
        self.reasons.insert(NOT_INJECTED.to_owned());
        let mut counts: BTreeMap<String, i64> = self.reasons.iter().map(|reason| (reason.clone(), 0)).collect();
        for reason in reasons {
            *counts.entry(reason).or_default() += 1;
        }
        for (reason, count) in counts {
            self.reasons.insert(reason.clone());
            self.uninjected.get_or_create(&ReasonLabel { reason }).set(count);
        }
    }

    /// Sets the number of pods with injected containers of the controller's version, and of other versions.
    pub fn set_injected(&self, current: i64, other: i64) {
        self.injected.get_or_create(&VersionLabel { version: Version::current }).set(current);
        self.injected.get_or_create(&VersionLabel { version: Version::other }).set(other);
    }

    /// Counts an attempt to replace a pod.
    pub(super) fn count_repair(&self, outcome: Repaired) {
        self.repairs.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
