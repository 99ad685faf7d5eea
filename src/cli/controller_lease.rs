//! Checks by its Lease whether the controller is alive. Without a controller a Backup or Restore waits, and nothing
//! else reports that.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client};

use crate::resources::manifests::CONTROLLER_LEASE;

/// The controller renews its Lease every 10 s. A Lease that is older than this means that the controller is down; the
/// margin is for clocks that differ.
const OLDEST: SignedDuration = SignedDuration::from_mins(2);

/// The problem of the controller in that namespace, and what to do about it. None if the controller is alive, if the
/// user may not read the Lease, or if the installed version has no Lease.
pub(super) async fn problem(client: &Client, system_namespace: &str) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), system_namespace);
    let lease = leases.get_opt(CONTROLLER_LEASE).await.ok()??;
    let what = judge(&lease.spec.unwrap_or_default(), Timestamp::now())?;
    Some(format!(
        "{what}: Backups and Restores wait until a controller runs; see kubectl --namespace {system_namespace} describe \
         deployment/stowaway-controller"
    ))
}

fn judge(lease: &LeaseSpec, now: Timestamp) -> Option<String> {
    if lease.holder_identity.as_deref().unwrap_or_default().is_empty() {
        return Some("no controller of Stowaway runs, because its Lease has no holder".to_owned());
    }
    let renewed = lease.renew_time.as_ref()?.0;
    let age = now.duration_since(renewed);
    (age > OLDEST).then(|| format!("the controller of Stowaway has not renewed its Lease since {renewed:.0}"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    #[test]
    fn controller_that_has_not_renewed_or_has_released_its_lease_is_reported() {
        let now = Timestamp::from_second(10_000).unwrap();
        let lease = |holder: &str, age: i64| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(Timestamp::from_second(10_000 - age).unwrap())),
            ..LeaseSpec::default()
        };
        assert_eq!(judge(&lease("pod-1", 11), now), None);
        assert_eq!(judge(&lease("pod-1", -60), now), None, "a clock that is ahead");
        let message = judge(&lease("pod-1", 600), now).unwrap();
        assert!(message.contains("not renewed its Lease since 1970-01-01T02:36:40Z"), "{message}");
        assert!(judge(&lease("", 1), now).unwrap().contains("its Lease has no holder"));
    }
}
