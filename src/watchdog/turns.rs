//! Whose turn it is to be replaced: one pod at a time in the whole cluster, and nobody for ever.
//!
//! It must not know how a pod is replaced. It counts in memory only: when the controller starts anew it has forgotten how
//! often an owner was tried, so that whoever mended something can have it tried again by a restart. A controller that dies
//! again and again does no harm by it: nobody is replaced before it has lived for a pause, and the kubelet's own pauses
//! between its lives grow to five minutes.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The least time between two replacements.
pub const PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// So long a replaced pod's successor is waited for.
pub const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(5);
/// So often a pod of one owner is replaced in vain.
pub const MAXIMUM_TRIES: u32 = 3;
/// An owner that was given up is not tried again for so long.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Kinds whose pods are made anew, with nothing lost: a Job would begin its work from the start.
const REPLACING_KINDS: [(&str, &str); 3] =
    [("apps/v1", "ReplicaSet"), ("apps/v1", "StatefulSet"), ("apps/v1", "DaemonSet")];

/// Labels that each pod of an owner has of its own, or each generation of them.
const LABELS_OF_ONE: [&str; 4] = [
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-revision-hash",
    "pod-template-generation",
];

/// A pod that misses something, and that its owner would make anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it was made.
    pub created: Timestamp,
    /// What makes it anew.
    pub owner: OwnerReference,
    /// The labels, as a selector, that all pods of that owner have.
    pub labels: String,
}

impl Candidate {
    /// A pod, if its owner makes it anew.
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
            // Without any it is not known which the others are.
            labels: Some(labels.join(",")).filter(|labels| !labels.is_empty())?,
        })
    }

    fn is_replaced_by(owner: &OwnerReference) -> bool {
        owner.controller == Some(true) && REPLACING_KINDS.contains(&(owner.api_version.as_str(), owner.kind.as_str()))
    }
}

/// Who may be replaced now.
#[derive(Debug, Default, PartialEq)]
pub struct Turn<'a> {
    /// One pod of each owner; the first that can be replaced is, and no other.
    pub may: Vec<&'a Candidate>,
    /// One pod of each owner that was given up just now.
    pub given_up: Vec<&'a Candidate>,
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Turns {
    /// The owner's UID and the time of the last replacement, until its successor is seen.
    underway: Option<(String, Timestamp)>,
    last: Option<Timestamp>,
    /// By owner's UID.
    tries: BTreeMap<String, Tries>,
}

#[derive(Debug)]
struct Tries {
    count: u32,
    last: Timestamp,
    told: bool,
}

impl Turns {
    /// For a controller that starts now: the first pause begins.
    pub fn starting(now: Timestamp) -> Self {
        Self { last: Some(now), ..Self::default() }
    }

    /// Whose turn it is, of those that miss something.
    pub fn next<'a>(&mut self, candidates: &'a [Candidate], now: Timestamp) -> Turn<'a> {
        self.tries.retain(|_, tries| now.duration_since(tries.last) < FORGOTTEN_AFTER);
        for candidate in candidates {
            self.seen(&candidate.owner.uid, candidate.created);
        }
        let too_early = self.last.is_some_and(|last| now.duration_since(last) < PAUSE);
        let is_waited_for = self.underway.as_ref().is_some_and(|(_, since)| now.duration_since(*since) < LONGEST_WAIT);
        let mut by_owner: BTreeMap<&str, &Candidate> = BTreeMap::new();
        for candidate in candidates {
            by_owner.entry(&candidate.owner.uid).or_insert(candidate);
        }
        let mut turn = Turn::default();
        for (owner, candidate) in by_owner {
            match self.tries.get_mut(owner) {
                // The pod that came after the last one misses it again, or none came.
                Some(tries) if tries.count >= MAXIMUM_TRIES => {
                    if !is_waited_for && !std::mem::replace(&mut tries.told, true) {
                        turn.given_up.push(candidate);
                    }
                }
                _ if too_early || is_waited_for => {}
                _ => turn.may.push(candidate),
            }
        }
        turn
    }

    /// A pod was replaced.
    pub fn replaced(&mut self, candidate: &Candidate, now: Timestamp) {
        let owner = candidate.owner.uid.clone();
        let tries = self.tries.entry(owner.clone()).or_insert(Tries { count: 0, last: now, told: false });
        tries.count = tries.count.saturating_add(1);
        tries.last = now;
        self.last = Some(now);
        self.underway = Some((owner, now));
    }

    /// A pod of this owner is there that was made at this time.
    pub fn seen(&mut self, owner: &str, created: Timestamp) {
        if self.underway.as_ref().is_some_and(|(underway, since)| underway == owner && is_after(created, *since)) {
            self.underway = None;
        }
    }

    /// A pod of this owner that was made at this time has all that it asks for.
    pub fn succeeded(&mut self, owner: &str, created: Timestamp) {
        self.seen(owner, created);
        if self.tries.get(owner).is_some_and(|tries| is_after(created, tries.last)) {
            self.tries.remove(owner);
        }
    }
}

