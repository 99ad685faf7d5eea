//! Workloads which are left out: those whose pods run to completion, and those with volumes which hold data and are not
//! a `PersistentVolumeClaim`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::{ObservedPod, Workload, pods::Unit};
use crate::api::{SkipReason, SkippedClaim};

/// The workloads which are left out.
#[derive(Default)]
pub(super) struct LeftOut {
    ending: BTreeSet<Workload>,
    outside: BTreeMap<Workload, Vec<String>>,
}

impl LeftOut {
    /// Adds a Job or `CronJob` without a pod which can run a command now.
    pub fn ending(&mut self, workload: &Workload) {
        self.ending.insert(workload.clone());
    }

    /// Adds the volumes of an annotated pod which hold data outside of claims.
    pub fn outside(&mut self, observed: &ObservedPod) {
        let volumes = volumes(&observed.pod);
        if !volumes.is_empty() {
            self.outside.insert(observed.workload.clone(), volumes);
        }
    }

    /// The entries for the status, without the workloads which have a source.
    pub fn without(self, units: &BTreeMap<Workload, Unit<'_>>) -> Vec<SkippedClaim> {
        let name = |workload: &Workload| format!("{}/{}", workload.kind, workload.name);
        let ending =
            self.ending.iter().filter(|workload| !units.contains_key(*workload)).map(|workload| SkippedClaim {
                name: name(workload),
                reason: SkipReason::RunsToCompletion,
                message: "none of its pods is Ready, and Stowaway does not wait for pods which run to completion"
                    .into(),
            });
        let outside = self.outside.iter().map(|(workload, volumes)| SkippedClaim {
            name: name(workload),
            reason: SkipReason::OutsideClaims,
            message: format!("these volumes are not PersistentVolumeClaims and not stored: {}", volumes.join(", ")),
        });
        ending.chain(outside).collect()
    }
}

/// Whether the pods of the workload end by themselves.
pub(super) fn runs_to_completion(workload: &Workload) -> bool {
    matches!(workload.kind.as_str(), "job" | "cronjob")
}

/// The volumes which a container of the pod may write to, each as `<name> (<kind>)`. Volumes of Kubernetes objects and
/// images hold no data of the app, and an `emptyDir` is deleted with its pod.
fn volumes(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let writes = |container: &Container, volume: &str| {
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.any(|mount| mount.name == volume && mount.read_only != Some(true))
    };
    let is_written = |volume: &&Volume| containers().any(|container| writes(container, &volume.name));
    let volumes = spec.volumes.iter().flatten().filter(is_written);
    volumes.filter_map(|volume| Some(format!("{} ({})", volume.name, kind(volume)?))).collect()
}

fn kind(volume: &Volume) -> Option<&'static str> {
    let is_written = |read_only: Option<bool>| read_only != Some(true);
    Some(match volume {
        Volume { host_path: Some(_), .. } => "hostPath",
        Volume { nfs: Some(nfs), .. } if is_written(nfs.read_only) => "nfs",
        // CSI drivers for Secrets and certificates require read-only volumes.
        Volume { csi: Some(csi), .. } if is_written(csi.read_only) => "csi",
        Volume { azure_file: Some(file), .. } if is_written(file.read_only) => "azureFile",
        Volume { azure_disk: Some(_), .. } => "azureDisk",
        Volume { aws_elastic_block_store: Some(_), .. } => "awsElasticBlockStore",
        Volume { gce_persistent_disk: Some(_), .. } => "gcePersistentDisk",
        Volume { cephfs: Some(_), .. } => "cephfs",
        Volume { cinder: Some(_), .. } => "cinder",
        Volume { fc: Some(_), .. } => "fc",
        Volume { flex_volume: Some(_), .. } => "flexVolume",
        Volume { glusterfs: Some(_), .. } => "glusterfs",
        Volume { iscsi: Some(_), .. } => "iscsi",
        Volume { rbd: Some(_), .. } => "rbd",
        Volume { vsphere_volume: Some(_), .. } => "vsphereVolume",
        _ => return None,
    })
}
