//! Exports of snapshots as archives: a volume into a bucket, and a dump onto a volume, without overwriting anything.

use std::{io::Write, process::Command};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};
use stowaway::{api::RestoreStatus, model::Verdict};
use stowaway_e2e::{
    Namespace, S3, Workload, in_namespace, process,
    runs::{all_green, ended, ensure_contains},
    sequence::digest,
    volume,
    workload::COMMAND,
};

const DUMP_BYTES: u32 = 3_000_000;

async fn archive(namespace: &Namespace, name: &str, source: &str, to: Value) -> Result<RestoreStatus> {
    let spec = json!({ "from": { "source": source }, "to": { "archive": to } });
    namespace.restore(name, spec).await?.status.context("no status")
}

/// The names of the entries of an archive.
fn listed(archive: &[u8]) -> Result<String> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(archive)?;
    let names = process::run(Command::new("tar").args(["--list", "--zstd", "--file"]).arg(file.path()))?;
    Ok(String::from_utf8(names)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn volume_is_exported_to_a_bucket_and_a_dump_to_a_volume_and_nothing_is_overwritten() -> Result<()> {
    in_namespace("archives", async |namespace: &Namespace| {
        let s3 = S3::shared(namespace).await?;
        s3.repository(namespace).await?;
        volume::provide(namespace, 2).await?;
        for claim in ["data", "handover"] {
            let backup = json!({ "stowaway.dev/backup": (claim == "data").to_string() });
            let object = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": { "name": claim, "annotations": backup }, "spec": volume::claim(namespace, "ReadWriteOnce") });
            namespace.apply_object(object).await?;
        }
        let mounts = json!([{ "name": "data", "mountPath": "/data" }, { "name": "handover", "mountPath": "/handover" }]);
        let volumes: Vec<Value> = ["data", "handover"]
            .map(|name| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }))
            .into();
        Workload::new(namespace, "box", "toolbox")
            .annotate(COMMAND, &format!("head -c {DUMP_BYTES} /data/large"))
            .set_in_pod("volumes", json!(volumes))
            .set("volumeMounts", mounts)
            .start(namespace)
            .await?;
        namespace.shell(
            "box",
            "cd /data && mkdir -p deep/er && echo one >deep/file && ln deep/file deep/er/linked && ln -s ../nowhere deep/link \
             && head -c 20000000 /dev/urandom >large && chmod -R a+rX . && chown 65532 /handover && sync",
        )?;
        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;

        // Exports into a folder of the bucket, with the credentials of the Repository's Secret.
        let target = s3.below("archives").repository_object("", "", false)["spec"]["s3"].clone();
        let to = json!({ "format": "tar.zst", "name": "shop/data.tar.zst", "s3": target });
        let status = archive(namespace, "away", "pvc/data", to.clone()).await?;
        ended("away", &status.outcome, Verdict::Succeeded, &["Completed"])?;
        let reported = status.archive.context("the status contains no archive")?;
        ensure!(reported.location.ends_with("/archives/shop/data.tar.zst"), "{reported:?}");
        let object = s3.object("archives/shop/data.tar.zst")?;
        ensure!((reported.bytes, &reported.sha256) == (object.len() as u64, &digest(&object)), "{reported:?}");
        let listed = listed(&object)?;
        for name in ["./", "deep/er/linked", "deep/link", "large"] {
            ensure!(listed.lines().any(|line| line == name), "{name} is not in the archive:\n{listed}");
        }

        let again = archive(namespace, "again", "pvc/data", to).await?;
        ended("again", &again.outcome, Verdict::Failed, &["TargetNotEmpty"])?;
        ensure_contains("again", &again.outcome.message, &["shop/data.tar.zst", "set `overwrite`"])?;
        ensure!(again.archive.is_none(), "{:?}", again.archive);
        ensure!(digest(&s3.object("archives/shop/data.tar.zst")?) == reported.sha256, "the archive was changed");

        // Exports a dump onto a volume, under a generated name.
        let to = json!({ "volume": { "persistentVolumeClaim": { "claimName": "handover" }, "path": "dumps" } });
        let status = archive(namespace, "dump", "pod/box/main", to).await?;
        ended("dump", &status.outcome, Verdict::Succeeded, &["Completed"])?;
        let reported = status.archive.context("the status contains no archive")?;
        let location = reported.location.strip_prefix("pvc:handover/").context("the location does not name the claim")?;
        ensure!(location.starts_with("dumps/pod/box/main/") && location.ends_with(".tar.gz"), "{reported:?}");
        let at = format!("/handover/{location}");
        let sum = namespace.shell("box", &format!("sha256sum {at} | cut -c 1-64; tar -xzOf {at} | cmp -n {DUMP_BYTES} - /data/large && echo same"))?;
        ensure!(sum == format!("{}\nsame", reported.sha256), "{sum}");
        let claims = namespace.api::<PersistentVolumeClaim>();
        ensure!(claims.get("handover").await?.metadata.owner_references.is_none());
        Ok(())
    })
    .await
}
