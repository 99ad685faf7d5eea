//! `backup` and `restore` in a cluster. The CLI creates one object and watches its status until it has a verdict; it
//! also shows the logs of the runs.

use std::time::Duration;

use futures::StreamExt;
use indicatif::BinaryBytes;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ObjectMeta, PostParams},
    config::KubeConfigOptions,
    runtime::{WatchStreamExt, watcher},
};
use rand::{RngExt, distr::Alphanumeric};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{
    CliError,
    args::{BackupArguments, Output, RepositoryArguments, RestoreArguments},
    backup_report, controller_lease, fields,
    follow::Follower,
    output::{self, note},
    rights::{self, Right},
    selector::parse_selector,
    waiting::{self, Awaited},
};
use crate::{
    api::{
        Backup, BackupSpec, NewClaim, RepositoryKind, RepositoryReference, Restore, RestoreClaim, RestoreFrom,
        RestoreSpec, RestoreTo, SourceState,
    },
    cluster::client::{Component, with_user_agent},
    model::Verdict,
    runner::{story, terminated},
};

/// How often `--wait` checks whether the controller is alive.
const CHECK_CONTROLLER_EVERY: Duration = Duration::from_mins(1);
/// Timeout of one check, because the wait for the verdict is paused meanwhile.
const CONTROLLER_CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for the cluster and the namespace of the arguments. Default: those of the kubeconfig.
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
    let client = Client::try_from(with_user_agent(config, Component::Cli)).map_err(|error| failed(Box::new(error)))?;
    Ok((client, namespace))
}

/// A reference to the Repository that the arguments name, if any.
pub fn reference(location: &RepositoryArguments) -> Option<RepositoryReference> {
    location.repository_name.clone().map(|name| RepositoryReference { kind: RepositoryKind::Repository, name })
}

/// Metadata of a new object with this name. Default: a name generated from the time.
pub fn metadata(name: Option<&String>, kind: &str) -> ObjectMeta {
    // A readable time, and a random part, because another command may run in the same second.
    let random = || rand::rng().sample_iter(Alphanumeric).take(5).map(|byte| char::from(byte).to_ascii_lowercase());
    let new = || format!("{kind}-{}-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S"), random().collect::<String>());
    let name = name.cloned().unwrap_or_else(new);
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
            "--init, --stdin-filename, --source and a command belong to a local backup: add --repository REPOSITORY";
        return Err(CliError::Usage(message.to_owned()));
    }
    if arguments.allow_empty || arguments.host.is_some() {
        let message = "--allow-empty and --host belong to a local backup (--repository REPOSITORY); in a cluster the pod's annotation \
                       stowaway.dev/allow-empty allows an empty dump, and the host is the namespace";
        return Err(CliError::Usage(message.to_owned()));
    }
    let selector = arguments.selector.as_deref().map(parse_selector).transpose()?;
    let (client, namespace) =
        connect(arguments.location.namespace.as_deref(), arguments.location.context.as_deref()).await?;
    let backups: Api<Backup> = Api::namespaced(client.clone(), &namespace);
    let mut follower =
        if arguments.wait { follower(&client, &namespace, "backups", arguments.name.as_deref()).await? } else { None };
    let mut spec = BackupSpec {
        selector,
        repository_ref: reference(&arguments.location),
        timeout: arguments.timeout.map(Into::into),
        idle_timeout: arguments.idle_timeout.map(Into::into),
        ..BackupSpec::default()
    };
    spec.retry_limit = arguments.retry_limit.map_or(2, u32::from);
    let object = Backup { metadata: metadata(arguments.name.as_ref(), "backup"), spec, status: None };
    let created = backups
        .create(&PostParams::default(), &object)
        .await
        .map_err(CliError::refused(format!("create the Backup in namespace {namespace}")))?;
    let name = created.name_any();
    if !arguments.wait {
        return announce(&created, "backup", &name, &namespace, arguments.output);
    }
    note(&format!("backup {name} created in namespace {namespace}, waiting for its verdict"));
    let waiting = wait(&backups, (&namespace, &name), |backup: &Backup| {
        let sources = backup.status.iter().flat_map(|status| &status.sources);
        for source in sources.filter(|source| source.state == SourceState::Running) {
            if let (Some(job), Some(follower)) = (source.jobs.last(), &mut follower) {
                follower.follow(job, source.name.as_str());
            }
        }
    });
    let ended = watching_controller(&client, &arguments.location, waiting).await;
    if let Some(follower) = follower {
        follower.finish().await;
    }
    let (backup, verdict) = ended?;
    if arguments.output == Output::Json {
        print_object(&backup)?;
    } else {
        print_sources(&backup)?;
    }
    Ok(story::exit_code(verdict))
}

