//! A whole namespace: which snapshot of which source is restored, where to, in which order, and what cannot be.
//!
//! Every source that the repository has a snapshot of is either restored or refused with the reason; none is left out in
//! silence but by a wish for volumes or commands alone. It must not know who asks, nor how one Restore is carried out.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{ObservedPod, SourcePlan, claim::uses};
use crate::{
    api::{NewClaim, RestoreClaim, RestoreFrom, RestoreSpec, RestoreTo, ScaleDown, ScaledKind},
    model::{
        NotRestorable, Quality, Restorable, SnapshotIdentity, SnapshotQuery, SnapshotRecord, SourceName, StoredClaim,
        latest_restorable,
    },
};

/// What the names of volumes begin with.
const VOLUME: &str = "pvc/";

/// What a source is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SourceKind {
    /// A claim. Volumes come first: a command may need what is in them.
    Volume,
    /// A command of a pod.
    Command,
}

/// What is wished for.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceWish<'a> {
    /// Host of the snapshots: the namespace that they were made in.
    pub host: &'a str,
    /// Nothing that was made later.
    pub as_of: Option<Timestamp>,
    /// Id of the cluster that is restored into, whose snapshots come first; empty where it is not known.
    pub cluster: &'a str,
    /// The present.
    pub now: Timestamp,
    /// Only sources of this kind.
    pub only: Option<SourceKind>,
    /// How claims are made that are not there; they are refused when absent.
    pub create: Option<&'a NewClaim>,
    /// Restore into claims that are not empty, too.
    pub overwrite: bool,
    /// Scale the workload of each claim to 0 meanwhile.
    pub scale_down: bool,
}

/// What a plan is made of.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceFacts<'a> {
    /// All snapshots of the repository, in any order.
    pub snapshots: &'a [SnapshotRecord<'a>],
    /// The names of the claims that are there.
    pub claims: &'a BTreeSet<String>,
    /// The pods that are there, each with the workload that can be scaled.
    pub pods: &'a [ObservedPod],
    /// Which sources they are.
    pub sources: &'a SourcePlan,
}

/// What is done, and what is not.
#[derive(Clone, Debug)]
pub struct NamespacePlan<'a> {
    /// Volumes, then commands, each by name.
    pub restores: Vec<ChosenSnapshot<'a>>,
    /// By name.
    pub refused: Vec<RefusedSource>,
}

impl<'a> NamespacePlan<'a> {
    /// The sources of this kind, in rows that may be restored beside each other; those of one row one after the other. The
    /// commands of one workload are in one row, since they go into the same database or files.
    pub fn rows(&self, kind: SourceKind) -> Vec<Vec<&ChosenSnapshot<'a>>> {
        let mut rows: BTreeMap<String, Vec<&ChosenSnapshot<'a>>> = BTreeMap::new();
        for chosen in self.restores.iter().filter(|chosen| chosen.kind == kind) {
            let workload: Vec<&str> = chosen.spec.from.source.as_str().split('/').take(2).collect();
            rows.entry(workload.join("/")).or_default().push(chosen);
        }
        rows.into_values().collect()
    }
}

/// One source that is restored.
#[derive(Clone, Debug)]
pub struct ChosenSnapshot<'a> {
    /// What it is.
    pub kind: SourceKind,
    /// Its snapshot.
    pub snapshot: SnapshotRecord<'a>,
    /// What a person has to know about the choice of the snapshot.
    pub note: Option<String>,
    /// The Restore, with the snapshot pinned. It names no Repository and no timeouts.
    pub spec: RestoreSpec,
}

/// One source that cannot be restored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RefusedSource {
    /// Its name, or the path of snapshots that name none.
    pub source: String,
    /// Why.
    pub refusal: Refusal,
}

