//! A restart of the controller during a run.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, in_namespace,
    runs::{all_green, known, source},
    workload::CONTAINER,
};

const SLOW: Sequence = Sequence::new(Kind::Random, 13, 12 << 20);

#[tokio::test(flavor = "multi_thread")]
async fn a_run_continues_through_a_restart_of_the_controller_and_its_command_runs_once() -> Result<()> {
    in_namespace("controller", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let script = format!("echo run >>/scratch/runs; exec {} --rate 1m", SLOW.command());
        Workload::toolbox(namespace, "box", &json!(["sh", "-c", script]).to_string()).start(namespace).await?;
        namespace.start_backup("one", json!({})).await?;
        namespace.wait_until_running("box", CONTAINER, "emit --kind").await?;

        let controllers: Api<Pod> = Api::namespaced(namespace.cluster.client.clone(), "stowaway-system");
        let of_controller =
            ListParams::default().labels("app.kubernetes.io/name=stowaway,app.kubernetes.io/component=controller");
        let pods = controllers.list(&of_controller).await?.items;
        ensure!(!pods.is_empty(), "no controller is running");
        for pod in pods {
            controllers.delete(&pod.name_any(), &DeleteParams::default()).await?;
        }
        let backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        let status = source(&backup, "pod/box/main")?;
        ensure!(
            status.attempt == 1 && namespace.shell("box", "wc -l </scratch/runs")? == "1",
            "the command ran more than once"
        );
        restic.agrees_with(&backup, &known(&[("pod/box/main", &SLOW)]))
    })
    .await
}
