//! Tests of the retention policy, by example and by property. The comparison with restic itself is an integration test.

use jiff::{ToSpan, civil::datetime};
use proptest::prelude::*;

use super::*;

/// A snapshot which owns the fields that [`SnapshotRecord`] borrows.
#[derive(Clone, Debug)]
struct Owned {
    id: String,
    time: Timestamp,
    identity: SnapshotIdentity,
    paths: Vec<String>,
    bytes: Option<u64>,
}

impl Owned {
    fn record(&self) -> SnapshotRecord<'_> {
        SnapshotRecord {
            id: &self.id,
            time: self.time,
            identity: &self.identity,
            paths: &self.paths,
            bytes: self.bytes,
        }
    }

    fn tagged(mut self, tag: &str) -> Self {
        self.identity.tags.push(tag.to_owned());
        self
    }

    fn of_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }
}

fn of(source: &str, id: &str, time: &str) -> Owned {
    let mut identity = SnapshotIdentity { host: "shop".into(), path: "/shop-db.sql".into(), tags: vec![] };
    if !source.is_empty() {
        identity.push_tag(SnapshotIdentity::SOURCE, source).unwrap();
    }
    let time = time.parse().unwrap();
    Owned { id: id.to_owned(), time, paths: vec![identity.path.clone()], identity, bytes: None }
}

/// One snapshot a day; `d00` is the oldest.
fn daily(source: &str, count: u32) -> Vec<Owned> {
    let begin: Timestamp = "2026-01-01T03:00:00Z".parse().unwrap();
    (0..count)
        .map(|day| {
            let time = begin + (i64::from(day) * 24).hours();
            of(source, &format!("{source}{day:03}"), &time.to_string())
        })
        .collect()
}

fn drops(policy: &Retention, snapshots: &[Owned]) -> Vec<String> {
    let candidates: Vec<_> = snapshots.iter().map(Owned::record).collect();
    let plan = plan_retention(policy, &candidates, &TimeZone::UTC, now());
    assert_eq!(plan.keep.len() + plan.drop.len(), snapshots.len());
    plan.drop.iter().map(|dropped| dropped.id.to_owned()).collect()
}

fn now() -> Timestamp {
    "2026-12-01T00:00:00Z".parse().unwrap()
}

fn last(count: u32) -> Retention {
    Retention { keep_last: Some(count), ..Retention::default() }
}

#[test]
fn empty_policy_keeps_all() {
    assert_eq!(drops(&Retention::default(), &daily("a", 50)), Vec::<String>::new());
}

#[test]
fn each_source_has_a_history_of_its_own() {
    let mut all = daily("a", 3);
    all.extend(daily("b", 1));
    // The same source in another cluster, and a snapshot of another writer with the same path.
    all.push(of("a", "c", "2020-01-01T00:00:00Z").tagged("cluster=other"));
    all.push(of("", "k8up", "2019-01-01T00:00:00Z"));
    assert_eq!(drops(&last(1), &all), ["a000", "a001"]);
}

#[test]
fn newest_proven_one_is_kept_whatever_is_newer() {
    for tag in
        [SnapshotIdentity::UNPROVEN, SnapshotIdentity::INCOMPLETE, SnapshotIdentity::SAFETY, SnapshotIdentity::SUSPECT]
    {
        let mut all = daily("a", 10);
        for bad in &mut all[3..] {
            *bad = bad.clone().tagged(tag);
        }
        // Snapshots without proof are counted separately.
        assert_eq!(drops(&last(2), &all), ["a000", "a003", "a004", "a005", "a006", "a007"]);
        // Even if the policy names only tags which no snapshot has.
        let tagged = Retention { keep_tags: vec!["gold".into()], ..Retention::default() };
        let left = drops(&tagged, &all);
        assert!(!left.contains(&"a002".to_owned()) && left.len() == 9, "{left:?}");
    }
}

