//! Volume sources: the claims that a pod asks its sidecar to back up, each once, whoever mounts it.
//!
//! It must not know commands. A claim of several pods is read by the newest Ready one that has a sidecar for it; where no
//! pod has one the source is told of all the same, and why it cannot be backed up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::{PlanProblem, PlannedSource, SourceFacts, Target, label, pods::Unit};
use crate::{
    annotations::{Injection, Request},
    model::{SourceName, TargetVolume, injected::SIDECAR_CONTAINER},
};

/// All claims that were asked for so far, and who can read each.
#[derive(Default)]
pub(super) struct Claims {
    readers: BTreeMap<String, Reader>,
}

/// A pod that mounts a claim.
struct Reader {
    /// Whether its sidecar has the claim, whether it is Ready, and so on: the greatest reads.
    rank: (bool, OwnedRank),
    pod: String,
    pod_uid: String,
    ready: bool,
    repository: Option<String>,
    timeout: Option<std::time::Duration>,
}

type OwnedRank = (bool, bool, Option<jiff::Timestamp>, std::cmp::Reverse<String>);

impl Claims {
    /// Takes in what one pod asks for.
    pub fn add(&mut self, unit: &Unit<'_>, request: &Request, problems: &mut Vec<PlanProblem>) {
        let pod = unit.pod();
        let sidecar = sidecar(pod);
        let asks = match request.inject {
            Some(injection) => injection == Injection::Sidecar,
            // The namespace may have asked for it.
            None => sidecar.is_some(),
        };
        if !asks {
            return;
        }
        for volume in volumes(pod, request) {
            let claim = match volume.and_then(claim) {
                Ok(claim) => claim,
                Err(message) => {
                    problems.push(PlanProblem::Volume { pod: unit.name.to_owned(), message });
                    continue;
                }
            };
            let (ready, living, created, name) = unit.rank();
            let own_rank = (ready, living, created.map(|time| time.0), std::cmp::Reverse(name.0.to_owned()));
            let reader = Reader {
                rank: (sidecar.is_some_and(|sidecar| has_volume(sidecar, &claim)), own_rank),
                pod: unit.name.to_owned(),
                pod_uid: unit.uid.to_owned(),
                ready: unit.ready,
                repository: request.repository.clone(),
                timeout: request.timeout,
            };
            let better = self.readers.get(&claim.name).is_none_or(|present| reader.rank > present.rank);
            if better {
                self.readers.insert(claim.name, reader);
            }
        }
    }

    /// The sources, and what cannot be one.
    pub fn into_sources(self, facts: SourceFacts<'_>, problems: &mut Vec<PlanProblem>) -> Vec<PlannedSource> {
        let sources = self.readers.into_iter().map(|(claim, reader)| source(facts, claim, reader));
        sources
            .filter_map(|source| match source {
                Ok(source) => Some(source),
                Err(problem) => {
                    problems.push(problem);
                    None
                }
            })
            .collect()
    }
}

fn source(facts: SourceFacts<'_>, claim: String, reader: Reader) -> Result<PlannedSource, PlanProblem> {
    let Reader { rank: (has_sidecar, _), pod, pod_uid, ready, repository, timeout } = reader;
    let unnamable = |message: String| PlanProblem::Unnamable { pod: pod.clone(), message };
    let name: SourceName =
        format!("pvc/{claim}").parse().map_err(|error: crate::model::SourceNameError| unnamable(error.to_string()))?;
    if !has_sidecar {
        return Err(PlanProblem::NotInjected { pod, name });
    }
    let path = format!("/data/{claim}");
    let identity = label(facts, &name, path.clone(), ready.then_some(pod.as_str())).map_err(unnamable)?;
    let target =
        ready.then(|| TargetVolume { namespace: facts.namespace.to_owned(), pod: pod.clone(), pod_uid, claim });
    Ok(PlannedSource {
        name,
        pod,
        target: target.map(Target::Volume),
        identity,
        // No other source can have it.
        alternative_path: path,
        repository,
        timeout,
        idle_timeout: None,
        allow_empty: false,
        accept_unproven: false,
    })
}

/// The volumes that are asked for; for a pod whose volume is restored without being named, its only claim, as there.
fn volumes<'a>(pod: &'a Pod, request: &'a Request) -> Vec<Result<&'a Volume, String>> {
    let all = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    if request.volumes.is_empty() && request.restore_on_empty {
        let claims: Vec<&Volume> = all().filter(|volume| volume.persistent_volume_claim.is_some()).collect();
        return if claims.len() == 1 { claims.into_iter().map(Ok).collect() } else { Vec::new() };
    }
    let find = |name: &String| {
        all().find(|volume| volume.name == *name).ok_or_else(|| format!("it has no volume {name:?} to back up"))
    };
    request.volumes.iter().map(find).collect()
}

/// A claim, and the volume by which a pod mounts it.
struct Claim {
    volume: String,
    name: String,
}

fn claim(volume: &Volume) -> Result<Claim, String> {
    let Some(claim) = &volume.persistent_volume_claim else {
        return Err(format!(
            "its volume {:?} is no PersistentVolumeClaim, and only those are backed up; take it out of the annotation",
            volume.name
        ));
    };
    Ok(Claim { volume: volume.name.clone(), name: claim.claim_name.clone() })
}

/// The sidecar that is in the pod.
fn sidecar(pod: &Pod) -> Option<&Container> {
    let mut containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers
        .find(|container| container.name == SIDECAR_CONTAINER && container.restart_policy.as_deref() == Some("Always"))
}

/// Its arguments say what it has, and cannot be changed.
fn has_volume(sidecar: &Container, claim: &Claim) -> bool {
    let argument = format!("--volume={}=pvc/{}", claim.volume, claim.name);
    sidecar.args.iter().flatten().any(|given| *given == argument)
}
