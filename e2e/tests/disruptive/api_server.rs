//! Tests of runs while the API server is killed and started again.

use anyhow::{Result, ensure};
use serde_json::json;
use stowaway_e2e::{
    Cluster, Kind, Namespace, S3, Sequence, Workload, in_namespace, process,
    runs::{all_green, known, source},
    skipped,
    workload::{self, CONTAINER},
};

use super::alone;

const SLOW: Sequence = Sequence::new(Kind::Random, 21, 12 << 20);
/// At 1 MiB/s this stream takes longer than the restart of the API server.
const LONG: Sequence = Sequence::new(Kind::Random, 22, 30 << 20);

#[tokio::test(flavor = "multi_thread")]
async fn runs_survive_a_restart_of_the_api_server_and_those_in_a_sidecar_continue() -> Result<()> {
    let _alone = alone().await;
    if !Cluster::connect().await?.is_built_in() {
        skipped("only the API server of the built-in cluster is restarted (KUBECONFIG is set)");
        return Ok(());
    }
    in_namespace("apiserver", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let slow = |name: &str| Workload::toolbox(namespace, name, &format!("{} --rate 1m", SLOW.command()));
        let script = format!("echo run >>/scratch/runs; exec {} --rate 1m", LONG.command());
        let sidecar = Workload::toolbox(namespace, "box", &json!(["sh", "-c", script]).to_string())
            .annotate(workload::INJECT, "sidecar");
        workload::start_all(namespace, &[slow("first"), slow("second"), sidecar]).await?;
        namespace.start_backup("one", json!({ "retryLimit": 2 })).await?;
        for pod in ["first", "second", "box"] {
            namespace.wait_until_running(pod, CONTAINER, "emit --kind").await?;
        }
        process::run(&mut std::process::Command::new(process::clone_folder("e2e/cluster/restart-apiserver")))?;
        let is_running = namespace.processes("box", CONTAINER)?.iter().any(|line| line.contains("emit --kind"));
        ensure!(is_running, "the sidecar's command ended before the API server was back");

        let backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        for pod in ["first", "second"] {
            let attempt = source(&backup, &format!("pod/{pod}/main"))?.attempt;
            ensure!(attempt > 1, "pod {pod}: the stream was cut, but attempt {attempt} is green");
        }
        let attempt = source(&backup, "pod/box/main")?.attempt;
        ensure!(attempt == 1, "the run in the sidecar did not continue: attempt {attempt} is green");
        let runs = namespace.shell("box", "wc -l </scratch/runs")?;
        ensure!(runs == "1", "the sidecar's command ran {runs} times");
        for pod in ["first", "second", "box"] {
            namespace.wait_until_ended(pod, CONTAINER, "emit --kind").await?;
        }
        let stored = [("pod/first/main", &SLOW), ("pod/second/main", &SLOW), ("pod/box/main", &LONG)];
        restic.agrees_with(&backup, &known(&stored))?;
        let snapshots = restic.snapshots()?.len();
        ensure!(snapshots == 3, "{snapshots} snapshots of three sources");
        Ok(())
    })
    .await
}
