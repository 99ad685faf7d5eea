//! The Job of one run. It contains no secret and no command line.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Affinity, Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, Namespace,
            NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, PersistentVolumeClaimVolumeSource,
            PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecurityContext,
            Volume, VolumeDevice, VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{
    claim, labels,
    names::{self, OwnerRef, RunKind},
    pod_defaults, settings,
};
use crate::{
    api::{self, RepositorySpec, RunnerPod, repository_secret_sources},
    model::{SECRET_SOURCES_VARIABLE, Task, mounts},
    plan::{ClaimMount, NON_ROOT, RestoreTarget},
};

/// Time that a Job gets in addition to its command's timeout: for a slow start of its pod, for opening the repository,
/// and for the upload of the last data. During the upload the store may be unavailable for 15 minutes.
pub const DEADLINE_MARGIN: Duration = Duration::from_mins(30);
/// The deadline of a Job whose command has no timeout.
pub const MAX_RUN: Duration = Duration::from_hours(24);
/// The deadline of a prune, for which all backups of its repository wait, and of the repack before it. An aborted prune
/// leaves a valid repository, and the next one continues.
pub const MAX_PRUNE: Duration = Duration::from_hours(6);
/// The deadline of a Job that only opens or creates a repository.
pub const MAX_INIT: Duration = Duration::from_mins(10);
/// The annotation of `OpenShift` on a namespace whose pods get a user from a range of the namespace, and may not set
/// another user:
/// <https://docs.redhat.com/en/documentation/openshift_container_platform/4.17/html/authentication_and_authorization/managing-pod-security-policies>.
const USER_RANGE: &str = "openshift.io/sa.scc.uid-range";

/// The inputs of a Job.
#[derive(Clone, Copy, Debug)]
pub struct JobRequest<'a> {
    /// The object that owns the Job.
    pub owner: &'a OwnerRef,
    /// Kind of the run.
    pub kind: RunKind,
    /// Name of the source. For a run without a source, a text that makes the Job's name unique.
    pub source: &'a str,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The task of the runner.
    pub task: &'a Task,
    /// Name of the Repository.
    pub repository_name: &'a str,
    /// Spec of the Repository.
    pub repository: &'a RepositorySpec,
    /// The run's own settings of its pod, which take precedence over the Repository's.
    pub runner_pod: Option<&'a RunnerPod>,
    /// The claim to back up, if the pod mounts it.
    pub claim: Option<&'a ClaimMount>,
    /// Whether the namespace itself assigns users and groups to its pods; see [`assigns_users`].
    pub assigns_users: bool,
    /// Timeout of the command.
    pub timeout: Option<Duration>,
    /// The target that the pod writes to.
    pub target: Option<&'a RestoreTarget>,
    /// The runner's image.
    pub image: &'a str,
}

/// Whether the namespace itself assigns users and groups to its pods, as `OpenShift` does. Then Stowaway's pods set
/// none.
pub fn assigns_users(namespace: &Namespace) -> bool {
    namespace.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(USER_RANGE))
}

