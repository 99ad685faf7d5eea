//! The two operations of maintenance, prune and check, and what a Repository's status shows about them.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use super::{
    super::{
        labels,
        names::RunKind,
        schedule::{Schedule, time_zone},
        text::until,
    },
    DEFAULT_TIME_ZONE,
};
use crate::{
    api::{
        CheckStatus, MaintenanceStatus, READY, Repository, RepositoryStatus, SourceState, VolumeBackend,
        backend_config, condition_is_true,
    },
    model::{BackendConfig, DamagedPacks, Retention},
};

/// How long a waiting prune blocks new runs, and how long it then lets them start.
const TURN: Duration = Duration::from_hours(1);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Operation {
    Prune,
    Check,
}

impl Operation {
    pub const ALL: [Self; 2] = [Self::Prune, Self::Check];

    /// The name of the operation's field in the spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prune => "prune",
            Self::Check => "check",
        }
    }

    /// The kind of the run's present or next Job.
    pub fn kind(self, run: &MaintenanceStatus) -> RunKind {
        match self {
            Self::Prune if run.repacked_bytes.is_none() => RunKind::Repack,
            Self::Prune => RunKind::Prune,
            Self::Check => RunKind::Check,
        }
    }

    /// The action in Events.
    pub fn action(self) -> &'static str {
        match self {
            Self::Prune => "Prune",
            Self::Check => "Check",
        }
    }

    /// The present or last run.
    pub fn run(self, status: &RepositoryStatus) -> Option<&MaintenanceStatus> {
        match self {
            Self::Prune => status.prune.as_ref(),
            Self::Check => status.check.as_ref().map(|check| &check.run),
        }
    }

    /// A copy of the run, which the caller changes and stores by [`Self::put`].
    pub fn take(self, status: &RepositoryStatus) -> Option<MaintenanceStatus> {
        self.run(status).cloned()
    }

    pub fn put(self, status: &mut RepositoryStatus, run: MaintenanceStatus) {
        match self {
            Self::Prune => status.prune = Some(run),
            Self::Check => {
                let check = status.check.take().unwrap_or_default();
                status.check = Some(CheckStatus { run, ..check });
            }
        }
    }

    /// The schedule, or why it cannot be parsed; `None` if the spec has no schedule.
    pub fn schedule(self, repository: &Repository) -> Option<Result<Schedule, String>> {
        let spec = &repository.spec;
        let text = match self {
            Self::Prune => &spec.prune.as_ref()?.schedule,
            Self::Check => &spec.check.as_ref()?.schedule,
        };
        let seed = format!("{}/{}/{}", repository.namespace().unwrap_or_default(), repository.name_any(), self.name());
        let zone = spec.time_zone.as_deref().unwrap_or(DEFAULT_TIME_ZONE);
        Some(match time_zone(zone) {
            Err(why) => Err(format!("spec.timeZone {zone:?} {why}")),
            Ok(zone) => Schedule::parse(text, &seed, zone)
                .map_err(|why| format!("spec.{}.schedule {text:?} {why}", self.name())),
        })
    }
}

/// The time of the last slot which was run, or since which the schedule is known. Later slots have not been run.
pub(super) fn since(run: &MaintenanceStatus) -> Option<Timestamp> {
    [&run.slot, &run.since].into_iter().flatten().map(|time| time.0).max()
}

/// Whether a slot is due, unless a run is in progress.
pub(super) fn is_due_now(schedule: &Schedule, run: &MaintenanceStatus, now: Timestamp) -> bool {
    run.state != Some(SourceState::Running) && since(run).is_some_and(|since| schedule.slots(since, now).due.is_some())
}

/// A Job which is started and not over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ActiveJob {
    pub namespace: String,
    pub name: String,
    /// Name of the Repository which the Job uses, in the same namespace.
    pub repository: String,
    /// The Job's [`RunKind`].
    pub kind: String,
}

pub(super) fn is_of_kind(job: &Job, kind: RunKind) -> bool {
    job.labels().get(labels::KIND) == Some(&kind.to_string())
}

