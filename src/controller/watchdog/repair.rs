//! Replacing pods that are without, one at a time, through their owners.
//!
//! It must not decide whose turn it is; see `crate::watchdog::Turns`. It is allowed where the controller has the right to
//! evict pods, and nowhere else: who gives that right, in a namespace or in all, says so by it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

use super::{Watchdog, metrics::Repaired, occurrence, reference};
use crate::{
    cluster::{
        call::CallError,
        observe,
        replace::{self, Eviction},
    },
    watchdog::{Candidate, MAXIMUM_TRIES, Turn},
};

/// The webhook's Deployment. Its pods are Ready only while a call to themselves, over the Service's name and with the
/// certificate that the API server trusts, is answered.
const WEBHOOK: &str = "stowaway-webhook";
/// How often is tried.
const ROUND: Duration = Duration::from_secs(15);
/// What the API server says of our rights is asked again after this long.
const RIGHTS_LAST: Duration = Duration::from_mins(2);
/// No round takes longer.
const LONGEST_ROUND: Duration = Duration::from_mins(1);

/// What is remembered from one round to the next.
#[derive(Default)]
pub(super) struct Memory {
    round: Option<Instant>,
    /// Whether we may evict in a namespace, and when that was asked.
    rights: BTreeMap<String, (bool, Instant)>,
}

impl Watchdog {
    /// Replaces at most one pod.
    pub(super) async fn repair(&mut self, now: Timestamp) {
        if self.repair.round.is_some_and(|round| round.elapsed() < ROUND) {
            return;
        }
        self.repair.round = Some(Instant::now());
        let candidates: Vec<Candidate> = self.without.values().filter_map(|pod| pod.candidate.clone()).collect();
        let Turn { may, given_up } = self.turns.next(&candidates, now);
        for candidate in given_up {
            self.metrics.repaired(Repaired::GivenUp);
            let note = format!(
                "pod {} was replaced {MAXIMUM_TRIES} times, and its successor came back without what it asks for each time; \
                 no further one is replaced. See the webhook's log and metrics",
                candidate.name
            );
            self.tell_about(candidate, true, "RepairGivenUp", note).await;
        }
        if may.is_empty() {
            return;
        }
        match tokio::time::timeout(LONGEST_ROUND, self.replace_one(&may, now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("no pod is replaced for now: {error}"),
            Err(_) => tracing::warn!("no pod is replaced for now: the API server was too slow"),
        }
    }

    /// Replaces the first pod that can be.
    async fn replace_one(&mut self, may: &[&Candidate], now: Timestamp) -> Result<(), CallError> {
        let mut webhook_is_ready = false;
        for candidate in may {
            let Candidate { namespace, name, uid, owner, labels, .. } = candidate;
            if !self.may_evict(namespace).await? {
                continue;
            }
            // Without the webhook the next pod would be without, too.
            if !webhook_is_ready && replace::ready_replicas(&self.context.client, &self.own, WEBHOOK).await? < 1 {
                tracing::info!("pods are replaced when the webhook is Ready");
                return Ok(());
            }
            webhook_is_ready = true;
            let client = &self.context.client;
            if !replace::others_are_ready(client, namespace, labels, (&owner.uid, uid)).await? {
                continue;
            }
            match replace::evict(&self.evicting, namespace, name, uid).await? {
                Eviction::Done => {
                    self.turns.replaced(candidate, now);
                    self.forget(Some(uid));
                    self.metrics.repaired(Repaired::Replaced);
                    let note = format!("pod {name} was evicted, so that the next one has what it asks for");
                    self.tell_about(candidate, false, "PodReplaced", note).await;
                    return Ok(());
                }
                Eviction::Blocked(why) => {
                    tracing::info!(namespace, name, "pod {namespace}/{name} is not replaced for now: {why}");
                    self.metrics.repaired(Repaired::Blocked);
                }
                Eviction::Gone => self.forget(Some(uid)),
            }
        }
        Ok(())
    }

    async fn may_evict(&mut self, namespace: &str) -> Result<bool, CallError> {
        self.repair.rights.retain(|_, (_, asked)| asked.elapsed() < RIGHTS_LAST);
        if let Some((allowed, _)) = self.repair.rights.get(namespace) {
            return Ok(*allowed);
        }
        let allowed = replace::may_evict(&self.context.client, namespace).await?;
        self.repair.rights.insert(namespace.to_owned(), (allowed, Instant::now()));
        Ok(allowed)
    }

    /// Tells whom people know as the pod's owner.
    async fn tell_about(&self, candidate: &Candidate, is_warning: bool, reason: &str, note: String) {
        let Candidate { namespace, owner, .. } = candidate;
        let top = observe::top_owner(&self.context.client, namespace, owner).await.unwrap_or_else(|_| owner.clone());
        let regarding: ObjectReference = reference(namespace, &top);
        self.context.tell(&regarding, &[occurrence(is_warning, reason, "Replace", note)]).await;
    }
}
