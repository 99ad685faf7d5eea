//! The queue of pods to be replaced: one pod at a time in the whole cluster, with a limit of tries per owner.
//!
//! The counts are in memory only. A restart of the controller forgets how often an owner was tried, so that a user who
//! has corrected something can have it tried again. A controller that crashes repeatedly does no harm, because no pod
//! is replaced before the controller has run for [`PAUSE`], and the kubelet's back-off between restarts grows to five
//! minutes.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The minimum time between two replacements.
pub const PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// The time for which the queue waits for the successor of a replaced pod.
pub const MAX_WAIT: SignedDuration = SignedDuration::from_mins(5);
/// The number of times that pods of one owner are replaced without success.
pub const MAX_TRIES: u32 = 3;
/// The time for which an owner that was given up is not tried again.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Kinds of owners whose pods are recreated without loss. A Job would begin its work from the start.
const REPLACING_KINDS: [(&str, &str); 3] =
    [("apps/v1", "ReplicaSet"), ("apps/v1", "StatefulSet"), ("apps/v1", "DaemonSet")];

/// Labels that differ between the pods of one owner, or between their revisions.
const LABELS_OF_ONE: [&str; 4] = [
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-revision-hash",
    "pod-template-generation",
];

/// A pod that lacks something, and which its owner would recreate.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub created: Timestamp,
    /// The owner, which recreates the pod.
    pub owner: OwnerReference,
    /// The labels, as a selector, that all pods of the owner have.
    pub labels: String,
}

impl Candidate {
    /// The pod as a candidate, if its owner recreates it.
    pub fn new(metadata: &ObjectMeta) -> Option<Self> {
        let owner = metadata.owner_references.iter().flatten().find(|owner| Self::is_replaced_by(owner))?;
        let labels = metadata.labels.iter().flatten().filter(|(key, _)| !LABELS_OF_ONE.contains(&key.as_str()));
        let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
        Some(Self {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            created: metadata.creation_timestamp.as_ref()?.0,
            owner: owner.clone(),
            // Without labels, the owner's other pods cannot be found.
            labels: Some(labels.join(",")).filter(|labels| !labels.is_empty())?,
        })
    }

    fn is_replaced_by(owner: &OwnerReference) -> bool {
        owner.controller == Some(true) && REPLACING_KINDS.contains(&(owner.api_version.as_str(), owner.kind.as_str()))
    }
}

/// The pods that may be replaced now.
#[derive(Debug, Default, PartialEq)]
pub struct RepairBatch<'a> {
    /// One pod of each owner. Only the first that can be replaced is.
    pub may: Vec<&'a Candidate>,
    /// One pod of each owner that was given up just now.
    pub given_up: Vec<&'a Candidate>,
}

/// The state of the replacements.
#[derive(Debug, Default)]
pub struct RepairQueue {
    /// The owner's UID and the time of the last replacement, until its successor is seen.
    underway: Option<(String, Timestamp)>,
    last: Option<Timestamp>,
    /// By the owner's UID.
    tries: BTreeMap<String, Tries>,
}

#[derive(Debug)]
struct Tries {
    count: u32,
    last: Timestamp,
    reported: bool,
}

impl RepairQueue {
    /// The queue of a controller that starts now, which begins with a pause.
    pub fn starting(now: Timestamp) -> Self {
        Self { last: Some(now), ..Self::default() }
    }

