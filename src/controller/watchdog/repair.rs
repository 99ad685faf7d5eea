//! The replacement of uninjected pods, one at a time, by evicting them so that their owners create new ones.
//!
//! `crate::watchdog::RepairQueue` decides which pod is next. Pods are only replaced in namespaces in which the
//! controller has the right to evict pods; an administrator allows replacements by granting that right.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

use super::{Watchdog, event_record, metrics::Repaired, reference};
use crate::{
    cluster::{
        call::CallError,
        observe,
        replace::{self, Eviction},
    },
    watchdog::{Candidate, MAX_TRIES, RepairBatch},
};

/// The webhook's Deployment. Its pods are Ready only while they can call themselves by the Service's name, with the
/// certificate which the API server trusts.
const WEBHOOK: &str = "stowaway-webhook";
/// The interval between two rounds.
const ROUND: Duration = Duration::from_secs(15);
/// How long the result of an access review is cached.
const RIGHTS_LAST: Duration = Duration::from_mins(2);
const MAX_ROUND: Duration = Duration::from_mins(1);

/// The state between two rounds.
#[derive(Default)]
pub(super) struct Memory {
    round: Option<Instant>,
    /// Whether the controller may evict pods of a namespace, and when that was requested.
    rights: BTreeMap<String, (bool, Instant)>,
}

impl Watchdog {
    /// Replaces at most one pod.
    pub(super) async fn repair(&mut self, now: Timestamp) {
        if self.repair.round.is_some_and(|round| round.elapsed() < ROUND) {
            return;
        }
        self.repair.round = Some(Instant::now());
        let candidates: Vec<Candidate> = self.uninjected.values().filter_map(|pod| pod.candidate.clone()).collect();
        let RepairBatch { may, given_up } = self.repair_queue.next(&candidates, now);
        for candidate in given_up {
            self.metrics.count_repair(Repaired::GivenUp);
            let note = format!(
                "pod {} was replaced {MAX_TRIES} times, and each new pod was created without the requested injection; \
                 it is not replaced again. See the webhook's log and metrics",
                candidate.name
            );
            self.report_to_owner(candidate, true, "RepairGivenUp", note).await;
        }
        if may.is_empty() {
            return;
        }
        match tokio::time::timeout(MAX_ROUND, self.replace_one(&may, now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("failed to replace uninjected pods: {error}"),
            Err(_) => tracing::warn!("failed to replace uninjected pods: the API server was too slow"),
        }
    }

    /// Replaces the first pod which can be replaced.
    async fn replace_one(&mut self, may: &[&Candidate], now: Timestamp) -> Result<(), CallError> {
        let mut webhook_is_ready = false;
        for candidate in may {
            let Candidate { namespace, name, uid, owner, labels, .. } = candidate;
            if !self.may_evict(namespace).await? {
                continue;
            }
            // Without the webhook, the new pod would not be injected either.
            if !webhook_is_ready && replace::ready_replicas(&self.context.client, &self.own, WEBHOOK).await? < 1 {
                tracing::info!("uninjected pods are not replaced before the webhook is Ready");
                return Ok(());
            }
            webhook_is_ready = true;
            let client = &self.context.client;
            if !replace::others_are_ready(client, namespace, labels, (&owner.uid, uid)).await? {
                continue;
            }
            match replace::evict(&self.evicting, namespace, name, uid).await? {
                Eviction::Done => {
                    self.repair_queue.replaced(candidate, now);
                    self.forget(Some(uid));
                    self.metrics.count_repair(Repaired::Replaced);
                    let note = format!("pod {name} was evicted, so that the new pod gets the requested injection");
                    self.report_to_owner(candidate, false, "PodReplaced", note).await;
                    return Ok(());
                }
                Eviction::Blocked(why) => {
                    tracing::info!(namespace, name, "pod {namespace}/{name} is not replaced for now: {why}");
                    self.metrics.count_repair(Repaired::Blocked);
                }
                Eviction::Gone => self.forget(Some(uid)),
            }
        }
        Ok(())
    }

    async fn may_evict(&mut self, namespace: &str) -> Result<bool, CallError> {
        self.repair.rights.retain(|_, (_, requested)| requested.elapsed() < RIGHTS_LAST);
        if let Some((allowed, _)) = self.repair.rights.get(namespace) {
            return Ok(*allowed);
        }
        let allowed = replace::may_evict(&self.context.client, namespace).await?;
        self.repair.rights.insert(namespace.to_owned(), (allowed, Instant::now()));
        Ok(allowed)
    }

    /// Writes an Event about the pod's topmost owner.
    async fn report_to_owner(&self, candidate: &Candidate, is_warning: bool, reason: &str, note: String) {
        let Candidate { namespace, owner, .. } = candidate;
        let top = observe::top_owner(&self.context.client, namespace, owner).await.unwrap_or_else(|_| owner.clone());
        let regarding: ObjectReference = reference(namespace, &top);
        self.context.publish_events(&regarding, &[event_record(is_warning, reason, "Replace", note)]).await;
    }
}