/// Whether a prune runs, or is due and blocks new runs. A prune which waits for a retry does not count. A prune which
/// waits for running backups blocks new ones for [`TURN`], then lets them start for [`TURN`], and so on, so that one
/// day-long backup cannot block all others.
pub(super) fn blocks_new_runs(prune: Option<&MaintenanceStatus>, now: Timestamp) -> bool {
    prune.is_some_and(|run| match run.state {
        Some(SourceState::Running) => true,
        Some(SourceState::Waiting) => {
            let (slot, ended, attempt) = (&run.slot, &run.completion_time, &run.next_time);
            let since = [slot, ended, attempt].into_iter().flatten().map(|time| time.0).max();
            since.is_none_or(|since| since <= now && (until(now, since).as_secs() / TURN.as_secs()).is_multiple_of(2))
        }
        Some(SourceState::Done) | None => false,
    })
}

/// Whether the prune has reached its second Job, which needs the repository exclusively.
fn is_exclusive(run: &MaintenanceStatus) -> bool {
    run.repacked_bytes.is_some()
}

/// Whether the prune runs its exclusive Job.
pub(in super::super) fn excludes_others(prune: Option<&MaintenanceStatus>) -> bool {
    prune.is_some_and(|run| run.state == Some(SourceState::Running) && is_exclusive(run))
}

/// Namespace and name of a Repository.
type ObjectKey = (String, String);

/// The prune Jobs in the whole cluster which are provably Stowaway's. A status alone does not block a repository,
/// because a client which may write a status may have no right to prune.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PruneRuns {
    /// The Repositories whose prune has a Job which is not over. The Job has a deadline.
    pub live: BTreeSet<ObjectKey>,
    /// The Repositories which have a successful Job that repacked for a prune.
    pub prepared: BTreeSet<ObjectKey>,
}

fn object_key(repository: &Repository) -> ObjectKey {
    (repository.namespace().unwrap_or_default(), repository.name_any())
}

fn id(repository: &Repository) -> Option<&str> {
    repository.status.as_ref()?.repository_id.as_deref()
}

/// Whether both objects are the same repository. The id alone does not prove it, because the owner of a store can write
/// any id into it. The location alone does not prove it either, because the store may have been emptied since one of
/// them was opened.
fn is_same(one: &Repository, other: &Repository) -> bool {
    id(one).is_some() && id(one) == id(other) && location(one).is_some() && location(one) == location(other)
}

/// The normalized location of the repository's store.
fn location(repository: &Repository) -> Option<String> {
    let folder = |prefix: &str| prefix.trim_matches('/').to_owned();
    Some(match backend_config(&repository.spec)? {
        BackendConfig::S3(s3) => format!("s3 {} {} {}", host(&s3.endpoint), s3.bucket, folder(&s3.prefix)),
        BackendConfig::Azure(azure) => {
            format!("azure {} {} {} {}", host(&azure.endpoint), azure.account, azure.container, folder(&azure.prefix))
        }
        BackendConfig::Gcs(gcs) => format!("gcs {} {} {}", host(&gcs.endpoint), gcs.bucket, folder(&gcs.prefix)),
        BackendConfig::Rest(rest) => format!("rest {}", host(&rest.url)),
        BackendConfig::Sftp(sftp) => {
            // A relative path starts in the user's home directory.
            let user = if sftp.path.starts_with('/') { "" } else { &sftp.user };
            format!("sftp {} {} {user} {}", sftp.host.to_lowercase(), sftp.port, sftp.path.trim_end_matches('/'))
        }
        BackendConfig::Folder { .. } => {
            let volume = repository.spec.volume.as_ref()?;
            let source = match volume {
                VolumeBackend { nfs: Some(nfs), .. } => format!("nfs {} {}", nfs.server.to_lowercase(), nfs.path),
                VolumeBackend { host_path: Some(folder), .. } => format!("host {}", folder.path),
                _ => format!("{} {}", repository.namespace()?, serde_json::to_string(volume).ok()?),
            };
            format!("{source} {}", volume.path)
        }
    })
}

/// The host, port and path of a URL, without scheme and default port, because http and https lead to the same store.
fn host(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority = authority.rsplit('@').next().unwrap_or_default().to_lowercase();
    let usual = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let authority = authority.strip_suffix(usual).unwrap_or(&authority);
    format!("{authority}/{}", path.trim_matches('/'))
}

/// The keys of the Repository and of all other objects which are the same repository. `all` are those of the whole
/// cluster.
pub fn same_repositories(all: &[Repository], repository: &Repository) -> BTreeSet<ObjectKey> {
    all.iter().filter(|other| is_same(other, repository)).map(object_key).chain([object_key(repository)]).collect()
}

