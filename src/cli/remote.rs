//! `backup` and `restore` in a cluster: one object is created, and watched until it has its verdict.
//!
//! It must not know how the controller carries it out; it sees status and logs.

use std::{collections::BTreeSet, time::Duration};

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use indicatif::BinaryBytes;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ListParams, LogParams, ObjectMeta, PostParams},
    config::KubeConfigOptions,
    runtime::{WatchStreamExt, watcher},
};

use super::{
    CliError,
    args::{BackupArguments, Output, Place, RestoreArguments},
    output,
    selector::parse_selector,
};
use crate::{
    api::{
        Backup, BackupSpec, NewClaim, Outcome, RepositoryKind, RepositoryReference, Restore, RestoreClaim, RestoreFrom,
        RestoreSpec, RestoreTo, SourceState,
    },
    model::Verdict,
    runner::story,
};

/// The cluster and namespace that the arguments, else the kubeconfig, mean.
pub async fn connect(namespace: Option<&str>, context: Option<&str>) -> Result<(Client, String), CliError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| CliError::Cluster {
        doing: "read the kubeconfig (--repository works without a cluster)".to_owned(),
        source,
    };
    let config = match context {
        None => Config::infer().await.map_err(|error| failed(Box::new(error)))?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await.map_err(|error| failed(Box::new(error)))?
        }
    };
    let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
    let client = Client::try_from(config).map_err(|error| failed(Box::new(error)))?;
    Ok((client, namespace))
}

/// The Repository that is named, if one is.
pub fn reference(place: &Place) -> Option<RepositoryReference> {
    place.repository_name.clone().map(|name| RepositoryReference { kind: RepositoryKind::Repository, name })
}

/// The name of a new object, else one that is made up from the time.
pub fn metadata(name: Option<&String>, verb: &str) -> ObjectMeta {
    let name = name.cloned().unwrap_or_else(|| format!("{verb}-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S")));
    ObjectMeta { name: Some(name), ..ObjectMeta::default() }
}

/// `stowaway backup [-n NAMESPACE]`
pub async fn backup(arguments: BackupArguments) -> Result<u8, CliError> {
    if arguments.init
        || !arguments.command.is_empty()
        || arguments.stdin_filename.is_some()
        || arguments.source.is_some()
    {
        let message =
            "--init, --stdin-filename, --source and a command belong to a local backup: add --repository PLACE";
        return Err(CliError::Usage(message.to_owned()));
    }
    let selector = arguments.selector.as_deref().map(parse_selector).transpose()?;
    let (client, namespace) = connect(arguments.place.namespace.as_deref(), arguments.place.context.as_deref()).await?;
    let backups: Api<Backup> = Api::namespaced(client.clone(), &namespace);
    let mut spec = BackupSpec {
        selector,
        repository_ref: reference(&arguments.place),
        timeout: arguments.timeout.map(Into::into),
        idle_timeout: arguments.idle_timeout.map(Into::into),
        ..BackupSpec::default()
    };
    spec.retry_limit = arguments.retry_limit.map_or(2, u32::from);
    let object = Backup { metadata: metadata(arguments.name.as_ref(), "backup"), spec, status: None };
    let created = backups
        .create(&PostParams::default(), &object)
        .await
        .map_err(CliError::cluster(format!("create the Backup in namespace {namespace}")))?;
    let name = created.name_any();
    if !arguments.wait {
        return announce(&created, "backup", &name, &namespace, arguments.output);
    }
    eprintln!("backup {name} created in namespace {namespace}, waiting for its verdict");
    let mut follower = Follower::new(client, &namespace);
    let ended = wait(&backups, &name, |backup: &Backup| {
        let status = backup.status.as_ref()?;
        for source in status.sources.iter().filter(|source| source.state == SourceState::Running) {
            if let Some(job) = source.jobs.last() {
                follower.follow(job, source.name.as_str());
            }
        }
        status.verdict
    })
    .await;
    follower.finish().await;
    let (backup, verdict) = ended?;
    if arguments.output == Output::Json {
        output::print_json(&backup)?;
    } else {
        print_sources(&backup)?;
    }
    Ok(story::exit_code(verdict))
}