#[test]
fn source_that_shrank_loses_nothing_until_that_is_usual() {
    let sized = |sizes: &[u64]| -> Vec<Owned> {
        let all = daily("a", u32::try_from(sizes.len()).unwrap());
        all.into_iter().zip(sizes).map(|(snapshot, bytes)| snapshot.of_bytes(*bytes)).collect()
    };
    let (big, small) = (10_000_000, 1_000_000);
    let shrunk = sized(&[big, big, big, big, small]);
    let candidates: Vec<_> = shrunk.iter().map(Owned::record).collect();
    let plan = plan_retention(&last(1), &candidates, &TimeZone::UTC, now());
    assert!(plan.drop.is_empty());
    assert_eq!(plan.shrunk, [Shrunk { source: "a", newest: "a004", bytes: small, usual: big, is_suspect: false }]);
    assert!(plan.shrunk[0].to_string().contains("1000000 bytes, and 10000000 were usual"), "{}", plan.shrunk[0]);
    // Another source is not affected.
    let mut both = shrunk.clone();
    both.extend(daily("b", 2));
    assert_eq!(drops(&last(1), &both), ["b000"]);

    assert_eq!(drops(&last(1), &sized(&[big, big, big, big, small, small, small, small])).len(), 0);
    assert_eq!(drops(&last(1), &sized(&[big, big, big, small, small, small, small, small])).len(), 7);
    assert_eq!(drops(&last(1), &sized(&[big, big, big, big / 2])).len(), 3, "half is not absurd");
    assert_eq!(drops(&last(1), &sized(&[big, big, small])).len(), 2, "two do not define the usual size");
    assert_eq!(drops(&last(1), &sized(&[9_000, 9_000, 9_000, 9_000, 10])).len(), 4, "a few lines cause no warning");
}

#[test]
fn two_snapshots_suffice_to_keep_the_larger_one_of_a_stream() {
    let dropped = |sizes: &[u64], tag: &str| {
        let all = daily("a", u32::try_from(sizes.len()).unwrap());
        let all: Vec<Owned> = all.into_iter().zip(sizes).map(|(one, bytes)| one.of_bytes(*bytes).tagged(tag)).collect();
        drops(&last(1), &all).len()
    };
    assert_eq!(dropped(&[10_000_000, 999_999], "sha256=ab"), 0);
    assert_eq!(dropped(&[10_000_000, 1_000, 1_000], "sha256=ab"), 0, "also for the backup after it");
    assert_eq!(dropped(&[10_000_000, 1_000_000], "sha256=ab"), 1, "90 % is not more than 90 %");
    assert_eq!(dropped(&[60_000, 10], "sha256=ab"), 1, "small ones vary");
    assert_eq!(dropped(&[10_000_000, 999_999], "other=ab"), 1, "a volume would be suspect");
}

#[test]
fn suspect_snapshots_drop_nothing_and_are_reported_until_a_good_one_follows() {
    let sized: Vec<Owned> = daily("a", 6).into_iter().map(|one| one.of_bytes(10_000_000)).collect();
    let mut all = sized.clone();
    for emptied in &mut all[2..] {
        *emptied = emptied.clone().tagged("suspect").of_bytes(0);
    }
    let within = Retention { keep_within: Some("2d".parse().unwrap()), ..Retention::default() };
    for policy in [last(2), within] {
        let dropped = drops(&policy, &all);
        assert!(!dropped.iter().any(|id| ["a000", "a001"].contains(&id.as_str())), "{policy:?}: {dropped:?}");
        assert_eq!(dropped.len(), 2, "suspect ones make room for suspect ones: {dropped:?}");
    }
    let facts: Vec<_> = all.iter().map(Owned::record).collect();
    let plan = plan_retention(&last(1), &facts, &TimeZone::UTC, now());
    assert_eq!(plan.shrunk, [Shrunk { source: "a", newest: "a005", bytes: 0, usual: 10_000_000, is_suspect: true }]);
    assert!(plan.shrunk[0].to_string().contains("restic tag --remove suspect a005"), "{}", plan.shrunk[0]);
    // The volume has its usual size again, so there is no warning.
    all[5] = sized[5].clone();
    let facts: Vec<_> = all.iter().map(Owned::record).collect();
    assert_eq!(plan_retention(&last(1), &facts, &TimeZone::UTC, now()).shrunk, []);
}

