//! The annotations of K8up and of its predecessors have the same effect in Stowaway, with the same snapshot paths.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, in_namespace,
    runs::{all_green, known},
    workload,
};

#[tokio::test(flavor = "multi_thread")]
async fn three_generations_of_foreign_annotations_give_their_own_paths() -> Result<()> {
    let [newest, middle, oldest, own] = [1, 2, 3, 4].map(|seed| Sequence::new(Kind::Every, seed, 4096 + seed));
    in_namespace("foreign", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let pod = |name: &str, keys: [&str; 2], sequence: &Sequence| {
            Workload::new(namespace, name, "toolbox")
                .container(name)
                .annotate(keys[0], &sequence.command())
                .annotate(keys[1], ".sql")
        };
        let pods = [
            pod("newest", ["k8up.io/backupcommand", "k8up.io/file-extension"], &newest)
                .annotate("k8up.io/backupcommand-container", "newest"),
            pod("middle", ["k8up.syn.tools/backupcommand", "k8up.syn.tools/file-extension"], &middle),
            pod("oldest", ["appuio.ch/backupcommand", "backup.appuio.ch/file-extension"], &oldest),
            // Stowaway's annotation has precedence over K8up's.
            pod("both", ["stowaway.dev/backupcommand", "stowaway.dev/file-extension"], &own)
                .annotate("k8up.io/backupcommand", "emit --bytes 1 --exit 1")
                .annotate("k8up.io/file-extension", ".wrong"),
        ];
        workload::start_all(namespace, &pods).await?;
        let backup = namespace.back_up("foreign", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;
        restic.agrees_with(
            &backup,
            &known(&[
                ("pod/newest/newest", &newest),
                ("pod/middle/middle", &middle),
                ("pod/oldest/oldest", &oldest),
                ("pod/both/both", &own),
            ]),
        )?;
        let snapshots = restic.snapshots()?;
        for container in ["newest", "middle", "oldest", "both"] {
            let path = format!("/{}-{container}.sql", namespace.name);
            let found = snapshots.iter().find(|snapshot| snapshot.path() == path);
            let snapshot = found.with_context(|| format!("no snapshot has the path {path}"))?;
            ensure!(snapshot.hostname == namespace.name, "{path} has the host {}", snapshot.hostname);
        }
        Ok(())
    })
    .await
}
