//! The plan of a restore of a whole namespace: which snapshot of each source is restored, its target, the order, and
//! which sources cannot be restored.
//!
//! Every source which the repository has a snapshot of is either restored or refused with a reason, unless the request
//! is limited to volumes or commands.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{ObservedPod, SourcePlan, claim::uses};
use crate::{
    api::{
        NewClaim, RepositoryKind, RepositoryReference, RestoreClaim, RestoreFrom, RestoreSpec, RestoreTo, ScaleDown,
        ScaledKind,
    },
    model::{
        NotRestorable, Quality, Restorable, SnapshotIdentity, SnapshotQuery, SnapshotRecord, SourceName, StoredClaim,
        latest_restorable,
    },
};

/// Prefix of the names of volume sources.
const VOLUME: &str = "pvc/";

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SourceKind {
    /// A claim. Volumes are restored first, because a command may need their content.
    Volume,
    /// A command of a pod.
    Command,
}

/// The request to restore a namespace.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceRequest<'a> {
    /// Host of the snapshots, which is the namespace that they were taken in.
    pub host: &'a str,
    /// Only snapshots of this time or earlier.
    pub as_of: Option<Timestamp>,
    /// Id of the cluster to restore into, whose snapshots are preferred; empty if it is not known.
    pub cluster: &'a str,
    pub now: Timestamp,
    /// Only sources of this kind.
    pub only: Option<SourceKind>,
    /// The properties of missing claims, which are created. With `None`, sources of missing claims are refused.
    pub create: Option<&'a NewClaim>,
    /// Restore into claims which are not empty, too.
    pub overwrite: bool,
    /// Scale the workload of each claim to 0 meanwhile.
    pub scale_down: bool,
}

/// The facts which a namespace restore is planned from.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceFacts<'a> {
    /// The Repositories which are read: first the default one, or the only one if the user has named it; then those which
    /// the sources' pods name.
    pub repositories: &'a [RepositorySnapshots<'a>],
    /// Whether the user has named the Repository, so that those which pods name are not read.
    pub is_named: bool,
    /// The names of the existing claims.
    pub claims: &'a BTreeSet<String>,
    /// The existing pods, each with the workload which can be scaled.
    pub pods: &'a [ObservedPod],
    /// The sources which `pods` are.
    pub sources: &'a SourcePlan,
}

/// A Repository, and all its snapshots in any order.
#[derive(Clone, Debug)]
pub struct RepositorySnapshots<'a> {
    /// Name of the Repository.
    pub name: String,
    pub snapshots: Vec<SnapshotRecord<'a>>,
    /// Whether it could not be read, so that its snapshots are not known.
    pub is_unread: bool,
}

/// The Repositories to read: the default one, and those which the pods of sources name.
pub fn repositories_to_read(default: &str, sources: &SourcePlan) -> Vec<String> {
    let named: BTreeSet<&str> = sources.sources.iter().filter_map(|source| source.repository.as_deref()).collect();
    let others = named.into_iter().filter(|name| *name != default);
    std::iter::once(default).chain(others).map(str::to_owned).collect()
}

/// The sources which are restored, and those which are refused.
#[derive(Clone, Debug)]
pub struct NamespacePlan<'a> {
    /// Volumes, then commands; each sorted by name.
    pub restores: Vec<ChosenSnapshot<'a>>,
    /// Sorted by name.
    pub refused: Vec<RefusedSource>,
}

impl<'a> NamespacePlan<'a> {
    /// The sources of this kind in rows. Rows may be restored concurrently, the sources of a row only one after the
    /// other. The commands of one workload are in one row, because they may write to the same database or files.
    pub fn rows(&self, kind: SourceKind) -> Vec<Vec<&ChosenSnapshot<'a>>> {
        let mut rows: BTreeMap<String, Vec<&ChosenSnapshot<'a>>> = BTreeMap::new();
        for chosen in self.restores.iter().filter(|chosen| chosen.kind == kind) {
            let workload: Vec<&str> = chosen.spec.from.source.as_str().split('/').take(2).collect();
            rows.entry(workload.join("/")).or_default().push(chosen);
        }
        rows.into_values().collect()
    }
}

/// A source which is restored, and its snapshot.
#[derive(Clone, Debug)]
pub struct ChosenSnapshot<'a> {
    pub kind: SourceKind,
    pub snapshot: SnapshotRecord<'a>,
    /// A remark for the user about the choice of the snapshot, or about the new claim.
    pub note: Option<String>,
    /// The spec of the Restore, with the Repository and the id of the snapshot. It has no timeouts.
    pub spec: RestoreSpec,
}

/// A source which cannot be restored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RefusedSource {
    /// Name of the source, or the path of snapshots which name no source.
    pub source: String,
    pub refusal: Refusal,
}

