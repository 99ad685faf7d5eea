//! `snapshots`, `ls` and `dump` of a repository in a cluster. A Job that can reach the store answers over exec, by the
//! helper of its image, which proves the answer complete as it does a dump. With `--direct` the store is opened from this machine, with the
//! Secrets that the user may read.

use std::{collections::BTreeMap, fmt::Debug, io::Write, sync::Arc, time::Duration};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Secret as KubernetesSecret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{
    CliError,
    answering::{ANSWERS_WITHIN, answering_job, assigns_users, runner_image, started_pod},
    args::{DumpArguments, LsArguments, RepositoryArguments, SnapshotsArguments},
    controller_lease, explain, local, output, remote,
};
use crate::{
    api::{CredentialSource, Repository, SecretKeyReference, connection, credential_sources},
    cluster::version,
    exec::{self, Control, Dumped, ExecTarget, Limits, Lines},
    model::{
        BackendConfig, DamagedPacks, DataPart, Failure, Reason, Secret, StoredPassword, injected::HELPER_IN_IMAGE,
    },
    plan::{ChoiceError, choose_repository, names::RUNNER_CONTAINER},
    repository::{Entry, OpenOptions, SnapshotSummary, Timeouts},
    resources::backend_config,
    runner::{
        doctor::{Complaint, Diagnosis, Weight, add_object, add_pods, unopened},
        questions::{self, Question},
        terminated, with_repository_to_read,
    },
    seal::ExecMode,
    stream::{StreamItem, pieces},
};

/// `stowaway snapshots -n NAMESPACE`
pub async fn snapshots(arguments: &SnapshotsArguments) -> Result<u8, CliError> {
    let rows: Vec<SnapshotSummary> = if arguments.direct {
        direct(&arguments.location, questions::snapshots).await?
    } else {
        all_snapshots(&arguments.location).await?
    };
    output::print_snapshots(rows, arguments.source.as_ref(), arguments.output)
}

/// All snapshots of the repository, listed by a Job in the cluster.
pub async fn all_snapshots(location: &RepositoryArguments) -> Result<Vec<SnapshotSummary>, CliError> {
    parse(&query(location, &Question::Snapshots).await?)
}

/// `stowaway ls -n NAMESPACE SNAPSHOT`
pub async fn ls(arguments: &LsArguments) -> Result<u8, CliError> {
    let snapshot = arguments.snapshot.clone();
    let rows: Vec<Entry> = if arguments.direct {
        direct(&arguments.location, async |repository| questions::list(repository, &snapshot).await).await?
    } else {
        parse(&query(&arguments.location, &Question::List { snapshot }).await?)?
    };
    output::print_entries(&rows, arguments.output)
}

/// `stowaway dump -n NAMESPACE SNAPSHOT [PATH]`
pub async fn dump(arguments: &DumpArguments) -> Result<u8, CliError> {
    if arguments.direct {
        let (snapshot, path) = (&arguments.snapshot, arguments.path.as_deref());
        direct(&arguments.location, async |repository| local::write_file(repository, snapshot, path).await)
            .await?
            .map_err(CliError::Output)?;
    } else {
        let question = Question::File { snapshot: arguments.snapshot.clone(), path: arguments.path.clone() };
        query_to(&arguments.location, &question, &mut std::io::stdout().lock()).await?;
    }
    Ok(0)
}

