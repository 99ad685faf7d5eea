//! Reads and writes the scale of workloads around a restore. It changes the subresource `scale` only.

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        autoscaling::v1::Scale,
        core::v1::Pod,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    apply::FIELD_MANAGER,
    call::{self, CallError, code},
    observe,
};
use crate::api::ScaledKind;

/// A workload's scale.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FoundScale {
    /// UID of the workload.
    pub uid: String,
    /// The desired number of replicas.
    pub replicas: i32,
    /// The number of pods of the workload that have not ended.
    pub pods: usize,
}

/// The workload's scale and number of pods. `None` if the workload does not exist.
pub async fn scale_of(
    client: &Client,
    namespace: &str,
    kind: ScaledKind,
    name: &str,
) -> Result<Option<FoundScale>, CallError> {
    let found = match kind {
        ScaledKind::Deployment => read(Api::<Deployment>::namespaced(client.clone(), namespace), name).await,
        ScaledKind::StatefulSet => read(Api::<StatefulSet>::namespaced(client.clone(), namespace), name).await,
    };
    let Some(scale) = found.map_err(CallError::at(format!("read the scale of {kind} {namespace}/{name}")))? else {
        return Ok(None);
    };
    let status = scale.status.clone().unwrap_or_default();
    let counted = usize::try_from(status.replicas).unwrap_or_default();
    // `status.replicas` does not count pods which are terminating. Those can still write to their volumes.
    let pods = match status.selector.as_deref() {
        None | Some("") => counted,
        Some(selector) => {
            let pods: Vec<Pod> = observe::list(client, namespace, selector).await?;
            let has_ended = |pod: &&Pod| {
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                matches!(phase, Some("Succeeded" | "Failed"))
            };
            pods.iter().filter(|pod| !has_ended(pod)).count().max(counted)
        }
    };
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    Ok(Some(FoundScale { uid: scale.uid().unwrap_or_default(), replicas, pods }))
}

/// Whether Kubernetes deletes the claims of the workload's pods when it is scaled down. The function lists with a field
/// selector, so that the role needs `list` and not `get`.
pub async fn deletes_claims(client: &Client, namespace: &str, kind: ScaledKind, name: &str) -> Result<bool, CallError> {
    if kind != ScaledKind::StatefulSet {
        return Ok(false);
    }
    let workloads: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = call::within(workloads.list(&named)).await;
    let found = found.map_err(CallError::at(format!("read {kind} {namespace}/{name}")))?;
    let deletes = |workload: StatefulSet| {
        let spec = workload.spec?;
        let has_claims = spec.volume_claim_templates.is_some_and(|templates| !templates.is_empty());
        let when_scaled = spec.persistent_volume_claim_retention_policy?.when_scaled?;
        Some(has_claims && when_scaled == "Delete")
    };
    Ok(found.items.into_iter().find_map(deletes).unwrap_or(false))
}

async fn read<K>(workloads: Api<K>, name: &str) -> kube::Result<Option<Scale>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned,
{
    match call::within(workloads.get_scale(name)).await {
        Ok(scale) => {
            serde_json::to_value(scale).and_then(serde_json::from_value).map(Some).map_err(kube::Error::SerdeError)
        }
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets the number of replicas of the workload.
pub async fn scale_to(
    client: &Client,
    namespace: &str,
    kind: ScaledKind,
    name: &str,
    replicas: i32,
) -> Result<(), CallError> {
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    let scaled = match kind {
        ScaledKind::Deployment => {
            let workloads = Api::<Deployment>::namespaced(client.clone(), namespace);
            call::admitted(workloads.patch_scale(name, &parameters, &patch)).await.map(drop)
        }
        ScaledKind::StatefulSet => {
            let workloads = Api::<StatefulSet>::namespaced(client.clone(), namespace);
            call::admitted(workloads.patch_scale(name, &parameters, &patch)).await.map(drop)
        }
    };
    match scaled {
        Err(error) if code(&error) == Some(404) => Ok(()),
        scaled => scaled.map_err(CallError::at(format!("scale {kind} {namespace}/{name} to {replicas}"))),
    }
}
