//! The claims which a Restore has created and none has filled, and the sources that depend on them: the claim itself,
//! and the commands of a pod that mounts it.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::{api::RESTORE_UNFINISHED, model::injected::REPOSITORY_VOLUME};

/// A claim which a Restore has created and none has filled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnfilledClaim {
    /// Name of the claim.
    pub name: String,
    /// The value of its annotation [`RESTORE_UNFINISHED`], which any user of the namespace may have written.
    pub restore: String,
}

impl UnfilledClaim {
    /// This claim, if it has the annotation.
    pub(super) fn of(claim: &PersistentVolumeClaim) -> Option<Self> {
        let restore = claim.annotations().get(RESTORE_UNFINISHED)?.clone();
        Some(Self { name: claim.name_any(), restore })
    }

    /// The first such claim that the pod mounts. Every mount counts, because only the app knows from where a command
    /// reads: a command may query a server in another container, and a server may serve files that it only reads.
    pub(in crate::plan) fn of_pod(claims: &[PersistentVolumeClaim], pod: &Pod) -> Option<Self> {
        // A pod that is only expected has no UID, and mounts nothing.
        pod.metadata.uid.as_ref()?;
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        // The webhook has added the volume of the repository, which contains nothing of the app.
        let volumes = volumes.filter(|volume| volume.name != REPOSITORY_VOLUME);
        let names = volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()));
        let find = |name: &str| claims.iter().find(|claim| claim.metadata.name.as_deref() == Some(name));
        names.filter_map(find).find_map(Self::of)
    }

    /// The command by which a user confirms that the content of the claim is right.
    pub(in crate::plan) fn confirmation(&self) -> String {
        format!("kubectl annotate persistentvolumeclaim {} {RESTORE_UNFINISHED}-", self.name)
    }
}
