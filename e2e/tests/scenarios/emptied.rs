//! A volume that is being restored is not backed up before the restore is complete, nor is a database on a volume that
//! a failed Restore has left empty. An empty store is not used as the repository that it contained before.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, api::DeleteParams};
use serde_json::json;
use stowaway::{
    api::{Backup, Repository},
    model::{Verdict, injected::RESTORE_CONTAINER},
};
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, in_namespace, process,
    runs::{all_green, ended, ensure_contains, known, source},
    volume,
};

const CLAIM: &str = "pvc/data-db-0";
/// The size of the volume's data in bytes. At the rate [`SLOW`] its restore takes long enough to start a Backup
/// meanwhile.
const SIZE: u64 = 12_000_000;
const SLOW: &str = "400Ki";

#[tokio::test(flavor = "multi_thread")]
async fn backup_during_a_restore_step_waits_for_it_and_stores_all_restored_data() -> Result<()> {
    in_namespace("racing", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 2).await?;
        let labels = json!({ "app": "db" });
        let annotations = json!({
            "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data", "stowaway.dev/restore": "on-empty",
        });
        let main = json!({
            "name": "main", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        });
        let claim = json!({ "metadata": { "name": "data" }, "spec": volume::claim(namespace, "ReadWriteOnce") });
        namespace
            .apply_object(json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
                "spec": {
                    "replicas": 1, "serviceName": "db", "selector": { "matchLabels": labels },
                    "template": {
                        "metadata": { "labels": labels, "annotations": annotations },
                        "spec": { "terminationGracePeriodSeconds": 1, "containers": [main] },
                    },
                    "volumeClaimTemplates": [claim],
                },
            }))
            .await?;
        namespace.wait_until_ready("db-0").await?;
        namespace.shell("db-0", &format!("head -c {SIZE} /dev/urandom >/data/rows; sync"))?;
        all_green(&namespace.back_up("whole", json!({ "retryLimit": 0 })).await?)?;

        let scale = |replicas: &str| process::run(&mut namespace.kubectl(&["scale", "statefulset/db", replicas]));
        scale("--replicas=0")?;
        let pods: Api<Pod> = namespace.api();
        namespace
            .wait_until("the pod is deleted", async || Ok(pods.get_opt("db-0").await?.is_none().then_some(())))
            .await?;
        let claims: Api<PersistentVolumeClaim> = namespace.api();
        claims.delete("data-db-0", &DeleteParams::default()).await?;
        namespace
            .wait_until("the claim is deleted", async || Ok(claims.get_opt("data-db-0").await?.is_none().then_some(())))
            .await?;
        let slow = format!(r#"{{"spec":{{"limits":{{"download":"{SLOW}"}}}}}}"#);
        process::run(&mut namespace.kubectl(&[
            "patch",
            "repositories.stowaway.dev/main",
            "--type=merge",
            "--patch",
            &slow,
        ]))?;
        namespace.wait_until_repository_ready("main").await?;
        scale("--replicas=1")?;
        let restores = |pod: Option<&Pod>| {
            let status = pod.and_then(|pod| pod.status.as_ref());
            let steps = status.into_iter().flat_map(|status| status.init_container_statuses.iter().flatten());
            let mut of_restore = steps.filter(|step| step.name == RESTORE_CONTAINER);
            of_restore.any(|step| step.state.as_ref().is_some_and(|state| state.running.is_some()))
        };
        namespace.wait_for::<Pod>("db-0", "restoring", restores).await?;

        namespace.start_backup("beside", json!({ "retryLimit": 0 })).await?;
        let waits = |backup: Option<&Backup>| {
            let source = backup.and_then(|backup| source(backup, CLAIM).ok());
            source.is_some_and(|source| source.outcome.reason == "RestoreUnfinished")
        };
        let backup: Backup = namespace.wait_for("beside", "waiting for the restore step", waits).await?;
        ensure_contains(
            "the Backup",
            &source(&backup, CLAIM)?.outcome.message,
            &["db-0", "Nothing half restored is stored"],
        )?;
        namespace.wait_until_ready("db-0").await?;
        let backup = namespace.backup_ended("beside").await?;
        all_green(&backup)?;
        let bytes = source(&backup, CLAIM)?.outcome.bytes;
        ensure!(bytes == Some(SIZE), "{bytes:?} of {SIZE} bytes were stored");
        ensure!(restic.snapshots()?.len() == 2, "{:?}", restic.snapshots()?);
        restic.check("restic", true)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn database_on_a_claim_that_no_restore_has_filled_is_restored_by_command_and_dumped_after_a_confirmation()
-> Result<()> {
    const SOURCE: &str = "pod/box/main";
    const MARK: &str = "stowaway.dev/restore-unfinished";
    in_namespace("unfilled", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 1).await?;
        namespace
            .apply_object(json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
                "spec": volume::claim(namespace, "ReadWriteOnce"),
            }))
            .await?;
        Workload::toolbox(namespace, "box", "cat /data/rows")
            .annotate("stowaway.dev/restorecommand", "sh -c 'cat >/data/rows'")
            .set("volumeMounts", json!([{ "name": "data", "mountPath": "/data" }]))
            .set_in_pod("volumes", json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]))
            .start(namespace)
            .await?;
        namespace.shell("box", "echo full >/data/rows; sync")?;
        all_green(&namespace.back_up("before", json!({ "retryLimit": 0 })).await?)?;

        // As a Restore that creates the claim and fails leaves it.
        let annotate = |text: &str| {
            process::run(&mut namespace.kubectl(&["annotate", "persistentvolumeclaim", "data", text])).map(drop)
        };
        namespace.shell("box", "echo new >/data/rows; sync")?;
        annotate(&format!("{MARK}=undo"))?;
        namespace.start_backup("beside", json!({ "retryLimit": 0 })).await?;
        let waits = |backup: Option<&Backup>| {
            let sources = backup.and_then(|backup| backup.status.as_ref()).map_or(&[][..], |status| &status.sources);
            !sources.is_empty() && sources.iter().all(|source| source.outcome.reason == "RestoreUnfinished")
        };
        let backup: Backup = namespace.wait_for("beside", "waiting for a filled claim", waits).await?;
        let confirmation = format!("kubectl annotate persistentvolumeclaim data {MARK}-");
        let message = &source(&backup, SOURCE)?.outcome.message;
        ensure_contains("the dump", message, &["claim data, which pod box mounts", "Restore undo", &confirmation])?;

        let restore = namespace.restore("by-command", json!({ "from": { "source": SOURCE } })).await?;
        let outcome = restore.status.context("the Restore has no status")?.outcome;
        ended("by-command", &outcome, Verdict::Succeeded, &["Completed"])?;
        ensure_contains("the Restore", &outcome.message, &["no Backup stores claim data", &confirmation])?;
        let rows = namespace.shell("box", "cat /data/rows")?;
        ensure!(rows.trim() == "full", "the command has restored {rows:?}");

        annotate(&format!("{MARK}-"))?;
        all_green(&namespace.backup_ended("beside").await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_that_is_missing_is_created_again_only_when_a_user_accepts_that() -> Result<()> {
    const SOURCE: &str = "pod/box/main";
    const KEY: &str = "stowaway.dev/accept-repository";
    let sequence = Sequence::new(Kind::Every, 0, 5000);
    in_namespace("replaced", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        let restic = server.repository(namespace).await?;
        let id = |repository: &Repository| {
            repository
                .status
                .as_ref()
                .and_then(|status| status.repository_id.clone())
                .context("the Repository has no id")
        };
        let first = id(&namespace.wait_until_repository_ready("main").await?)?;
        Workload::dumping(namespace, "box", &sequence).start(namespace).await?;
        all_green(&namespace.back_up("before", json!({})).await?)?;

        server.delete(&namespace.cluster);
        let backup = namespace.back_up("without", json!({ "retryLimit": 0 })).await?;
        ended("without", &source(&backup, SOURCE)?.outcome, Verdict::Failed, &["RepositoryNotFound"])?;
        let annotate = |value: &str| {
            let annotation = format!("{KEY}={value}");
            process::run(&mut namespace.kubectl(&[
                "annotate",
                "--overwrite",
                "repositories.stowaway.dev/main",
                &annotation,
            ]))
        };
        // An id that the store does not have is not accepted.
        annotate(&"0".repeat(64))?;
        let refused = namespace.wait_until_repository_refused("main", "RepositoryNotFound").await?;
        ensure_contains("the Repository", &refused.message, &[&first, KEY])?;

        annotate("new")?;
        let second = id(&namespace.wait_until_repository_ready("main").await?)?;
        ensure!(second != first, "the id is still {first}");
        let backup = namespace.back_up("after", json!({})).await?;
        all_green(&backup)?;
        restic.agrees_with(&backup, &known(&[(SOURCE, &sequence)]))?;

        // The annotation has an effect once: a repository that is deleted again is not created again.
        server.delete(&namespace.cluster);
        let backup = namespace.back_up("again", json!({ "retryLimit": 0 })).await?;
        ended("again", &source(&backup, SOURCE)?.outcome, Verdict::Failed, &["RepositoryNotFound"])?;
        Ok(())
    })
    .await
}