/// Why a source cannot be restored.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There are snapshots in time, and none is good.
    #[error(
        "no snapshot of it is proven and complete; the newest is {newest} of {time:.0}, which is {quality}: restore that one by itself, by its id, if it will do"
    )]
    NoneProven {
        /// Its id, short.
        newest: String,
        /// When it was made.
        time: Timestamp,
        /// Why it is not taken.
        quality: Quality,
    },
    /// All of its snapshots are younger than what was wished for.
    #[error("its oldest snapshot is of {0:.0}, and nothing of it was stored as of the time that is wished for")]
    NoneInTime(Timestamp),
    /// Another tool's snapshots, or such as were made by hand.
    #[error("its {0} snapshots name no source: restore them by hand, see docs/manual-restore.md")]
    Unnamed(usize),
    /// There is no such claim.
    #[error("there is no PersistentVolumeClaim {0} in this namespace: make it, or let it be made by --create")]
    NoClaim(String),
    /// No pod is this source.
    #[error("no pod of this namespace is this source now: start its workload, and restore it then by itself")]
    NoPod,
    /// Nothing reads its dump.
    #[error(
        "its pod has no annotation stowaway.dev/restorecommand for it: add it, or restore this source by itself with a command"
    )]
    NoRestoreCommand,
    /// Its workload would come back between two restores.
    #[error(
        "{0} has more than one of the volumes that are restored, and would come back between them: scale it to 0 yourself, and leave --scale-down out"
    )]
    SharedWorkload(String),
    /// What has it mounted cannot be scaled.
    #[error(
        "{0} have it mounted, and not one workload alone that can be scaled to 0: end them, and leave --scale-down out"
    )]
    NotScalable(String),
}

/// Says for each source what is done.
pub fn plan_namespace<'a>(wish: NamespaceWish<'_>, facts: NamespaceFacts<'a>) -> NamespacePlan<'a> {
    let (sources, mut refused) = sources(facts.snapshots, wish.host);
    let mut restores = Vec::new();
    for (name, count) in sources {
        let refuse = |refusal| RefusedSource { source: name.clone(), refusal };
        let Ok(source) = name.parse::<SourceName>() else {
            refused.push(refuse(Refusal::Unnamed(count)));
            continue;
        };
        let kind = if name.starts_with(VOLUME) { SourceKind::Volume } else { SourceKind::Command };
        if wish.only.is_some_and(|only| only != kind) {
            continue;
        }
        let chosen = newest(&source, wish, facts).and_then(|found| Ok((target(&source, wish, facts)?, found)));
        match chosen {
            Ok(((to, scale_down), found)) => {
                let from = RestoreFrom {
                    source,
                    snapshot: Some(found.snapshot.id.to_owned()),
                    as_of: None,
                    host: Some(wish.host.to_owned()),
                    paths: Vec::new(),
                };
                let spec = RestoreSpec {
                    from,
                    to,
                    repository_ref: None,
                    timeout: None,
                    idle_timeout: None,
                    scale_down,
                    runner_pod: None,
                };
                let notes = [found.note(), note_of_new_claim(spec.to.as_ref(), found.snapshot)];
                let note = notes.into_iter().flatten().reduce(|all, note| format!("{all}; {note}"));
                restores.push(ChosenSnapshot { kind, snapshot: found.snapshot, note, spec });
            }
            Err(refusal) => refused.push(refuse(refusal)),
        }
    }
    refuse_shared(&mut restores, &mut refused);
    // Each kind is in the order of its names already.
    restores.sort_by_key(|chosen| chosen.kind);
    refused.sort_by(|one, other| one.source.cmp(&other.source));
    NamespacePlan { restores, refused }
}

/// The names of the sources that the host has snapshots of, with their number, and what names none.
fn sources(snapshots: &[SnapshotRecord<'_>], host: &str) -> (BTreeMap<String, usize>, Vec<RefusedSource>) {
    let mut sources: BTreeMap<String, usize> = BTreeMap::new();
    let mut known_paths: BTreeSet<&str> = BTreeSet::new();
    let mut unnamed: BTreeMap<String, usize> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.identity.host == host) {
        match snapshot.identity.tag(SnapshotIdentity::SOURCE) {
            Some(name) => {
                known_paths.insert(&snapshot.identity.path);
                *sources.entry(name.to_owned()).or_default() += 1;
            }
            None => *unnamed.entry(snapshot.paths.join(", ")).or_default() += 1,
        }
    }
    let mut refused = Vec::new();
    for (path, count) in unnamed {
        let claim = path.strip_prefix("/data/").map(|claim| format!("{VOLUME}{claim}"));
        match claim.filter(|name| name.matches('/').count() == 1 && name.parse::<SourceName>().is_ok()) {
            // K8up's, which [`latest_restorable`] knows.
            Some(name) => *sources.entry(name).or_default() += count,
            // A named source has taken this history over.
            None if known_paths.contains(path.as_str()) => {}
            None => refused.push(RefusedSource { source: path, refusal: Refusal::Unnamed(count) }),
        }
    }
    (sources, refused)
}