/// Waits for the future. Reports a problem with the controller before it waits, and each minute if the problem has
/// changed.
async fn watching_controller<T>(
    client: &Client,
    location: &RepositoryArguments,
    waiting: impl Future<Output = T>,
) -> T {
    let namespace = location.system_namespace();
    let mut noted = None;
    tokio::pin!(waiting);
    loop {
        let checking = timeout(CONTROLLER_CHECK_TIMEOUT, controller_lease::problem(client, &namespace));
        let problem = checking.await.unwrap_or_default();
        if let Some(problem) = problem.as_ref().filter(|problem| noted.as_ref() != Some(*problem)) {
            note(problem);
        }
        noted = problem;
        if let Ok(ended) = timeout(CHECK_CONTROLLER_EVERY, &mut waiting).await {
            return ended;
        }
    }
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
    for line in backup_report::lines(status) {
        note(&line);
    }
    Ok(())
}

/// `stowaway restore [-n NAMESPACE]`
pub async fn restore(arguments: &RestoreArguments) -> Result<u8, CliError> {
    let (client, namespace) =
        connect(arguments.location.namespace.as_deref(), arguments.location.context.as_deref()).await?;
    let restores: Api<Restore> = Api::namespaced(client.clone(), &namespace);
    let spec = restore_spec(arguments)?;
    let mut follower =
        if arguments.wait { follower(&client, &namespace, "restores", arguments.name.as_deref()).await? } else { None };
    let source = spec.from.source.clone();
    let object = Restore { metadata: metadata(arguments.name.as_ref(), "restore"), spec, status: None };
    let created = restores
        .create(&PostParams::default(), &object)
        .await
        .map_err(CliError::refused(format!("create the Restore in namespace {namespace}")))?;
    let name = created.name_any();
    if !arguments.wait {
        return announce(&created, "restore", &name, &namespace, arguments.output);
    }
    note(&format!("restore {name} created in namespace {namespace}, waiting for its verdict"));
    let waiting = wait(&restores, (&namespace, &name), |restore: &Restore| {
        let job = restore.status.as_ref().and_then(|status| status.job.as_ref());
        if let (Some(job), Some(follower)) = (job, &mut follower) {
            follower.follow(job, source.as_str());
        }
    });
    let ended = watching_controller(&client, &arguments.location, waiting).await;
    if let Some(follower) = follower {
        follower.finish().await;
    }
    let (restore, verdict) = ended?;
    if arguments.output == Output::Json {
        print_object(&restore)?;
    } else if let Some(status) = &restore.status {
        let outcome = &status.outcome;
        let bytes = BinaryBytes(outcome.bytes.unwrap_or(0));
        let into = match &status.archive {
            Some(archive) => format!(" into {}", archive.location),
            None if !status.claim.is_empty() => format!(" into claim {}", status.claim),
            None if !status.pod.is_empty() => format!(" into pod {}", status.pod),
            // The restore failed before a target was found.
            None => String::new(),
        };
        let from = status.repository_ref.as_ref();
        let from = from.map(|reference| format!(" from Repository {}", reference.name)).unwrap_or_default();
        output::print_line(&format!("restore {name}: {verdict} ({}), {bytes}{from}{into}", outcome.reason))?;
        if !status.made_claim.is_empty() && verdict.is_green() {
            note(&status.made_claim);
        }
        for line in backup_report::remarks(source.as_str(), outcome) {
            note(&line);
        }
    }
    Ok(story::exit_code(verdict))
}

/// The spec of a Restore of one source.
fn restore_spec(arguments: &RestoreArguments) -> Result<RestoreSpec, CliError> {
    if arguments.target.is_some() {
        let message = "--target is a folder of this machine and needs --repository; name a claim by --claim";
        return Err(CliError::Usage(message.to_owned()));
    }
    if arguments.scale_down == Some(None) {
        let message = "--scale-down of one source needs a workload: deployment/NAME or statefulset/NAME";
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
        archive: archive
            .location
            .as_ref()
            .map(|location| location.archive(archive.format, arguments.overwrite, secret)),
    };
    Ok(RestoreSpec {
        from: RestoreFrom {
            source: arguments.source()?,
            snapshot: arguments.snapshot.clone(),
            as_of: arguments.as_of,
            host: arguments.host.clone(),
            paths: arguments.paths.clone(),
        },
        to: (to != RestoreTo::default()).then_some(to),
        repository_ref: reference(&arguments.location),
        timeout: arguments.timeout.map(Into::into),
        idle_timeout: arguments.idle_timeout.map(Into::into),
        scale_down: arguments.scale_down.clone().flatten(),
        runner_pod: None,
    })
}

/// How a missing claim is created; none if it must exist.
pub fn new_claim(arguments: &RestoreArguments) -> Option<NewClaim> {
    let storage_class_name = arguments.create.clone()?;
    Some(NewClaim { storage_class_name, size: arguments.size.clone().map(Quantity), ..NewClaim::default() })
}

