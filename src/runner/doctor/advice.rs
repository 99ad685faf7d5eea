//! What is wrong with a repository, what that means, and what to do about it, step by step.
//!
//! Pure: it sees what was observed, and the time.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    model::{Failure, Quality, Reason, SnapshotIdentity, SnapshotRecord, newest_good},
    repository::{CheckReport, Finding, FoundLock, HarmedSnapshot, SnapshotSummary},
};

/// Holders refresh their locks every few minutes; whoever has not for so long may be gone.
const QUIET: SignedDuration = SignedDuration::from_mins(10);
/// How many of a kind are named; all are counted.
const NAMED: usize = 10;

/// How much a complaint matters.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Weight {
    /// Something that was stored cannot be restored as it is, or nothing can be stored or restored at all.
    Broken,
    /// All that is stored can be restored; one more mishap, and that may end.
    Risk,
    /// Good to know.
    Note,
}

impl fmt::Display for Weight {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Broken => "BROKEN",
            Self::Risk => "RISK",
            Self::Note => "note",
        })
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Complaint {
    /// How much it matters.
    pub weight: Weight,
    /// What it is, and of what.
    pub what: String,
    /// What mends it, step by step.
    pub remedy: Vec<String>,
}

/// All that is to be said of a repository.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// What was looked at, and is well.
    pub sound: Vec<String>,
    /// What is not, the worst first.
    pub complaints: Vec<Complaint>,
}

impl Diagnosis {
    /// Whether something is broken.
    pub fn is_broken(&self) -> bool {
        self.complaints.iter().any(|complaint| complaint.weight == Weight::Broken)
    }
}

/// What was seen of a repository that could be opened.
#[derive(Debug)]
pub(super) struct Observed {
    /// Its place, without credentials.
    pub place: String,
    /// Version of its format.
    pub format: u32,
    /// Locks of others.
    pub locks: Vec<FoundLock>,
    pub check: CheckReport,
    /// All snapshots, if the check could read them all.
    pub snapshots: Vec<SnapshotSummary>,
}

/// What is to be said of a repository that could be opened.
pub(super) fn diagnose(observed: &Observed, now: Timestamp) -> Diagnosis {
    let Observed { place, format, locks, check, snapshots } = observed;
    let mut sound = vec![format!("the repository at {place} can be reached, and the password opens it")];
    let mut complaints = Vec::new();
    if check.is_sound() {
        sound.push(format!("{} snapshots have all that they need, in {} packs", check.snapshots, check.packs));
        complaints.extend(not_good(snapshots, now));
    } else {
        complaints.push(damage(check));
    }
    if check.packs_read > 0 {
        sound.push(format!("{} packs were read byte by byte", check.packs_read));
    } else if check.packs > 0 {
        let remedy = vec!["run this again with --read-data, or give the Repository a check by schedule".to_owned()];
        let what = "the bytes of the packs were not read: whether they still are what was written, nobody knows";
        complaints.push(Complaint { weight: Weight::Note, what: what.to_owned(), remedy });
    }
    match check.keys {
        0 | 1 => complaints.push(only_key()),
        keys => sound.push(format!("it has {keys} keys; that one of their passwords is kept elsewhere, only you know")),
    }
    complaints.extend(locks.iter().map(|lock| held(lock, now)));
    if *format < 2 {
        let remedy = vec![format!("restic -r {place} migrate upgrade_repo_v2")];
        let what = "it has restic's format 1, which knows no compression".to_owned();
        complaints.push(Complaint { weight: Weight::Note, what, remedy });
    }
    if check.unreferenced_packs > 0 {
        let what = format!(
            "{} packs are in no index: runs that failed have left them; harmless, and they take room",
            check.unreferenced_packs
        );
        complaints.push(Complaint { weight: Weight::Note, what, remedy: vec!["stowaway prune".to_owned()] });
    }
    complaints.sort_by_key(|complaint| complaint.weight);
    Diagnosis { sound, complaints }
}

