//! CPU and memory of Stowaway's containers, chosen so that the pod does not change for the scheduler, for quotas and
//! for limit ranges.
//!
//! - Kubernetes takes the maximum of an init container and of the containers that run later. So a copy of the app's own
//!   numbers costs nothing, keeps a Guaranteed pod Guaranteed, and is within every `LimitRange` that the app is within.
//! - A sidecar's numbers are added to the app's. The sidecar has limits of its own, which equal its requests if the pod
//!   is Guaranteed.
//! - If the app has CPU limits, Stowaway's containers have no higher limit, and no limit that is a greater multiple of
//!   its request. The app is within the namespace's `LimitRange`, so they are within it, too. If the app has no CPU
//!   limit, no `LimitRange` bounds it, because that would have set a limit. Memory is requested in full.
//! - All containers have requests and limits for CPU and memory, as a `ResourceQuota` may require.
//! - If the pod as a whole has resources, containers need none, and could only contradict them.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::pod::{ContainerView, List, PodView};
use crate::model::{
    billionths,
    mounts::{WORK_CPUS, WORK_MEMORY},
};

/// Enough to start a container and copy one small file.
pub(super) const COPY_MEMORY: &str = "32Mi";

/// Kubernetes' quality of service classes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum QualityOfService {
    /// Every container has limits, equal to its requests.
    Guaranteed,
    /// A container has a request or a limit.
    Burstable,
    /// No container has a request or a limit.
    BestEffort,
}

impl fmt::Display for QualityOfService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// The class of a pod; none if the JSON is not a pod.
pub fn quality_of_service(pod: &Value) -> Option<QualityOfService> {
    let view = PodView::new(pod).ok()?;
    if let Some(resources) = of_pod(&view) {
        return Some(classify([Some(resources)].into_iter()));
    }
    Some(classify(view.containers.iter().filter(|container| container.list != List::Ephemeral).map(resources)))
}

/// The class of the pod without Stowaway's containers.
fn class_of_the_user(view: &PodView<'_>) -> QualityOfService {
    classify(view.of_the_user().filter(|container| container.list != List::Ephemeral).map(resources))
}

fn resources<'a>(container: &ContainerView<'a>) -> Option<&'a Value> {
    container.container.get("resources")
}

/// Resources of the pod as a whole.
fn of_pod<'a>(view: &PodView<'a>) -> Option<&'a Value> {
    view.spec.get("resources").filter(|resources| resources.as_object().is_some_and(|map| !map.is_empty()))
}