/// The packs on which no run of this Repository may rely: those that a check of any object of the same repository found
/// damaged. `all` are the Repositories of the whole cluster.
///
/// A list that is wrong makes runs read and store more, and loses nothing. So that no namespace causes this for another
/// one by a changed spec, the list of another namespace counts only while its Repository is ready as its spec is now: a
/// Job has then opened the repository at this location.
pub fn damaged_packs(all: &[Repository], repository: &Repository) -> DamagedPacks {
    let is_another = |other: &&Repository| is_same(other, repository) && object_key(other) != object_key(repository);
    let counts = |other: &&Repository| other.metadata.namespace == repository.metadata.namespace || is_open(other);
    // The own list is first, because a list that is too long keeps only its first packs.
    all.iter().filter(is_another).filter(counts).map(damage).fold(damage(repository), DamagedPacks::and)
}

fn damage(repository: &Repository) -> DamagedPacks {
    let check = repository.status.as_ref().and_then(|status| status.check.as_ref());
    check.map(CheckStatus::damage).unwrap_or_default()
}

/// Whether the repository was opened with the present spec, and is ready.
fn is_open(repository: &Repository) -> bool {
    let status = repository.status.as_ref();
    let status = status.filter(|status| status.observed_generation == repository.metadata.generation);
    status.is_some_and(|status| condition_is_true(&status.conditions, READY))
}

/// The names of the other Repositories of the namespace which are the same repository and have another retention, if this
/// one's retention would forget anything. `all` are those of the whole cluster.
///
/// Both retentions apply to the same snapshots, because a snapshot does not record the Repository object which it was
/// stored through. A Repository that was never opened counts by its location alone, because another object may have
/// stored snapshots under its name.
pub fn differing_retentions(all: &[Repository], repository: &Repository) -> Vec<String> {
    let own = retention(repository);
    if own.is_none() {
        return Vec::new();
    }
    let is_same_repository = |other: &Repository| {
        let are_ids_equal = id(other).is_none() || id(repository).is_none() || id(other) == id(repository);
        are_ids_equal && location(other).is_some() && location(other) == location(repository)
    };
    let is_other =
        |other: &&Repository| other.namespace() == repository.namespace() && other.name_any() != repository.name_any();
    let others = all.iter().filter(is_other).filter(|other| is_same_repository(other) && retention(other) != own);
    others.map(ResourceExt::name_any).collect()
}

/// The retention, and the time zone whose days it counts; `None` if all snapshots are kept.
fn retention(repository: &Repository) -> Option<(&Retention, &str)> {
    let retention = repository.spec.retention.as_ref().filter(|retention| !retention.is_empty())?;
    Some((retention, repository.spec.time_zone.as_deref().unwrap_or(DEFAULT_TIME_ZONE)))
}

/// The keys of the Repositories in which no backup may start, because a prune is due or runs there. If several objects
/// are the same repository, all of them are included. `all` are those of the whole cluster.
pub fn closed_repositories(all: &[Repository], runs: &PruneRuns, now: Timestamp) -> BTreeSet<ObjectKey> {
    let is_due = |repository: &Repository| {
        let status = repository.status.as_ref().filter(|status| condition_is_true(&status.conditions, READY));
        let prune = status.and_then(|status| status.prune.as_ref()).filter(|run| is_exclusive(run));
        // A prune which is not waiting to start, such as one that waits for a retry, blocks no run.
        prune.is_some_and(|run| run.state == Some(SourceState::Waiting))
            && blocks_new_runs(prune, now)
            && runs.prepared.contains(&object_key(repository))
    };
    keys_of(all, |repository| runs.live.contains(&object_key(repository)) || is_due(repository))
}

/// The keys of the Repositories in which no restore may start, because a prune runs there. A prune which is only due
/// waits for restores.
pub fn pruned_repositories(all: &[Repository], runs: &PruneRuns) -> BTreeSet<ObjectKey> {
    keys_of(all, |repository| runs.live.contains(&object_key(repository)))
}

/// The keys of the Repositories which `blocks` holds for, and of all objects which are the same repositories.
fn keys_of(all: &[Repository], blocks: impl Fn(&Repository) -> bool) -> BTreeSet<ObjectKey> {
    let is_closed = |repository: &&Repository| repository.metadata.deletion_timestamp.is_none() && blocks(repository);
    all.iter().filter(is_closed).flat_map(|closed| same_repositories(all, closed)).collect()
}
