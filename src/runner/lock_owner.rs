//! Finds out from the API server whether the pods which hold locks in a repository are alive.
//!
//! A lock names its pod, UID, namespace and cluster. Nothing is known about a pod of another cluster or another
//! namespace.

use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Api, Client};

use crate::repository::{FoundLock, LOCK_REFRESH, Liveness, LockHolder, LockOwnerProbe, NoProbe};

/// The lock holder of a run's pod. `host` is the pod's name, and `user` contains everything else. Without a cluster
/// `user` contains only the UID, which cannot be looked up.
pub fn signature(pod: &str, pod_uid: &str, namespace: &str, cluster: &str) -> LockHolder {
    let location = if cluster.is_empty() { String::new() } else { location(namespace, cluster) };
    LockHolder { host: pod.to_owned(), user: format!("{UID}{pod_uid}{location}") }
}

const UID: &str = "pod UID ";

fn location(namespace: &str, cluster: &str) -> String {
    format!(" in {namespace} of cluster {cluster}")
}

/// Queries the API server about pods of one namespace of this cluster.
pub struct PodLiveness {
    pods: Api<Pod>,
    location: String,
}

impl std::fmt::Debug for PodLiveness {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PodLiveness").field("location", &self.location).finish_non_exhaustive()
    }
}

impl PodLiveness {
    /// Creates the probe for the locks of a namespace. Without a cluster's id it finds out nothing.
    pub fn of(client: &Client, namespace: &str, cluster: &str) -> Arc<dyn LockOwnerProbe> {
        if cluster.is_empty() {
            return Arc::new(NoProbe);
        }
        let pods = Api::namespaced(client.clone(), namespace);
        Arc::new(Self { pods, location: location(namespace, cluster) })
    }

    /// The UID of the pod which holds the lock; `None` if the pod is of another namespace or cluster.
    fn uid<'a>(&self, lock: &'a FoundLock) -> Option<&'a str> {
        lock.holder.user.strip_prefix(UID)?.strip_suffix(self.location.as_str()).filter(|uid| !uid.contains(' '))
    }
}

impl LockOwnerProbe for PodLiveness {
    fn probe<'a>(&'a self, lock: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        Box::pin(async move {
            match self.uid(lock) {
                Some(uid) => {
                    let age = Timestamp::now().duration_since(lock.refreshed);
                    liveness(&self.pods.get(&lock.holder.host).await, uid, age)
                }
                None => Liveness::Unknown,
            }
        })
    }
}

/// The liveness of the holder, from the response about its pod. A running pod does not prove that its lock is in use,
/// because its process may have been killed.
///
/// A pod which the API server does not have may still run on an unreachable node and write to the store. So its lock is
/// dead only after it was not refreshed for the interval of refreshes; `age` is the time since the last refresh. Only a
/// kubelet's report that all containers have ended makes the lock dead at once.
fn liveness(answer: &kube::Result<Pod>, uid: &str, age: SignedDuration) -> Liveness {
    let (is_gone, has_ended) = match answer {
        Ok(pod) => {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let is_another = pod.metadata.uid.as_deref().is_some_and(|found| found != uid);
            let is_over = !is_another && matches!(phase, Some("Succeeded" | "Failed"));
            (is_another || is_over, is_over && has_ended_on_its_node(pod))
        }
        // Any proxy may respond with 404, but only the API server responds like this.
        Err(kube::Error::Api(status)) => {
            let kind = status.details.as_ref().map(|details| details.kind.as_str());
            (status.code == 404 && status.reason == "NotFound" && kind == Some("pods"), false)
        }
        Err(_) => (false, false),
    };
    let is_dead = has_ended || is_gone && age.unsigned_abs() >= LOCK_REFRESH && age.is_positive();
    if is_dead { Liveness::Dead } else { Liveness::Unknown }
}

