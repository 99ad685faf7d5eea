//! Mounts the target claim of a restore into the pod of its run. The mount decides the node and the user of the pod.

use k8s_openapi::api::core::v1::{
    Capabilities, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, Volume, VolumeDevice, VolumeMount,
};

use super::{
    job::{JobRequest, on_node},
    pod_defaults,
};
use crate::{
    model::mounts,
    plan::{RestoreTarget, TargetMount, names::TARGET_VOLUME},
};

/// Adds the claim of the request's target to the pod, if there is one.
pub(super) fn mounted(mut pod: PodSpec, request: &JobRequest<'_>) -> PodSpec {
    let Some(RestoreTarget::Claim(mount)) = request.target else { return pod };
    let TargetMount { claim, device, as_root, node, tolerations } = mount;
    pod.volumes.get_or_insert_default().push(Volume {
        name: TARGET_VOLUME.into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.clone(),
            ..PersistentVolumeClaimVolumeSource::default()
        }),
        ..Volume::default()
    });
    let own = request.runner_pod.and_then(|pod| pod.security_context.as_ref());
    for container in &mut pod.containers {
        if *device {
            let target = VolumeDevice { name: TARGET_VOLUME.into(), device_path: mounts::TARGET_DEVICE.into() };
            container.volume_devices.get_or_insert_default().push(target);
        } else {
            container.volume_mounts.get_or_insert_default().push(VolumeMount {
                name: TARGET_VOLUME.into(),
                mount_path: mounts::TARGET_FOLDER.into(),
                ..VolumeMount::default()
            });
        }
        // The device node belongs to root, so no capability is needed.
        if *as_root && !device {
            let security = container.security_context.get_or_insert_default();
            security.capabilities = Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                add: Some(mounts::RIGHTS_TO_RESTORE.map(str::to_owned).into()),
            });
        }
    }
    if *as_root {
        let merged = pod.security_context.take().unwrap_or_default();
        pod.security_context = Some(PodSecurityContext {
            // The group stays that of the other runs, so that they can still use a repository on a volume.
            run_as_user: Some(0),
            run_as_non_root: Some(false),
            // An fsGroup would be applied to all files of the claim, so there is no default.
            fs_group: own.and_then(|own| own.fs_group),
            fs_group_change_policy: own.and_then(|own| own.fs_group_change_policy.clone()),
            ..merged
        });
    }
    if let Some(node) = node {
        pod.affinity = Some(on_node(pod.affinity.take().unwrap_or_default(), node));
        let tolerated = tolerations.iter().cloned().chain(pod_defaults::tolerations_on_its_node());
        pod.tolerations.get_or_insert_default().extend(tolerated);
    }
    pod
}
