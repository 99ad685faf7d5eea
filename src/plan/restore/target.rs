//! The command of a container which a Restore streams into.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Blocked, RestoreFacts};
use crate::{
    api::{RESTORE_UNFINISHED, Restore, RestoreStatus},
    model::{Reason, TargetCommand},
    plan::sources::{Target, UnfilledClaim},
};

/// Why a Restore cannot start its Job.
pub(super) enum StartError {
    /// The cause may pass by itself.
    Temporary(Blocked),
    /// The user has to create another Restore.
    Permanent(Blocked),
}

/// The named container in the named pod. By default, the pod and container which the source's name denotes now.
pub(super) fn target(restore: &Restore, facts: RestoreFacts<'_>) -> Result<TargetCommand, StartError> {
    let source = &restore.spec.from.source;
    let to = restore.spec.to.clone().unwrap_or_default();
    if source.as_str().starts_with("pvc/") {
        return Err(refused(format!(
            "source {source} is a volume, which is not restored by a command: name the target claim in spec.to.claim, or \
             annotate a pod which mounts an empty claim with stowaway.dev/restore"
        )));
    }
    // <kind>/<workload>/<container>[/<command>]
    let mut parts = source.as_str().split('/').skip(2);
    let (source_container, command) = (parts.next(), parts.next());
    let target = match &to.pod {
        None => planned(restore, facts)?,
        Some(name) => {
            let pod = find(facts, name)?;
            let container =
                to.container.as_deref().or(source_container).ok_or_else(|| {
                    refused(format!("source {source} has no container; name one in spec.to.container"))
                })?;
            TargetCommand {
                namespace: pod.namespace().unwrap_or_default(),
                pod: name.clone(),
                pod_uid: pod.uid().unwrap_or_default(),
                container: container.to_owned(),
                command: command.map(str::to_owned),
            }
        }
    };
    let container = to.container.unwrap_or_else(|| target.container.clone());
    has_container(find(facts, &target.pod)?, &container)?;
    Ok(TargetCommand { container, ..target })
}

/// The note that no Backup stores a dump of the pod which the Restore has written into, because another Restore has left
/// a claim of the pod unfilled. Only the user knows whether the command has restored all that the claim should contain.
pub(super) fn unfilled_claim(facts: RestoreFacts<'_>, status: &RestoreStatus) -> Option<String> {
    let pod = facts.pods.iter().map(|observed| &observed.pod).find(|pod| pod.name_any() == status.pod)?;
    let unfilled = UnfilledClaim::of_pod(facts.claims, pod)?;
    Some(format!(
        "no Backup stores claim {claim}, or a dump of pod {pod}, which mounts the claim, because of the annotation \
         {RESTORE_UNFINISHED} of the claim; if all of its content is restored now, run {confirmation}",
        claim = unfilled.name,
        pod = status.pod,
        confirmation = unfilled.confirmation(),
    ))
}

/// The pod and container which the source's name denotes now.
fn planned(restore: &Restore, facts: RestoreFacts<'_>) -> Result<TargetCommand, StartError> {
    let source = &restore.spec.from.source;
    let Some(planned) = facts.sources.sources.iter().find(|planned| planned.name == *source) else {
        let known: Vec<_> = facts.sources.sources.iter().map(|planned| planned.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(refused(format!(
            "no pod of the namespace is source {source} now; the sources are: {known}. \
             To restore it anyway, name pod, container and command in spec.to"
        )));
    };
    match &planned.target {
        Some(Target::Command(target)) => Ok(target.clone()),
        Some(Target::Volume(_) | Target::Claim(_)) => {
            Err(refused(format!("source {source} is a volume, not a command")))
        }
        None => {
            Err(StartError::Temporary(Blocked::new(Reason::PodGone, format!("source {source} has no Ready pod now"))))
        }
    }
}

fn find<'a>(facts: RestoreFacts<'a>, name: &str) -> Result<&'a Pod, StartError> {
    facts
        .pods
        .iter()
        .map(|observed| &observed.pod)
        .find(|pod| pod.name_any() == name)
        .ok_or_else(|| refused(format!("there is no pod {name} in this namespace")))
}

fn has_container(pod: &Pod, container: &str) -> Result<(), StartError> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let sidecars = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let existing: Vec<&str> = spec
        .into_iter()
        .flat_map(|spec| &spec.containers)
        .chain(sidecars)
        .map(|container| container.name.as_str())
        .collect();
    if existing.contains(&container) {
        return Ok(());
    }
    Err(refused(format!("pod {} has no container {container}; it has {}", pod.name_any(), existing.join(", "))))
}

fn refused(message: String) -> StartError {
    StartError::Permanent(Blocked::new(Reason::InvalidRequest, message))
}