/// Why a source cannot be restored.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There are snapshots of the requested time, and none is proven and complete.
    #[error(
        "none of its snapshots is proven and complete; the newest is {newest} of {time:.0}, which is {quality}: to use it all the same, restore it alone by its id"
    )]
    NoneProven {
        /// Short id of the newest snapshot.
        newest: String,
        time: Timestamp,
        /// Why the newest snapshot is not chosen.
        quality: Quality,
    },
    /// The Repository which its pod names, or else the default one, has no snapshot of it, and another one has.
    #[error(
        "Repository {expected} has no snapshot of it, and Repository {found} has: restore it alone with --repository-name {found}"
    )]
    OtherRepository {
        /// The Repository which its Backups use now.
        expected: String,
        found: String,
    },
    /// The snapshots of the Repository which its Backups use are not known. Those of another one may be older.
    #[error("Repository {0}, which its Backups use, cannot be read: run the command again when it can be")]
    UnreadRepository(String),
    /// All of its snapshots are younger than the requested time.
    #[error("its oldest snapshot is of {0:.0}, which is later than the requested time")]
    NoneInTime(Timestamp),
    /// Snapshots of another tool, or snapshots which a user created with restic.
    #[error("its {0} snapshots name no source: restore them manually, see docs/manual-restore.md")]
    Unnamed(usize),
    #[error("there is no PersistentVolumeClaim {0} in this namespace: create it, or set --create")]
    NoClaim(String),
    /// No pod is this source.
    #[error("no pod of this namespace is this source now: start its workload, then restore this source alone")]
    NoPod,
    /// The pod has no command which reads the dump.
    #[error(
        "its pod has no annotation stowaway.dev/restorecommand for it: add it, or restore this source alone with a command"
    )]
    NoRestoreCommand,
    /// The workload would be scaled back between two restores.
    #[error(
        "{0} mounts several of the restored volumes, and would be scaled back between their restores: scale it to 0 yourself, and omit --scale-down"
    )]
    SharedWorkload(String),
    /// The pods which mount the claim do not belong to a single workload which can be scaled.
    #[error(
        "it is mounted by {0}, which is not a single workload that can be scaled to 0: end them, and omit --scale-down"
    )]
    NotScalable(String),
}

/// Plans for each source how it is restored, or why it is refused.
pub fn plan_namespace<'a>(request: NamespaceRequest<'_>, facts: NamespaceFacts<'a>) -> NamespacePlan<'a> {
    let mut restores: Vec<ChosenSnapshot<'a>> = Vec::new();
    let mut refused: Vec<RefusedSource> = Vec::new();
    let mut elsewhere: BTreeMap<String, String> = BTreeMap::new();
    for repository in facts.repositories {
        if repository.is_unread {
            refused.extend(of_unread(&repository.name, request, facts));
            continue;
        }
        let (sources, unnamed) = sources(&repository.snapshots, request.host);
        let unnamed: Vec<_> = unnamed.into_iter().filter(|one| !refused.contains(one)).collect();
        refused.extend(unnamed);
        for (name, count) in sources {
            if repository_of(&name, facts) == Some(&repository.name) {
                plan_source(&name, count, repository, (request, facts), &mut restores, &mut refused);
            } else {
                elsewhere.entry(name).or_insert_with(|| repository.name.clone());
            }
        }
    }
    for (source, found) in elsewhere {
        let is_planned = |chosen: &ChosenSnapshot<'_>| chosen.spec.from.source.as_str() == source;
        let is_decided = restores.iter().any(is_planned) || refused.iter().any(|one| one.source == source);
        let kind = kind_of(&source);
        if is_decided || request.only.is_some_and(|only| only != kind) {
            continue;
        }
        let expected = repository_of(&source, facts).cloned().unwrap_or_default();
        let is_unread = facts.repositories.iter().any(|one| one.name == expected && one.is_unread);
        let refusal =
            if is_unread { Refusal::UnreadRepository(expected) } else { Refusal::OtherRepository { expected, found } };
        refused.push(RefusedSource { source, refusal });
    }
    refuse_shared(&mut restores, &mut refused);
    // Sorted by name within each kind, whichever Repository a source is in.
    restores.sort_by(|one, other| (one.kind, &one.spec.from.source).cmp(&(other.kind, &other.spec.from.source)));
    refused.sort_by(|one, other| one.source.cmp(&other.source));
    NamespacePlan { restores, refused }
}

/// The sources of pods whose Backups use a Repository that could not be read.
fn of_unread(repository: &str, request: NamespaceRequest<'_>, facts: NamespaceFacts<'_>) -> Vec<RefusedSource> {
    let names = facts.sources.sources.iter().map(|planned| planned.name.as_str());
    let names = names.filter(|name| repository_of(name, facts).is_some_and(|of_source| of_source == repository));
    names
        .filter(|name| request.only.is_none_or(|only| only == kind_of(name)))
        .map(|name| RefusedSource {
            source: name.to_owned(),
            refusal: Refusal::UnreadRepository(repository.to_owned()),
        })
        .collect()
}

/// The Repository which the source's Backups use: the one which its pod names, or else the first one.
fn repository_of<'a>(source: &str, facts: NamespaceFacts<'a>) -> Option<&'a String> {
    let first = facts.repositories.first()?;
    let planned = facts.sources.sources.iter().find(|planned| planned.name.as_str() == source);
    // A Repository which the user has named is the only one.
    let named = planned.and_then(|planned| planned.repository.as_ref()).filter(|_| !facts.is_named);
    Some(named.unwrap_or(&first.name))
}

