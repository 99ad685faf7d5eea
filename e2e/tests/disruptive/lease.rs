//! Kills the leading replica of the webhook while pods are created continuously.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use stowaway_e2e::{Namespace, creates::Creates, in_namespace, namespace::is_ready, process, skipped, system::WEBHOOK};

use super::alone;

async fn holder(namespace: &Namespace) -> Result<Option<String>> {
    let leases: Api<Lease> = namespace.system().api();
    let spec = leases.get(WEBHOOK).await?.spec.unwrap_or_default();
    Ok(spec.holder_identity.filter(|holder| !holder.is_empty()))
}

/// The names of the pods that receive the traffic of the webhook's Service.
async fn service_endpoints(namespace: &Namespace) -> Result<Vec<String>> {
    let slices: Api<EndpointSlice> = namespace.system().api();
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={WEBHOOK}"));
    let endpoints = slices.list(&of_service).await?.items.into_iter().flat_map(|slice| slice.endpoints);
    let is_used = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
    };
    Ok(endpoints.filter(is_used).filter_map(|endpoint| endpoint.target_ref?.name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_replica_that_is_killed_is_taken_over_and_no_pod_is_refused() -> Result<()> {
    let _alone = alone().await;
    in_namespace("killed", async |namespace: &Namespace| {
        if !namespace.cluster.is_built_in() {
            skipped("processes of another machine's containers cannot be killed from here");
            return Ok(());
        }
        namespace.rolled_out(WEBHOOK)?;
        let leader = namespace.wait_until("a replica leads", async || holder(namespace).await).await?;
        let pods: Api<Pod> = namespace.system().api();
        let uid = pods.get(&leader).await?.uid().context("a pod without UID")?;
        let creates = Creates::start(namespace);
        creates.wait_for_more().await;
        // Kills the processes before the pod is deleted, so that the replica can neither release the Lease nor drain.
        for (id, _) in process::of_pod(&uid)? {
            process::kill(&id)?;
        }
        pods.delete(&leader, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
        namespace
            .wait_until("the Service no longer routes to the killed replica", async || {
                Ok((!service_endpoints(namespace).await?.contains(&leader)).then_some(()))
            })
            .await?;
        creates.wait_for_more().await;
        let (count, wrong) = creates.stop().await?;
        // The API server does not retry a call to the webhook, so pods whose review was in transit to the killed
        // replica are admitted without injection. The watchdog finds them later.
        let refused: Vec<&String> = wrong.iter().filter(|wrong| !wrong.contains("without the helper")).collect();
        ensure!(refused.is_empty(), "{} of {count} creates were refused: {refused:#?}", refused.len());

        // From here on only the other replica runs, until it takes over the Lease and a new replica is Ready.
        let creates = Creates::start(namespace);
        let next = namespace
            .wait_until("another replica leads", async || {
                Ok(holder(namespace).await?.filter(|holder| *holder != leader))
            })
            .await?;
        ensure!(is_ready(&pods.get(&next).await?), "{next} leads, and is not Ready");
        namespace.rolled_out(WEBHOOK)?;
        creates.stop_without_failures().await
    })
    .await
}