/// The Job, suspended. It is started when its identity exists.
///
/// # Errors
/// When the task cannot be serialized as JSON.
pub fn job(request: &JobRequest<'_>) -> Result<Job, serde_json::Error> {
    let JobRequest { owner, kind, source, attempt, repository_name, .. } = *request;
    let name = names::job_name(owner, source, attempt);
    let job_labels = labels::of_job(owner, kind, source, attempt, repository_name);
    let annotations = kind.has_source().then(|| BTreeMap::from([(labels::SOURCE.to_owned(), source.to_owned())]));
    let runner_pod = merge(request.repository.runner_pod.as_ref(), request.runner_pod);
    let (default_labels, default_annotations) = pod_defaults::metadata(&runner_pod);
    let deadline = match (kind, request.timeout) {
        (RunKind::Init, _) => MAX_INIT,
        (RunKind::Repack | RunKind::Prune, _) => MAX_PRUNE,
        (_, Some(timeout)) => timeout.saturating_add(DEADLINE_MARGIN),
        (_, None) => MAX_RUN,
    };
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(owner.namespace.clone()),
            labels: Some(job_labels.clone()),
            annotations: annotations.clone(),
            owner_references: Some(vec![owner.reference()]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            suspend: Some(true),
            backoff_limit: Some(0),
            active_deadline_seconds: Some(i64::try_from(deadline.as_secs()).unwrap_or(i64::MAX)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(merged(merged(default_labels, runner_pod.labels.clone()), job_labels)),
                    annotations: Some(merged(
                        merged(default_annotations, runner_pod.annotations.clone()),
                        annotations.unwrap_or_default(),
                    )),
                    ..ObjectMeta::default()
                }),
                spec: Some(claim::mounted(pod(request, &name, runner_pod)?, request)),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

fn pod(request: &JobRequest<'_>, name: &str, runner_pod: RunnerPod) -> Result<PodSpec, serde_json::Error> {
    let (mut volumes, mut volume_mounts) = settings::volumes(request.repository);
    if let Some(RestoreTarget::Archive(to)) = request.target {
        settings::add_store(&**to, &mut volumes, &mut volume_mounts);
    }
    volumes.push(Volume { name: "tmp".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() });
    volume_mounts.push(VolumeMount {
        name: "tmp".into(),
        mount_path: settings::TEMPORARY_FOLDER.into(),
        ..VolumeMount::default()
    });
    let mut volume_devices = Vec::new();
    if let Some(ClaimMount { claim, device, .. }) = request.claim {
        // Read-only for the kubelet, too. Otherwise it would change the group of the app's files to the runner's.
        let source = PersistentVolumeClaimVolumeSource { claim_name: claim.clone(), read_only: Some(true) };
        volumes.push(Volume {
            name: names::DATA_VOLUME.into(),
            persistent_volume_claim: Some(source),
            ..Volume::default()
        });
        if *device {
            volume_devices
                .push(VolumeDevice { name: names::DATA_VOLUME.into(), device_path: mounts::DATA_DEVICE.into() });
        } else {
            volume_mounts.push(VolumeMount {
                name: names::DATA_VOLUME.into(),
                mount_path: mounts::DATA_FOLDER.into(),
                read_only: Some(true),
                ..VolumeMount::default()
            });
        }
    }
    let has_identity = request.kind.has_identity();
    let RunnerPod {
        resources,
        mut node_selector,
        mut tolerations,
        affinity,
        image_pull_secrets,
        labels: _,
        annotations: _,
        security_context,
        env,
        priority_class_name,
    } = runner_pod;
    node_selector.extend(pod_defaults::node_selector());
    tolerations.extend(request.claim.into_iter().flat_map(|claim| claim.tolerations.clone()));
    let affinity = match request.claim.and_then(|claim| claim.node.as_deref()) {
        Some(node) => {
            tolerations.extend(pod_defaults::tolerations_on_its_node());
            Some(on_node(affinity.unwrap_or_default(), node))
        }
        None => affinity,
    };
    let security = pod_security(request, security_context.unwrap_or_default());
    // Root gets the capability with which an app's root can read its files, and no other. A device node belongs to
    // root.
    let reads_as_root = request.claim.is_some_and(|claim| !claim.device) && security.run_as_user == Some(0);
    Ok(PodSpec {
        restart_policy: Some("Never".into()),
        // A run that only answers the CLI has neither an identity nor a token.
        service_account_name: has_identity.then(|| names::account_name(name)),
        automount_service_account_token: Some(has_identity),
        enable_service_links: Some(false),
        security_context: Some(security),
        node_selector: Some(node_selector),
        priority_class_name,
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        affinity,
        image_pull_secrets: (!image_pull_secrets.is_empty()).then_some(image_pull_secrets),
        containers: vec![Container {
            name: names::RUNNER_CONTAINER.into(),
            image: Some(request.image.to_owned()),
            args: Some(vec!["runner".into()]),
            env: Some(pod_defaults::with_variables(
                environment(&serde_json::to_string(request.task)?, &secret_sources(request)?, request.kind),
                env,
            )),
            resources: Some(resources.unwrap_or_else(default_resources)),
            security_context: Some(container_security(if reads_as_root { &["DAC_OVERRIDE"] } else { &[] })),
            termination_message_path: Some(mounts::TERMINATION_MESSAGE.into()),
            termination_message_policy: Some("File".into()),
            volume_mounts: Some(volume_mounts),
            volume_devices: (!volume_devices.is_empty()).then_some(volume_devices),
            ..Container::default()
        }],
        volumes: Some(volumes),
        ..PodSpec::default()
    })
}

/// The objects which the pod's credentials come from, as JSON.
fn secret_sources(request: &JobRequest<'_>) -> Result<String, serde_json::Error> {
    let mut sources = repository_secret_sources(request.repository);
    if let Some(RestoreTarget::Archive(to)) = request.target {
        sources.extend(api::secret_sources(&**to));
    }
    serde_json::to_string(&sources)
}

fn environment(task: &str, secret_sources: &str, kind: RunKind) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), api_version: None }),
            ..EnvVarSource::default()
        }),
        value: None,
    };
    let value = |name: &str, value: &str| EnvVar { name: name.into(), value: Some(value.into()), value_from: None };
    let mut variables = vec![
        value(mounts::TASK_VARIABLE, task),
        value(SECRET_SOURCES_VARIABLE, secret_sources),
        field("POD_NAME", "metadata.name"),
        field("POD_UID", "metadata.uid"),
        field("POD_NAMESPACE", "metadata.namespace"),
    ];
    let allocator: &[_] = if kind == RunKind::Backup { &mounts::STORING_ALLOCATOR } else { &mounts::ALLOCATOR };
    variables.extend(allocator.iter().map(|(name, setting)| value(name, setting)));
    variables
}