/// `stowaway doctor -n NAMESPACE`
pub async fn examine(location: &RepositoryArguments, data: Option<DataPart>) -> Result<Diagnosis, CliError> {
    let (client, namespace) = remote::connect(location.namespace.as_deref(), location.context.as_deref()).await?;
    let object = find_repository(&client, &namespace, location.repository_name.as_deref()).await?;
    // A cluster that refuses this request answers the next ones, or reports a clearer error.
    let outdated = version::problem(&client).await.ok().flatten();
    let examined = match query(location, &Question::Examine { data }).await {
        Ok(answer) => parse(&answer),
        // The rest of the report may show the cause.
        Err(CliError::Failed(failure)) => Ok(unopened(&failure)),
        Err(error) => Err(error),
    };
    let broken = |what| Complaint { weight: Weight::Broken, what, remedy: Vec::new() };
    let mut diagnosis: Diagnosis = match (examined, outdated) {
        (examined, None) => examined?,
        (Ok(diagnosis), Some(outdated)) => with_complaints(diagnosis, [broken(outdated)]),
        (Err(error), Some(outdated)) => {
            let failed = format!("the repository could not be examined: {error}");
            with_complaints(Diagnosis::default(), [broken(outdated), broken(failed)])
        }
    };
    if let Some(what) = controller_lease::problem(&client, &location.system_namespace()).await {
        diagnosis.complaints.push(Complaint { weight: Weight::Risk, what, remedy: Vec::new() });
    }
    let image = runner_image(&client, &location.system_namespace()).await?;
    match Api::<Pod>::namespaced(client, &namespace).list(&ListParams::default()).await {
        Ok(pods) => add_pods(&mut diagnosis, &pods.items, &image),
        Err(error) => output::note(&format!("the versions of injected containers are not known: {}", explain(&error))),
    }
    add_object(&mut diagnosis, &object);
    Ok(diagnosis)
}

fn with_complaints(mut diagnosis: Diagnosis, complaints: impl IntoIterator<Item = Complaint>) -> Diagnosis {
    diagnosis.complaints.extend(complaints);
    diagnosis
}

fn parse<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<T, CliError> {
    serde_json::from_slice(answer)
        .map_err(|error| Failure::new(Reason::InternalError, format!("the answer cannot be read: {error}")).into())
}

async fn query(location: &RepositoryArguments, question: &Question) -> Result<Vec<u8>, CliError> {
    let mut answer = Vec::new();
    query_to(location, question, &mut answer).await?;
    Ok(answer)
}

/// Starts the answering Job, copies its answer to `output`, and deletes the Job in every case.
async fn query_to(
    location: &RepositoryArguments,
    question: &Question,
    output: &mut impl Write,
) -> Result<(), CliError> {
    let (client, namespace) = remote::connect(location.namespace.as_deref(), location.context.as_deref()).await?;
    let repository = find_repository(&client, &namespace, location.repository_name.as_deref()).await?;
    let image = runner_image(&client, &location.system_namespace()).await?;
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let (job, nonce) = answering_job(&repository, &image, assigns_users(&client, &namespace).await)?;
    let job = jobs
        .create(&PostParams::default(), &job)
        .await
        .map_err(CliError::refused(format!("create the Job that answers in namespace {namespace}")))?;
    let answered = tokio::select! {
        answered = exchange(&client, &namespace, (&job, &nonce), question, output) => answered,
        signal = terminated() => Err(CliError::Cancelled(format!("{signal} received; the Job that answers is deleted"))),
    };
    let removed = jobs.delete(&job.name_any(), &DeleteParams::background()).await;
    answered?;
    removed.map_err(CliError::cluster("delete the Job that answered"))?;
    Ok(())
}