    /// The pods that may be replaced now, from the pods that lack something.
    pub fn next<'a>(&mut self, candidates: &'a [Candidate], now: Timestamp) -> RepairBatch<'a> {
        self.tries.retain(|_, tries| now.duration_since(tries.last) < FORGOTTEN_AFTER);
        for candidate in candidates {
            self.seen(&candidate.owner.uid, candidate.created);
        }
        let too_early = self.last.is_some_and(|last| now.duration_since(last) < PAUSE);
        let is_waited_for = self.underway.as_ref().is_some_and(|(_, since)| now.duration_since(*since) < MAX_WAIT);
        let mut by_owner: BTreeMap<&str, &Candidate> = BTreeMap::new();
        for candidate in candidates {
            by_owner.entry(&candidate.owner.uid).or_insert(candidate);
        }
        let mut batch = RepairBatch::default();
        for (owner, candidate) in by_owner {
            match self.tries.get_mut(owner) {
                // The pod after the last try lacks it again, or no pod was created.
                Some(tries) if tries.count >= MAX_TRIES => {
                    if !is_waited_for && !std::mem::replace(&mut tries.reported, true) {
                        batch.given_up.push(candidate);
                    }
                }
                _ if too_early || is_waited_for => {}
                _ => batch.may.push(candidate),
            }
        }
        batch
    }

    /// Records that a pod was replaced.
    pub fn replaced(&mut self, candidate: &Candidate, now: Timestamp) {
        let owner = candidate.owner.uid.clone();
        let tries = self.tries.entry(owner.clone()).or_insert(Tries { count: 0, last: now, reported: false });
        tries.count = tries.count.saturating_add(1);
        tries.last = now;
        self.last = Some(now);
        self.underway = Some((owner, now));
    }

    /// Records that a pod of this owner exists which was created at this time.
    pub fn seen(&mut self, owner: &str, created: Timestamp) {
        if self.underway.as_ref().is_some_and(|(underway, since)| underway == owner && is_after(created, *since)) {
            self.underway = None;
        }
    }

    /// Records that a pod of this owner, created at this time, has everything that it requests.
    pub fn succeeded(&mut self, owner: &str, created: Timestamp) {
        self.seen(owner, created);
        if self.tries.get(owner).is_some_and(|tries| is_after(created, tries.last)) {
            self.tries.remove(owner);
        }
    }
}

