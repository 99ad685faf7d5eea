//! The clock of a run. A run whose clock is behind the controller's would date its snapshot too early, so that the
//! snapshot is never the newest and the retention forgets it first, and it would not find the newest snapshot, either.

use std::sync::OnceLock;

use jiff::Timestamp;

use super::settings::Identity;
use crate::model::{CLOCK_TOLERANCE, Failure, Reason};

/// When the controller created the run, by the controller's clock. It is global, because a run is one process.
static NOT_BEFORE: OnceLock<Timestamp> = OnceLock::new();

/// Checks the clock at the start of a run, and keeps the controller's time for [`now`].
pub(super) fn begin(not_before: Option<Timestamp>) -> Result<(), Failure> {
    if let Some(time) = not_before {
        NOT_BEFORE.get_or_init(|| time);
    }
    now().map(drop)
}

/// The present time, for a snapshot; a failure if the clock is behind the controller's.
pub(super) fn now() -> Result<Timestamp, Failure> {
    let now = Timestamp::now();
    if let Some(not_before) = NOT_BEFORE.get() {
        check(now, *not_before, &Identity::from_environment())?;
    }
    Ok(now)
}

fn check(now: Timestamp, not_before: Timestamp, identity: &Identity) -> Result<(), Failure> {
    if now.checked_add(CLOCK_TOLERANCE).is_ok_and(|latest| latest < not_before) {
        let Identity { pod, namespace, .. } = identity;
        let message = format!(
            "the clock of the node of pod {namespace}/{pod} shows {now:.0}, but the controller created this run at \
             {not_before:.0} by its own clock, so nothing was run or stored: a snapshot with too early a time would never \
             be the newest. Correct the clock of that node (`kubectl get pod -n {namespace} {pod} -o wide` names it), or \
             that of the controller's node, for example by NTP (chrony)"
        );
        return Err(Failure::new(Reason::ClockBehind, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_may_be_behind_the_controllers_by_five_minutes_and_ahead_of_it() {
        let at = |time: &str| time.parse::<Timestamp>().unwrap();
        let identity =
            Identity { pod: "evening-1".into(), namespace: "orchard".into(), ..Identity::from_environment() };
        let created = at("2026-05-04T03:02:01Z");
        for now in ["2026-05-04T02:57:01Z", "2026-05-04T03:02:01Z", "2026-05-04T09:00:00Z", "9999-01-01T00:00:00Z"] {
            assert!(check(at(now), created, &identity).is_ok(), "{now}");
        }
        for now in ["1970-01-01T00:00:00Z", "2024-05-04T03:02:01Z", "2026-05-04T02:57:00Z"] {
            let failure = check(at(now), created, &identity).unwrap_err();
            assert_eq!(failure.reason, Reason::ClockBehind);
            for part in [now, "2026-05-04T03:02:01Z", "orchard/evening-1", "chrony"] {
                assert!(failure.message.contains(part), "{part}: {}", failure.message);
            }
        }
    }
}
