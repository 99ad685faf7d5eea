//! Who of several replicas acts: the holder of a Lease.
//!
//! Clocks of machines differ and jump, so the times that stand in a Lease are for people only. A holder is given up by
//! whoever has seen the Lease unchanged for its whole duration, on his own clock that only runs forward; and the holder
//! counts its tenure from before its own last renewal, so that it ends there first. A machine that was suspended may still
//! take itself for the holder for a moment: whatever a holder writes has to name the version that it read, too.
//!
//! It must not know what the holder does.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Client, ResourceExt};
use tokio::time::Instant;

use super::{call::CallError, observe, singleton};

/// How long a holder that is not heard of stays the holder.
const DURATION: Duration = Duration::from_secs(30);
/// How often the holder lets itself be heard.
const RENEWAL: Duration = Duration::from_secs(10);
/// A longer duration is somebody's mistake; nobody waits longer.
const LONGEST_DURATION: Duration = Duration::from_mins(5);

/// What a replica does about the Lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Write itself into it: it is the holder, or there is none.
    Take,
    /// Somebody else is.
    Follow,
}

/// What `identity` does about a Lease that it has seen unchanged for so long.
fn decide(identity: &str, lease: &LeaseSpec, unchanged: Duration) -> Step {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let seconds = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = seconds.map_or(DURATION, Duration::from_secs).min(LONGEST_DURATION);
    if holder.is_empty() || holder == identity || unchanged >= duration { Step::Take } else { Step::Follow }
}

/// The Lease as it is when `identity` holds it.
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

/// One replica's part in a Lease.
pub struct Tenure {
    client: Client,
    namespace: String,
    name: String,
    identity: String,
    /// The version of the Lease that was seen last, and since when.
    seen: Option<(String, Instant)>,
    /// When the last renewal began that was written.
    renewed: Option<Instant>,
}

impl Tenure {
    /// The Lease `namespace`/`name`; `identity` is the replica's own among all of them, such as the name of its pod.
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

    /// Takes or renews the Lease where that is due; to be called more often than [`Self::period`].
    ///
    /// # Errors
    /// When the API server does not answer, or refuses. A tenure that goes on is not lost by that.
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
            let verb = if was_held { "holds no longer" } else { "holds" };
            tracing::info!("{} {verb} the Lease {}", self.identity, self.name);
        }
        Ok(())
    }

    /// The longest pause between two calls of [`Self::renew`].
    pub fn period(&self) -> Duration {
        RENEWAL
    }

    /// Gives the Lease back, so that nobody has to wait for its end.
    ///
    /// # Errors
    /// When it cannot be written; then the others wait.
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
    fn a_free_lease_is_taken_and_ones_own_is_renewed() {
        assert_eq!(decide("a", &LeaseSpec::default(), Duration::ZERO), Step::Take);
        let released = LeaseSpec { holder_identity: Some(String::new()), ..held_by("b") };
        assert_eq!(decide("a", &released, Duration::ZERO), Step::Take);
        assert_eq!(decide("a", &held_by("a"), Duration::ZERO), Step::Take);
    }

    #[test]
    fn another_holder_is_given_up_only_when_it_was_silent_for_the_whole_duration() {
        let almost = DURATION.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(decide("b", &held_by("a"), almost), Step::Follow);
        assert_eq!(decide("b", &held_by("a"), DURATION), Step::Take);
    }

    #[test]
    fn what_a_lease_says_of_times_decides_nothing() {
        let far = Timestamp::from_second(4_000_000_000).unwrap();
        for renewed in [Timestamp::UNIX_EPOCH, far] {
            let lease = taken("a", LeaseSpec::default(), renewed);
            assert_eq!(decide("b", &lease, Duration::ZERO), Step::Follow);
            assert_eq!(decide("b", &lease, DURATION), Step::Take);
        }
        let endless = LeaseSpec { lease_duration_seconds: Some(i32::MAX), ..held_by("a") };
        assert_eq!(decide("b", &endless, LONGEST_DURATION), Step::Take);
        let senseless = LeaseSpec { lease_duration_seconds: Some(-1), ..held_by("a") };
        assert_eq!(decide("b", &senseless, Duration::ZERO), Step::Follow);
    }

    #[test]
    fn a_takeover_counts_and_a_renewal_does_not() {
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
