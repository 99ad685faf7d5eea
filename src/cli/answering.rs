//! The Job that answers a query of the CLI: the image which it runs, and the proof that a pod belongs to it.
//!
//! The Job mounts the password of the repository, and the CLI trusts its answer. So neither the image nor the pod is
//! found by labels, because every tenant can write labels. The image is that of the controller's own Deployment, found
//! by name in the namespace of the installation. The pod is owned by the UID of the Job that was just created, and its
//! environment holds a nonce which was generated for this Job. The environment of a pod is immutable, so no older pod
//! can be passed off as this one.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ContainerStatus, EnvVar, Namespace, Pod},
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use rand::RngExt;

use super::CliError;
use crate::{
    api::{Repository, connection},
    cluster::observe,
    model::{DamagedPacks, Failure, Reason, Task, TaskKind},
    plan::names::{OwnerRef, RUNNER_CONTAINER, RunKind},
    resources::{
        self, backend_config,
        job::{JobRequest, job},
        manifests::{CLI_ROLE, CONTROLLER, IMAGE_VARIABLE},
    },
};

/// Maximum lifetime of the answering pod, if the CLI does not delete it.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_hours(1);
/// How long the pod may take to start.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// How often the CLI checks whether the pod has started.
const POLL_PERIOD: Duration = Duration::from_millis(200);
/// The environment variable with the nonce of the Job.
const NONCE_VARIABLE: &str = "STOWAWAY_NONCE";

/// The image which the controller uses for its runs, so that both sides have the same version. It comes from the
/// Deployment `CONTROLLER` in `system_namespace` and from no other object.
pub(super) async fn runner_image(client: &Client, system_namespace: &str) -> Result<String, CliError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), system_namespace);
    let found = deployments.get_opt(CONTROLLER).await.map_err(CliError::cluster(format!(
        "read the Deployment {system_namespace}/{CONTROLLER}, whose image the answering Job runs (the Role {CLI_ROLE} there allows it)"
    )))?;
    found.as_ref().and_then(image_of).ok_or_else(|| {
        CliError::Usage(format!(
            "there is no Deployment {CONTROLLER} in namespace {system_namespace}: apply manifests/install.yaml, or name the \
             namespace of the installation by --system-namespace"
        ))
    })
}

/// The image for runs, from the environment of the controller's container; otherwise the container's own image.
fn image_of(deployment: &Deployment) -> Option<String> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    let container = containers.iter().find(|container| container.name == "controller")?;
    let mut variables = container.env.iter().flatten();
    let of_runs = variables.find(|variable| variable.name == IMAGE_VARIABLE).and_then(|found| found.value.clone());
    of_runs.or_else(|| container.image.clone())
}

/// Whether the namespace assigns users to its pods, so that the Job must not set one. If the user may not read the
/// namespace, the answer is no: in clusters that assign users, the role `view` allows it.
pub(super) async fn assigns_users(client: &Client, namespace: &str) -> bool {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.get(namespace).await.is_ok_and(|namespace| resources::assigns_users(&namespace))
}

/// The Job, which is not suspended, and its nonce.
pub(super) fn answering_job(
    repository: &Repository,
    image: &str,
    assigns_users: bool,
) -> Result<(Job, String), CliError> {
    let invalid = |message: String| CliError::Failed(Failure::new(Reason::InvalidRequest, message));
    let owner = OwnerRef::of(repository).ok_or_else(|| invalid("the Repository has no UID".to_owned()))?;
    let backend =
        backend_config(&repository.spec).ok_or_else(|| invalid("the Repository names no backend".to_owned()))?;
    let connection = connection(&repository.spec);
    // Without a cluster id the task cannot judge locks.
    let task = Task {
        backend,
        connection,
        cluster: String::new(),
        repository_id: None,
        damaged_packs: DamagedPacks::default(),
        not_before: None,
        kind: TaskKind::Answer { timeout: ANSWERS_WITHIN },
        note: String::new(),
    };
    let nonce = format!("{:032x}", rand::rng().random::<u128>());
    let request = JobRequest {
        owner: &owner,
        kind: RunKind::Answer,
        // The name is unique to this query, because two users may query at the same time.
        source: &format!("answer/{}/{nonce}", Timestamp::now().as_nanosecond()),
        attempt: 1,
        task: &task,
        repository_name: &owner.name,
        repository: &repository.spec,
        runner_pod: None,
        claim: None,
        assigns_users,
        timeout: Some(ANSWERS_WITHIN),
        target: None,
        image,
    };
    let mut job = job(&request).map_err(|error| invalid(error.to_string()))?;
    if let Some(spec) = &mut job.spec {
        spec.suspend = None;
        spec.ttl_seconds_after_finished = Some(0);
        for container in spec.template.spec.iter_mut().flat_map(|pod| &mut pod.containers) {
            container.env.get_or_insert_default().push(EnvVar {
                name: NONCE_VARIABLE.into(),
                value: Some(nonce.clone()),
                value_from: None,
            });
        }
    }
    Ok((job, nonce))
}