/// Whether the kubelet has reported the end of all containers. No other component writes these statuses.
fn has_ended_on_its_node(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let has_ended = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    !statuses.is_empty() && statuses.iter().all(has_ended)
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A probe whose API server answers each request alike, and only for this path.
    fn probe(status: u16, answer: &Value, cluster: &str) -> Arc<dyn LockOwnerProbe> {
        let answer = answer.to_string();
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/orchard/pods/mill-x1");
            let response = Response::builder().status(status).body(Body::from(answer.clone().into_bytes()));
            std::future::ready(response)
        });
        PodLiveness::of(&Client::new(service, "orchard"), "orchard", cluster)
    }

    async fn judged(probe: Arc<dyn LockOwnerProbe>, holder: LockHolder) -> Liveness {
        let refreshed = jiff::Timestamp::UNIX_EPOCH;
        probe.probe(&FoundLock { id: String::new(), holder, process: 1, exclusive: false, refreshed }).await
    }

    fn own_holder() -> LockHolder {
        signature("mill-x1", "u-1", "orchard", "c-1")
    }

    fn pod(uid: &str, phase: &str) -> Value {
        json!({ "metadata": { "name": "mill-x1", "uid": uid }, "status": { "phase": phase } })
    }

    fn refusal(code: u16, reason: &str, kind: &str) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
            "message": "", "details": { "kind": kind, "name": "mill-x1" },
        })
    }

    #[tokio::test]
    async fn pod_that_is_gone_replaced_or_ended_is_dead() {
        let not_found = refusal(404, "NotFound", "pods");
        for (status, answer) in [
            (404, not_found),
            (200, pod("u-2", "Running")),
            (200, pod("u-1", "Succeeded")),
            (200, pod("u-1", "Failed")),
        ] {
            assert_eq!(judged(probe(status, &answer, "c-1"), own_holder()).await, Liveness::Dead, "{answer}");
        }
    }

    #[tokio::test]
    async fn lock_of_a_pod_that_vanished_counts_until_it_was_due_to_be_refreshed() {
        let refreshed = |seconds| Timestamp::now() - SignedDuration::from_secs(seconds);
        let gone = refusal(404, "NotFound", "pods");
        let ended = |containers: Value| {
            json!({
                "metadata": { "name": "mill-x1", "uid": "u-1" },
                "status": { "phase": "Failed", "containerStatuses": containers },
            })
        };
        let container = |state: Value| json!({ "name": "run", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state });
        let terminated = container(json!({ "terminated": { "exitCode": 137 } }));
        let running = container(json!({ "running": {} }));
        for (status, answer, seconds, expected) in [
            (404, &gone, 0, Liveness::Unknown),
            (404, &gone, 290, Liveness::Unknown),
            (404, &gone, 301, Liveness::Dead),
            (404, &gone, -600, Liveness::Unknown),
            (200, &pod("u-2", "Running"), 10, Liveness::Unknown),
            (200, &pod("u-2", "Running"), 301, Liveness::Dead),
            // A garbage collector sets the phase of a pod whose node is unreachable.
            (200, &pod("u-1", "Failed"), 10, Liveness::Unknown),
            (200, &ended(json!([running, terminated])), 10, Liveness::Unknown),
            (200, &ended(json!([running, terminated])), 301, Liveness::Dead),
            (200, &ended(json!([terminated])), 10, Liveness::Dead),
        ] {
            let probe = probe(status, answer, "c-1");
            let (holder, refreshed) = (own_holder(), refreshed(seconds));
            let lock = FoundLock { id: String::new(), holder, process: 1, exclusive: false, refreshed };
            assert_eq!(probe.probe(&lock).await, expected, "{answer}, {seconds} s");
        }
    }

    #[tokio::test]
    async fn pod_that_runs_or_cannot_be_seen_is_not_taken_for_dead() {
        for (status, answer) in [
            (200, pod("u-1", "Running")),
            (200, pod("u-1", "Pending")),
            (200, pod("u-1", "Unknown")),
            (200, json!({ "metadata": {} })),
            (403, refusal(403, "Forbidden", "pods")),
            (401, refusal(401, "Unauthorized", "")),
            (500, refusal(500, "InternalError", "")),
            // The response of a server which does not know the path.
            (404, json!("404 page not found")),
            (404, refusal(404, "NotFound", "namespaces")),
        ] {
            assert_eq!(judged(probe(status, &answer, "c-1"), own_holder()).await, Liveness::Unknown, "{answer}");
        }
    }

    #[tokio::test]
    async fn pods_of_other_clusters_and_namespaces_and_other_programs_are_not_judged() {
        let gone = refusal(404, "NotFound", "pods");
        let strangers = [
            signature("mill-x1", "u-1", "orchard", "c-2"),
            signature("mill-x1", "u-1", "cellar", "c-1"),
            signature("mill-x1", "u-1", "orchard", ""),
            signature("mill-x1", "u-1 in cellar of cluster c-1 pod UID u-2", "orchard", "c-1"),
            LockHolder { host: "mill-x1".into(), user: "root".into() },
        ];
        for holder in strangers {
            let debug = format!("{holder:?}");
            assert_eq!(judged(probe(404, &gone, "c-1"), holder).await, Liveness::Unknown, "{debug}");
        }
        let nowhere = judged(probe(404, &gone, ""), signature("mill-x1", "u-1", "orchard", "")).await;
        assert_eq!(nowhere, Liveness::Unknown, "without a cluster");
    }
}