/// Kubernetes tells times in whole seconds.
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
        assert_eq!(names(&Turns::default().next(&all, at(10)).may), ["a-1", "b-1"]);
    }

    #[test]
    fn nobody_is_replaced_before_the_successor_is_seen_and_the_pause_is_over() {
        let mut turns = Turns::default();
        let all = [candidate("a-1", "a", 0), candidate("b-1", "b", 0)];
        turns.replaced(&all[0], at(10));
        assert!(turns.next(&all[1..], at(100)).may.is_empty(), "no successor");
        turns.seen("a", at(9));
        assert!(turns.next(&all[1..], at(100)).may.is_empty(), "that was there before");
        turns.seen("a", at(11));
        assert!(turns.next(&all[1..], at(39)).may.is_empty(), "no pause");
        assert_eq!(names(&turns.next(&all[1..], at(40)).may), ["b-1"]);
    }

    #[test]
    fn a_controller_that_starts_again_and_again_replaces_nobody() {
        let all = [candidate("a-1", "a", 0)];
        for start in [0, 29, 58] {
            let mut turns = Turns::starting(at(start));
            assert!(turns.next(&all, at(start + 29)).may.is_empty(), "{start}");
        }
        assert_eq!(names(&Turns::starting(at(0)).next(&all, at(30)).may), ["a-1"]);
    }

    #[test]
    fn a_successor_that_never_comes_does_not_hold_up_all_others() {
        let mut turns = Turns::default();
        let all = [candidate("a-1", "a", 0), candidate("b-1", "b", 0)];
        turns.replaced(&all[0], at(0));
        assert!(turns.next(&all[1..], at(299)).may.is_empty());
        assert_eq!(names(&turns.next(&all[1..], at(300)).may), ["b-1"]);
    }

    #[test]
    fn an_owner_whose_pods_come_back_without_is_given_up_once() {
        let mut turns = Turns::default();
        for round in 0..i64::from(MAXIMUM_TRIES) {
            let again = [candidate("a", "a", round * 100)];
            assert_eq!(names(&turns.next(&again, at(round * 100 + 50)).may), ["a"], "{round}");
            turns.replaced(&again[0], at(round * 100 + 50));
        }
        let again = [candidate("a", "a", 1000)];
        let turn = turns.next(&again, at(1001));
        assert_eq!((names(&turn.may), names(&turn.given_up)), (vec![], vec!["a"]));
        let later = turns.next(&again, at(80_000));
        assert_eq!((names(&later.may), names(&later.given_up)), (vec![], vec![]));
    }

    #[test]
    fn a_success_counts_the_tries_anew() {
        let mut turns = Turns::default();
        for round in 0..10 {
            let next = [candidate("a", "a", 0)];
            assert_eq!(names(&turns.next(&next, at(round * 100)).may), ["a"], "{round}");
            turns.replaced(&next[0], at(round * 100));
            turns.succeeded("a", at(round * 100 + 1));
        }
        turns.replaced(&candidate("a", "a", 0), at(2000));
        turns.succeeded("a", at(1999));
        assert!(turns.next(&[candidate("a", "a", 0)], at(2100)).may.is_empty(), "that one was there before");
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
    fn only_what_is_made_anew_without_loss_is_replaced() {
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