fn default_resources() -> ResourceRequirements {
    let cpu = |quantity: &str| (String::from("cpu"), Quantity(quantity.into()));
    let memory = (String::from("memory"), Quantity(mounts::WORK_MEMORY.into()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([cpu("100m"), memory.clone()])),
        limits: Some(BTreeMap::from([cpu(mounts::WORK_CPUS), memory])),
        ..ResourceRequirements::default()
    }
}

/// The container's part of Pod Security `restricted`, plus `capabilities`, which `baseline` allows. Users cannot change
/// it.
fn container_security(capabilities: &[&str]) -> SecurityContext {
    let add: Vec<String> = capabilities.iter().map(|&capability| capability.to_owned()).collect();
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: (!add.is_empty()).then_some(add) }),
        ..SecurityContext::default()
    }
}

/// Adds a node affinity for exactly this node to the requested affinity.
pub(super) fn on_node(affinity: Affinity, node: &str) -> Affinity {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let mut node_affinity = affinity.node_affinity.unwrap_or_default();
    let mut required = node_affinity.required_during_scheduling_ignored_during_execution.unwrap_or_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    // The terms are alternatives, so the requirement is added to each of them.
    for term in &mut required.node_selector_terms {
        term.match_fields.get_or_insert_default().push(field.clone());
    }
    node_affinity.required_during_scheduling_ignored_during_execution = Some(required);
    Affinity { node_affinity: Some(node_affinity), ..affinity }
}

/// The pod's part of Pod Security `restricted`, unless the user requests other settings or a volume needs another user.
/// The group makes volumes writable and Secrets readable. A run that reads a claim as another user writes with this
/// group, too, so that runs of other users can still use a repository on a volume.
fn pod_security(request: &JobRequest<'_>, requested: PodSecurityContext) -> PodSecurityContext {
    let number = |number: u64| i64::try_from(number).ok();
    let named = |default: Option<i64>| default.filter(|_| !request.assigns_users);
    let (user, group) = request.claim.map_or((NON_ROOT, None), |claim| claim.user);
    let run_as_user = requested.run_as_user.or(named(number(user)));
    let mut groups = requested.supplemental_groups.unwrap_or_default();
    groups.extend(request.claim.into_iter().flat_map(|claim| claim.groups.clone()).filter(|_| !request.assigns_users));
    groups.extend(named(group.and_then(number)));
    groups.sort_unstable();
    groups.dedup();
    PodSecurityContext {
        run_as_non_root: requested.run_as_non_root.or(Some(run_as_user != Some(0))),
        run_as_user,
        run_as_group: requested.run_as_group.or(named(number(NON_ROOT))),
        supplemental_groups: (!groups.is_empty()).then_some(groups),
        fs_group: requested.fs_group.or(named(number(NON_ROOT))),
        // Without this policy the kubelet changes the group of every file in the repository before each run.
        fs_group_change_policy: requested.fs_group_change_policy.or_else(|| Some("OnRootMismatch".into())),
        se_linux_options: requested.se_linux_options.or_else(|| request.claim.and_then(|claim| claim.se_linux.clone())),
        seccomp_profile: requested
            .seccomp_profile
            .or_else(|| Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None })),
        ..requested
    }
}

/// The run's settings, and the Repository's for those which the run does not set.
fn merge(repository: Option<&RunnerPod>, run: Option<&RunnerPod>) -> RunnerPod {
    let repository = repository.cloned().unwrap_or_default();
    let run = run.cloned().unwrap_or_default();

    RunnerPod {
        resources: run.resources.or(repository.resources),
        node_selector: if run.node_selector.is_empty() { repository.node_selector } else { run.node_selector },
        tolerations: if run.tolerations.is_empty() { repository.tolerations } else { run.tolerations },
        affinity: run.affinity.or(repository.affinity),
        image_pull_secrets: if run.image_pull_secrets.is_empty() {
            repository.image_pull_secrets
        } else {
            run.image_pull_secrets
        },
        labels: merged(repository.labels, run.labels),
        annotations: merged(repository.annotations, run.annotations),
        security_context: run.security_context.or(repository.security_context),
        env: pod_defaults::merged_variables(repository.env, run.env),
        priority_class_name: run.priority_class_name.or(repository.priority_class_name),
    }
}

/// Merges two maps. The second one takes precedence.
fn merged(mut under: BTreeMap<String, String>, upper: BTreeMap<String, String>) -> BTreeMap<String, String> {
    under.extend(upper);
    under
}
