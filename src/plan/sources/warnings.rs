//! Warnings about annotations and labels of the objects which a Backup covers.

use std::collections::BTreeMap;

use super::{ObservedPod, ObservedWorkload, Unit, Workload, workloads::living};
use crate::annotations::{self, Problems, Warning, workload_warnings};

/// A warning about the annotations of an object.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{object}: {warning}")]
pub struct PlanWarning {
    /// Kind and name, for example `pod db-0`.
    pub object: String,
    pub warning: Warning,
}

/// Collects the warnings. All pods of a workload usually have the annotations of its template, so that a warning is
/// collected once for each workload.
#[derive(Default)]
pub(super) struct Warnings {
    all: Vec<PlanWarning>,
    /// The object which is named in each warning of a workload and its pods.
    of_workloads: BTreeMap<(Workload, Warning), String>,
}

impl Warnings {
    pub fn add(&mut self, object: &str, warnings: impl IntoIterator<Item = Warning>) {
        self.all.extend(warnings.into_iter().map(|warning| PlanWarning { object: object.to_owned(), warning }));
    }

    /// Adds the warnings about a pod.
    pub fn add_of_pod(&mut self, unit: &Unit<'_>) {
        let warnings = match &unit.request {
            Ok(request) => &request.warnings,
            Err(problems) => &problems.warnings,
        };
        for warning in warnings {
            let pod = format!("pod {}", unit.name);
            let named =
                self.of_workloads.entry((unit.workload.clone(), warning.clone())).or_insert_with(|| pod.clone());
            // The order of the pods must not matter.
            *named = pod.min(std::mem::take(named));
        }
    }

    /// Adds the warnings about the annotations of a workload itself and of its pod template, after those about its
    /// pods. The workload is then named, because its template is to be corrected. Problems of the template are warnings
    /// if there is no pod, because no source reports them.
    pub fn add_of_workload(&mut self, one: &ObservedWorkload, pods: &[ObservedPod]) {
        let of_template = one.template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
        let mut warnings = workload_warnings(one.metadata.annotations.as_ref(), of_template);
        match of_template.map(annotations::parse) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(request))) => warnings.extend(request.warnings),
            Some(Err(Problems { problems, warnings: further })) => {
                warnings.extend(further);
                if !living(pods).any(|observed| observed.workload == one.workload) {
                    warnings.extend(problems.into_iter().map(Warning::from));
                }
            }
        }
        let object = format!("{} {}", one.workload.kind, one.workload.name);
        let keyed = warnings.into_iter().map(|warning| ((one.workload.clone(), warning), object.clone()));
        self.of_workloads.extend(keyed);
    }

    /// All warnings, sorted by their text.
    pub fn sorted(mut self) -> Vec<PlanWarning> {
        let of_workloads = self.of_workloads.into_iter();
        self.all.extend(of_workloads.map(|((_, warning), object)| PlanWarning { object, warning }));
        self.all.sort_by_cached_key(ToString::to_string);
        self.all
    }
}
