//! Tests of the choice of a snapshot, by examples and by properties.

use proptest::prelude::*;

use super::*;

/// A snapshot that owns what [`SnapshotRecord`] borrows.
#[derive(Clone, Debug)]
struct Owned {
    id: String,
    time: Timestamp,
    identity: SnapshotIdentity,
    paths: Vec<String>,
}

impl Owned {
    fn record(&self) -> SnapshotRecord<'_> {
        SnapshotRecord { id: &self.id, time: self.time, identity: &self.identity, paths: &self.paths, bytes: None }
    }
}

const SOURCE: &str = "source=pvc/claim";
const HERE: &str = "cluster=here";
const THERE: &str = "cluster=there";
const NOW: &str = "2026-06-01T00:00:00Z";

fn snapshot(id: &str, time: &str, tags: &[&str]) -> Owned {
    snapshot_of("shop", id, time, tags)
}

fn snapshot_of(host: &str, id: &str, time: &str, tags: &[&str]) -> Owned {
    let path = "/data/claim".to_owned();
    Owned {
        id: format!("{id:0<64}"),
        time: time.parse().unwrap(),
        identity: SnapshotIdentity {
            host: host.into(),
            path: path.clone(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        },
        paths: vec![path],
    }
}

/// The first two digits of the chosen snapshot and its note, or why there is none.
fn taken_by(all: &[Owned], cluster: &str, as_of: Option<&str>) -> Result<(String, String), String> {
    let source = "pvc/claim".parse().unwrap();
    let as_of = as_of.map(|time| time.parse().unwrap());
    let query = SnapshotQuery { source: &source, host: Some("shop"), as_of, cluster, now: NOW.parse().unwrap() };
    let facts: Vec<_> = all.iter().map(Owned::record).collect();
    match latest_restorable(&facts, &query) {
        Ok(found) => Ok((found.snapshot.id[..2].to_owned(), found.note().unwrap_or_default())),
        Err(none) => Err(none.to_string()),
    }
}

fn taken(all: &[Owned]) -> Result<String, String> {
    taken_by(all, "here", None).map(|(id, _)| id)
}

#[test]
fn snapshot_that_is_not_good_is_never_the_newest_and_is_named() {
    for (tag, text) in [
        (SnapshotIdentity::UNPROVEN, "unproven"),
        (SnapshotIdentity::INCOMPLETE, "incomplete"),
        (SnapshotIdentity::SUSPECT, "suspect"),
        (SnapshotIdentity::SAFETY, "a safety copy"),
    ] {
        let all = [
            snapshot("aa", "2026-01-01T00:00:00Z", &[SOURCE]),
            snapshot("bb", "2026-01-02T00:00:00Z", &[SOURCE]),
            snapshot("cc", "2026-01-03T00:00:00Z", &[SOURCE, tag]),
        ];
        let (id, note) = taken_by(&all, "here", None).unwrap();
        assert_eq!(id, "bb");
        assert!(note.contains("1 newer not used") && note.contains(text) && note.contains("cc000000"), "{note}");
        let refusal = taken(&all[2..]).unwrap_err();
        assert!(refusal.contains(text) && refusal.contains("cc000000"), "{refusal}");
    }
}

#[test]
fn unproven_snapshot_counts_as_good_by_a_users_consent_and_the_note_states_it() {
    let good = snapshot("aa", "2026-01-01T00:00:00Z", &[SOURCE, "proof=Sealed"]);
    let unproven =
        |tags: &[&str]| snapshot("bb", "2026-01-02T00:00:00Z", &[&[SOURCE, "proof=None"][..], tags].concat());
    // In advance, or later by `restic tag --remove unproven`.
    for tags in [&[SnapshotIdentity::ACCEPTED_UNPROVEN][..], &[]] {
        let (id, note) = taken_by(&[good.clone(), unproven(tags)], "here", None).unwrap();
        assert!(id == "bb" && note.contains("is unproven, and was accepted as such"), "{id} {note}");
    }
    for tags in [&[SnapshotIdentity::UNPROVEN][..], &[SnapshotIdentity::UNPROVEN, SnapshotIdentity::ACCEPTED_UNPROVEN]]
    {
        let (id, note) = taken_by(&[good.clone(), unproven(tags)], "here", None).unwrap();
        assert!(id == "aa" && !note.contains("accepted"), "{id} {note}");
    }
    assert_eq!(taken_by(&[good], "here", None).unwrap().1, "");
}

#[test]
fn snapshot_from_the_future_is_never_the_newest() {
    let all = [
        snapshot("aa", "2026-05-31T23:00:00Z", &[SOURCE]),
        snapshot("bb", "2026-06-01T00:05:00Z", &[SOURCE]),
        snapshot("cc", "2026-06-01T00:05:01Z", &[SOURCE]),
        snapshot("dd", "2038-01-01T00:00:00Z", &[SOURCE]),
    ];
    let (id, note) = taken_by(&all, "here", None).unwrap();
    assert_eq!(id, "bb", "clocks may differ by five minutes");
    assert!(note.starts_with("2 newer not used: dd000000") && note.contains("in the future"), "{note}");
    assert!(taken(&all[3..]).unwrap_err().contains("dated in the future"));
    // A requested time in the future does not change that.
    assert_eq!(taken_by(&all, "here", Some("2039-01-01T00:00:00Z")).unwrap().0, "bb");
}

#[test]
fn own_cluster_comes_first_and_another_one_is_reported() {
    let own = snapshot("aa", "2026-01-01T00:00:00Z", &[SOURCE, HERE]);
    let foreign = snapshot("bb", "2026-01-02T00:00:00Z", &[SOURCE, THERE]);
    let all = [own.clone(), foreign.clone()];
    assert_eq!(taken_by(&all, "here", None).unwrap(), ("aa".to_owned(), String::new()));
    let (id, note) = taken_by(&all, "elsewhere", None).unwrap();
    assert!(id == "bb" && note.contains("another cluster (there)"), "{id} {note}");
    // A caller without a cluster uses the newest, and is informed that there are several clusters.
    let (id, note) = taken_by(&all, "", None).unwrap();
    assert!(id == "bb" && note.contains("another cluster (there)"), "{id} {note}");
    assert_eq!(taken_by(&all[1..], "", None).unwrap().1, "");
    // At a time when the own cluster had no snapshot, only the other cluster's existed.
    let (id, note) = taken_by(
        &[snapshot("cc", "2025-01-01T00:00:00Z", &[SOURCE, THERE]), own, foreign],
        "here",
        Some("2025-06-01T00:00:00Z"),
    )
    .unwrap();
    assert!(id == "cc" && note.contains("another cluster"), "{id} {note}");
}

#[test]
fn own_cluster_without_a_good_snapshot_does_not_get_anothers_data() {
    let all = [
        snapshot("aa", "2026-01-01T00:00:00Z", &[SOURCE, HERE, "incomplete"]),
        snapshot("bb", "2026-01-02T00:00:00Z", &[SOURCE, THERE]),
    ];
    assert!(taken(&all).unwrap_err().contains("aa000000"));
}

#[test]
fn new_cluster_that_stored_its_empty_volume_first_is_restored_from_the_old_one() {
    let all = [
        snapshot("aa", "2026-01-01T00:00:00Z", &[SOURCE, THERE]),
        snapshot("bb", "2026-01-02T00:00:00Z", &[SOURCE, HERE, "suspect"]),
    ];
    let (id, note) = taken_by(&all, "here", None).unwrap();
    assert!(id == "aa" && note.contains("another cluster (there)") && note.contains("bb000000"), "{id} {note}");
}

#[test]
fn snapshot_that_names_no_cluster_counts_as_the_own_clusters() {
    let all = [
        snapshot("aa", "2026-01-01T00:00:00Z", &[SOURCE, HERE]),
        snapshot("bb", "2026-01-02T00:00:00Z", &[SOURCE]),
        snapshot("cc", "2026-01-03T00:00:00Z", &[SOURCE, THERE]),
        snapshot("dd", "2026-01-04T00:00:00Z", &[SOURCE, "cluster="]),
    ];
    assert_eq!(taken_by(&all, "here", None).unwrap(), ("dd".to_owned(), String::new()));
    assert_eq!(taken(&all[..3]), Ok("bb".to_owned()));
}

#[test]
fn snapshot_of_k8up_is_used_where_there_is_no_good_one_of_the_source() {
    let k8up = snapshot("aa", "2026-01-01T00:00:00Z", &[]);
    let unproven = snapshot("bb", "2026-01-02T00:00:00Z", &[SOURCE, "unproven"]);
    let good = snapshot("cc", "2025-01-02T00:00:00Z", &[SOURCE]);
    assert_eq!(taken(std::slice::from_ref(&k8up)), Ok("aa".to_owned()));
    let (id, note) = taken_by(&[k8up.clone(), unproven.clone()], "here", None).unwrap();
    assert!(id == "aa" && note.contains("unproven"), "{id} {note}");
    assert_eq!(taken(&[k8up, unproven, good]), Ok("cc".to_owned()));
    let elsewhere = snapshot_of("mill", "dd", "2026-01-01T00:00:00Z", &[]);
    assert_eq!(taken(&[elsewhere]), Err("there is no snapshot of it".to_owned()));
    let future = snapshot("ee", "2040-01-01T00:00:00Z", &[]);
    assert!(taken(&[future]).is_err());
}

#[test]
fn no_snapshot_is_newer_than_the_requested_time() {
    let all = [snapshot("aa", "2026-01-01T00:00:00Z", &[SOURCE]), snapshot("bb", "2026-01-02T00:00:00Z", &[SOURCE])];
    for (time, expected) in
        [("2026-01-02T00:00:00Z", Some("aabb")), ("2026-01-01T23:59:59Z", Some("aa")), ("2025-12-31T23:59:59Z", None)]
    {
        let found = taken_by(&all, "", Some(time)).map(|(id, _)| id);
        match expected {
            Some(expected) => assert_eq!(found.unwrap(), expected[expected.len() - 2..], "{time}"),
            None => assert!(found.unwrap_err().contains("its oldest snapshot is of 2026-01-01")),
        }
    }
}

#[test]
fn requested_time_without_a_fraction_includes_the_whole_second_that_is_printed() {
    let all = [
        snapshot("aa", "2026-01-02T00:00:28.937Z", &[SOURCE]),
        snapshot("bb", "2026-01-02T00:00:32.123456789Z", &[SOURCE]),
        snapshot("cc", "2026-01-02T00:00:33Z", &[SOURCE]),
    ];
    for (index, expected) in ["aa", "bb", "cc"].iter().enumerate() {
        let printed = format!("{:.0}", all[index].time);
        assert_eq!(taken_by(&all, "", Some(&printed)).unwrap().0, *expected, "{printed}");
        let exact = all[index].time.to_string();
        assert_eq!(taken_by(&all, "", Some(&exact)).unwrap().0, *expected, "{exact}");
    }
    // A time with a fraction is a limit with that fraction.
    for (time, expected) in [("00:00:32.123456788Z", "aa"), ("00:00:32.9Z", "bb"), ("00:00:28Z", "aa")] {
        assert_eq!(taken_by(&all, "", Some(&format!("2026-01-02T{time}"))).unwrap().0, expected, "{time}");
    }
    assert!(taken_by(&all, "", Some("2026-01-02T00:00:28.936Z")).is_err());
}

prop_compose! {
    fn histories()(
        snapshots in prop::collection::vec((0..40_i64, 0..6_usize, 0..3_usize, 0..3_usize), 0..30),
    ) -> Vec<Owned> {
        let begin: Timestamp = "2026-05-15T00:00:00Z".parse().unwrap();
        snapshots.into_iter().enumerate().map(|(index, (days, tag, cluster, host))| {
            let tag = ["unproven", "incomplete", "suspect", "safety", "gold", "proof=Sealed"][tag];
            let cluster = [HERE, THERE, "pod=a"][cluster];
            let host = ["shop", "shop", "mill"][host];
            let time = begin + SignedDuration::from_hours(24 * days);
            snapshot_of(host, &format!("{index:02}"), &time.to_string(), &[SOURCE, tag, cluster])
        }).collect()
    }
}

proptest! {
    #[test]
    fn nothing_but_a_proven_snapshot_of_the_past_is_taken(all in histories(), cluster in 0..3_usize) {
        let (source, now): (SourceName, Timestamp) = ("pvc/claim".parse().unwrap(), NOW.parse().unwrap());
        let cluster = ["here", "there", ""][cluster];
        let query = SnapshotQuery { source: &source, host: Some("shop"), as_of: None, cluster, now };
        let facts: Vec<_> = all.iter().map(Owned::record).collect();
        match latest_restorable(&facts, &query) {
            Ok(found) => {
                let snapshot = found.snapshot;
                prop_assert_eq!(snapshot.quality(now), Quality::Proven);
                prop_assert_eq!(&snapshot.identity.host, "shop");
                prop_assert!(snapshot.time <= now + CLOCK_TOLERANCE);
                let is_own = snapshot.cluster().is_none_or(|own| own == cluster) || cluster.is_empty();
                prop_assert!(is_own || found.other_cluster.is_some());
                for (other, quality) in &found.passed_over {
                    prop_assert!(other.age() > snapshot.age() && *quality != Quality::Proven);
                }
            }
            Err(NotRestorable::NoneGood(newest, quality)) => {
                prop_assert!(quality != Quality::Proven && newest.identity.host == "shop");
            }
            Err(NotRestorable::NoneInTime(_)) => prop_assert!(false, "no time was requested"),
            Err(NotRestorable::NoSnapshot) => prop_assert!(all.iter().all(|one| one.identity.host != "shop")),
        }
        // In any order the same.
        let reversed: Vec<_> = facts.iter().rev().copied().collect();
        let id = |facts: &[SnapshotRecord<'_>]| latest_restorable(facts, &query).ok().map(|found| found.snapshot.id.to_owned());
        prop_assert_eq!(id(&facts), id(&reversed));
    }
}
