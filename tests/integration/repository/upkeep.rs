//! Prune and check as runs: the retention is carried out, what was done and found is reported, and the dead stop nobody.

use std::fs;

use futures::future::BoxFuture;
use stowaway::{
    model::{DataPart, Reason, Retention, UpkeepReport, Verdict},
    repository::{FoundLock, Liveness, LockJudge, open},
    runner::upkeep,
};

use super::{
    restic::{both, newest},
    *,
};

/// Stores so many snapshots of a source, a day apart, each with content of its own; gives their ids, the oldest first.
async fn days(repository: &Repository, source: &str, sizes: &[usize]) -> Vec<String> {
    let mut ids = Vec::new();
    for (day, size) in sizes.iter().enumerate() {
        let mut identity = identity("/db.sql");
        identity.tags = vec![format!("source={source}")];
        let time = rules().time + jiff::SignedDuration::from_hours(24 * i64::try_from(day).unwrap());
        let rules = StoreRules { time, ..rules() };
        let content = noise(*size, 1000 * source.len() as u64 + day as u64);
        let stored = repository.store_stream(&identity, &rules, stream_of(whole(&content)), Arc::default()).await;
        ids.push(stored.unwrap().snapshot);
    }
    ids
}

fn keep_last(count: u32) -> Retention {
    Retention { keep_last: Some(count), ..Retention::default() }
}

fn as_message(report: &stowaway::model::SourceReport) -> stowaway::model::SourceReport {
    serde_json::from_str(&report.to_termination_message()).unwrap()
}

#[tokio::test]
async fn prune_run_forgets_by_the_retention_frees_the_data_and_says_so() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(place.path()).await;
    let kept = days(&repository, "deployment/shop/db", &[300_000; 4]).await;
    let shrunk = days(&repository, "pvc/barrels", &[200_000, 200_000, 200_000, 200_000, 10]).await;
    repository.close().await;
    let bytes = || files_in(place.path(), "data").iter().map(|file| file.metadata().unwrap().len()).sum::<u64>();
    let before = bytes();
    let ahead = upkeep::repack(folder(place.path()), &keep_last(2), "Europe/Berlin", &never()).await.unwrap();
    let Some(UpkeepReport::Repack { bytes: repacked }) = as_message(&ahead).upkeep else { panic!("{ahead:?}") };
    assert_eq!(bytes(), before + repacked);
    let report = upkeep::prune(folder(place.path()), &keep_last(2), "Europe/Berlin", repacked, &never()).await.unwrap();
    assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed));
    let Some(UpkeepReport::Prune { forgotten, kept: stay, freed_bytes, shrunk: count, first_shrunk }) =
        as_message(&report).upkeep
    else {
        panic!("{report:?}")
    };
    assert_eq!((forgotten, stay, count), (2, 7, 1));
    assert!(first_shrunk[0].contains("pvc/barrels"), "{first_shrunk:?}");
    assert!(freed_bytes > 550_000 && freed_bytes == before - bytes() && report.bytes == freed_bytes, "{freed_bytes}");
    let repository = open(folder(place.path()), never()).await.unwrap();
    let left: Vec<String> = repository.snapshots().await.unwrap().into_iter().map(|snapshot| snapshot.id).collect();
    repository.close().await;
    assert_eq!(left.len(), 7);
    assert!(kept[2..].iter().chain(&shrunk).all(|id| left.contains(id)), "{left:?}");
    for restic in both() {
        restic.check(place.path());
    }

    // Without a retention nothing is forgotten.
    let report = upkeep::prune(folder(place.path()), &Retention::default(), "UTC", 0, &never()).await.unwrap();
    let upkeep = as_message(&report).upkeep;
    assert!(matches!(upkeep, Some(UpkeepReport::Prune { forgotten: 0, kept: 7, .. })), "{upkeep:?}");
    let refused = upkeep::prune(folder(place.path()), &keep_last(1), "Europe/Atlantis", 0, &never()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidRequest);
}

#[tokio::test]
async fn check_run_reports_damage_of_its_part_and_whom_it_harms() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(place.path()).await;
    days(&repository, "deployment/shop/db", &[300_000]).await;
    repository.close().await;
    let check = async |part: DataPart| {
        let report = upkeep::check(folder(place.path()), part, &never()).await.unwrap();
        (report.verdict, as_message(&report))
    };
    let (verdict, report) = check(DataPart::ALL).await;
    assert_eq!(verdict, Verdict::Succeeded);
    let Some(UpkeepReport::Check { findings: 0, snapshots: 1, bytes_read, .. }) = report.upkeep else {
        panic!("{report:?}")
    };
    assert!(bytes_read > 300_000 && report.bytes == bytes_read);

    let pack = files_in(place.path(), "data").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut broken = fs::read(&pack).unwrap();
    broken[1000] ^= 1;
    fs::write(&pack, broken).unwrap();
    let mut parts = 0;
    for number in 1..=2 {
        let part = DataPart::new(number, 2).unwrap();
        let (verdict, report) = check(part).await;
        let Some(UpkeepReport::Check { part: read, findings, harmed_sources, harmed_snapshots, .. }) = &report.upkeep
        else {
            panic!("{report:?}")
        };
        assert_eq!(*read, part);
        if *findings == 0 {
            assert_eq!(verdict, Verdict::Succeeded);
            continue;
        }
        parts += 1;
        assert_eq!((verdict, report.reason), (Verdict::Failed, Reason::RepositoryDamaged));
        assert_eq!((harmed_sources.as_slice(), *harmed_snapshots), (["deployment/shop/db".to_owned()].as_slice(), 1));
        assert!(report.message.contains("is damaged"), "{}", report.message);
    }
    assert_eq!(parts, 1, "a pack is in one of the parts");
}

/// Knows one dead.
#[derive(Debug)]
struct Knows(String);

impl LockJudge for Knows {
    fn judge<'a>(&'a self, lock: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        let is_dead = lock.holder.host == self.0;
        Box::pin(async move { if is_dead { Liveness::Dead } else { Liveness::Unknown } })
    }
}

#[tokio::test]
async fn lock_of_the_dead_stops_no_prune_and_that_of_anybody_else_does() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(place.path()).await;
    days(&repository, "deployment/shop/db", &[1000; 2]).await;
    repository.close().await;
    let mut dead = folder(place.path());
    dead.holder.host = "runner-that-was-killed".to_owned();
    // Never closed: its lock stays, fresh.
    let left = open(dead, never()).await.unwrap();
    for (known, expected) in [("somebody-else", Err(Reason::RepositoryLocked)), ("runner-that-was-killed", Ok(()))] {
        let mut access = folder(place.path());
        access.locks.judge = Arc::new(Knows(known.to_owned()));
        let pruned = upkeep::prune(access, &keep_last(1), "UTC", 0, &never()).await;
        assert_eq!(pruned.map(|_| ()).map_err(|failure| failure.reason), expected, "{known}");
    }
    assert!(files_in(place.path(), "locks").is_empty());
    let snapshots = newest().json(place.path(), &["snapshots", "--json"]);
    assert_eq!(snapshots.as_array().map(Vec::len), Some(1));
    drop(left);
}