pub(super) async fn find_repository(
    client: &Client,
    namespace: &str,
    name: Option<&str>,
) -> Result<Repository, CliError> {
    let repositories: Api<Repository> = Api::namespaced(client.clone(), namespace);
    if let Some(name) = name {
        // A user may have the right to read only this Repository.
        let found = repositories.get_opt(name).await;
        let found = found.map_err(CliError::cluster(format!("read the Repository {namespace}/{name}")))?;
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let all = repositories
        .list(&ListParams::default())
        .await
        .map_err(CliError::cluster(format!("list the Repositories of namespace {namespace}")))?
        .items;
    choose_repository(&all, name).cloned().map_err(|error| no_choice(&error, namespace))
}

/// The error of a command for which no Repository was chosen.
fn no_choice(error: &ChoiceError, namespace: &str) -> CliError {
    let next = match error {
        ChoiceError::Unknown { .. } => "; name another one by --repository-name, or create it",
        ChoiceError::None => "",
        ChoiceError::NoDefault(_) | ChoiceError::SeveralDefaults(_) => {
            "; for this command, name one by --repository-name"
        }
    };
    CliError::Usage(format!("namespace {namespace}: {error}{next}"))
}

async fn exchange(
    client: &Client,
    namespace: &str,
    (job, nonce): (&Job, &str),
    question: &Question,
    output: &mut impl Write,
) -> Result<(), CliError> {
    let pod = started_pod(client, namespace, job, nonce).await?;
    let target = ExecTarget { namespace: namespace.to_owned(), pod, container: RUNNER_CONTAINER.to_owned() };
    let question = serde_json::to_string(question).map_err(|error| CliError::Usage(error.to_string()))?;
    let argv = ["stowaway", "runner", "--question", &question].map(str::to_owned);
    let (sender, receiver) = pieces();
    // The log of the Job matters only if it fails; the tail keeps its end.
    let (lines, _unread) = Lines::new();
    let control = Control {
        limits: Limits { timeout: Some(ANSWERS_WITHIN), idle_timeout: Some(Duration::from_mins(5)) },
        cancel: CancellationToken::new(),
        lines: lines.clone(),
        progress: Arc::default(),
    };
    let receiving = async {
        // The sender is dropped at the end of this block, so that a stream without an end is noticed by the receiver.
        let sender = sender;
        let helper = ExecMode::Helper(HELPER_IN_IMAGE.to_owned());
        match exec::dump(client, &target, &helper, &argv, &control, &sender).await {
            Ok(Dumped::NoShell { why }) => {
                let message = format!("nothing can be run in {target}: {why}");
                // A receiver that has ended reports its own error.
                let _ = sender.send(StreamItem::Broken(Failure::new(Reason::ExecRefused, message))).await;
            }
            // The receiver gets the end or the failure as the last item.
            Ok(Dumped::Whole(_)) | Err(_) => {}
        }
    };
    let writing = async {
        // The receiver is dropped at the end of this block, because the sender must not wait for a reader that has ended.
        let mut receiver = receiver;
        loop {
            match receiver.recv().await {
                Some(StreamItem::Data(bytes)) => output.write_all(&bytes).map_err(CliError::Output)?,
                Some(StreamItem::End(_)) => return output.flush().map_err(CliError::Output),
                Some(StreamItem::Broken(failure)) => return Err(reported_failure(failure, &lines.tail()).into()),
                None => {
                    let failure = Failure::new(Reason::StreamCut, "the answer ended before it was complete");
                    return Err(reported_failure(failure, &lines.tail()).into());
                }
            }
        }
    };
    tokio::join!(writing, receiving).0
}

/// The failure that the answering side wrote to stderr. Without one, `failure`: a stream that has no end because the
/// other side failed is not a reason of its own.
fn reported_failure(failure: Failure, tail: &str) -> Failure {
    match tail.lines().last() {
        Some(line) if !line.is_empty() => {
            serde_json::from_str(line).unwrap_or_else(|_| Failure { message: line.to_owned(), ..failure })
        }
        _ => failure,
    }
}

/// Opens the store from this machine.
async fn direct<T>(
    location: &RepositoryArguments,
    question: impl AsyncFnOnce(&crate::repository::Repository) -> Result<T, Failure>,
) -> Result<T, CliError> {
    let (client, namespace) = remote::connect(location.namespace.as_deref(), location.context.as_deref()).await?;
    let repository = find_repository(&client, &namespace, location.repository_name.as_deref()).await?;
    let spec = &repository.spec;
    let backend = backend_config(spec).ok_or_else(|| CliError::Usage("the Repository names no backend".to_owned()))?;
    if matches!(backend, BackendConfig::Folder { .. }) {
        return Err(CliError::Usage(
            "--direct reaches stores by network; a volume is only reached from within the cluster".to_owned(),
        ));
    }
    let mut credentials = BTreeMap::new();
    for (credential, source, _) in credential_sources(spec) {
        let value = match source {
            CredentialSource::Secret(reference) => secret(&client, &namespace, reference).await?,
            CredentialSource::ConfigMap(reference) => config_map(&client, &namespace, reference).await?,
        };
        credentials.insert(credential, value);
    }
    let password = &spec.password_secret_ref;
    let password = SecretKeyReference { name: password.name.clone(), key: password.key.clone() };
    let StoredPassword { password, untrimmed } = password_of(&client, &namespace, &password).await?;
    let access = OpenOptions {
        backend,
        password,
        untrimmed_password: untrimmed,
        connection: connection(spec),
        credentials,
        holder: local::lock_holder(),
        locks: local::lock_rules(),
        timeouts: Timeouts::default(),
        expected_ids: Vec::new(),
        damaged_packs: DamagedPacks::default(),
    };
    Ok(with_repository_to_read(access, &CancellationToken::new(), question).await?)
}

async fn secret(client: &Client, namespace: &str, reference: &SecretKeyReference) -> Result<Secret, CliError> {
    let found = read_object::<KubernetesSecret>(client, namespace, "Secret", reference).await?;
    let text = found.data.and_then(|mut data| String::from_utf8(data.remove(&reference.key)?.0).ok());
    text_of("Secret", reference, text)
}

async fn password_of(
    client: &Client,
    namespace: &str,
    reference: &SecretKeyReference,
) -> Result<StoredPassword, CliError> {
    let found = read_object::<KubernetesSecret>(client, namespace, "Secret", reference).await?;
    let password = found.data.and_then(|mut data| StoredPassword::read(&data.remove(&reference.key)?.0));
    password.ok_or_else(|| no_text("Secret", reference))
}

async fn config_map(client: &Client, namespace: &str, reference: &SecretKeyReference) -> Result<Secret, CliError> {
    let found = read_object::<ConfigMap>(client, namespace, "ConfigMap", reference).await?;
    text_of("ConfigMap", reference, found.data.and_then(|mut data| data.remove(&reference.key)))
}

async fn read_object<K>(
    client: &Client,
    namespace: &str,
    kind: &str,
    reference: &SecretKeyReference,
) -> Result<K, CliError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let objects: Api<K> = Api::namespaced(client.clone(), namespace);
    let SecretKeyReference { name, .. } = reference;
    let found = objects.get_opt(name).await;
    let found = found.map_err(CliError::cluster(format!("read the {kind} {name:?} in namespace {namespace:?}")))?;
    found.ok_or_else(|| {
        CliError::Usage(format!(
            "{kind} {name:?} does not exist in namespace {namespace:?}: create it, or correct the name in the spec of the \
             Repository"
        ))
    })
}

