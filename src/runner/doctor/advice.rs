//! The problems of a repository, what they mean, and how to solve them step by step. Pure.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    model::{Failure, Quality, Reason, SnapshotIdentity, SnapshotRecord, newest_good},
    repository::{CheckReport, Finding, FoundLock, HarmedSnapshot, SnapshotSummary},
};

/// The age of a lock after which its holder may have ended. Holders refresh their locks every few minutes.
const QUIET: SignedDuration = SignedDuration::from_mins(10);
/// The number of findings of a kind that are named; all are counted.
const NAMED: usize = 10;

/// The severity of a complaint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Weight {
    /// Stored data cannot be restored as it is, or nothing can be stored or restored at all.
    Broken,
    /// All stored data can be restored, but one more failure may change that.
    Risk,
    /// Informational.
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

/// One problem of a repository.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Complaint {
    /// Its severity.
    pub weight: Weight,
    /// The problem and the affected object.
    pub what: String,
    /// The steps that solve it.
    pub remedy: Vec<String>,
}

/// The result of an examination.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// The checks which found no problem.
    pub sound: Vec<String>,
    /// The problems, the most severe first.
    pub complaints: Vec<Complaint>,
}

impl Diagnosis {
    /// Whether something is broken.
    pub fn is_broken(&self) -> bool {
        self.complaints.iter().any(|complaint| complaint.weight == Weight::Broken)
    }
}

/// The facts about a repository which could be opened.
#[derive(Debug)]
pub(super) struct Observed {
    /// The location of the repository, without credentials.
    pub location: String,
    /// Version of the repository format.
    pub format: u32,
    /// Whether the store refuses writes.
    pub is_read_only: bool,
    /// Locks of other clients.
    pub locks: Vec<FoundLock>,
    pub check: CheckReport,
    /// All snapshots, if the check could read all of them.
    pub snapshots: Vec<SnapshotSummary>,
}

/// The diagnosis of a repository which could be opened.
pub(super) fn diagnose(observed: &Observed, now: Timestamp) -> Diagnosis {
    let Observed { location, format, is_read_only, locks, check, snapshots } = observed;
    let mut sound = vec![format!("the repository at {location} can be reached, and the password opens it")];
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
        let step = "run this again with --read-data, or set a schedule for checks in the Repository (spec.check)";
        let remedy = vec![step.to_owned()];
        let what = "the bytes of the packs were not read, so damage in them would not be noticed";
        complaints.push(Complaint { weight: Weight::Note, what: what.to_owned(), remedy });
    }
    match check.keys {
        0 | 1 => complaints.push(only_key()),
        keys => sound.push(format!("it has {keys} keys; keep the password of one of them outside of the cluster")),
    }
    complaints.extend(locks.iter().map(|lock| held(lock, now)));
    if *is_read_only {
        let what = "the store refuses writes, so nothing can be backed up or pruned; restores and checks are possible, without \
                    a lock";
        let remedy = vec![
            "if backups are expected: check the permissions of the credentials, or whether the volume is mounted read-only"
                .to_owned(),
            "if something is reported as damaged: make sure that no other client prunes the repository, and run this again"
                .to_owned(),
        ];
        complaints.push(Complaint { weight: Weight::Risk, what: what.to_owned(), remedy });
    }
    if *format < 2 {
        let remedy = vec![format!("restic -r {location} migrate upgrade_repo_v2")];
        let what = "it has restic's format 1, which does not support compression".to_owned();
        complaints.push(Complaint { weight: Weight::Note, what, remedy });
    }
    if check.unreferenced_packs > 0 {
        let what = format!(
            "{} packs are in no index: failed runs have left them; they are harmless, but use space",
            check.unreferenced_packs
        );
        complaints.push(Complaint {
            weight: Weight::Note,
            what,
            remedy: vec!["stowaway prune --repository REPOSITORY".to_owned()],
        });
    }
    complaints.sort_by_key(|complaint| complaint.weight);
    Diagnosis { sound, complaints }
}

/// The diagnosis of a repository which could not be opened, from the failure.
pub fn unopened(failure: &Failure) -> Diagnosis {
    Diagnosis { sound: Vec::new(), complaints: vec![failed(failure, failure.message.clone())] }
}

