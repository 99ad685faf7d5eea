//! Tests that a Restore which may have half written a block device or a database is known, and that no other one is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::{
    model::{Reason, Verdict},
    plan::fixtures::{at, ended_restore},
};

const MILL: &str = "deployment/mill/press";
const FAILED: (Verdict, Reason) = (Verdict::Failed, Reason::CommandFailed);
const GREEN: (Verdict, Reason) = (Verdict::Succeeded, Reason::Completed);

/// The Restore that may have half written the source, whose command runs in pod `mill-1`.
fn found(restores: &[Restore], source: &str) -> Option<String> {
    let uses = ClaimUses::of(OwnRuns { restores, ..OwnRuns::default() });
    uses.half_restored(source, "mill-1").map(|restore| restore.name.clone())
}

fn into_command(name: &str, end: (Verdict, Reason), seconds: i64) -> Restore {
    ended_restore(name, &json!({ "from": { "source": MILL } }), end, seconds)
}

/// A Restore that overwrites the claim `cask`.
fn into_claim(name: &str, end: (Verdict, Reason), seconds: i64) -> Restore {
    let to = json!({ "claim": { "name": "cask", "overwrite": true } });
    ended_restore(name, &json!({ "from": { "source": "pvc/other" }, "to": to }), end, seconds)
}

#[test]
fn newest_failed_restore_counts_until_a_later_one_into_the_same_target_is_not_failed() {
    for (into, source) in [(into_command as fn(_, _, _) -> _, MILL), (into_claim, "pvc/cask")] {
        let failed = || into("first", FAILED, 10);
        assert_eq!(found(&[failed()], source).as_deref(), Some("first"));
        assert_eq!(found(&[into("again", FAILED, 20), failed()], source).as_deref(), Some("again"));
        assert_eq!(found(&[failed(), into("again", GREEN, 20)], source), None);
        assert_eq!(found(&[into("earlier", GREEN, 5), failed()], source).as_deref(), Some("first"));
        // A refused repetition has changed nothing.
        let refused = into("again", (Verdict::Failed, Reason::SnapshotNotFound), 20);
        assert_eq!(found(&[failed(), refused], source).as_deref(), Some("first"));
        let mut deleted = failed();
        deleted.metadata.deletion_timestamp = Some(Time(at(30)));
        assert_eq!(found(&[deleted], source), None);
    }
    // A Restore of another source of the pod may have filled another database.
    let mut other = into_command("again", GREEN, 20);
    other.spec.from.source = "deployment/mill/press/roles".parse().unwrap();
    assert_eq!(found(&[into_command("first", FAILED, 10), other], MILL).as_deref(), Some("first"));
}

#[test]
fn only_the_target_of_the_failed_restore_counts() {
    assert_eq!(found(&[into_command("first", FAILED, 10)], "deployment/well/press"), None);
    assert_eq!(found(&[into_command("first", FAILED, 10)], "pvc/cask"), None);
    assert_eq!(found(&[into_claim("first", FAILED, 10)], "pvc/other"), None);
    assert_eq!(found(&[into_claim("first", FAILED, 10)], MILL), None);
    let into_pod = |pod: &str| {
        let spec = json!({ "from": { "source": "deployment/well/press" }, "to": { "pod": pod } });
        ended_restore("first", &spec, FAILED, 10)
    };
    assert_eq!(found(&[into_pod("mill-1")], MILL).as_deref(), Some("first"));
    assert_eq!(found(&[into_pod("mill-2")], MILL), None);
    assert_eq!(found(&[into_pod("mill-2")], "deployment/well/press"), None);
}

#[test]
fn restore_that_has_changed_nothing_does_not_count() {
    for (reason, into_mill, into_cask) in [
        (Reason::CommandFailed, true, true),
        (Reason::StreamCut, true, true),
        (Reason::OutcomeUnknown, true, true),
        (Reason::ResultLost, true, true),
        (Reason::Timeout, true, true),
        (Reason::Cancelled, true, true),
        (Reason::PodGone, true, true),
        // Before it overwrites a claim, the run stores a snapshot of it and reports that.
        (Reason::StoreUnavailable, true, false),
        (Reason::TargetUnwritable, true, false),
        (Reason::TargetNotEmpty, false, false),
        (Reason::InvalidRequest, false, false),
        (Reason::CommandNotFound, false, false),
        (Reason::PodNotStarted, false, false),
        (Reason::WrongPassword, false, false),
    ] {
        let end = (Verdict::Failed, reason);
        assert_eq!(found(&[into_command("first", end, 10)], MILL).is_some(), into_mill, "{reason}");
        let mut restore = into_claim("first", end, 10);
        assert_eq!(found(std::slice::from_ref(&restore), "pvc/cask").is_some(), into_cask, "{reason}");
        restore.status.as_mut().unwrap().safety_snapshot = Some("ab".repeat(32));
        assert!(!into_mill || found(std::slice::from_ref(&restore), "pvc/cask").is_some(), "{reason}");
        // A claim that the Restore has created has a mark of its own.
        restore.status.as_mut().unwrap().made_claim = "claim cask was created".into();
        assert_eq!(found(std::slice::from_ref(&restore), "pvc/cask"), None);
    }
    let mut unknown = into_command("first", FAILED, 10);
    unknown.status.as_mut().unwrap().outcome.reason = "ReasonOfALaterVersion".into();
    assert!(found(std::slice::from_ref(&unknown), MILL).is_some());
    for mark in [None, Some([("stowaway.dev/carried-out".to_owned(), "uid-of-another".to_owned())].into())] {
        unknown.metadata.annotations = mark;
        assert_eq!(found(std::slice::from_ref(&unknown), MILL), None);
    }
}