/// Prints an object as JSON, without `managedFields`: the API server maintains them, they are longer than the rest of
/// the object, and kubectl does not show them either.
fn print_object<K: kube::Resource + Clone + serde::Serialize>(object: &K) -> Result<(), CliError> {
    let mut object = object.clone();
    object.meta_mut().managed_fields = None;
    output::print_json(&object)
}

fn announce<K: kube::Resource + Clone + serde::Serialize>(
    object: &K,
    kind: &str,
    name: &str,
    namespace: &str,
    format: Output,
) -> Result<u8, CliError> {
    match format {
        Output::Json => print_object(object)?,
        Output::Text => output::print_line(&format!(
            "{kind} {name} created in namespace {namespace}; `stowaway logs -n {namespace} {kind}/{name}` shows its progress"
        ))?,
    }
    Ok(0)
}

/// Refuses to wait for a run if the user may not watch its object. Returns the follower of the run's logs. If the user
/// may not read logs, this is reported and there is no follower.
async fn follower(
    client: &Client,
    namespace: &str,
    resource: &'static str,
    name: Option<&str>,
) -> Result<Option<Follower>, CliError> {
    let watch = ["list", "watch"].map(|verb| Right { group: crate::api::GROUP, resource, verb });
    if let Some(missing) = rights::missing(client, namespace, name, &watch).await {
        return Err(CliError::Usage(format!(
            "--wait needs {missing}; nothing was created: request that right (the role `edit` has it), or omit --wait"
        )));
    }
    let logs = [("pods", "list"), ("pods/log", "get")].map(|(resource, verb)| Right { group: "", resource, verb });
    if let Some(missing) = rights::missing(client, namespace, None, &logs).await {
        note(&format!("the logs of the runs are not shown: that needs {missing}"));
        return Ok(None);
    }
    Ok(Some(Follower::new(client.clone(), namespace)))
}

/// Watches one object until it has a verdict, and prints why it waits. The watch is resumed when the API server
/// restarts. It ends, because runs have deadlines. A signal ends the wait, but not the run.
pub async fn wait<K>(
    objects: &Api<K>,
    (namespace, name): (&str, &str),
    seen: impl FnMut(&K),
) -> Result<(K, Verdict), CliError>
where
    K: Awaited
        + kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Send
        + serde::de::DeserializeOwned
        + 'static,
{
    let (kind, resource) = (K::kind(&()).to_lowercase(), K::plural(&()));
    tokio::select! {
        ended = watch(objects, (&kind, name), seen) => ended,
        signal = terminated() => Err(CliError::Cancelled(format!(
            "{signal} received: {kind} {name} continues in the cluster; `stowaway logs -n {namespace} {kind}/{name}` shows it, and \
             `kubectl delete {resource}.{} -n {namespace} {name}` stops it",
            crate::api::GROUP
        ))),
    }
}

async fn watch<K>(
    objects: &Api<K>,
    (kind, name): (&str, &str),
    mut seen: impl FnMut(&K),
) -> Result<(K, Verdict), CliError>
where
    K: Awaited
        + kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Send
        + serde::de::DeserializeOwned
        + 'static,
{
    let stream = watcher::watch_object(objects.clone(), name).default_backoff();
    futures::pin_mut!(stream);
    let started = Instant::now();
    let mut ticks = interval_at(started + waiting::PERIOD, waiting::PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<K> = None;
    let mut printed = Vec::new();
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            _ = ticks.tick() => {
                let waiting = last.as_ref().map(K::waiting).unwrap_or_default();
                for line in waiting::lines(started.elapsed(), &mut printed, waiting) {
                    note(&format!("{kind} {name}: {}", fields::with_options(&line)));
                }
                continue;
            }
        };
        match event {
            Some(Ok(Some(object))) => {
                seen(&object);
                if let Some(verdict) = object.verdict() {
                    return Ok((object, verdict));
                }
                last = Some(object);
            }
            Some(Ok(None)) if last.is_some() => {
                return Err(CliError::Deleted(format!("{name} was deleted before it had a verdict")));
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => {
                let (code, message) = message_of(&error);
                if matches!(code, Some(401 | 403)) {
                    let doing = format!("watch {name}, which continues in the cluster");
                    return Err(CliError::Refused { doing, message });
                }
                tracing::warn!("the watch was interrupted and is resumed: {message}");
            }
            None => return Err(CliError::Usage(format!("the watch of {name} ended without a verdict"))),
        }
    }
}

/// The status code of the API server's response, if it responded, and the reason in one sentence.
fn message_of(error: &watcher::Error) -> (Option<u16>, String) {
    use watcher::Error as E;
    match error {
        E::InitialListFailed(source) | E::WatchStartFailed(source) | E::WatchFailed(source) => {
            let code = match source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            };
            (code, super::explain(source))
        }
        E::WatchError(status) => (Some(status.code), status.message.clone()),
        E::NoResourceVersion => (None, error.to_string()),
    }
}