/// Creation times in Kubernetes have whole seconds.
fn is_after(created: Timestamp, since: Timestamp) -> bool {
    created.as_second() >= since.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn candidate(name: &str, owner: &str, created: i64) -> Candidate {
        Candidate {
            namespace: "orchard".into(),
            name: name.into(),
            uid: format!("uid-of-{name}"),
            created: at(created),
            owner: OwnerReference {
                api_version: "apps/v1".into(),
                kind: "ReplicaSet".into(),
                name: owner.into(),
                uid: owner.into(),
                controller: Some(true),
                block_owner_deletion: None,
            },
            labels: format!("app={owner}"),
        }
    }

    fn names<'a>(candidates: &[&'a Candidate]) -> Vec<&'a str> {
        candidates.iter().map(|candidate| candidate.name.as_str()).collect()
    }

    #[test]
    fn one_pod_of_each_owner_may_be_replaced() {
        let all = [candidate("a-1", "a", 0), candidate("a-2", "a", 0), candidate("b-1", "b", 0)];
        assert_eq!(names(&RepairQueue::default().next(&all, at(10)).may), ["a-1", "b-1"]);
    }

    #[test]
    fn no_pod_is_replaced_before_the_successor_is_seen_and_the_pause_is_over() {
        let mut queue = RepairQueue::default();
        let all = [candidate("a-1", "a", 0), candidate("b-1", "b", 0)];
        queue.replaced(&all[0], at(10));
        assert!(queue.next(&all[1..], at(100)).may.is_empty(), "no successor");
        queue.seen("a", at(9));
        assert!(queue.next(&all[1..], at(100)).may.is_empty(), "that was there before");
        queue.seen("a", at(11));
        assert!(queue.next(&all[1..], at(39)).may.is_empty(), "no pause");
        assert_eq!(names(&queue.next(&all[1..], at(40)).may), ["b-1"]);
    }

    #[test]
    fn a_controller_that_restarts_repeatedly_replaces_no_pod() {
        let all = [candidate("a-1", "a", 0)];
        for start in [0, 29, 58] {
            let mut queue = RepairQueue::starting(at(start));
            assert!(queue.next(&all, at(start + 29)).may.is_empty(), "{start}");
        }
        assert_eq!(names(&RepairQueue::starting(at(0)).next(&all, at(30)).may), ["a-1"]);
    }

    #[test]
    fn a_successor_that_never_comes_does_not_hold_up_all_others() {
        let mut queue = RepairQueue::default();
        let all = [candidate("a-1", "a", 0), candidate("b-1", "b", 0)];
        queue.replaced(&all[0], at(0));
        assert!(queue.next(&all[1..], at(299)).may.is_empty());
        assert_eq!(names(&queue.next(&all[1..], at(300)).may), ["b-1"]);
    }

    #[test]
    fn an_owner_whose_pods_still_lack_something_is_given_up_once() {
        let mut queue = RepairQueue::default();
        for round in 0..i64::from(MAX_TRIES) {
            let again = [candidate("a", "a", round * 100)];
            assert_eq!(names(&queue.next(&again, at(round * 100 + 50)).may), ["a"], "{round}");
            queue.replaced(&again[0], at(round * 100 + 50));
        }
        let again = [candidate("a", "a", 1000)];
        let batch = queue.next(&again, at(1001));
        assert_eq!((names(&batch.may), names(&batch.given_up)), (vec![], vec!["a"]));
        let later = queue.next(&again, at(80_000));
        assert_eq!((names(&later.may), names(&later.given_up)), (vec![], vec![]));
    }

    #[test]
    fn a_success_resets_the_tries() {
        let mut queue = RepairQueue::default();
        for round in 0..10 {
            let next = [candidate("a", "a", 0)];
            assert_eq!(names(&queue.next(&next, at(round * 100)).may), ["a"], "{round}");
            queue.replaced(&next[0], at(round * 100));
            queue.succeeded("a", at(round * 100 + 1));
        }
        queue.replaced(&candidate("a", "a", 0), at(2000));
        queue.succeeded("a", at(1999));
        assert!(queue.next(&[candidate("a", "a", 0)], at(2100)).may.is_empty(), "that one was there before");
    }

    #[test]
    fn the_others_are_found_by_the_labels_that_all_have() {
        let metadata = |labels: serde_json::Value, owner: &OwnerReference| {
            serde_json::from_value(serde_json::json!({
                "name": "well-0", "namespace": "orchard", "uid": "x", "creationTimestamp": "2026-01-31T23:59:59Z",
                "labels": labels, "ownerReferences": [owner],
            }))
            .unwrap()
        };
        let owner = candidate("a", "a", 0).owner;
        let labels = serde_json::json!({
            "app": "well", "statefulset.kubernetes.io/pod-name": "well-0", "apps.kubernetes.io/pod-index": "0",
            "controller-revision-hash": "5e1f", "tier": "",
        });
        let found = Candidate::new(&metadata(labels, &owner)).unwrap();
        assert_eq!(found.labels, "app=well,tier=");
        let without = serde_json::json!({ "apps.kubernetes.io/pod-index": "0" });
        assert_eq!(Candidate::new(&metadata(without, &owner)), None, "all pods of the namespace would be meant");
    }

    #[test]
    fn only_pods_that_are_recreated_without_loss_are_replaced() {
        for (version, kind, controller, expected) in [
            ("apps/v1", "ReplicaSet", true, true),
            ("apps/v1", "StatefulSet", true, true),
            ("apps/v1", "DaemonSet", true, true),
            ("batch/v1", "Job", true, false),
            ("apps/v1", "ReplicaSet", false, false),
            ("evil.example/v1", "ReplicaSet", true, false),
            ("v1", "Node", true, false),
        ] {
            let mut owner = candidate("a", "a", 0).owner;
            (owner.api_version, owner.kind, owner.controller) = (version.into(), kind.into(), Some(controller));
            assert_eq!(Candidate::is_replaced_by(&owner), expected, "{version} {kind} {controller}");
        }
    }
}