/// Classifies like the kubelet, with the API server's default: a resource that has only a limit requests the same
/// amount.
fn classify<'a>(all: impl Iterator<Item = Option<&'a Value>>) -> QualityOfService {
    let mut anything = false;
    let mut guaranteed = true;
    for resources in all {
        for kind in ["cpu", "memory"] {
            let limit = amount(resources, "limits", kind).filter(|amount| *amount != 0);
            let request = amount(resources, "requests", kind).filter(|amount| *amount != 0).or(limit);
            anything |= request.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (anything, guaranteed) {
        (true, true) => QualityOfService::Guaranteed,
        (true, false) => QualityOfService::Burstable,
        (false, _) => QualityOfService::BestEffort,
    }
}

/// Resources of an init container that needs at least this much memory; none if the pod has resources as a whole.
pub(super) fn of_init(view: &PodView<'_>, memory: &str) -> Option<Value> {
    if of_pod(view).is_some() {
        return None;
    }
    let enough = billionths(memory);
    let app = view.of_the_user().filter(|container| container.list == List::App).map(resources);
    let app: Vec<Option<&Value>> = app.filter(|resources| is_limited(*resources)).collect();
    if let Some(resources) = app.iter().find(|resources| amount(**resources, "limits", "memory") >= enough) {
        let of = |side: &str, kind: &str| field(*resources, side, kind).or_else(|| field(*resources, "limits", kind));
        return Some(json!({
            "limits": { "cpu": of("limits", "cpu"), "memory": of("limits", "memory") },
            "requests": { "cpu": of("requests", "cpu"), "memory": of("requests", "memory") },
        }));
    }
    if class_of_the_user(view) == QualityOfService::Guaranteed {
        let cpu = app.first().and_then(|resources| field(*resources, "limits", "cpu"));
        let same = json!({ "cpu": cpu, "memory": memory });
        return Some(json!({ "limits": same, "requests": same }));
    }
    let (limit, request) = cpu_beside(view, if memory == COPY_MEMORY { "100m" } else { WORK_CPUS });
    Some(json!({ "limits": { "cpu": limit, "memory": memory }, "requests": { "cpu": request, "memory": memory } }))
}

/// The CPU request if nothing bounds it. It is small because the work is rare and can wait.
const CPU_REQUEST: i128 = 10 * MILLI;
/// The highest CPU request beside an app whose limits are close to its requests.
const MAX_CPU_REQUESTED: i128 = 500 * MILLI;
/// More CPUs than any machine has: a million.
const MAX_CPU: i128 = 1_000_000_000 * MILLI;
/// A thousandth of a CPU in billionths.
const MILLI: i128 = 1_000_000;

/// Limit and request of CPU, derived from the app's containers; the limit is at most `most`.
fn cpu_beside(view: &PodView<'_>, most: &str) -> (String, String) {
    let text = |amount: i128| format!("{}m", amount.div_euclid(MILLI).max(1));
    let most_amount = billionths(most).unwrap_or(MILLI);
    let of_app: Vec<(i128, i128)> = view
        .of_the_user()
        .filter(|container| container.list == List::App)
        .filter_map(|container| {
            let limit = amount(resources(container), "limits", "cpu").filter(|limit| *limit > 0)?.min(MAX_CPU);
            let request = amount(resources(container), "requests", "cpu").filter(|request| *request > 0);
            Some((limit, request.unwrap_or(limit).min(limit)))
        })
        .collect();
    let Some(highest) = of_app.iter().map(|(limit, _)| *limit).max() else {
        return (most.to_owned(), text(CPU_REQUEST.min(most_amount)));
    };
    // The greatest limit-to-request ratio which the namespace is known to allow.
    let (ratio_limit, ratio_request) =
        of_app.iter().copied().max_by(|one, other| (one.0 * other.1).cmp(&(other.0 * one.1))).unwrap_or((1, 1));
    let limit = most_amount.min(highest).min(MAX_CPU_REQUESTED * ratio_limit / ratio_request);
    // Round up to a thousandth, so that the limit is not a greater multiple of the request.
    let request = (limit * ratio_request + ratio_limit - 1) / ratio_limit;
    let request = ((request + MILLI - 1) / MILLI * MILLI).clamp(CPU_REQUEST.min(limit), limit);
    if limit == most_amount { (most.to_owned(), text(request)) } else { (text(limit), text(request)) }
}

/// Whether CPU and memory are limited.
fn is_limited(resources: Option<&Value>) -> bool {
    ["cpu", "memory"].iter().all(|kind| amount(resources, "limits", kind).is_some_and(|amount| amount > 0))
}

/// The CPU limit and request of the sidecar in a Guaranteed pod.
const SIDECAR_CPU_GUARANTEED: &str = "500m";

/// Resources of the sidecar, which the user may have set; none if the pod has resources as a whole.
pub(super) fn of_sidecar(view: &PodView<'_>, given: Option<&Value>) -> Option<Value> {
    if of_pod(view).is_some() {
        return None;
    }
    if let Some(given) = given {
        return Some(given.clone());
    }
    let (limit, request) = match class_of_the_user(view) {
        QualityOfService::Guaranteed => {
            let (limit, _) = cpu_beside(view, SIDECAR_CPU_GUARANTEED);
            (limit.clone(), limit)
        }
        QualityOfService::Burstable | QualityOfService::BestEffort => cpu_beside(view, WORK_CPUS),
    };
    Some(json!({
        "limits": { "cpu": limit, "memory": WORK_MEMORY },
        "requests": { "cpu": request, "memory": WORK_MEMORY },
    }))
}

fn field<'a>(resources: Option<&'a Value>, side: &str, kind: &str) -> Option<&'a Value> {
    resources?.get(side)?.get(kind)
}

fn amount(resources: Option<&Value>, side: &str, kind: &str) -> Option<i128> {
    match field(resources, side, kind)? {
        Value::String(text) => billionths(text),
        Value::Number(number) => billionths(&number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_the_kubelet() {
        let class = |containers: Value| quality_of_service(&json!({ "metadata": {}, "spec": containers })).unwrap();
        let of = |resources: Value| json!({ "containers": [{ "name": "a", "resources": resources }] });
        assert_eq!(class(of(json!({}))), QualityOfService::BestEffort);
        assert_eq!(class(of(json!({ "requests": { "cpu": "0" } }))), QualityOfService::BestEffort);
        assert_eq!(class(of(json!({ "requests": { "cpu": 1 } }))), QualityOfService::Burstable);
        assert_eq!(class(of(json!({ "limits": { "cpu": 1 } }))), QualityOfService::Burstable);
        assert_eq!(class(of(json!({ "limits": { "cpu": 1, "memory": "1Gi" } }))), QualityOfService::Guaranteed);
        let limits = json!({ "cpu": "1", "memory": "1Gi" });
        let equal = json!({ "limits": limits, "requests": { "cpu": "1000m", "memory": "1024Mi" } });
        assert_eq!(class(of(equal.clone())), QualityOfService::Guaranteed);
        let less = json!({ "limits": limits, "requests": { "cpu": "999m" } });
        assert_eq!(class(of(less)), QualityOfService::Burstable);
        let beside =
            json!({ "containers": [{ "name": "a", "resources": equal }], "initContainers": [{ "name": "b" }] });
        assert_eq!(class(beside), QualityOfService::Burstable);
        let whole = json!({ "containers": [{ "name": "a" }], "resources": { "limits": limits } });
        assert_eq!(class(whole), QualityOfService::Guaranteed);
    }
}
