//! Prune and check as runs: the retention is applied, results and findings are reported, and the lock of a dead run
//! does not block.

use std::fs;

use futures::future::BoxFuture;
use stowaway::{
    model::{DataPart, MaintenanceReport, Reason, Retention, Verdict},
    repository::{FoundLock, Liveness, LockOwnerProbe, open},
    runner::maintenance::{self, RetentionScope},
};

use super::{
    restic::{both, newest},
    *,
};

/// Stores snapshots of a source, a day apart, one with each of these sizes. Returns their ids, the oldest first.
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

fn scope<'a>(policy: &'a Retention, time_zone: &'a str) -> RetentionScope<'a> {
    RetentionScope { policy, time_zone, namespace: "shop", cluster: "c-1" }
}

fn as_message(report: &stowaway::model::RunReport) -> stowaway::model::RunReport {
    serde_json::from_str(&report.to_termination_message()).unwrap()
}

#[tokio::test]
async fn prune_run_forgets_by_the_retention_frees_the_data_and_reports_it() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let kept = days(&repository, "deployment/shop/db", &[300_000; 4]).await;
    let shrunk = days(&repository, "pvc/barrels", &[200_000, 200_000, 200_000, 200_000, 10]).await;
    repository.close().await;
    let bytes = || files_in(dir.path(), "data").iter().map(|file| file.metadata().unwrap().len()).sum::<u64>();
    let before = bytes();
    let ahead =
        maintenance::repack(folder(dir.path()), &scope(&keep_last(2), "Europe/Berlin"), &never()).await.unwrap();
    let Some(MaintenanceReport::Repack { bytes: repacked }) = as_message(&ahead).maintenance else {
        panic!("{ahead:?}")
    };
    assert_eq!(bytes(), before + repacked);
    let report = maintenance::prune(folder(dir.path()), &scope(&keep_last(2), "Europe/Berlin"), repacked, &never())
        .await
        .unwrap();
    assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed));
    let Some(MaintenanceReport::Prune { forgotten, kept: stay, freed_bytes, shrunk: count, first_shrunk }) =
        as_message(&report).maintenance
    else {
        panic!("{report:?}")
    };
    assert_eq!((forgotten, stay, count), (2, 7, 1));
    assert!(first_shrunk[0].contains("pvc/barrels"), "{first_shrunk:?}");
    assert!(freed_bytes > 550_000 && freed_bytes == before - bytes() && report.bytes == freed_bytes, "{freed_bytes}");
    let repository = open(folder(dir.path()), never()).await.unwrap();
    let left: Vec<String> = repository.snapshots().await.unwrap().into_iter().map(|snapshot| snapshot.id).collect();
    repository.close().await;
    assert_eq!(left.len(), 7);
    assert!(kept[2..].iter().chain(&shrunk).all(|id| left.contains(id)), "{left:?}");
    for restic in both() {
        restic.check(dir.path());
    }

    // Without a retention nothing is forgotten.
    let report =
        maintenance::prune(folder(dir.path()), &scope(&Retention::default(), "UTC"), 0, &never()).await.unwrap();
    let maintenance = as_message(&report).maintenance;
    assert!(matches!(maintenance, Some(MaintenanceReport::Prune { forgotten: 0, kept: 7, .. })), "{maintenance:?}");
    let refused = maintenance::prune(folder(dir.path()), &scope(&keep_last(1), "Europe/Atlantis"), 0, &never())
        .await
        .unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidRequest);
}