/// The snapshot that is restored, by the rule of a single restore.
fn newest<'a>(
    source: &SourceName,
    wish: NamespaceWish<'_>,
    facts: NamespaceFacts<'a>,
) -> Result<Restorable<'a>, Refusal> {
    let NamespaceWish { host, as_of, cluster, now, .. } = wish;
    let query = SnapshotQuery { source, host: Some(host), as_of, cluster, now };
    latest_restorable(facts.snapshots, &query).map_err(|none| match none {
        // There is at least one of that name.
        NotRestorable::NoSnapshot => Refusal::NoneInTime(now),
        NotRestorable::NoneInTime(oldest) => Refusal::NoneInTime(oldest),
        NotRestorable::NoneGood(newest, quality) => {
            Refusal::NoneProven { newest: newest.short_id().to_owned(), time: newest.time, quality }
        }
    })
}

/// Where the source is restored to, and what is scaled down meanwhile.
fn target(
    source: &SourceName,
    wish: NamespaceWish<'_>,
    facts: NamespaceFacts<'_>,
) -> Result<(Option<RestoreTo>, Option<ScaleDown>), Refusal> {
    let Some(claim) = source.as_str().strip_prefix(VOLUME) else {
        return match facts.sources.sources.iter().find(|planned| planned.name == *source) {
            None => Err(Refusal::NoPod),
            Some(planned) if !planned.has_restore_command => Err(Refusal::NoRestoreCommand),
            Some(_) => Ok((None, None)),
        };
    };
    let is_there = facts.claims.contains(claim);
    if !is_there && wish.create.is_none() {
        return Err(Refusal::NoClaim(claim.to_owned()));
    }
    let scale_down = if wish.scale_down { workload(claim, facts.pods)? } else { None };
    let claim = RestoreClaim {
        name: claim.to_owned(),
        path: None,
        overwrite: is_there && wish.overwrite,
        create: wish.create.filter(|_| !is_there).cloned(),
    };
    Ok((Some(RestoreTo { claim: Some(claim), ..RestoreTo::default() }), scale_down))
}

/// What a person has to know of a claim that will be made.
fn note_of_new_claim(to: Option<&RestoreTo>, snapshot: SnapshotRecord<'_>) -> Option<String> {
    let new = to?.claim.as_ref()?.create.as_ref()?;
    let is_recorded = StoredClaim::of(snapshot.identity).is_some_and(|claim| claim.size.is_some());
    (new.size.is_none() && !is_recorded).then(|| {
        "the snapshot does not record what its claim had requested: the new claim gets half as much again as the snapshot has, and \
         1 GiB, and a manifest that requests less is refused afterwards (--size names a size for all)"
            .to_owned()
    })
}

/// The one workload whose pods have the claim mounted; none when no pod has.
fn workload(claim: &str, pods: &[ObservedPod]) -> Result<Option<ScaleDown>, Refusal> {
    let users: BTreeSet<(&str, &str)> = pods
        .iter()
        .filter(|observed| uses(&observed.pod, claim))
        .map(|observed| (observed.workload.kind.as_str(), observed.workload.name.as_str()))
        .collect();
    let scaled = |kind, name: &str| Ok(Some(ScaleDown { kind, name: name.to_owned() }));
    match users.iter().collect::<Vec<_>>().as_slice() {
        [] => Ok(None),
        [("deployment", name)] => scaled(ScaledKind::Deployment, name),
        [("statefulset", name)] => scaled(ScaledKind::StatefulSet, name),
        users => {
            let names: Vec<String> = users.iter().map(|(kind, name)| format!("{kind}/{name}")).collect();
            Err(Refusal::NotScalable(names.join(", ")))
        }
    }
}

/// Takes out the volumes whose workload has another one, too: each Restore scales it back by itself.
fn refuse_shared(restores: &mut Vec<ChosenSnapshot<'_>>, refused: &mut Vec<RefusedSource>) {
    let workload =
        |chosen: &ChosenSnapshot<'_>| chosen.spec.scale_down.as_ref().map(|one| format!("{} {}", one.kind, one.name));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in restores.iter().filter_map(workload) {
        *counts.entry(name).or_default() += 1;
    }
    restores.retain(|chosen| match workload(chosen).filter(|name| counts.get(name).is_some_and(|count| *count > 1)) {
        None => true,
        Some(name) => {
            let source = chosen.spec.from.source.to_string();
            refused.push(RefusedSource { source, refusal: Refusal::SharedWorkload(name) });
            false
        }
    });
}
