//! The same rules keep the same snapshots as in the real restic, and also the newest snapshot of a source, which
//! Stowaway never forgets.

use std::{collections::BTreeSet, process::Command};

use jiff::SignedDuration;
use serde_json::Value;

use super::{restic::newest, *};

/// Pseudo-random numbers, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        // Constants of Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Stores snapshots over several years, with gaps from minutes to months.
async fn years(dir: &Path, numbers: &mut Numbers) {
    let repository = new_repository(dir).await;
    let mut time: Timestamp = "2021-12-31T22:30:00Z".parse().unwrap();
    for number in 0..70 {
        let gap = match numbers.below(5) {
            0 => SignedDuration::from_mins(7),
            1 => SignedDuration::from_hours(5),
            2 => SignedDuration::from_hours(24),
            3 => SignedDuration::from_hours(24 * 9),
            _ => SignedDuration::from_hours(24 * 40),
        };
        time += gap + SignedDuration::from_mins(i64::try_from(numbers.below(50)).unwrap());
        let mut identity = identity("/db.sql");
        identity.tags = vec!["source=deployment/shop/db".to_owned(), format!("colour={}", numbers.below(4))];
        let rules = StoreRules { allow_empty: false, accept_unproven: false, time, device: None };
        let content = format!("number {number}");
        repository.store_stream(&identity, &rules, stream_of(whole(content.as_bytes())), Arc::default()).await.unwrap();
    }
    repository.close().await;
}

fn policy(numbers: &mut Numbers) -> Vec<String> {
    let mut arguments = Vec::new();
    for (option, most) in [
        ("--keep-last", 12),
        ("--keep-hourly", 30),
        ("--keep-daily", 20),
        ("--keep-weekly", 15),
        ("--keep-monthly", 14),
        ("--keep-yearly", 6),
    ] {
        if numbers.below(3) == 0 {
            arguments.extend([option.to_owned(), (1 + numbers.below(most)).to_string()]);
        }
    }
    if numbers.below(4) == 0 {
        let age = format!("{}y{}m{}d{}h", numbers.below(2), numbers.below(9), numbers.below(30), numbers.below(24));
        arguments.extend(["--keep-within".to_owned(), age]);
    }
    if arguments.is_empty() || numbers.below(4) == 0 {
        arguments.extend(["--keep-tag".to_owned(), format!("colour={}", numbers.below(4))]);
    }
    arguments
}

fn ids<'a>(snapshots: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    snapshots.into_iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

fn kept_by_us(dir: &Path, policy: &[String]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_stowaway"))
        .env_clear()
        .envs([("RESTIC_PASSWORD", PASSWORD), ("USER", "tester"), ("TZ", "UTC")])
        .args(["forget", "--dry-run", "--output", "json", "--repository"])
        .arg(dir)
        .args(policy)
        .output()
        .unwrap();
    assert!(output.status.success(), "{policy:?}: {}", String::from_utf8_lossy(&output.stderr));
    let decided: Value = serde_json::from_slice(&output.stdout).unwrap();
    ids(decided["snapshots"].as_array().unwrap().iter().filter(|snapshot| !snapshot["keep"].is_null()))
}

fn kept_by_restic(dir: &Path, policy: &[String]) -> BTreeSet<String> {
    let restic = newest().with(&[("TZ".to_owned(), "UTC".to_owned())], &[]);
    let arguments = ["forget", "--dry-run", "--json", "--group-by", "host,paths"].map(str::to_owned);
    let groups = restic.json(dir, &[&arguments, policy].concat());
    let [group] = groups.as_array().unwrap().as_slice() else { panic!("{groups}") };
    // The list is null if no snapshot is kept.
    ids(group["keep"].as_array().into_iter().flatten())
}

#[tokio::test]
async fn same_rules_keep_the_same_snapshots_as_restic_and_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(42);
    years(dir.path(), &mut numbers).await;
    let all = newest().json(dir.path(), &["snapshots", "--json"]);
    let all = all.as_array().unwrap();
    let newest_of_all = all.iter().max_by_key(|snapshot| snapshot["time"].as_str().unwrap()).unwrap();
    let newest_of_all = ids([newest_of_all]);
    let mut were_different = 0;
    for _ in 0..60 {
        let policy = policy(&mut numbers);
        let restic_keeps = kept_by_restic(dir.path(), &policy);
        let kept = kept_by_us(dir.path(), &policy);
        let expected: BTreeSet<String> = restic_keeps.union(&newest_of_all).cloned().collect();
        assert_eq!(kept, expected, "{policy:?}");
        were_different += usize::from(restic_keeps.len() > 1 && restic_keeps.len() < all.len());
    }
    assert!(were_different > 30, "rules that keep all or nothing prove little: {were_different}");
}
