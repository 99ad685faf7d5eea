//! The claims of a namespace: which claims are backed up by default, which are left out and why, and how the pod of a
//! Job mounts a claim.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Container, Namespace, PersistentVolumeClaim, Pod, SELinuxOptions, Toleration},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    ResourceExt,
    core::{Selector, SelectorExt},
};

use super::{
    ObservedPod, UnfilledClaim, Warnings,
    snapshots::{ClaimSnapshot, SnapshotFacts, is_temporary, snapshot},
};
use crate::{
    annotations::{
        Carrier, KeyId, OptOut, accept_shrunken, excludes, namespace_opt_out, opt_out, own_key, snapshot_class,
        unknown_keys,
    },
    api::{Repository, SkipReason},
    plan::{
        choose::{Holding, repository_on},
        owner::{FileOwner, NON_ROOT, RunAs},
    },
};

/// Label of the enforced Pod Security level: <https://kubernetes.io/docs/concepts/security/pod-security-admission/>.
const ENFORCED_LEVEL: &str = "pod-security.kubernetes.io/enforce";

/// The observed facts about a namespace's claims.
#[derive(Clone, Copy, Debug)]
pub struct ClaimFacts<'a> {
    pub namespace: &'a Namespace,
    /// All claims of the namespace.
    pub claims: &'a [PersistentVolumeClaim],
    /// The namespace's Repositories. A claim which stores a repository is not backed up.
    pub repositories: &'a [Repository],
    pub snapshots: SnapshotFacts<'a>,
}

/// A claim which a Job mounts to back it up, and the settings of the Job's pod.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimMount {
    /// Name of the claim.
    pub claim: String,
    /// Whether the claim is a block device (`volumeMode: Block`).
    pub device: bool,
    /// The pod which mounts the claim now; empty if there is none.
    pub pod: String,
    /// The node which the claim can be mounted on; `None` for any node.
    pub node: Option<String>,
    /// The tolerations of the pod on that node.
    pub tolerations: Vec<Toleration>,
    /// The user and group which can read the files.
    pub user: (u64, Option<u64>),
    /// Supplemental groups.
    pub groups: Vec<i64>,
    /// The `SELinux` label of the app's pod, if it sets one. Processes with another label cannot read files with its
    /// categories.
    pub se_linux: Option<SELinuxOptions>,
    /// The settings of the `VolumeSnapshot` to take first. The temporary claim which is created from it is then mounted
    /// instead of this claim.
    pub snapshot: Option<Box<ClaimSnapshot>>,
}

/// The decision about a claim.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one for each claim of a namespace")]
pub(super) enum Choice {
    /// The claim is a source, which is backed up by these rules.
    Source(Reading, VolumeRules),
    /// The claim should be a source, and cannot be one.
    Problem(String),
    /// The claim is left out.
    Skip(SkipReason, String),
}

/// The rules of a claim's backup.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct VolumeRules {
    /// Patterns of paths which are left out.
    pub exclude: Vec<String>,
    /// Whether the claim may be empty, or much smaller than its last good snapshot.
    pub accept_shrunken: bool,
    /// See [`super::PlannedSource::unfilled`].
    pub unfilled: Option<UnfilledClaim>,
}

