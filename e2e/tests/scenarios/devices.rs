//! Raw block devices (`volumeMode: Block`) are backed up by Jobs, and restored onto devices or as files.

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use stowaway::{api::RestoreStatus, model::Verdict};
use stowaway_e2e::{
    Namespace, S3, Workload, in_namespace, process,
    runs::{all_green, ended, ensure_contains, source},
    volume,
};

const MEBIBYTES: u64 = 48;

async fn claim(namespace: &Namespace, name: &str, mode: &str, size: &str) -> Result<()> {
    namespace
        .apply_object(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "volumeMode": mode, "storageClassName": namespace.name,
                "resources": { "requests": { "storage": size } },
            },
        }))
        .await
}

/// A pod that uses the claim as device `/dev/disk`, or mounts it at `/data`.
fn user(namespace: &Namespace, claim: &str, is_device: bool) -> Workload {
    let workload = Workload::new(namespace, claim, "toolbox")
        .set_in_pod("volumes", json!([{ "name": "disk", "persistentVolumeClaim": { "claimName": claim } }]));
    if is_device {
        workload
            .set("volumeMounts", json!([]))
            .set("volumeDevices", json!([{ "name": "disk", "devicePath": "/dev/disk" }]))
    } else {
        workload.set("volumeMounts", json!([{ "name": "disk", "mountPath": "/data" }]))
    }
}

async fn restore(namespace: &Namespace, name: &str, to: Value) -> Result<RestoreStatus> {
    let spec = json!({ "from": { "source": "pvc/disk" }, "to": { "claim": to } });
    namespace.restore(name, spec).await?.status.context("no status")
}

#[tokio::test(flavor = "multi_thread")]
async fn block_device_is_backed_up_and_comes_back_onto_a_device_and_as_a_file() -> Result<()> {
    in_namespace("devices", async |namespace: &Namespace| {
        if !namespace.cluster.is_built_in() {
            // Block devices are provided only in the built-in cluster.
            return Ok(());
        }
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 1).await?;
        volume::provide_devices(namespace, 2, MEBIBYTES).await?;
        claim(namespace, "disk", "Block", "48Mi").await?;
        user(namespace, "disk", true).start(namespace).await?;
        let sum = "sha256sum </dev/disk";
        let script = "dd if=/dev/urandom of=/dev/disk bs=1M count=5 seek=3 conv=fsync && echo end | dd of=/dev/disk bs=1 \
                      seek=50331000 conv=fsync && sha256sum </dev/disk";
        let expected = namespace.shell("disk", script)?;

        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;
        let stored = source(&backup, "pvc/disk")?;
        ensure!(stored.outcome.bytes == Some(MEBIBYTES << 20), "{stored:?}");
        ensure_contains("the message", &stored.outcome.message, &["pod disk"])?;
        restic.check("restic", true)?;
        let id = stored.outcome.snapshot.clone().unwrap_or_default();
        let image = process::run(&mut restic.restic("restic", &["dump", &id, "/data/disk"]))?;
        ensure!(image.len() as u64 == MEBIBYTES << 20, "restic dumps {} bytes", image.len());

        // A device that a pod uses is not overwritten, even with `overwrite`.
        let used = restore(namespace, "used", json!({ "name": "disk", "overwrite": true })).await?;
        ended("used", &used.outcome, Verdict::Failed, &["TargetInUse"])?;
        namespace.shell("disk", "echo changed | dd of=/dev/disk conv=notrunc,fsync")?;
        process::run(&mut namespace.kubectl(&["delete", "pod", "disk", "--wait"]))?;
        let full = restore(namespace, "full", json!({ "name": "disk" })).await?;
        ended("full", &full.outcome, Verdict::Failed, &["TargetNotEmpty"])?;
        let over = restore(namespace, "over", json!({ "name": "disk", "overwrite": true })).await?;
        ended("over", &over.outcome, Verdict::Succeeded, &["Completed"])?;
        ensure!(over.safety_snapshot.is_some(), "{over:?}");
        user(namespace, "disk", true).start(namespace).await?;
        ensure!(namespace.shell("disk", sum)? == expected, "the device has other content");

        let new = json!({ "volumeMode": "Block", "size": "48Mi", "storageClassName": namespace.name });
        let copied = restore(namespace, "copied", json!({ "name": "copy", "create": new })).await?;
        ended("copied", &copied.outcome, Verdict::Succeeded, &["Completed"])?;
        user(namespace, "copy", true).start(namespace).await?;
        ensure!(namespace.shell("copy", sum)? == expected, "the copy has other content");

        claim(namespace, "files", "Filesystem", "1Gi").await?;
        let file = restore(namespace, "file", json!({ "name": "files" })).await?;
        ended("file", &file.outcome, Verdict::Succeeded, &["Completed"])?;
        user(namespace, "files", false).start(namespace).await?;
        ensure!(namespace.shell("files", "sha256sum </data/disk")? == expected, "the file has other content");
        for name in ["disk", "copy", "files"] {
            process::run(&mut namespace.kubectl(&["delete", "pod", name, "--wait"]))?;
        }

        // A run that the node gives no access to the device fails with advice in its message.
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(namespace.cluster.client.clone());
        let restricted = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
        namespaces.patch(&namespace.name, &PatchParams::default(), &Patch::Merge(&restricted)).await?;
        let backup = namespace.back_up("two", json!({ "retryLimit": 0 })).await?;
        let outcome = &source(&backup, "pvc/disk")?.outcome;
        ended("pvc/disk", outcome, Verdict::Failed, &["SourceUnreadable"])?;
        ensure_contains("the message", &outcome.message, &["runAsUser", "device_ownership_from_security_context"])
    })
    .await
}
