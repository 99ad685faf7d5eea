//! What the watch counts.
//!
//! It must not know where the figures are shown. The values of labels are closed lists.

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
#[allow(non_camel_case_types, reason = "the label's value is the name as it stands")]
enum Version {
    current,
    other,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Repaired,
}

/// What came of an attempt to replace a pod.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
pub(super) enum Repaired {
    /// It was evicted.
    Replaced,
    /// A `PodDisruptionBudget` was against it.
    Blocked,
    /// Its owner's pods come back without, again and again.
    GivenUp,
}

/// The figures.
#[derive(Clone, Debug, Default)]
pub(in crate::controller) struct Metrics {
    without: Family<ReasonLabel, Gauge>,
    repairs: Family<OutcomeLabel, Counter>,
    injected: Family<VersionLabel, Gauge>,
    reasons: BTreeSet<String>,
}

impl Metrics {
    /// Figures that are shown with the others of the registry, from 0 on.
    pub fn register(registry: &mut Registry) -> Self {
        let mut metrics = Self::default();
        registry.register(
            "stowaway_uninjected_pods",
            "Pods that run without what they ask for, by the reason why",
            metrics.without.clone(),
        );
        registry.register(
            "stowaway_pod_repairs",
            "Attempts to replace such a pod through its owner, by what came of it",
            metrics.repairs.clone(),
        );
        registry.register(
            "stowaway_injected_pods",
            "Pods with a helper, sidecar or restore step, by whether it is of the version of the controller",
            metrics.injected.clone(),
        );
        metrics.injected(0, 0);
        metrics.without(std::iter::empty());
        for outcome in [Repaired::Replaced, Repaired::Blocked, Repaired::GivenUp] {
            drop(metrics.repairs.get_or_create(&OutcomeLabel { outcome }));
        }
        metrics
    }

    /// The reasons of all pods that are without.
    pub fn without(&mut self, reasons: impl Iterator<Item = String>) {
        // A reason that nobody has any more is 0, and does not vanish.
        self.reasons.insert(NOT_INJECTED.to_owned());
        let mut counts: BTreeMap<String, i64> = self.reasons.iter().map(|reason| (reason.clone(), 0)).collect();
        for reason in reasons {
            *counts.entry(reason).or_default() += 1;
        }
        for (reason, count) in counts {
            self.reasons.insert(reason.clone());
            self.without.get_or_create(&ReasonLabel { reason }).set(count);
        }
    }

    /// How many pods have something injected of the controller's version, and of others.
    pub fn injected(&self, current: i64, other: i64) {
        self.injected.get_or_create(&VersionLabel { version: Version::current }).set(current);
        self.injected.get_or_create(&VersionLabel { version: Version::other }).set(other);
    }

    /// An attempt was made.
    pub(super) fn repaired(&self, outcome: Repaired) {
        self.repairs.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