#[test]
fn volume_that_shrank_by_consent_is_no_anomaly() {
    let mut all: Vec<Owned> = daily("a", 6).into_iter().map(|one| one.of_bytes(10_000_000)).collect();
    (all[4], all[5]) = (all[4].clone().of_bytes(1_000_000).tagged("shrunken"), all[5].clone().of_bytes(1_000_000));
    let plan = |all: &[Owned]| {
        let facts: Vec<_> = all.iter().map(Owned::record).collect();
        let plan = plan_retention(&last(1), &facts, &TimeZone::UTC, now());
        (plan.shrunk.len(), plan.drop.len())
    };
    assert_eq!(plan(&all), (0, 5));
    assert_eq!(plan(&all[..5]), (0, 4));
    all[4].identity.tags.pop();
    assert_eq!(plan(&all).0, 1, "without the tag it is");
}

#[test]
fn snapshot_from_the_future_drops_nothing_of_the_past_and_counts_for_nothing() {
    let past = daily("a", 5);
    let mut all = past.clone();
    all.push(of("a", "future", "2038-01-01T00:00:00Z"));
    all.push(of("a", "future-unproven", "2038-01-02T00:00:00Z").tagged("unproven"));
    all.push(of("b", "only", "2038-01-01T00:00:00Z"));
    let within = Retention { keep_within: Some("30d".parse().unwrap()), ..Retention::default() };
    let daily = Retention { keep_daily: Some(3), ..Retention::default() };
    for policy in [within, daily, last(2)] {
        assert_eq!(drops(&policy, &all), drops(&policy, &past), "{policy:?}");
    }
    let facts: Vec<_> = all.iter().map(Owned::record).collect();
    let plan = plan_retention(&last(1), &facts, &TimeZone::UTC, now());
    assert_eq!(plan.from_future.iter().map(|one| one.id).collect::<Vec<_>>(), ["future", "future-unproven", "only"]);
}

