//! The diagnosis of a repository, case by case.

use clap::Parser;

use crate::repository::{Findings, LockHolder};

use super::*;

fn now() -> Timestamp {
    "2026-05-04T03:02:01Z".parse().unwrap()
}

/// A sound repository whose every byte was read, with two keys and no snapshot.
fn sound() -> Observed {
    let check = CheckReport {
        keys: 2,
        snapshots: 0,
        packs: 3,
        blobs: 9,
        packs_read: 3,
        bytes_read: 100,
        unreferenced_packs: 0,
        findings: Findings::default(),
        damaged_packs: Vec::new(),
        harmed_snapshots: 0,
        harmed: Vec::new(),
    };
    let location = "s3:bucket".to_owned();
    Observed { location, format: 2, is_read_only: false, locks: Vec::new(), check, snapshots: Vec::new() }
}

fn snapshot(id: &str, minute: i64, tags: &[&str]) -> SnapshotSummary {
    SnapshotSummary {
        id: id.repeat(32),
        time: now() + SignedDuration::from_mins(minute),
        identity: SnapshotIdentity {
            host: "shop".to_owned(),
            path: "/data".to_owned(),
            tags: [&["source=deployment/shop/db"], tags].concat().iter().map(|tag| (*tag).to_owned()).collect(),
        },
        paths: vec!["/data".to_owned()],
        bytes: None,
    }
}

fn complaints(observed: &Observed) -> Vec<Complaint> {
    diagnose(observed, now()).complaints
}

/// The only complaint.
fn only(observed: &Observed) -> Complaint {
    let [complaint] = complaints(observed).try_into().unwrap();
    complaint
}

#[test]
fn sound_repository_has_no_complaint() {
    let diagnosis = diagnose(&sound(), now());
    assert_eq!(diagnosis.complaints, Vec::new());
    assert!(!diagnosis.is_broken());
    assert_eq!(diagnosis.sound.len(), 4, "{:?}", diagnosis.sound);
}

#[test]
fn store_that_refuses_writes_is_a_risk() {
    let complaint = only(&Observed { is_read_only: true, ..sound() });
    assert_eq!(complaint.weight, Weight::Risk);
    assert!(complaint.what.contains("refuses writes") && complaint.remedy[0].contains("permissions"), "{complaint:?}");
}

#[test]
fn one_key_is_a_risk_and_two_keys_are_not() {
    let mut observed = sound();
    observed.check.keys = 1;
    let complaint = only(&observed);
    assert_eq!(complaint.weight, Weight::Risk);
    assert!(complaint.remedy[0].starts_with("stowaway key add"), "{:?}", complaint.remedy);
    assert!(!diagnose(&observed, now()).is_broken());
}

#[test]
fn unread_bytes_old_format_and_waste_are_notes() {
    let mut observed = sound();
    observed.check.packs_read = 0;
    assert!(only(&observed).remedy[0].contains("--read-data"));
    let mut observed = sound();
    observed.format = 1;
    assert!(only(&observed).remedy[0].contains("upgrade_repo_v2"));
    let mut observed = sound();
    observed.check.unreferenced_packs = 7;
    assert_eq!(only(&observed).remedy, ["stowaway prune --repository REPOSITORY"]);
    // The packs are examined before the keys, but a risk is listed before a note.
    observed.check.packs_read = 0;
    observed.check.keys = 1;
    let weights: Vec<Weight> = complaints(&observed).iter().map(|complaint| complaint.weight).collect();
    assert_eq!(weights, [Weight::Risk, Weight::Note, Weight::Note], "the worst first");
}

#[test]
fn empty_repository_has_nothing_to_be_read() {
    let mut observed = sound();
    (observed.check.packs, observed.check.packs_read) = (0, 0);
    assert_eq!(complaints(&observed), Vec::new());
}

#[test]
fn only_a_quiet_holder_seems_to_have_ended() {
    for (minutes, exclusive, expected) in [(-11, false, true), (-9, true, false)] {
        let mut observed = sound();
        observed.locks = vec![FoundLock {
            id: "a".repeat(64),
            holder: LockHolder { host: "laptop".to_owned(), user: "miller".to_owned() },
            process: 42,
            exclusive,
            refreshed: now() + SignedDuration::from_mins(minutes),
        }];
        let complaint = only(&observed);
        assert!(complaint.what.starts_with("miller on laptop (process 42) holds a lock"), "{}", complaint.what);
        assert_eq!(complaint.what.contains("seems to have ended"), expected);
        assert_eq!(complaint.what.contains("all other clients"), exclusive);
        assert_eq!(!complaint.remedy.is_empty(), expected);
    }
}

#[test]
fn source_whose_newest_snapshot_is_unproven_is_reported_with_its_last_good_one() {
    let of = |snapshots: Vec<SnapshotSummary>| complaints(&Observed { snapshots, ..sound() });
    assert_eq!(of(vec![snapshot("aa", 0, &["unproven"]), snapshot("bb", 1, &[])]), Vec::new());
    // A safety copy never counts as the newest snapshot.
    assert_eq!(of(vec![snapshot("aa", 0, &[]), snapshot("bb", 1, &["safety", "incomplete"])]), Vec::new());
    let reported = of(vec![snapshot("aa", 0, &[]), snapshot("bb", 1, &["unproven"])]);
    assert_eq!(reported.len(), 1);
    assert_eq!(reported[0].weight, Weight::Risk);
    assert!(
        reported[0].what.contains("not proven complete; the last good snapshot is aaaaaaaa of 2026-05-04T03:02:01Z"),
        "{}",
        reported[0].what
    );
    let reported = of(vec![snapshot("aa", 0, &["incomplete"])]);
    assert!(reported[0].what.contains("could not be read; there is no good snapshot"), "{}", reported[0].what);
    // The same source of another host has a history of its own.
    let mut other = snapshot("bb", 1, &["unproven"]);
    "store".clone_into(&mut other.identity.host);
    assert_eq!(of(vec![snapshot("aa", 0, &[]), other]).len(), 1);
}