fn kind_of(source: &str) -> SourceKind {
    if source.starts_with(VOLUME) { SourceKind::Volume } else { SourceKind::Command }
}

/// Plans how one source is restored from its Repository, or why it is refused.
fn plan_source<'a>(
    name: &str,
    count: usize,
    repository: &'a RepositorySnapshots<'a>,
    (request, facts): (NamespaceRequest<'_>, NamespaceFacts<'a>),
    restores: &mut Vec<ChosenSnapshot<'a>>,
    refused: &mut Vec<RefusedSource>,
) {
    let refuse = |refusal| RefusedSource { source: name.to_owned(), refusal };
    let Ok(source) = name.parse::<SourceName>() else {
        refused.push(refuse(Refusal::Unnamed(count)));
        return;
    };
    let kind = kind_of(name);
    if request.only.is_some_and(|only| only != kind) {
        return;
    }
    let chosen =
        newest(&source, request, &repository.snapshots).and_then(|found| Ok((target(&source, request, facts)?, found)));
    let ((to, scale_down), found) = match chosen {
        Ok(chosen) => chosen,
        Err(refusal) => {
            refused.push(refuse(refusal));
            return;
        }
    };
    let from = RestoreFrom {
        source,
        snapshot: Some(found.snapshot.id.to_owned()),
        as_of: None,
        host: Some(request.host.to_owned()),
        paths: Vec::new(),
    };
    let reference = RepositoryReference { kind: RepositoryKind::Repository, name: repository.name.clone() };
    let spec = RestoreSpec {
        from,
        to,
        repository_ref: Some(reference),
        timeout: None,
        idle_timeout: None,
        scale_down,
        runner_pod: None,
    };
    let is_first = facts.repositories.first().is_some_and(|first| first.name == repository.name);
    let of_repository = (!is_first).then(|| format!("from Repository {}, which its pod names", repository.name));
    let notes = [of_repository, found.note(), note_of_new_claim(spec.to.as_ref(), found.snapshot)];
    let note = notes.into_iter().flatten().reduce(|all, note| format!("{all}; {note}"));
    restores.push(ChosenSnapshot { kind, snapshot: found.snapshot, note, spec });
}

/// The names of the sources which the host has snapshots of, with the number of snapshots; and the snapshots without a
/// source.
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
            // Snapshots of K8up, which [`latest_restorable`] accepts.
            Some(name) => *sources.entry(name).or_default() += count,
            // A named source has newer snapshots of the same path.
            None if known_paths.contains(path.as_str()) => {}
            None => refused.push(RefusedSource { source: path, refusal: Refusal::Unnamed(count) }),
        }
    }
    (sources, refused)
}

/// The snapshot to restore, by the rule of a single Restore.
fn newest<'a>(
    source: &SourceName,
    request: NamespaceRequest<'_>,
    snapshots: &[SnapshotRecord<'a>],
) -> Result<Restorable<'a>, Refusal> {
    let NamespaceRequest { host, as_of, cluster, now, .. } = request;
    let query = SnapshotQuery { source, host: Some(host), as_of, cluster, now };
    latest_restorable(snapshots, &query).map_err(|none| match none {
        // Unreachable, because the source's name comes from a snapshot.
        NotRestorable::NoSnapshot => Refusal::NoneInTime(now),
        NotRestorable::NoneInTime(oldest) => Refusal::NoneInTime(oldest),
        NotRestorable::NoneGood(newest, quality) => {
            Refusal::NoneProven { newest: newest.short_id().to_owned(), time: newest.time, quality }
        }
    })
}

/// The target of the source, and the workload which is scaled down meanwhile.
fn target(
    source: &SourceName,
    request: NamespaceRequest<'_>,
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
    if !is_there && request.create.is_none() {
        return Err(Refusal::NoClaim(claim.to_owned()));
    }
    let scale_down = if request.scale_down { workload(claim, facts.pods)? } else { None };
    let claim = RestoreClaim {
        name: claim.to_owned(),
        path: None,
        overwrite: is_there && request.overwrite,
        create: request.create.filter(|_| !is_there).cloned(),
    };
    Ok((Some(RestoreTo { claim: Some(claim), ..RestoreTo::default() }), scale_down))
}

/// A remark for the user if the size of the new claim is derived from the snapshot's size.
fn note_of_new_claim(to: Option<&RestoreTo>, snapshot: SnapshotRecord<'_>) -> Option<String> {
    let new = to?.claim.as_ref()?.create.as_ref()?;
    let is_recorded = StoredClaim::of(snapshot.identity).is_some_and(|claim| claim.size.is_some());
    (new.size.is_none() && !is_recorded).then(|| {
        "the snapshot does not record which size its claim requested: the new claim gets 1.5 times the snapshot's size, and \
         1 GiB; Kubernetes refuses a later manifest which requests less (--size sets the size of all claims)"
            .to_owned()
    })
}

/// The only workload whose pods mount the claim; `None` if no pod does.
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

/// Refuses the volumes whose workload mounts another restored volume, because each Restore scales the workload back at
/// its end.
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