#[test]
fn periods_are_those_of_the_calendar_and_the_zone() {
    let times = [
        "2025-12-28T22:30:00Z",
        "2025-12-28T23:30:00Z",
        "2025-12-31T22:30:00Z",
        "2025-12-31T23:30:00Z",
        "2026-01-01T10:00:00Z",
        "2026-01-01T10:59:59Z",
    ];
    let all: Vec<Owned> = times.iter().map(|time| of("a", time, time)).collect();
    let candidates: Vec<_> = all.iter().map(Owned::record).collect();
    let kept = |policy: Retention, zone: &str| -> Vec<usize> {
        let zone = TimeZone::get(zone).unwrap();
        let plan = plan_retention(&policy, &candidates, &zone, now());
        let mut kept: Vec<usize> =
            plan.keep.iter().map(|kept| times.iter().position(|time| *time == kept.id).unwrap()).collect();
        kept.sort_unstable();
        kept
    };
    let daily = Retention { keep_daily: Some(2), ..Retention::default() };
    assert_eq!(kept(daily.clone(), "UTC"), [3, 5]);
    assert_eq!(kept(daily, "Europe/Zurich"), [2, 5]);
    // The first week of 2026 begins on Monday, 29 December.
    let weekly = Retention { keep_weekly: Some(2), ..Retention::default() };
    assert_eq!(kept(weekly.clone(), "UTC"), [1, 5]);
    assert_eq!(kept(weekly, "Europe/Zurich"), [0, 5]);
    let hourly = Retention { keep_hourly: Some(2), ..Retention::default() };
    assert_eq!(kept(hourly, "UTC"), [3, 5]);
    let yearly = Retention { keep_yearly: Some(5), ..Retention::default() };
    assert_eq!(kept(yearly, "UTC"), [0, 3, 5], "and the oldest, since the count is not used up");
    let within = Retention { keep_within: Some("12h".parse().unwrap()), ..Retention::default() };
    assert_eq!(kept(within, "UTC"), [3, 4, 5]);
    let ever = Retention { keep_within: Some("9999y".parse().unwrap()), ..Retention::default() };
    assert_eq!(kept(ever, "UTC"), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn months_back_are_those_of_the_calendar() {
    let times =
        [datetime(2026, 2, 28, 12, 0, 0, 0), datetime(2026, 2, 28, 11, 0, 0, 0), datetime(2026, 3, 31, 11, 30, 0, 0)];
    let all: Vec<Owned> =
        times.iter().enumerate().map(|(index, time)| of("a", &index.to_string(), &format!("{time}Z"))).collect();
    let within = Retention { keep_within: Some("1m".parse().unwrap()), ..Retention::default() };
    assert_eq!(drops(&within, &all), ["1"]);
}

prop_compose! {
    fn policies()(
        counts in prop::array::uniform6(prop::option::of(1_u32..6)),
        within in prop::option::of(1_u32..200),
        tag in any::<bool>(),
    ) -> Retention {
        let [keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly] = counts;
        Retention {
            keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly,
            keep_within: within.map(|hours| format!("{hours}h").parse().unwrap()),
            keep_tags: if tag { vec!["gold".into()] } else { vec![] },
        }
    }
}

prop_compose! {
    fn histories()(
        snapshots in prop::collection::vec((0..3_usize, 0..3_000_000_i64, 0..8_u8, prop::option::of(0..3_000_000_u64)), 0..60),
    ) -> Vec<Owned> {
        let begin: Timestamp = "2025-11-01T00:00:00Z".parse().unwrap();
        snapshots.into_iter().enumerate().map(|(index, (source, seconds, tag, bytes))| {
            let snapshot = of(["a", "b", ""][source], &format!("{index:03}"), &(begin + (seconds * 7).seconds()).to_string());
            let snapshot = match tag {
                0 => snapshot.tagged(SnapshotIdentity::UNPROVEN),
                1 => snapshot.tagged(SnapshotIdentity::INCOMPLETE),
                2 => snapshot.tagged("gold"),
                _ => snapshot,
            };
            Owned { bytes, ..snapshot }
        }).collect()
    }
}

proptest! {
    #[test]
    fn every_history_keeps_its_newest_proven_one(policy in policies(), all in histories()) {
        let dropped = drops(&policy, &all);
        for source in ["a", "b", ""] {
            let mine = all.iter().filter(|one| one.identity.tag("source").unwrap_or_default() == source);
            let newest = mine.filter(|one| one.record().quality(now()) == Quality::Proven).max_by_key(|one| (one.time, one.id.clone()));
            if let Some(newest) = newest {
                prop_assert!(!dropped.contains(&newest.id));
            }
        }
    }

    #[test]
    fn dropped_snapshots_do_not_depend_on_the_order(policy in policies(), all in histories()) {
        let reversed: Vec<_> = all.iter().rev().cloned().collect();
        prop_assert_eq!(drops(&policy, &all), drops(&policy, &reversed));
    }

    #[test]
    fn second_plan_drops_nothing_more(policy in policies(), all in histories()) {
        // Snapshots which are kept because of the size may be dropped later.
        let mut left: Vec<_> = all.into_iter().map(|one| Owned { bytes: None, ..one }).collect();
        let dropped = drops(&policy, &left);
        left.retain(|one| !dropped.contains(&one.id));
        prop_assert_eq!(drops(&policy, &left), Vec::<String>::new());
    }

    #[test]
    fn one_source_is_judged_as_if_it_were_alone(policy in policies(), all in histories()) {
        let alone: Vec<_> = all.iter().filter(|one| one.identity.tag("source") == Some("a")).cloned().collect();
        let among: Vec<_> = drops(&policy, &all).into_iter().filter(|id| alone.iter().any(|one| one.id == *id)).collect();
        prop_assert_eq!(drops(&policy, &alone), among);
    }
}