/// The diagnosis of a repository which was opened, and whose examination failed.
pub(super) fn interrupted(failure: &Failure) -> Diagnosis {
    let sound = vec!["the repository could be reached, and the password opens it".to_owned()];
    let what = format!("the examination was not completed: {}", failure.message);
    Diagnosis { sound, complaints: vec![failed(failure, what)] }
}

fn failed(failure: &Failure, what: String) -> Complaint {
    let steps: &[&str] = match failure.reason {
        Reason::WrongPassword => &[
            "check that the Secret holds the password with which the repository was created, or the password of an \
             added key",
            "if you have the password of another key, for example outside of the cluster: use it as the \
             password of `stowaway key add --repository REPOSITORY`, and store the new password in the Secret",
            "without any of these passwords the repository cannot be read",
        ],
        Reason::RepositoryNotFound => &[
            "correct the location: endpoint, bucket and prefix, or the volume",
            "if nothing was ever stored there, the first backup creates it",
            "if there was a repository: look for the file `config` in the store's own versions or backups, and \
             restore it; do not create another repository at that location",
        ],
        Reason::RepositoryDamaged => &[
            "restore the damaged files from the store's own versions or from a copy: the files `config` and `keys/*` \
             exist only once, and without them the repository cannot be opened",
        ],
        Reason::RepositoryLocked => {
            &["wait until that run ends", "if it no longer runs: stowaway unlock --repository REPOSITORY"]
        }
        Reason::StoreFull => &[
            "free space in the store, or enlarge it: opening the repository writes a small lock file, which did not \
             fit",
            "if that is impossible: restic prune --unsafe-recover-no-free-space, which is described in restic's manual",
        ],
        Reason::StoreUnavailable => &[
            "correct the location: host name, port, http or https, bucket or path",
            "check that the store is up, and that its name resolves and its port can be reached from where this ran: \
             from this machine, or with a Repository of a cluster from the pods of its namespace (DNS, proxy, \
             NetworkPolicies)",
            "if the store refuses the request: correct the credentials, or their permissions",
        ],
        Reason::RepositoryChanged => &[
            "correct the location: endpoint, bucket and prefix, or the volume",
            "if the repository is another one on purpose: set the annotation stowaway.dev/accept-repository of the \
             Repository to its id",
        ],
        Reason::SecretMissing => &["create what is missing; the controller then opens the Repository by itself"],
        Reason::PodNotStarted => &["solve what prevents the pod from starting: kubectl get events -n NAMESPACE"],
        Reason::PodRefused => {
            &["set runnerPod.resources of the Repository to fit into the LimitRange of its namespace, or change that"]
        }
        _ => &["solve this, and run this again"],
    };
    let remedy = steps.iter().map(|step| (*step).to_owned()).collect();
    Complaint { weight: Weight::Broken, what, remedy }
}

/// All findings of the check as one complaint, because they are solved together.
fn damage(check: &CheckReport) -> Complaint {
    let CheckReport { findings, harmed_snapshots, harmed, .. } = check;
    let found: Vec<String> = findings.first.iter().take(NAMED).map(ToString::to_string).collect();
    let more = findings.count - found.len() as u64;
    let more = if more > 0 {
        format!("; and {more} more, see `stowaway check --repository REPOSITORY`")
    } else {
        String::new()
    };
    let what = format!(
        "{} findings, and {harmed_snapshots} snapshots which cannot be restored completely: {}{more}",
        findings.count,
        found.join("; ")
    );
    let mut remedy = vec![
        "if the store keeps older versions of its files, or there is a copy: restore the named files; nothing else is \
         needed"
            .to_owned(),
        "otherwise, first copy the folders `index` and `snapshots` of the repository to another location".to_owned(),
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
        let packs = damaged.join(" ");
        remedy.push(format!("restic repair packs {packs}   (0.16 or newer; keeps the data which can still be read)"));
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
        remedy.push(format!(
            "remove the file {file} from the store, and add a key instead: stowaway key add --repository REPOSITORY"
        ));
    }
    if *harmed_snapshots > 0 {
        remedy.push(
            "back up all sources: data which still exists is stored again, which repairs older snapshots with the \
             same data"
                .to_owned(),
        );
        let again = "run this again; snapshots which are still damaged then cannot be repaired (--last-of-source \
                     deletes the last snapshot of a source, too)";
        remedy.push(format!("{again}: stowaway forget --repository REPOSITORY {}", short_ids(harmed)));
    }
    Complaint { weight: Weight::Broken, what, remedy }
}

