//! The keys of a Repository in a cluster: a condition reports a single key, the password is changed during operation,
//! and `doctor` reports problems.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stowaway::api::{self, Repository};
use stowaway_e2e::{
    Kind, Namespace, Restic, S3, Sequence, Workload, in_namespace, process,
    runs::{all_green, source},
    store::secret,
};

const DUMP: Sequence = Sequence::new(Kind::Every, 5, 100_003);
const NEW: &str = "the second password";
const RECOVERY: &str = "kept in a safe";

/// Runs `stowaway key` without a cluster, with the location and a password of the repository only.
fn key(restic: &Restic, arguments: &[&str]) -> Result<Vec<u8>> {
    process::run(restic.command(process::stowaway()?).env_remove("KUBECONFIG").arg("key").args(arguments))
}

/// Adds a key with this password, which is passed in a file.
fn add(restic: &Restic, password: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), password)?;
    let path = file.path().to_str().context("the path is not UTF-8")?;
    key(restic, &["add", "--new-password-file", path]).map(drop)
}

/// The id of the key that the password of `restic` opens.
fn key_in_use(restic: &Restic) -> Result<String> {
    let listed: Vec<Value> = serde_json::from_slice(&key(restic, &["list", "--output", "json"])?)?;
    let used = listed.iter().find(|key| key["inUse"] == true).context("no key is in use")?;
    Ok(used["id"].as_str().context("no id")?.to_owned())
}

fn is_escrowed(repository: &Repository) -> Option<bool> {
    let status = repository.status.as_ref()?;
    let is_ready = api::condition(&status.conditions, api::READY)
        .is_some_and(|ready| ready.status == "True" && ready.observed_generation == repository.metadata.generation);
    is_ready.then(|| !api::condition_is_true(&status.conditions, api::KEY_NOT_ESCROWED))
}

/// The exit status and the output of `stowaway doctor` in the cluster.
fn doctor(namespace: &Namespace, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = process::output(&mut namespace.stowaway(&[&["doctor"], arguments].concat())?)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn single_key_is_reported_and_the_password_is_changed_without_losing_a_backup() -> Result<()> {
    in_namespace("keys", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        let first = server.repository(namespace).await?;
        Workload::dumping(namespace, "box", &DUMP).start(namespace).await?;
        let opened = namespace.wait_for("main", "opened", |repository: Option<&Repository>| {
            repository.is_some_and(|repository| is_escrowed(repository).is_some())
        });
        ensure!(is_escrowed(&opened.await?) == Some(false), "no condition reports that there is a single key");
        let (status, output) = doctor(namespace, &["main"])?;
        ensure!(status == Some(0) && output.contains("RISK    only one password opens it"), "{status:?}: {output}");

        add(&first, RECOVERY)?;
        let mut object = server.repository_object("main", "password", true);
        object["spec"]["check"] = json!({ "schedule": "@yearly" });
        namespace.apply_object(object).await?;
        namespace
            .wait_for("main", "seen to have two keys", |repository: Option<&Repository>| {
                repository.is_some_and(|repository| is_escrowed(repository) == Some(true))
            })
            .await?;
        all_green(&namespace.back_up("before", json!({})).await?)?;

        // The steps of docs/keys.md: add the new key, change the Secret, wait for a green run, remove the old key.
        let old = key_in_use(&first)?;
        add(&first, NEW)?;
        namespace.apply_object(secret("password", &json!({ "password": NEW }))).await?;
        let between = namespace.back_up("between", json!({})).await?;
        all_green(&between)?;
        let second = Restic { password: NEW.to_owned(), ..first.clone() };
        key(&second, &["remove", &old])?;
        all_green(&namespace.back_up("after", json!({})).await?)?;
        ensure!(first.snapshots().is_err(), "the old password still opens the repository");
        let recovery = Restic { password: RECOVERY.to_owned(), ..first.clone() };
        let snapshots = recovery.snapshots()?;
        ensure!(snapshots.len() == 3, "{snapshots:?}");
        let newest = source(&between, "pod/box/main")?.outcome.snapshot.clone().context("no snapshot")?;
        let dumped = process::run(&mut namespace.stowaway(&["dump", &newest])?)?;
        ensure!(stowaway_e2e::sequence::digest(&dumped) == DUMP.digest(), "dump returns other bytes");
        let (status, output) = doctor(namespace, &["--read-data"])?;
        ensure!(status == Some(0) && output.contains("ok      it has 2 keys"), "{status:?}: {output}");
        // This risk comes from the conditions of the Repository, not from the content of the store.
        ensure!(!output.contains("BROKEN") && output.contains("RISK    InsecureTransport"), "{output}");

        namespace.apply_object(secret("password", &json!({ "password": "mistyped" }))).await?;
        let (status, output) = doctor(namespace, &["-o", "json"])?;
        let diagnosis: Value = serde_json::from_str(&output)?;
        ensure!(status == Some(1) && diagnosis["complaints"][0]["weight"] == "Broken", "{status:?}: {output}");
        ensure!(output.contains("the password opens no key") && !output.contains("mistyped"), "{output}");
        Ok(())
    })
    .await
}