fn text_of(kind: &str, reference: &SecretKeyReference, text: Option<String>) -> Result<Secret, CliError> {
    text.map(|text| Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())).ok_or_else(|| no_text(kind, reference))
}

fn no_text(kind: &str, SecretKeyReference { name, key }: &SecretKeyReference) -> CliError {
    CliError::Usage(format!(
        "{kind} {name:?} has no text under the key {key:?}: add the key, or correct it in the spec of the Repository"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_that_cannot_be_chosen_is_reported_with_those_that_exist_and_the_option() {
        let names = || vec!["a".to_owned(), "b".to_owned()];
        for (error, parts) in [
            (ChoiceError::SeveralDefaults(names()), ["several are annotated", "a, b", "--repository-name"]),
            (
                ChoiceError::Unknown { name: "mian".into(), known: names() },
                ["no Repository mian", "a, b", "--repository-name"],
            ),
            (ChoiceError::None, ["namespace shop", "there is no Repository", "create one"]),
        ] {
            let text = no_choice(&error, "shop").to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    #[test]
    fn failure_of_the_answering_side_has_its_own_reason_and_no_second_one() {
        let cut = || Failure::new(Reason::StreamCut, "the answer ended before it was complete");
        let reported = Failure::new(Reason::SnapshotNotFound, "there is no snapshot aa");
        let tail = format!("2026-05-04T03:02:01Z  INFO opened\n{}\n", serde_json::to_string(&reported).unwrap());
        assert_eq!(reported_failure(cut(), &tail).to_string(), "there is no snapshot aa (SnapshotNotFound)");
        assert_eq!(reported_failure(cut(), "killed").to_string(), "killed (StreamCut)");
        assert_eq!(reported_failure(cut(), "").to_string(), "the answer ended before it was complete (StreamCut)");
    }
}
