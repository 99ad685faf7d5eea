//! Runs with a wrong clock: in a cluster nothing is stored if the clock is behind the controller's, and a run without a
//! controller names the snapshot which has a later time.

use std::{fs, process::Command};

use jiff::{SignedDuration, Timestamp};
use stowaway::repository::open;

use super::{
    command_line::stowaway,
    folders::claim,
    refusals::{Case, outcome},
    *,
};

async fn count(case: &Case) -> usize {
    let repository = open(folder(&case.repository()), never()).await.unwrap();
    let count = repository.snapshots().await.unwrap().len();
    repository.close().await;
    count
}

#[tokio::test]
async fn run_whose_clock_is_behind_the_controllers_stores_nothing_and_names_both_times() {
    let case = Case::new().await;
    fs::write(case.source().join("file"), "content").unwrap();
    let kind = serde_json::json!({
        "do": "backupClaim", "claim": "claim", "source": "pvc/claim", "identity": claim(), "timeout": null,
    });
    let run = |not_before: Timestamp| {
        let program = Command::new(env!("CARGO_BIN_EXE_stowaway"));
        let mut command = case.task_created_at(program, &kind, Some(not_before));
        command.env("POD_NAME", "evening-1").env("POD_NAMESPACE", "orchard").arg("runner").output().unwrap();
        case.report()
    };
    let created = Timestamp::now() + SignedDuration::from_hours(2 * 365 * 24);
    let report = run(created);
    assert_eq!(outcome(&report), ("Failed".into(), "ClockBehind".into()), "{}", report.message);
    let today = Timestamp::now().strftime("%Y-%m").to_string();
    for part in [format!("{created:.0}"), today, "pod orchard/evening-1".into(), "kubectl get pod".into()] {
        assert!(report.message.contains(&part), "{part}: {}", report.message);
    }
    assert_eq!(count(&case).await, 0);
    // The clocks of nodes differ a little.
    let report = run(Timestamp::now() + SignedDuration::from_mins(4));
    assert_eq!(outcome(&report), ("Succeeded".into(), "Completed".into()), "{}", report.message);
    assert_eq!(count(&case).await, 1);
}

#[tokio::test]
async fn run_with_an_earlier_time_than_a_snapshot_of_its_source_names_both_times() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let label = SnapshotIdentity {
        host: "shop".to_owned(),
        path: "/echo".to_owned(),
        tags: vec!["source=job/shop/echo".to_owned()],
    };
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    let rules = StoreRules { time: later, ..rules() };
    let stored = repository.store_stream(&label, &rules, stream_of(whole(b"later")), Arc::default()).await.unwrap();
    repository.close().await;
    let back_up = |source: &str| {
        let options = ["backup", "--repository", at.to_str().unwrap(), "--host", "shop", "--source", source];
        let output = stowaway(&[], &[&options[..], &["--", "echo", "x"]].concat());
        assert!(output.status.success(), "{output:?}");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let printed = back_up("job/shop/echo");
    let verdict = printed.lines().find(|line| line.contains("verdict Succeeded")).unwrap();
    let today = Timestamp::now().strftime("%Y-%m").to_string();
    let takes = format!("takes {} and not the snapshot of this run", &stored.snapshot[..8]);
    for part in [format!("{later:.0}"), today, takes, "clock".into()] {
        assert!(verdict.contains(&part), "{part}: {printed}");
    }
    let printed = back_up("job/shop/another");
    assert!(!printed.contains("clock"), "{printed}");
}
