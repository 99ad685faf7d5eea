//! The API server is killed and started again.

use anyhow::{Result, ensure};
use serde_json::json;
use stowaway_e2e::{
    Cluster, Kind, Namespace, S3, Sequence, Workload, in_namespace, process,
    runs::{all_green, known, source},
    workload::{self, CONTAINER},
};

use super::alone;

const SLOW: Sequence = Sequence::new(Kind::Random, 21, 12 << 20);

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_api_server_is_survived_and_nothing_is_stored_twice() -> Result<()> {
    let _alone = alone().await;
    if !Cluster::connect().await?.is_built_in() {
        eprintln!("SKIPPED: the API server of a cluster that is not ours is left alone (KUBECONFIG is set)");
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
            ensure!(attempt > 1, "pod {pod}: the stream was cut, and attempt {attempt} is green");
            namespace.wait_until_gone(pod, CONTAINER, "emit --kind").await?;
        }
        restic.agrees_with(&backup, &known(&[("pod/first/main", &SLOW), ("pod/second/main", &SLOW)]))?;
        ensure!(restic.snapshots()?.len() == 2, "{} snapshots of two sources", restic.snapshots()?.len());
        Ok(())
    })
    .await
}
