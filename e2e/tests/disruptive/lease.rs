//! The replica of the webhook that leads is killed, while pods are created all the time.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use stowaway_e2e::{Namespace, creates::Creates, in_namespace, namespace::is_ready, process, system::WEBHOOK};

use super::alone;

async fn holder(namespace: &Namespace) -> Result<Option<String>> {
    let leases: Api<Lease> = namespace.system().api();
    let spec = leases.get(WEBHOOK).await?.spec.unwrap_or_default();
    Ok(spec.holder_identity.filter(|holder| !holder.is_empty()))
}

/// Names of the pods that the webhook's Service sends to.
async fn behind_the_service(namespace: &Namespace) -> Result<Vec<String>> {
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
            eprintln!("SKIPPED: processes of another machine's containers cannot be killed from here");
            return Ok(());
        }
        namespace.rolled_out(WEBHOOK)?;
        let leader = namespace.wait_until("somebody leads", async || holder(namespace).await).await?;
        let pods: Api<Pod> = namespace.system().api();
        let uid = pods.get(&leader).await?.uid().context("a pod without UID")?;
        let creates = Creates::start(namespace);
        creates.some_more().await;
        // Killed before the API server hears that it is to go: it cannot give the Lease back, nor drain.
        for (id, _) in process::of_pod(&uid)? {
            process::kill(&id)?;
        }
        pods.delete(&leader, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
        namespace
            .wait_until("nobody is sent to it", async || {
                Ok((!behind_the_service(namespace).await?.contains(&leader)).then_some(()))
            })
            .await?;
        creates.some_more().await;
        let (count, wrong) = creates.stop().await?;
        // The API server asks once: what was under way to the killed one is admitted as it is, and found by the watch.
        let refused: Vec<&String> = wrong.iter().filter(|wrong| !wrong.contains("without the helper")).collect();
        ensure!(refused.is_empty(), "{} of {count} creates were refused: {refused:#?}", refused.len());

        // From here on there is but the other one, until its own Lease and a third one come.
        let creates = Creates::start(namespace);
        let next = namespace
            .wait_until("somebody else leads", async || Ok(holder(namespace).await?.filter(|holder| *holder != leader)))
            .await?;
        ensure!(is_ready(&pods.get(&next).await?), "{next} leads, and is not Ready");
        namespace.rolled_out(WEBHOOK)?;
        creates.went_well().await
    })
    .await
}
