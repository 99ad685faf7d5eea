//! The volume sources: the claims of the namespace, and those which a pod's annotation requests, each once.
//!
//! A claim of several pods is read by the newest Ready pod which has a sidecar for it, else by a Job which mounts it.
//! If neither is possible, the source is reported with the reason.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::{
    PlanProblem, PlannedSource, SourceFacts, SourcePlan, Target,
    claims::{Choice, ClaimMount, Reading, VolumeRules},
    label,
    pods::Unit,
};
use crate::{
    annotations::{Injection, Request},
    api::SkippedClaim,
    model::{SourceName, SourceNameError, TargetVolume, injected::SIDECAR_CONTAINER},
    plan::stored_claim::stored_claim,
};

/// The claims which pods request, with the best pod to read each of them.
#[derive(Default)]
pub(super) struct Claims {
    readers: BTreeMap<String, Reader>,
}

/// A pod that mounts a claim.
struct Reader {
    /// Whether the pod's sidecar mounts the claim, then the pod's own rank. The pod of the greatest rank reads the
    /// claim.
    rank: (bool, OwnedRank),
    pod: String,
    pod_uid: String,
    ready: bool,
    repository: Option<String>,
    timeout: Option<Duration>,
}

type OwnedRank = (bool, bool, Option<jiff::Timestamp>, std::cmp::Reverse<String>);