/// What is to be said of one that could not be opened, which the failure tells.
pub(super) fn unopened(failure: &Failure) -> Diagnosis {
    let steps: &[&str] = match failure.reason {
        Reason::WrongPassword => &[
            "look whether the Secret holds the password that it was created with, or one of a key that was added",
            "with the password of another key, such as the one that you keep outside of the cluster: stowaway key list, \
             stowaway key add, and put the new one into the Secret",
            "without any of these passwords, nobody can read it",
        ],
        Reason::RepositoryNotFound => &[
            "correct the place: endpoint, bucket and prefix, or the volume",
            "if nothing was ever stored there, the first backup creates it",
            "if there was something: look for the file `config` in the store's own versions or backups, and put it back; do not \
             create another repository at that place",
        ],
        Reason::RepositoryDamaged => &[
            "put back what is damaged from the store's own versions or from a copy: the files `config` and `keys/*` exist once \
             only, and without them nothing opens",
        ],
        Reason::RepositoryLocked => &["wait until that run ends", "if it runs no more: stowaway unlock"],
        Reason::StoreFull => &[
            "make room in the store, or make it larger: opening writes a small lock file, which did not fit",
            "if that is impossible: restic prune --unsafe-recover-no-free-space, which is described in restic's manual",
        ],
        _ => &[],
    };
    let remedy = steps.iter().map(|step| (*step).to_owned()).collect();
    let complaint = Complaint { weight: Weight::Broken, what: failure.message.clone(), remedy };
    Diagnosis { sound: Vec::new(), complaints: vec![complaint] }
}

/// What the check found, in one complaint: it is mended as a whole.
fn damage(check: &CheckReport) -> Complaint {
    let CheckReport { findings, harmed_snapshots, harmed, .. } = check;
    let found: Vec<String> = findings.first.iter().take(NAMED).map(ToString::to_string).collect();
    let more = findings.count - found.len() as u64;
    let more = if more > 0 { format!("; and {more} more, see stowaway check") } else { String::new() };
    let what = format!(
        "{} findings, and {harmed_snapshots} snapshots that cannot be restored as a whole: {}{more}",
        findings.count,
        found.join("; ")
    );
    let mut remedy = vec![
        "if the store keeps older versions of its files, or there is a copy: put back the files that are named, and be done"
            .to_owned(),
        "else copy the folders `index` and `snapshots` of the repository to some other place first".to_owned(),
    ];
    let damaged: Vec<&str> = findings
        .first
        .iter()
        .filter_map(|finding| match finding {
            Finding::DamagedPack { pack, .. } => Some(pack.as_str()),
            _ => None,
        })
        .collect();
    if !damaged.is_empty() {
        remedy
            .push(format!("restic repair packs {}   (0.16 or newer; keeps what can still be read)", damaged.join(" ")));
    }
    let (indices, snapshots) = (unreadable(check, "index/"), unreadable(check, "snapshots/"));
    let of_index = |finding: &Finding| {
        matches!(finding, Finding::MissingPack { .. } | Finding::PackSize { .. } | Finding::Missing { .. })
    };
    if !indices.is_empty() || findings.first.iter().any(of_index) {
        remedy.push("restic repair index   (0.16 or newer; before that, restic rebuild-index)".to_owned());
    }
    for file in &snapshots {
        remedy.push(format!("remove the file {file} from the store: that snapshot is lost"));
    }
    for file in &unreadable(check, "keys/") {
        remedy.push(format!("remove the file {file} from the store, and add a key instead: stowaway key add"));
    }
    if *harmed_snapshots > 0 {
        remedy.push(
            "back up all sources: what is still there is stored again, and mends older snapshots that need the same"
                .to_owned(),
        );
        let again = "run this again; what then still is harmed cannot be mended (--last-of-source deletes the last one of a source, too)";
        remedy.push(format!("{again}: stowaway forget {}", short_ids(harmed)));
    }
    Complaint { weight: Weight::Broken, what, remedy }
}

/// The files of that folder that cannot be read.
fn unreadable<'a>(check: &'a CheckReport, folder: &str) -> Vec<&'a str> {
    let files = check.findings.first.iter().filter_map(|finding| match finding {
        Finding::Unreadable { file, .. } if file.starts_with(folder) => Some(file.as_str()),
        _ => None,
    });
    files.collect()
}

fn short_ids(harmed: &[HarmedSnapshot]) -> String {
    let ids: Vec<&str> = harmed.iter().map(|one| &one.id[..one.id.floor_char_boundary(8)]).collect();
    ids.join(" ")
}

