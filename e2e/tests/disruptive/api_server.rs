//! Tests of runs while the API server is killed and started again.

use anyhow::{Result, ensure};
use serde_json::json;
use stowaway_e2e::{
    Cluster, Kind, Namespace, S3, Sequence, Workload, in_namespace, process,
    runs::{all_green, known, source},
    workload::{self, CONTAINER},
};

use super::alone;

const SLOW: Sequence = Sequence::new(Kind::Random, 21, 12 << 20);
/// At 1 MiB/s this stream takes longer than the restart of the API server.
const LONG: Sequence = Sequence::new(Kind::Random, 22, 30 << 20);

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_api_server_is_survived_and_nothing_is_stored_twice() -> Result<()> {
    let _alone = alone().await;
    if !Cluster::connect().await?.is_built_in() {
        eprintln!("SKIPPED: only the API server of the built-in cluster is restarted (KUBECONFIG is set)");
        return Ok(());
    }
    in_namespace("apiserver", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let slow = |name: &str| Workload::toolbox(namespace, name, &format!("{} --rate 1m", SLOW.command()));
        workload::start_all(namespace, &[slow("first"), slow("second")]).await?;
        namespace.start_backup("one", json!({ "retryLimit": 2 })).await?;
        for pod in ["first", "second"] {
            namespace.wait_until_running(pod, CONTAINER, "emit --kind").await?;
        }
        process::run(&mut std::process::Command::new(process::clone_folder("e2e/cluster/restart-apiserver")))?;

        let backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        for pod in ["first", "second"] {
            let attempt = source(&backup, &format!("pod/{pod}/main"))?.attempt;
            ensure!(attempt > 1, "pod {pod}: the stream was cut, but attempt {attempt} is green");
            namespace.wait_until_ended(pod, CONTAINER, "emit --kind").await?;
        }
        restic.agrees_with(&backup, &known(&[("pod/first/main", &SLOW), ("pod/second/main", &SLOW)]))?;
        ensure!(restic.snapshots()?.len() == 2, "{} snapshots of two sources", restic.snapshots()?.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_a_sidecar_continues_through_a_restart_of_the_api_server() -> Result<()> {
    let _alone = alone().await;
    if !Cluster::connect().await?.is_built_in() {
        eprintln!("SKIPPED: only the API server of the built-in cluster is restarted (KUBECONFIG is set)");
        return Ok(());
    }
    in_namespace("continues", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let script = format!("echo run >>/scratch/runs; exec {} --rate 1m", LONG.command());
        Workload::toolbox(namespace, "box", &json!(["sh", "-c", script]).to_string())
            .annotate(workload::INJECT, "sidecar")
            .start(namespace)
            .await?;
        // Without retries, because a second attempt could hide that the first one was lost.
        namespace.start_backup("one", json!({ "retryLimit": 0 })).await?;
        namespace.wait_until_running("box", CONTAINER, "emit --kind").await?;
        process::run(&mut std::process::Command::new(process::clone_folder("e2e/cluster/restart-apiserver")))?;
        let is_running = namespace.processes("box", CONTAINER)?.iter().any(|line| line.contains("emit --kind"));
        ensure!(is_running, "the command ended before the API server was back");

        let backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        let runs = namespace.shell("box", "wc -l </scratch/runs")?;
        ensure!(runs == "1", "the command ran {runs} times");
        restic.agrees_with(&backup, &known(&[("pod/box/main", &LONG)]))?;
        ensure!(restic.snapshots()?.len() == 1, "{} snapshots of one run", restic.snapshots()?.len());
        namespace.wait_until_ended("box", CONTAINER, "emit --kind").await
    })
    .await
}