/// The unreadable files of this folder.
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

/// Complaints about sources whose newest snapshot is not good, and about snapshots which are dated in the future.
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
            "{} snapshots are dated in the future, such as {} of {:.0}: no restore chooses them automatically",
            of_future.len(),
            first.record().short_id(),
            first.time
        );
        let remedy = vec![
            "check the clocks of this machine and of the nodes".to_owned(),
            "delete such a snapshot, or restore it by its id: stowaway forget --repository REPOSITORY SNAPSHOT"
                .to_owned(),
        ];
        complaints.push(Complaint { weight: Weight::Risk, what, remedy });
    }
    complaints
}

/// The problem of the newest snapshot of a history, without safety copies and snapshots of the future.
fn not_good_newest(history: &[SnapshotRecord<'_>], now: Timestamp) -> Option<Complaint> {
    let counts = |snapshot: &&SnapshotRecord<'_>| {
        !matches!(snapshot.quality(now), Quality::Safety | Quality::FromFuture) && !snapshot.is_from_future(now)
    };
    let newest = history.iter().filter(counts).max_by_key(|snapshot| (snapshot.time, snapshot.id))?;
    let how = match newest.quality(now) {
        Quality::Proven | Quality::Safety | Quality::FromFuture => return None,
        Quality::Unproven => "is not proven complete",
        Quality::Incomplete => "lacks files which could not be read",
        Quality::Suspect => {
            "is suspect: the volume was empty or had lost most of its content, or a Restore into the source had failed"
        }
    };
    let last = newest_good(history.iter().copied(), now).map_or_else(
        || "there is no good snapshot".to_owned(),
        |good| format!("the last good snapshot is {} of {:.0}", good.short_id(), good.time),
    );
    let (source, host) = (newest.identity.tag(SnapshotIdentity::SOURCE).unwrap_or_default(), &newest.identity.host);
    let mut remedy = vec![format!(
        "if a Backup of namespace {host} stored it, read its log (kubectl get backups.stowaway.dev -n {host} lists the \
         names): stowaway logs -n {host} backup/NAME"
    )];
    remedy.push(match newest.quality(now) {
        Quality::Suspect => format!(
            "if its content is right or the loss is intended: restic tag --remove suspect {}; otherwise restore the last \
             good snapshot",
            newest.short_id()
        ),
        _ => "a container with sh, or the sidecar, makes dumps provable; unreadable files need another user of the \
              run (runnerPod)"
            .to_owned(),
    });
    let what = format!("the newest snapshot of {source} (host {host}), of {:.0}, {how}; {last}", newest.time);
    Some(Complaint { weight: Weight::Risk, what, remedy })
}

fn only_key() -> Complaint {
    let remedy = vec![
        "stowaway key add --repository REPOSITORY --new-password-file FILE".to_owned(),
        "keep that password outside of the cluster, with the location and the credentials of the repository".to_owned(),
    ];
    let what = "only one password opens it: if the Secret with it is lost, all stored data is lost".to_owned();
    Complaint { weight: Weight::Risk, what, remedy }
}

fn held(lock: &FoundLock, now: Timestamp) -> Complaint {
    let kind = if lock.exclusive { "blocks all other clients" } else { "blocks a prune" };
    let mut what = format!("{lock} holds a lock, which {kind}, last refreshed {:.0}", lock.refreshed);
    let mut remedy = Vec::new();
    if now.duration_since(lock.refreshed) > QUIET {
        what.push_str("; its holder seems to have ended");
        remedy.push("the lock is ignored and removed 30 minutes after its last refresh".to_owned());
        remedy.push(
            "to remove it now, if you know that its holder no longer runs: stowaway unlock --repository REPOSITORY \
             --all"
                .to_owned(),
        );
    }
    Complaint { weight: Weight::Note, what, remedy }
}

#[cfg(test)]
mod tests;