fn print_sources(backup: &Backup) -> Result<(), CliError> {
    let Some(status) = &backup.status else { return Ok(()) };
    let rows = status.sources.iter().map(|source| {
        let outcome = &source.outcome;
        [
            source.name.to_string(),
            outcome.verdict.map_or_else(|| "-".to_owned(), |verdict| verdict.to_string()),
            outcome.reason.clone(),
            BinaryBytes(outcome.bytes.unwrap_or(0)).to_string(),
            outcome.snapshot.as_deref().map_or("-", |id| &id[..id.len().min(8)]).to_owned(),
        ]
    });
    output::print_table(["SOURCE", "VERDICT", "REASON", "SIZE", "SNAPSHOT"], rows)?;
    for source in &status.sources {
        print_trouble(source.name.as_str(), &source.outcome);
    }
    if status.sources.is_empty()
        && let Some(condition) = status.conditions.iter().find(|condition| condition.type_ == crate::api::COMPLETE)
    {
        eprintln!("{}: {}", condition.reason, condition.message);
    }
    Ok(())
}

fn print_trouble(what: &str, outcome: &Outcome) {
    if outcome.verdict == Some(Verdict::Succeeded) {
        return;
    }
    eprintln!("{what}: {}", outcome.message);
    for line in outcome.stderr_tail.lines() {
        eprintln!("  | {line}");
    }
}

/// `stowaway restore [-n NAMESPACE]`
pub async fn restore(arguments: &RestoreArguments) -> Result<u8, CliError> {
    let (client, namespace) = connect(arguments.place.namespace.as_deref(), arguments.place.context.as_deref()).await?;
    let restores: Api<Restore> = Api::namespaced(client.clone(), &namespace);
    let spec = restore_spec(arguments)?;
    let source = spec.from.source.clone();
    let object = Restore { metadata: metadata(arguments.name.as_ref(), "restore"), spec, status: None };
    let created = restores
        .create(&PostParams::default(), &object)
        .await
        .map_err(CliError::cluster(format!("create the Restore in namespace {namespace}")))?;
    let name = created.name_any();
    if !arguments.wait {
        return announce(&created, "restore", &name, &namespace, arguments.output);
    }
    eprintln!("restore {name} created in namespace {namespace}, waiting for its verdict");
    let mut follower = Follower::new(client, &namespace);
    let ended = wait(&restores, &name, |restore: &Restore| {
        let status = restore.status.as_ref()?;
        if let Some(job) = &status.job {
            follower.follow(job, source.as_str());
        }
        status.outcome.verdict
    })
    .await;
    follower.finish().await;
    let (restore, verdict) = ended?;
    if arguments.output == Output::Json {
        output::print_json(&restore)?;
    } else if let Some(status) = &restore.status {
        let outcome = &status.outcome;
        let bytes = BinaryBytes(outcome.bytes.unwrap_or(0));
        let into = match &status.archive {
            Some(archive) => archive.location.clone(),
            None if status.claim.is_empty() => format!("pod {}", status.pod),
            None => format!("claim {}", status.claim),
        };
        output::print_line(&format!("restore {name}: {verdict} ({}), {bytes} into {into}", outcome.reason))?;
        print_trouble(source.as_str(), outcome);
    }
    Ok(story::exit_code(verdict))
}