/// The modes in which a claim can be read.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one for each claim of a namespace")]
pub(super) enum Reading {
    /// By a Job which mounts it, unless a sidecar can read it.
    Mount(ClaimMount),
    /// Only by a sidecar; with the reason why no Job can mount it.
    SidecarOnly(&'static str),
}

/// Why it is too early to decide about the claims, if it is: a Repository which names a claim as its volume is being
/// opened, and only its result shows whether the claim stores a repository.
pub(super) fn undecided(facts: ClaimFacts<'_>) -> Option<String> {
    facts.claims.iter().filter_map(|claim| claim.metadata.name.as_deref()).find_map(|name| {
        let (repository, holding) = repository_on(facts.repositories, name)?;
        let repository = repository.name_any();
        (holding == Holding::Opening)
            .then(|| format!("waits until Repository {repository} is opened, which names claim {name} as its volume"))
    })
}

/// Decides about all claims of the namespace, by name. `requested` are those which pods request by annotation.
pub(super) fn choose(
    facts: ClaimFacts<'_>,
    pods: &[ObservedPod],
    selector: &Selector,
    requested: &BTreeSet<&str>,
    warnings: &mut Warnings,
) -> BTreeMap<String, Choice> {
    let of = |metadata: &ObjectMeta| opt_out(metadata.annotations.as_ref(), metadata.labels.as_ref());
    let metadata = &facts.namespace.metadata;
    let namespace = namespace_opt_out(metadata.annotations.as_ref(), metadata.labels.as_ref());
    let of_namespace = unknown_keys(Carrier::Namespace, metadata.annotations.as_ref(), metadata.labels.as_ref());
    warnings.add("namespace", of_namespace.into_iter().chain(namespace.warnings.clone()));
    facts
        .claims
        .iter()
        .filter(|claim| !is_temporary(&claim.metadata))
        .filter_map(|claim| {
            let name = claim.metadata.name.clone()?;
            let own = of(&claim.metadata);
            let ObjectMeta { annotations, labels, .. } = &claim.metadata;
            let object = format!("PersistentVolumeClaim {name}");
            let skipped = skip(facts, claim, &name, selector, (&own, &namespace));
            let is_requested = requested.contains(name.as_str());
            if is_requested || !matches!(skipped, Some((SkipReason::NotSelected, _))) {
                warnings.add(&object, unknown_keys(Carrier::Claim, annotations.as_ref(), labels.as_ref()));
                warnings.add(&object, own.warnings.clone());
            }
            let choice = match skipped {
                // A request of the volume by its name overrides the other reasons to skip it.
                Some((SkipReason::HoldsRepository, message)) if is_requested => Choice::Problem(message),
                Some((reason, message)) if !is_requested => Choice::Skip(reason, message),
                _ => {
                    let (accept_shrunken, warning) = accept_shrunken(claim.metadata.annotations.as_ref());
                    warnings.add(&object, warning);
                    match source(facts, claim, &name, pods) {
                        Choice::Source(reading, rules) => {
                            let unfilled = UnfilledClaim::of(claim);
                            Choice::Source(reading, VolumeRules { accept_shrunken, unfilled, ..rules })
                        }
                        other => other,
                    }
                }
            };
            Some((name, choice))
        })
        .collect()
}

/// Why the claim is left out, if it is.
fn skip(
    facts: ClaimFacts<'_>,
    claim: &PersistentVolumeClaim,
    name: &str,
    selector: &Selector,
    (own, namespace): (&OptOut, &OptOut),
) -> Option<(SkipReason, String)> {
    // A Repository which was never opened is ignored, because its spec may be a mistake, which must not exclude data
    // from the backups.
    if let Some((repository, Holding::Opened)) = repository_on(facts.repositories, name) {
        return Some((SkipReason::HoldsRepository, format!("Repository {} is on it", repository.name_any())));
    }
    if !selector.matches(&claim.metadata.labels.clone().unwrap_or_default()) {
        return Some((SkipReason::NotSelected, "the Backup's selector does not match its labels".into()));
    }
    if let Some(message) = opted_out(own, namespace) {
        return Some((SkipReason::OptedOut, message));
    }
    if own.wanted != Some(true)
        && let Some(pod) = pod_of(&claim.metadata)
    {
        let message = format!(
            "it belongs to pod {pod} and is deleted with it; annotate it with stowaway.dev/backup: \"true\" to back it up"
        );
        return Some((SkipReason::EphemeralVolume, message));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Some((SkipReason::Terminating, "it is being deleted".into()));
    }
    match phase(claim) {
        "Bound" | "Lost" => None,
        _ => Some((SkipReason::NotBound, "it has no volume yet, so there is no data".into())),
    }
}

/// By which key the claim or its namespace excludes it, if one does.
pub(super) fn opted_out(own: &OptOut, namespace: &OptOut) -> Option<String> {
    match (own.wanted, namespace.wanted) {
        (Some(false), _) => Some(format!("{} excludes it", own.key)),
        (None, Some(false)) => {
            Some(format!("{} of the namespace excludes it, and the claim does not set it otherwise", namespace.key))
        }
        _ => None,
    }
}

/// The pod which owns the claim, because the claim is a generic ephemeral volume.
fn pod_of(metadata: &ObjectMeta) -> Option<&str> {
    let owners = metadata.owner_references.iter().flatten();
    let mut pods = owners.filter(|owner| owner.kind == "Pod" && owner.api_version == "v1");
    pods.next().map(|owner| owner.name.as_str())
}

pub(super) fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The mode in which the claim is read, and its rules, or why it cannot be read.
fn source(facts: ClaimFacts<'_>, claim: &PersistentVolumeClaim, name: &str, pods: &[ObservedPod]) -> Choice {
    if phase(claim) == "Lost" {
        return Choice::Problem("its volume is lost: restore the claim, or opt it out".into());
    }
    let class = snapshot_class(claim.metadata.annotations.as_ref(), facts.namespace.metadata.annotations.as_ref());
    let class = class.map_err(|problem| format!("nothing of it is stored, because {problem}"));
    let frozen = class.and_then(|class| class.map(|class| snapshot(facts, claim, &class)).transpose());
    let frozen = match frozen {
        Ok(frozen) => frozen,
        Err(message) => return Choice::Problem(message),
    };
    if is_device(claim) {
        return device(facts, claim, (name, frozen), pods);
    }
    let exclude = excludes(claim.metadata.annotations.as_ref(), facts.namespace.metadata.annotations.as_ref());
    let exclude = match exclude {
        Ok(exclude) => exclude,
        Err(problem) => return Choice::Problem(format!("nothing of it is stored, because {problem}")),
    };
    let rules = VolumeRules { exclude, ..VolumeRules::default() };
    Choice::Source(reading(facts, claim, (name, frozen), pods), rules)
}

/// Whether the claim's volume is a block device, on which Kubernetes mounts no file system.
pub(in crate::plan) fn is_device(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
}

/// Like [`source`], for a block device. Only a Job can read it, and only as a whole. The device file belongs to root,
/// so the app's user does not matter.
fn device(
    facts: ClaimFacts<'_>,
    claim: &PersistentVolumeClaim,
    (name, frozen): (&str, Option<ClaimSnapshot>),
    pods: &[ObservedPod],
) -> Choice {
    let annotations = claim.metadata.annotations.as_ref();
    let key = own_key(KeyId::Exclude);
    if annotations.is_some_and(|annotations| annotations.contains_key(&key)) {
        let message =
            format!("it is a block device, which has no files that {key} could exclude: remove the annotation");
        return Choice::Problem(message);
    }
    match reading(facts, claim, (name, frozen), pods) {
        Reading::Mount(mount) => {
            let user = reader(facts, FileOwner::Unknown { group: None });
            // No pod writes to a snapshot, so no pod is recorded.
            let pod = if mount.snapshot.is_some() { String::new() } else { mount.pod };
            let mount = ClaimMount { device: true, pod, user, groups: Vec::new(), ..mount };
            Choice::Source(Reading::Mount(mount), VolumeRules::default())
        }
        Reading::SidecarOnly(why) => Choice::Problem(format!(
            "it is a block device, which only a Job can read, and no Job can now, because {why}: back it up without its \
             pod, dump it by a backupcommand, or opt it out"
        )),
    }
}

/// How a Job mounts the claim, or why no Job can. The temporary claim of a snapshot can be mounted on any node.
fn reading(
    facts: ClaimFacts<'_>,
    claim: &PersistentVolumeClaim,
    (name, frozen): (&str, Option<ClaimSnapshot>),
    pods: &[ObservedPod],
) -> Reading {
    if claim.metadata.deletion_timestamp.is_some() {
        return Reading::SidecarOnly("it is being deleted");
    }
    if phase(claim) != "Bound" {
        return Reading::SidecarOnly("it has no volume yet");
    }
    let modes = claim.status.as_ref().and_then(|status| status.access_modes.as_deref()).unwrap_or_default();
    let has = |mode: &str| modes.iter().any(|one| one == mode);
    // The newest pod which mounts the claim. If several do, they are on one node, or the claim can be mounted on any
    // node.
    let users = pods.iter().map(|observed| &observed.pod).filter(|pod| uses(pod, name));
    let user = users.max_by_key(|pod| (pod.metadata.creation_timestamp.as_ref(), &pod.metadata.name));
    if frozen.is_none() && user.is_some() && has("ReadWriteOncePod") {
        return Reading::SidecarOnly("only one pod at a time can mount it (ReadWriteOncePod)");
    }
    let is_anywhere = frozen.is_some() || has("ReadWriteMany") || has("ReadOnlyMany");
    let spec = user.and_then(|pod| pod.spec.as_ref());
    let node = spec.filter(|_| !is_anywhere).and_then(|spec| spec.node_name.clone());
    let context = spec.and_then(|spec| spec.security_context.as_ref());
    let mut groups: Vec<i64> = context.and_then(|context| context.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(context.and_then(|context| context.fs_group));
    Reading::Mount(ClaimMount {
        claim: name.to_owned(),
        device: false,
        pod: user.and_then(|pod| pod.metadata.name.clone()).unwrap_or_default(),
        tolerations: spec.filter(|_| node.is_some()).and_then(|spec| spec.tolerations.clone()).unwrap_or_default(),
        node,
        user: reader(facts, user.map_or(FileOwner::Unknown { group: None }, |pod| owner(pod, name))),
        groups,
        se_linux: user.and_then(|pod| se_linux(pod, name)),
        snapshot: frozen.map(Box::new),
    })
}

/// The user and group which the Job runs as. If the file owner is not known, this is root, unless the namespace forbids
/// it. A user other than root may be unable to read some files, which makes the run `Incomplete`.
fn reader(facts: ClaimFacts<'_>, owner: FileOwner) -> (u64, Option<u64>) {
    let is_restricted = enforces_restricted(facts.namespace);
    match owner.user(None) {
        (0, group) if is_restricted => (NON_ROOT, group.or(Some(NON_ROOT))),
        user => user,
    }
}

/// Whether the namespace enforces Pod Security `restricted`.
pub(in crate::plan) fn enforces_restricted(namespace: &Namespace) -> bool {
    let labels = namespace.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(ENFORCED_LEVEL)).is_some_and(|level| level == "restricted")
}

/// Whether the pod names the claim as a volume, is scheduled to a node, and has not ended.
fn uses(pod: &Pod, claim: &str) -> bool {
    let is_over =
        matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    let is_placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    !is_over && is_placed && volume_of(pod, claim).is_some()
}

/// The name of the pod's volume with the claim.
pub(super) fn volume_of<'a>(pod: &'a Pod, claim: &str) -> Option<&'a str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut by_name = volumes
        .filter(|volume| volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim));
    by_name.next().map(|volume| volume.name.as_str())
}

