//! The two kinds of upkeep, and what can be read from a Repository about them.
//!
//! It must not know what is done next.

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
        CheckStatus, READY, Repository, RepositoryStatus, SourceState, UpkeepStatus, VolumeBackend, backend_config,
        condition_is_true,
    },
    model::BackendConfig,
};

/// How long a prune that waits keeps new runs off, and how long it lets them then.
const TURN: Duration = Duration::from_hours(1);

/// What is done on schedule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    Prune,
    Check,
}

impl Verb {
    pub const ALL: [Self; 2] = [Self::Prune, Self::Check];

    /// As it is called in the spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prune => "prune",
            Self::Check => "check",
        }
    }

    /// Of the Job that the run has, or gets next.
    pub fn kind(self, run: &UpkeepStatus) -> RunKind {
        match self {
            Self::Prune if run.repacked_bytes.is_none() => RunKind::Repack,
            Self::Prune => RunKind::Prune,
            Self::Check => RunKind::Check,
        }
    }

    /// What is done, as Events have it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Prune => "Prune",
            Self::Check => "Check",
        }
    }

    /// How it went last.
    pub fn run(self, status: &RepositoryStatus) -> Option<&UpkeepStatus> {
        match self {
            Self::Prune => status.prune.as_ref(),
            Self::Check => status.check.as_ref().map(|check| &check.run),
        }
    }

    /// The same, to be changed and put back.
    pub fn take(self, status: &RepositoryStatus) -> Option<UpkeepStatus> {
        self.run(status).cloned()
    }

    /// How it goes now.
    pub fn put(self, status: &mut RepositoryStatus, run: UpkeepStatus) {
        match self {
            Self::Prune => status.prune = Some(run),
            Self::Check => {
                let check = status.check.take().unwrap_or_default();
                status.check = Some(CheckStatus { run, ..check });
            }
        }
    }

    /// When it is wished, or why that cannot be read; none if it is not.
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

/// Slots after this one are not done yet.
pub(super) fn since(run: &UpkeepStatus) -> Option<Timestamp> {
    [&run.slot, &run.since].into_iter().flatten().map(|time| time.0).max()
}

/// Whether a run that has none under way has a slot to do.
pub(super) fn is_due_now(schedule: &Schedule, run: &UpkeepStatus, now: Timestamp) -> bool {
    run.state != Some(SourceState::Running) && since(run).is_some_and(|since| schedule.slots(since, now).due.is_some())
}

/// A Job that is started and not over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ActiveJob {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the Repository that it works on, in the same namespace.
    pub repository: String,
    /// Its [`RunKind`].
    pub kind: String,
}

/// Whether that Job is of that kind.
pub(super) fn is_of_kind(job: &Job, kind: RunKind) -> bool {
    job.labels().get(labels::KIND) == Some(&kind.to_string())
}

/// Whether a prune is due now, or runs. One that waits for its next attempt does not count; one that waits for others only
/// for [`TURN`], then not for as long, and so on: a backup of a day must not hold up all other ones.
pub(super) fn is_under_way(prune: Option<&UpkeepStatus>, now: Timestamp) -> bool {
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

/// Whether it has come to the part that nobody else may work beside.
fn is_exclusive(run: &UpkeepStatus) -> bool {
    run.repacked_bytes.is_some()
}

/// Whether it runs, and keeps all others off.
pub(in super::super) fn excludes_others(prune: Option<&UpkeepStatus>) -> bool {
    prune.is_some_and(|run| run.state == Some(SourceState::Running) && is_exclusive(run))
}

/// Namespace and name.
type Place = (String, String);

/// The Jobs of prunes in the whole cluster that are provably Stowaway's. A status alone closes no repository: who may write
/// one need not be allowed to prune.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PruneRuns {
    /// The Repositories whose prune has a Job that is not over, which its deadline ends.
    pub live: BTreeSet<Place>,
    /// The Repositories that have a Job which repacked for a prune, and ended well.
    pub prepared: BTreeSet<Place>,
}

fn place(repository: &Repository) -> Place {
    (repository.namespace().unwrap_or_default(), repository.name_any())
}

fn id(repository: &Repository) -> Option<&str> {
    repository.status.as_ref()?.repository_id.as_deref()
}

/// Whether both are the same repository. The id alone does not prove it: the owner of a store can write any id into
/// it. The place alone does not, either: it may have been emptied since one of them was opened.
fn is_same(one: &Repository, other: &Repository) -> bool {
    id(one).is_some() && id(one) == id(other) && location(one).is_some() && location(one) == location(other)
}

/// Where the repository is, in one spelling.
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
            // A relative path begins in the user's own home.
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

/// The host, port and path of an address. One scheme leads where the other does.
fn host(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority = authority.rsplit('@').next().unwrap_or_default().to_lowercase();
    let usual = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let authority = authority.strip_suffix(usual).unwrap_or(&authority);
    format!("{authority}/{}", path.trim_matches('/'))
}

/// Where the Repository is, and all others that are the same repository. `all` are those of the whole cluster.
pub fn same_repositories(all: &[Repository], repository: &Repository) -> BTreeSet<Place> {
    all.iter().filter(|other| is_same(other, repository)).map(place).chain([place(repository)]).collect()
}

/// Where the Repositories are that no backup may begin in, since a prune is due or runs there; of several that are the same
/// repository, all. `all` are those of the whole cluster.
pub fn closed_repositories(all: &[Repository], runs: &PruneRuns, now: Timestamp) -> BTreeSet<Place> {
    let is_due = |repository: &Repository| {
        let status = repository.status.as_ref().filter(|status| condition_is_true(&status.conditions, READY));
        let prune = status.and_then(|status| status.prune.as_ref()).filter(|run| is_exclusive(run));
        // One that cannot prune keeps no run off.
        prune.is_some_and(|run| run.state == Some(SourceState::Waiting))
            && is_under_way(prune, now)
            && runs.prepared.contains(&place(repository))
    };
    places(all, |repository| runs.live.contains(&place(repository)) || is_due(repository))
}

/// The same for restores, which a prune that is only due must wait for: where one runs.
pub fn pruned_repositories(all: &[Repository], runs: &PruneRuns) -> BTreeSet<Place> {
    places(all, |repository| runs.live.contains(&place(repository)))
}

fn places(all: &[Repository], keeps_off: impl Fn(&Repository) -> bool) -> BTreeSet<Place> {
    let is_closed =
        |repository: &&Repository| repository.metadata.deletion_timestamp.is_none() && keeps_off(repository);
    all.iter().filter(is_closed).flat_map(|closed| same_repositories(all, closed)).collect()
}