/// Sources whose newest snapshot is not good, and snapshots that are dated in the future.
fn not_good(snapshots: &[SnapshotSummary], now: Timestamp) -> Vec<Complaint> {
    let mut histories: BTreeMap<String, Vec<SnapshotRecord<'_>>> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.identity.tag(SnapshotIdentity::SOURCE).is_some()) {
        let record = snapshot.record();
        histories.entry(record.history()).or_default().push(record);
    }
    let mut complaints: Vec<Complaint> =
        histories.values().filter_map(|history| not_good_newest(history, now)).collect();
    let of_future: Vec<&SnapshotSummary> =
        snapshots.iter().filter(|snapshot| snapshot.record().is_from_future(now)).collect();
    if let Some(first) = of_future.first() {
        let what = format!(
            "{} snapshots are dated in the future, such as {} of {:.0}: no restore takes them by itself",
            of_future.len(),
            first.record().short_id(),
            first.time
        );
        let remedy = vec![
            "check the clock of this machine, and those of the nodes".to_owned(),
            "delete such a snapshot, or restore it by its id: stowaway forget SNAPSHOT".to_owned(),
        ];
        complaints.push(Complaint { weight: Weight::Risk, what, remedy });
    }
    complaints
}

/// What is wrong with the newest snapshot of a history, but for safety copies and the future.
fn not_good_newest(history: &[SnapshotRecord<'_>], now: Timestamp) -> Option<Complaint> {
    let counts = |snapshot: &&SnapshotRecord<'_>| {
        !matches!(snapshot.quality(now), Quality::Safety | Quality::FromFuture) && !snapshot.is_from_future(now)
    };
    let newest = history.iter().filter(counts).max_by_key(|snapshot| (snapshot.time, snapshot.id))?;
    let how = match newest.quality(now) {
        Quality::Proven | Quality::Safety | Quality::FromFuture => return None,
        Quality::Unproven => "is not proven whole",
        Quality::Incomplete => "lacks what could not be read",
        Quality::Suspect => "is suspect: the volume was empty, or had lost most of its content",
    };
    let last = newest_good(history.iter().copied(), now).map_or_else(
        || "there is no good one".to_owned(),
        |good| format!("the last good one is {} of {:.0}", good.short_id(), good.time),
    );
    let mut remedy = vec!["look at what its last Backup reports: stowaway logs BACKUP".to_owned()];
    remedy.push(match newest.quality(now) {
        Quality::Suspect => format!(
            "if the volume is meant to be so small: restic tag --remove suspect {}; else restore the last good one",
            newest.short_id()
        ),
        _ => "a container with an sh, or the sidecar, makes dumps provable; files that cannot be read need another user of \
              the run (runnerPod)"
            .to_owned(),
    });
    let (source, host) = (newest.identity.tag(SnapshotIdentity::SOURCE).unwrap_or_default(), &newest.identity.host);
    let what = format!("the newest snapshot of {source} (host {host}), of {:.0}, {how}; {last}", newest.time);
    Some(Complaint { weight: Weight::Risk, what, remedy })
}

fn only_key() -> Complaint {
    let remedy = vec![
        "stowaway key add --repository PLACE --new-password-file FILE".to_owned(),
        "keep that password outside of the cluster, with the place and its credentials".to_owned(),
    ];
    let what = "only one password opens it: who loses the Secret that holds it has lost all that is stored".to_owned();
    Complaint { weight: Weight::Risk, what, remedy }
}

fn held(lock: &FoundLock, now: Timestamp) -> Complaint {
    let kind = if lock.exclusive { "keeps off everybody" } else { "keeps a prune off" };
    let mut what = format!("{lock} holds a lock, which {kind}, last refreshed {:.0}", lock.refreshed);
    let mut remedy = Vec::new();
    if now.duration_since(lock.refreshed) > QUIET {
        what.push_str("; its holder seems to be gone");
        remedy.push("it goes by itself 30 minutes after it was last refreshed".to_owned());
        remedy.push("at once, if you know that its holder runs no more: stowaway unlock --all".to_owned());
    }
    Complaint { weight: Weight::Note, what, remedy }
}

#[cfg(test)]
mod tests;