/// The `SELinux` label of the first container that mounts the claim.
fn se_linux(pod: &Pod, claim: &str) -> Option<SELinuxOptions> {
    let volume = volume_of(pod, claim);
    let spec = pod.spec.as_ref()?;
    let mounts = |container: &&Container| {
        container.volume_mounts.iter().flatten().any(|mount| Some(mount.name.as_str()) == volume)
    };
    let own = spec.containers.iter().find(mounts).and_then(|container| container.security_context.as_ref());
    let own = own.and_then(|context| context.se_linux_options.clone());
    own.or_else(|| spec.security_context.as_ref()?.se_linux_options.clone())
}

/// The owner of the files, derived from the containers which mount the claim; from all containers if none does.
fn owner(pod: &Pod, claim: &str) -> FileOwner {
    let volume = volume_of(pod, claim);
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let containers = || pod.spec.iter().flat_map(|spec| &spec.containers);
    let mounts = |container: &&Container| {
        container.volume_mounts.iter().flatten().any(|mount| Some(mount.name.as_str()) == volume)
    };
    let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let run_as = |container: &Container| {
        let own = container.security_context.as_ref();
        let pods = context;
        RunAs {
            user: number(own.and_then(|own| own.run_as_user).or(pods.and_then(|pod| pod.run_as_user))),
            group: number(own.and_then(|own| own.run_as_group).or(pods.and_then(|pod| pod.run_as_group))),
            non_root: own.and_then(|own| own.run_as_non_root).or(pods.and_then(|pod| pod.run_as_non_root))
                == Some(true),
        }
    };
    let mounting: Vec<RunAs> = containers().filter(mounts).map(run_as).collect();
    if mounting.is_empty() {
        FileOwner::of(&containers().map(run_as).collect::<Vec<_>>())
    } else {
        FileOwner::of(&mounting)
    }
}