#[tokio::test]
async fn retention_never_forgets_snapshots_of_another_namespace_or_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    for (host, cluster) in [("shop", ""), ("shop", "c-1"), ("shop", "c-2"), ("wiki", "c-1")] {
        for day in 0..3 {
            let mut identity = identity("/db.sql");
            host.clone_into(&mut identity.host);
            identity.tags = vec!["source=deployment/db/db".to_owned()];
            identity.tags.extend((!cluster.is_empty()).then(|| format!("cluster={cluster}")));
            let rules = StoreRules { time: rules().time + jiff::SignedDuration::from_hours(24 * day), ..rules() };
            let content = noise(1000, u64::try_from(day).unwrap());
            repository.store_stream(&identity, &rules, stream_of(whole(&content)), Arc::default()).await.unwrap();
        }
    }
    repository.close().await;
    let report = maintenance::prune(folder(dir.path()), &scope(&keep_last(1), "UTC"), 0, &never()).await.unwrap();
    let maintenance = as_message(&report).maintenance;
    assert!(matches!(maintenance, Some(MaintenanceReport::Prune { forgotten: 4, kept: 8, .. })), "{maintenance:?}");
    let repository = open(folder(dir.path()), never()).await.unwrap();
    let left = repository.snapshots().await.unwrap();
    repository.close().await;
    let count = |host: &str, cluster: Option<&str>| {
        left.iter().filter(|one| one.identity.host == host && one.record().cluster() == cluster).count()
    };
    assert_eq!(
        [count("shop", None), count("shop", Some("c-1")), count("shop", Some("c-2")), count("wiki", Some("c-1"))],
        [1, 1, 3, 3]
    );
}

#[tokio::test]
async fn check_run_reports_damage_of_its_part_and_the_affected_sources() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    days(&repository, "deployment/shop/db", &[300_000]).await;
    repository.close().await;
    let check = async |part: DataPart| {
        let report = maintenance::check(folder(dir.path()), part, &never()).await.unwrap();
        (report.verdict, as_message(&report))
    };
    let (verdict, report) = check(DataPart::ALL).await;
    assert_eq!(verdict, Verdict::Succeeded);
    let Some(MaintenanceReport::Check { findings: 0, snapshots: 1, bytes_read, .. }) = report.maintenance else {
        panic!("{report:?}")
    };
    assert!(bytes_read > 300_000 && report.bytes == bytes_read);

    let pack = files_in(dir.path(), "data").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut broken = fs::read(&pack).unwrap();
    broken[1000] ^= 1;
    fs::write(&pack, broken).unwrap();
    let mut parts = 0;
    for number in 1..=2 {
        let part = DataPart::new(number, 2).unwrap();
        let (verdict, report) = check(part).await;
        let Some(MaintenanceReport::Check { part: read, findings, harmed_sources, harmed_snapshots, .. }) =
            &report.maintenance
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

/// A probe which knows that the holder with this host is dead.
#[derive(Debug)]
struct Knows(String);

impl LockOwnerProbe for Knows {
    fn probe<'a>(&'a self, lock: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        let is_dead = lock.holder.host == self.0;
        Box::pin(async move { if is_dead { Liveness::Dead } else { Liveness::Unknown } })
    }
}

#[tokio::test]
async fn lock_of_a_dead_holder_stops_no_prune_and_any_other_lock_does() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    days(&repository, "deployment/shop/db", &[1000; 2]).await;
    repository.close().await;
    let mut dead = folder(dir.path());
    dead.holder.host = "runner-that-was-killed".to_owned();
    // The repository is never closed, so a fresh lock remains.
    let left = open(dead, never()).await.unwrap();
    for (known, expected) in [("another-client", Err(Reason::RepositoryLocked)), ("runner-that-was-killed", Ok(()))] {
        let mut access = folder(dir.path());
        access.locks.probe = Arc::new(Knows(known.to_owned()));
        let pruned = maintenance::prune(access, &scope(&keep_last(1), "UTC"), 0, &never()).await;
        assert_eq!(pruned.map(|_| ()).map_err(|failure| failure.reason), expected, "{known}");
    }
    assert!(files_in(dir.path(), "locks").is_empty());
    let snapshots = newest().json(dir.path(), &["snapshots", "--json"]);
    assert_eq!(snapshots.as_array().map(Vec::len), Some(1));
    drop(left);
}