impl Claims {
    /// Adds the claims which a pod requests.
    pub fn add(&mut self, unit: &Unit<'_>, request: &Request, problems: &mut Vec<PlanProblem>) {
        let pod = unit.pod();
        let sidecar = sidecar(pod);
        let is_requested = match request.inject {
            Some(injection) => injection == Injection::Sidecar,
            // The namespace may have requested the sidecar.
            None => sidecar.is_some(),
        };
        if !is_requested {
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

    /// The names of the claims which pods request.
    pub fn requested(&self) -> impl Iterator<Item = &str> {
        self.readers.keys().map(String::as_str)
    }

    /// Adds the volume sources, problems and skipped claims to the plan. `choices` are the decisions about all claims
    /// of the namespace, if these were listed.
    pub fn into_sources(
        mut self,
        facts: SourceFacts<'_>,
        choices: Option<BTreeMap<String, Choice>>,
        plan: &mut SourcePlan,
    ) {
        let mut sources = Vec::new();
        for (name, choice) in choices.into_iter().flatten() {
            let reader = self.readers.remove(&name);
            sources.push(match choice {
                Choice::Skip(reason, message) => {
                    plan.skipped.push(SkippedClaim { name, reason, message });
                    continue;
                }
                Choice::Problem(message) => {
                    source_name(&name).and_then(|name| Err(PlanProblem::Claim { name, message }))
                }
                Choice::Source(reading, rules) => {
                    let source = match (reading, reader) {
                        (Reading::Mount(mount), reader) => of_job(facts, mount, reader),
                        (Reading::SidecarOnly(_), Some(reader)) if reader.has_sidecar() => {
                            of_sidecar(facts, name, reader)
                        }
                        (Reading::SidecarOnly(why), _) => {
                            source_name(&name).and_then(|name| Err(PlanProblem::SidecarOnly { name, why }))
                        }
                    };
                    let VolumeRules { exclude, accept_shrunken, unfilled } = rules;
                    source.map(|source| PlannedSource { exclude, accept_shrunken, unfilled, ..source })
                }
            });
        }
        // Requested claims without a decision: the claims were not listed, or the claim was deleted although a pod
        // names it.
        sources.extend(self.readers.into_iter().map(|(claim, reader)| of_sidecar(facts, claim, reader)));
        for source in sources {
            match source {
                Ok(source) => plan.sources.push(source),
                Err(problem) => plan.problems.push(problem),
            }
        }
    }
}

impl Reader {
    fn has_sidecar(&self) -> bool {
        self.rank.0
    }
}

/// A source which a Job reads, or the sidecar of a Ready pod if it mounts the claim. A sidecar reads neither block
/// devices nor snapshots.
fn of_job(facts: SourceFacts<'_>, mount: ClaimMount, reader: Option<Reader>) -> Result<PlannedSource, PlanProblem> {
    let (repository, timeout) = match reader {
        Some(reader) if reader.has_sidecar() && reader.ready && !mount.device && mount.snapshot.is_none() => {
            return of_sidecar(facts, mount.claim, reader);
        }
        Some(reader) => (reader.repository, reader.timeout),
        None => (None, None),
    };
    let pod = (!mount.pod.is_empty()).then_some(mount.pod.as_str());
    let mut source = source(facts, &mount.claim, pod, repository, timeout)?;
    source.target = Some(Target::Claim(mount));
    Ok(source)
}

fn of_sidecar(facts: SourceFacts<'_>, claim: String, reader: Reader) -> Result<PlannedSource, PlanProblem> {
    let has_sidecar = reader.has_sidecar();
    let Reader { rank: _, pod, pod_uid, ready, repository, timeout } = reader;
    if !has_sidecar {
        return source_name(&claim).and_then(|name| Err(PlanProblem::NotInjected { pod, name }));
    }
    let source = source(facts, &claim, ready.then_some(pod.as_str()), repository, timeout)?;
    let target = TargetVolume { namespace: facts.namespace.to_owned(), pod: pod.clone(), pod_uid, claim };
    Ok(PlannedSource { pod, target: ready.then_some(Target::Volume(target)), ..source })
}

/// A source without its target.
fn source(
    facts: SourceFacts<'_>,
    claim: &str,
    pod: Option<&str>,
    repository: Option<String>,
    timeout: Option<Duration>,
) -> Result<PlannedSource, PlanProblem> {
    let name = source_name(claim)?;
    let path = format!("/data/{claim}");
    let unlabelled = |message| PlanProblem::Claim { name: name.clone(), message };
    let mut identity = label(facts, &name, path.clone(), pod).map_err(unlabelled)?;
    let claims = facts.claims.map(|facts| facts.claims).unwrap_or_default();
    if let Some(claim) = claims.iter().find(|one| one.metadata.name.as_deref() == Some(claim)) {
        stored_claim(claim).record(&mut identity).map_err(|error| unlabelled(error.to_string()))?;
    }
    Ok(PlannedSource {
        name,
        pod: pod.unwrap_or_default().to_owned(),
        target: None,
        identity,
        // No other source can have it.
        alternative_path: path,
        repository,
        timeout,
        idle_timeout: None,
        allow_empty: false,
        accept_unproven: false,
        allow_missing: false,
        skip_format_check: false,
        exclude: Vec::new(),
        accept_shrunken: false,
        unfilled: None,
        has_restore_command: false,
        note: String::new(),
    })
}

/// The name of the claim's source. An object's name is always valid in it.
fn source_name(claim: &str) -> Result<SourceName, PlanProblem> {
    let unnamable = |error: SourceNameError| PlanProblem::Unnamable { pod: String::new(), message: error.to_string() };
    format!("pvc/{claim}").parse().map_err(unnamable)
}

/// The requested volumes. If a pod requests a restore without naming a volume, this is its only claim, as for the
/// restore.
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

/// A claim, and the name of the pod's volume with it.
struct Claim {
    volume: String,
    name: String,
}

fn claim(volume: &Volume) -> Result<Claim, String> {
    let Some(claim) = &volume.persistent_volume_claim else {
        return Err(format!(
            "its volume {:?} is not a PersistentVolumeClaim, and only those are backed up; remove it from the annotation",
            volume.name
        ));
    };
    Ok(Claim { volume: volume.name.clone(), name: claim.claim_name.clone() })
}

/// The injected sidecar of the pod.
fn sidecar(pod: &Pod) -> Option<&Container> {
    let mut containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers
        .find(|container| container.name == SIDECAR_CONTAINER && container.restart_policy.as_deref() == Some("Always"))
}

/// Whether the sidecar mounts the claim. Its arguments list its claims, and cannot change.
fn has_volume(sidecar: &Container, claim: &Claim) -> bool {
    let argument = format!("--volume={}=pvc/{}", claim.volume, claim.name);
    sidecar.args.iter().flatten().any(|given| *given == argument)
}