#[test]
fn each_finding_has_its_own_step_and_no_other() {
    let pack = || "ab".repeat(32);
    let unreadable = |file: &str| Finding::Unreadable { file: file.to_owned(), why: "short".to_owned() };
    let cases = [
        (Finding::MissingPack { pack: pack() }, "restic repair index"),
        (Finding::PackSize { pack: pack(), found: 1 }, "restic repair index"),
        (Finding::Missing { what: "data".to_owned(), id: pack() }, "restic repair index"),
        (Finding::DamagedPack { pack: pack(), why: "byte".to_owned() }, "restic repair packs abab"),
        (unreadable("index/12"), "restic repair index"),
        (unreadable("snapshots/12"), "remove the file snapshots/12"),
        (unreadable("keys/12"), "remove the file keys/12"),
    ];
    let steps = ["restic repair index", "restic repair packs", "remove the file snapshots", "remove the file keys"];
    for (finding, expected) in cases {
        let mut observed = sound();
        observed.check.findings = Findings { count: 1, first: vec![finding.clone()], ..Findings::default() };
        let complaint = only(&observed);
        assert_eq!(complaint.weight, Weight::Broken);
        assert!(complaint.what.contains(&finding.to_string()), "{}", complaint.what);
        for step in steps {
            let has = complaint.remedy.iter().any(|line| line.starts_with(step));
            assert_eq!(has, expected.starts_with(step), "{finding}: {step}: {:?}", complaint.remedy);
        }
        assert!(complaint.remedy.iter().any(|line| line.starts_with(expected)), "{:?}", complaint.remedy);
        assert!(!complaint.remedy.iter().any(|line| line.contains("forget")), "no snapshot is harmed");
    }
}

#[test]
fn harmed_snapshots_are_named_to_be_forgotten_after_a_backup() {
    let mut observed = sound();
    observed.check.findings =
        Findings { count: 99, first: vec![Finding::MissingPack { pack: "ab".repeat(32) }; 30], ..Findings::default() };
    observed.check.harmed_snapshots = 1;
    observed.check.harmed = vec![HarmedSnapshot {
        id: "cd".repeat(32),
        time: now(),
        source: None,
        host: "shop".to_owned(),
        path: "/data".to_owned(),
    }];
    let complaint = only(&observed);
    let last = complaint.remedy.last().unwrap();
    assert!(last.ends_with("stowaway forget --repository REPOSITORY cdcdcdcd"), "{last}");
    assert!(
        complaint.what.ends_with("and 89 more, see `stowaway check --repository REPOSITORY`"),
        "{}",
        complaint.what
    );
}

#[test]
fn repository_which_cannot_be_opened_is_broken_and_has_a_remedy() {
    for reason in [
        Reason::WrongPassword,
        Reason::RepositoryNotFound,
        Reason::RepositoryDamaged,
        Reason::RepositoryLocked,
        Reason::StoreFull,
        Reason::StoreUnavailable,
        Reason::RepositoryChanged,
        Reason::SecretMissing,
        Reason::PodNotStarted,
        Reason::PodRefused,
        Reason::StreamCut,
    ] {
        let diagnosis = unopened(&Failure::new(reason, "as it is"));
        assert!(diagnosis.is_broken());
        assert_eq!(diagnosis.complaints[0].what, "as it is");
        assert!(!diagnosis.complaints[0].remedy.is_empty(), "{reason}");
        let diagnosis = interrupted(&Failure::new(reason, "as it is"));
        assert!(diagnosis.is_broken() && diagnosis.complaints[0].what.ends_with("not completed: as it is"));
    }
}

/// The calls of the CLI which the text quotes: between backticks, or after the last colon.
fn calls(text: &str) -> Vec<Vec<&str>> {
    let quoted = text.split('`').skip(1).step_by(2).chain([text, text.rsplit(": ").next().unwrap_or_default()]);
    quoted.filter(|call| call.starts_with("stowaway ")).map(|call| call.split(' ').collect()).collect()
}

#[test]
fn every_quoted_call_of_the_cli_is_valid() {
    let mut observed = sound();
    observed.check.keys = 1;
    observed.check.packs_read = 0;
    observed.check.unreferenced_packs = 7;
    let mut later = snapshot("ef", 60 * 24 * 400, &["proof=Sealed"]);
    later.time = now() + SignedDuration::from_hours(24 * 400);
    observed.snapshots = vec![snapshot("ab", -1, &["unproven"]), later];
    let mut diagnoses = vec![diagnose(&observed, now())];
    for reason in [Reason::WrongPassword, Reason::RepositoryLocked, Reason::StoreUnavailable, Reason::SecretMissing] {
        diagnoses.push(unopened(&Failure::new(reason, "as it is")));
    }
    let texts = diagnoses.iter().flat_map(|diagnosis| &diagnosis.complaints);
    let texts = texts.flat_map(|complaint| complaint.remedy.iter().chain([&complaint.what]));
    let calls: Vec<Vec<&str>> = texts.flat_map(|text| calls(text)).collect();
    for verb in ["logs", "forget", "prune", "key", "unlock"] {
        assert!(calls.iter().any(|call| call[1] == verb), "{verb}: {calls:?}");
    }
    for call in calls {
        let parsed = crate::cli::args::Arguments::try_parse_from(&call);
        assert!(parsed.is_ok(), "{call:?}: {}", parsed.unwrap_err());
    }
}