/// The name of the Job's pod, once its container runs.
pub(super) async fn started_pod(client: &Client, namespace: &str, job: &Job, nonce: &str) -> Result<String, CliError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let name = job.name_any();
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    let deadline = tokio::time::Instant::now() + START_TIMEOUT;
    loop {
        let found = pods.list(&selector).await.map_err(CliError::cluster("list the pods of the answering Job"))?;
        let mut own = found.items.iter().filter(|pod| is_pod_of(pod, job, nonce));
        if let Some(pod) = own.find(|pod| is_running(pod)) {
            return Ok(pod.name_any());
        }
        if tokio::time::Instant::now() > deadline {
            let message =
                format!("the pod of Job {namespace}/{name} did not start within {} s", START_TIMEOUT.as_secs());
            return Err(Failure::new(Reason::PodNotStarted, message).into());
        }
        tokio::time::sleep(POLL_PERIOD).await;
    }
}

/// Whether the pod was created for this Job: the Job owns it, and its environment holds the nonce. The owner alone
/// proves nothing, because an owner reference can be written into a running pod.
fn is_pod_of(pod: &Pod, job: &Job, nonce: &str) -> bool {
    let is_owned = observe::controller_of(pod.owner_references())
        .is_some_and(|owner| owner.kind == "Job" && job.metadata.uid.as_deref() == Some(owner.uid.as_str()));
    let has_nonce = pod.spec.as_ref().is_some_and(|spec| {
        let mut runners = spec.containers.iter().filter(|container| container.name == RUNNER_CONTAINER);
        let is_it = |variable: &EnvVar| variable.name == NONCE_VARIABLE && variable.value.as_deref() == Some(nonce);
        runners.any(|runner| runner.env.iter().flatten().any(is_it))
    });
    is_owned && has_nonce
}

/// Whether the container runs and was never restarted. A changed image would restart it.
fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let runs = |status: &ContainerStatus| {
        status.name == RUNNER_CONTAINER
            && status.restart_count == 0
            && status.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    statuses.into_iter().flatten().any(runs)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn repository() -> Repository {
        serde_json::from_value(json!({
            "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository",
            "metadata": { "name": "main", "namespace": "shop", "uid": "u" },
            "spec": { "rest": { "url": "http://rest:8000/r" }, "passwordSecretRef": { "name": "p" } },
        }))
        .unwrap()
    }

    fn made(assigns_users: bool) -> (Job, String) {
        let (mut job, nonce) = answering_job(&repository(), "stowaway:1", assigns_users).unwrap();
        job.metadata.uid = Some("of-the-job".to_owned());
        (job, nonce)
    }

    /// A pod as the Job controller creates it, with a change.
    fn pod(job: &Job, change: impl FnOnce(&mut Value)) -> Pod {
        let template = job.spec.as_ref().unwrap().template.clone();
        let mut pod = json!({
            "metadata": {
                "name": "x", "labels": template.metadata.unwrap().labels,
                "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": job.name_any(), "uid": "of-the-job", "controller": true }],
            },
            "spec": template.spec,
            "status": { "containerStatuses": [{ "name": "runner", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": { "running": {} } }] },
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn only_the_pod_of_the_job_that_was_just_made_is_queried() {
        let (job, nonce) = made(false);
        assert!(is_pod_of(&pod(&job, |_| {}), &job, &nonce));
        let (other, _) = made(false);
        assert!(!is_pod_of(&pod(&other, |_| {}), &job, &nonce), "it has another nonce");
        let relabelled = |pod: &mut Value| pod["spec"]["containers"][0]["env"] = json!([]);
        assert!(!is_pod_of(&pod(&job, relabelled), &job, &nonce), "labels and owner can be written into any pod");
        let foreign = |pod: &mut Value| pod["metadata"]["ownerReferences"][0]["uid"] = json!("another");
        assert!(!is_pod_of(&pod(&job, foreign), &job, &nonce));
        let unowned = |pod: &mut Value| pod["metadata"]["ownerReferences"] = json!([]);
        assert!(!is_pod_of(&pod(&job, unowned), &job, &nonce));
        assert!(is_running(&pod(&job, |_| {})));
        let restarted = |pod: &mut Value| pod["status"]["containerStatuses"][0]["restartCount"] = json!(1);
        assert!(!is_running(&pod(&job, restarted)), "the image of its container was changed");
    }

    #[test]
    fn nonces_and_names_of_two_jobs_differ() {
        let ((one, first), (other, second)) = (made(false), made(false));
        assert!(first != second && one.name_any() != other.name_any());
    }

    #[test]
    fn job_names_no_user_where_the_namespace_assigns_one() {
        let security = |assigns: bool| {
            let (job, _) = made(assigns);
            job.spec.unwrap().template.spec.unwrap().security_context.unwrap()
        };
        assert_eq!((security(false).run_as_user, security(false).fs_group), (Some(65_532), Some(65_532)));
        assert_eq!(
            (security(true).run_as_user, security(true).run_as_group, security(true).fs_group),
            (None, None, None)
        );
    }

    #[test]
    fn image_is_the_one_that_the_controller_gives_to_runs() {
        let deployment = |container: Value| {
            let spec = json!({ "selector": {}, "template": { "spec": { "containers": [{ "name": "proxy", "image": "evil" }, container] } } });
            serde_json::from_value::<Deployment>(json!({ "spec": spec })).unwrap()
        };
        let own = deployment(
            json!({ "name": "controller", "image": "a", "env": [{ "name": IMAGE_VARIABLE, "value": "b" }] }),
        );
        assert_eq!(image_of(&own).as_deref(), Some("b"));
        assert_eq!(image_of(&deployment(json!({ "name": "controller", "image": "a" }))).as_deref(), Some("a"));
        assert_eq!(image_of(&deployment(json!({ "name": "other", "image": "a" }))), None);
    }
}
