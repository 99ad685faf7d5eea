//! Leader election by a Lease: one of several replicas acts, the holder of the Lease.
//!
//! The clocks of machines differ and jump, so the times in a Lease are for display only. Another replica takes the
//! Lease over after it has seen the Lease unchanged for the Lease's whole duration, measured by its own monotonic
//! clock. The holder counts the duration from before its last renewal, so that its own right to act ends before another
//! replica takes over. A machine that was suspended may still consider itself the holder for a moment. Therefore every
//! write of a holder must also name the version of the object which it read.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Client, ResourceExt};
use tokio::time::Instant;

use super::{call::CallError, observe, singleton};

/// The time for which a replica stays the holder without renewing the Lease.
const DURATION: Duration = Duration::from_secs(30);
/// The interval at which the holder renews the Lease.
const RENEWAL: Duration = Duration::from_secs(10);
/// The longest duration which other replicas wait, whatever duration a Lease specifies.
const MAX_DURATION: Duration = Duration::from_mins(5);

/// The next step of a replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Write itself into the Lease as the holder: it holds the Lease already, or no other replica does.
    Take,
    /// Wait, because another replica is the holder.
    Follow,
}

/// The next step of `identity`, which has seen the Lease unchanged for `unchanged`.
fn decide(identity: &str, lease: &LeaseSpec, unchanged: Duration) -> Step {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let seconds = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = seconds.map_or(DURATION, Duration::from_secs).min(MAX_DURATION);
    if holder.is_empty() || holder == identity || unchanged >= duration { Step::Take } else { Step::Follow }
}

/// The Lease after `identity` has taken or renewed it.
fn taken(identity: &str, lease: LeaseSpec, now: Timestamp) -> LeaseSpec {
    let is_renewal = lease.holder_identity.as_deref() == Some(identity);
    let transitions = lease.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        renew_time: Some(MicroTime(now)),
        acquire_time: lease.acquire_time.filter(|_| is_renewal).or(Some(MicroTime(now))),
        lease_transitions: Some(if is_renewal { transitions } else { transitions.saturating_add(1) }),
        ..lease
    }
}

/// The state of one replica in the election.
pub struct LeaderLease {
    client: Client,
    namespace: String,
    name: String,
    identity: String,
    /// The version of the Lease which was read last, and since when the Lease has had it.
    seen: Option<(String, Instant)>,
    /// When the last successful renewal began.
    renewed: Option<Instant>,
}

impl LeaderLease {
    /// Creates the state for the Lease `namespace`/`name`. `identity` is unique among the replicas, such as the name of
    /// the pod.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let owned = str::to_owned;
        Self {
            client,
            namespace: owned(namespace),
            name: owned(name),
            identity: owned(identity),
            seen: None,
            renewed: None,
        }
    }

    /// Whether this replica may act now.
    pub fn is_held(&self) -> bool {
        self.renewed.is_some_and(|renewed| renewed.elapsed() < DURATION)
    }

    /// Takes or renews the Lease if that is due. Must be called more often than [`Self::period`].
    ///
    /// # Errors
    /// When the API server does not respond, or rejects the request. A Lease which is held stays held until it expires.
    pub async fn renew(&mut self, now: Timestamp) -> Result<(), CallError> {
        if self.renewed.is_some_and(|renewed| renewed.elapsed() < RENEWAL) {
            return Ok(());
        }
        let lease = match observe::object::<Lease>(&self.client, &self.namespace, &self.name).await? {
            Some(lease) => lease,
            None => singleton::ensure(&self.client, &self.namespace, &self.name).await?,
        };
        let (version, begun) = (lease.resource_version().unwrap_or_default(), Instant::now());
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => begun,
        };
        self.seen = Some((version, since));
        let spec = lease.spec.clone().unwrap_or_default();
        let was_held = self.is_held();
        self.renewed = match decide(&self.identity, &spec, since.elapsed()) {
            Step::Follow => None,
            Step::Take => {
                let lease = Lease { spec: Some(taken(&self.identity, spec, now)), ..lease };
                singleton::replace(&self.client, &lease).await?.then_some(begun)
            }
        };
        if self.is_held() != was_held {
            let verb = if was_held { "no longer holds" } else { "holds" };
            tracing::info!("{} {verb} the Lease {}", self.identity, self.name);
        }
        Ok(())
    }

    /// The longest pause between two calls of [`Self::renew`].
    pub fn period(&self) -> Duration {
        RENEWAL
    }

    /// Releases the Lease, so that another replica can take it without waiting for its end.
    ///
    /// # Errors
    /// When the Lease cannot be written. The other replicas then wait until it expires.
    pub async fn release(&mut self) -> Result<(), CallError> {
        if self.renewed.take().is_none() {
            return Ok(());
        }
        let Some(lease) = observe::object::<Lease>(&self.client, &self.namespace, &self.name).await? else {
            return Ok(());
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            let spec = LeaseSpec { holder_identity: None, ..spec };
            singleton::replace(&self.client, &Lease { spec: Some(spec), ..lease }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        taken(holder, LeaseSpec::default(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn free_lease_is_taken_and_own_lease_is_renewed() {
        assert_eq!(decide("a", &LeaseSpec::default(), Duration::ZERO), Step::Take);
        let released = LeaseSpec { holder_identity: Some(String::new()), ..held_by("b") };
        assert_eq!(decide("a", &released, Duration::ZERO), Step::Take);
        assert_eq!(decide("a", &held_by("a"), Duration::ZERO), Step::Take);
    }

    #[test]
    fn lease_of_another_holder_is_taken_only_after_it_was_unchanged_for_its_whole_duration() {
        let almost = DURATION.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(decide("b", &held_by("a"), almost), Step::Follow);
        assert_eq!(decide("b", &held_by("a"), DURATION), Step::Take);
    }

    #[test]
    fn times_in_a_lease_decide_nothing() {
        let far = Timestamp::from_second(4_000_000_000).unwrap();
        for renewed in [Timestamp::UNIX_EPOCH, far] {
            let lease = taken("a", LeaseSpec::default(), renewed);
            assert_eq!(decide("b", &lease, Duration::ZERO), Step::Follow);
            assert_eq!(decide("b", &lease, DURATION), Step::Take);
        }
        let endless = LeaseSpec { lease_duration_seconds: Some(i32::MAX), ..held_by("a") };
        assert_eq!(decide("b", &endless, MAX_DURATION), Step::Take);
        let senseless = LeaseSpec { lease_duration_seconds: Some(-1), ..held_by("a") };
        assert_eq!(decide("b", &senseless, Duration::ZERO), Step::Follow);
    }

    #[test]
    fn takeover_counts_as_transition_and_renewal_does_not() {
        let (first, later) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).unwrap());
        let lease = held_by("a");
        assert_eq!(lease.lease_transitions, Some(1));
        let renewed = taken("a", lease.clone(), later);
        assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(1), &Some(MicroTime(first))));
        let other = taken("b", lease, later);
        assert_eq!((other.lease_transitions, other.acquire_time), (Some(2), Some(MicroTime(later))));
        assert_eq!(other.renew_time, Some(MicroTime(later)));
    }
}