/// One source, as the arguments say.
fn restore_spec(arguments: &RestoreArguments) -> Result<RestoreSpec, CliError> {
    if arguments.target.is_some() {
        let message = "--target is a folder of this machine, and goes with --repository; name a claim by --claim";
        return Err(CliError::Usage(message.to_owned()));
    }
    if arguments.scale_down == Some(None) {
        let message = "--scale-down of one source names a workload, as deployment/NAME or statefulset/NAME";
        return Err(CliError::Usage(message.to_owned()));
    }
    let claim = arguments.claim.clone().map(|name| RestoreClaim {
        name,
        path: None,
        overwrite: arguments.overwrite,
        create: new_claim(arguments),
    });
    let archive = &arguments.archive;
    let secret = archive.secret.as_deref();
    let to = RestoreTo {
        pod: arguments.pod.clone(),
        container: arguments.container.clone(),
        command: arguments.command.clone(),
        claim,
        archive: archive.place.as_ref().map(|place| place.archive(archive.format, arguments.overwrite, secret)),
    };
    Ok(RestoreSpec {
        from: RestoreFrom {
            source: arguments.source()?,
            snapshot: arguments.snapshot.clone(),
            as_of: arguments.as_of.map(Time),
            host: arguments.host.clone(),
            paths: arguments.paths.clone(),
        },
        to: (to != RestoreTo::default()).then_some(to),
        repository_ref: reference(&arguments.place),
        timeout: arguments.timeout.map(Into::into),
        idle_timeout: arguments.idle_timeout.map(Into::into),
        scale_down: arguments.scale_down.clone().flatten(),
        runner_pod: None,
    })
}

/// How a claim is made that is not there, if it may be.
pub fn new_claim(arguments: &RestoreArguments) -> Option<NewClaim> {
    let storage_class_name = arguments.create.clone()?;
    Some(NewClaim { storage_class_name, size: arguments.size.clone().map(Quantity), ..NewClaim::default() })
}

fn announce(
    object: &impl serde::Serialize,
    verb: &str,
    name: &str,
    namespace: &str,
    format: Output,
) -> Result<u8, CliError> {
    match format {
        Output::Json => output::print_json(object)?,
        Output::Text => output::print_line(&format!(
            "{verb} {name} created in namespace {namespace}; `stowaway logs -n {namespace} {verb}/{name}` tells how it goes"
        ))?,
    }
    Ok(0)
}

/// Watches one object until `verdict` finds one. The watch is resumed over restarts of the API server; the runs
/// themselves have deadlines, so this ends, too.
pub async fn wait<K>(
    objects: &Api<K>,
    name: &str,
    mut verdict: impl FnMut(&K) -> Option<Verdict>,
) -> Result<(K, Verdict), CliError>
where
    K: kube::Resource + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let stream = watcher::watch_object(objects.clone(), name).default_backoff();
    futures::pin_mut!(stream);
    let mut seen = false;
    while let Some(event) = stream.next().await {
        match event {
            Ok(Some(object)) => {
                seen = true;
                if let Some(verdict) = verdict(&object) {
                    return Ok((object, verdict));
                }
            }
            Ok(None) if seen => return Err(CliError::Usage(format!("{name} was deleted before it had a verdict"))),
            Ok(None) => {}
            Err(error) => tracing::warn!("the watch was interrupted and goes on: {error}"),
        }
    }
    Err(CliError::Usage(format!("the watch of {name} ended without a verdict")))
}

/// Shows the log lines of runs on stderr while they are waited for.
struct Follower {
    client: Client,
    namespace: String,
    followed: BTreeSet<String>,
    tasks: tokio::task::JoinSet<()>,
}

impl Follower {
    fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), followed: BTreeSet::new(), tasks: tokio::task::JoinSet::new() }
    }

    fn follow(&mut self, job: &str, source: &str) {
        if self.followed.insert(job.to_owned()) {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
            self.tasks.spawn(follow_job(pods, job.to_owned(), source.to_owned()));
        }
    }

    /// Gives the last lines a moment; the verdict itself is in the status.
    async fn finish(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(Duration::from_secs(3), all).await;
    }
}

async fn follow_job(pods: Api<Pod>, job: String, source: String) {
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let pod = loop {
        let found = pods.list(&selector).await.ok().and_then(|list| list.items.into_iter().next());
        match found {
            Some(pod) if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Pending") => {
                break pod;
            }
            _ => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    };
    let parameters = LogParams { follow: true, ..LogParams::default() };
    if let Ok(reader) = pods.log_stream(&pod.name_any(), &parameters).await {
        let mut lines = reader.lines();
        while let Ok(Some(line)) = lines.try_next().await {
            eprintln!("{source}: {line}");
        }
    }
}
