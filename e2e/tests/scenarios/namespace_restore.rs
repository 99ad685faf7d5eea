//! Restores of a whole namespace with one command: from the backups of another namespace, as of a time, with a report
//! of the sources that cannot be restored, and after the namespace was deleted together with its key.

use std::{path::Path, process::Output};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace as KubernetesNamespace, PersistentVolumeClaim};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use stowaway::model::Verdict;
use stowaway_e2e::{
    Namespace, Restic, S3, Workload, in_namespace, process,
    runs::{all_green, ended, ensure_contains},
    store::{ACCESS_KEY_ID, SECRET_ACCESS_KEY, secret},
    volume,
    workload::COMMAND,
};

const CLAIMS: [&str; 2] = ["books", "pictures"];
const DATABASE: &str = "deployment/shop/postgres";
/// A script that prints owner, mode and content of all files in the volumes.
const LIST_FILES: &str = "cd /data && find . -mindepth 1 ! -name lost+found -exec stat -c '%n %u:%g %a %F %Y' {} + | sort && find . -type f -exec sha256sum {} + | sort";
const ROWS: &str = "select count(*), md5(string_agg(name, '' order by id)) from ships";

/// A pod without annotations that mounts both claims.
fn shelf(namespace: &Namespace) -> Workload {
    let volumes = CLAIMS.map(|name| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }));
    let mounts = CLAIMS.map(|name| json!({ "name": name, "mountPath": format!("/data/{name}") }));
    Workload::new(namespace, "shelf", "toolbox")
        .set("volumeMounts", json!(mounts))
        .set_in_pod("volumes", json!(volumes))
}

/// Starts an empty database, with annotations to dump it and to restore it in one transaction. Returns the name of its
/// pod.
async fn database(namespace: &Namespace) -> Result<String> {
    let pod = Workload::new(namespace, "shop", "postgres")
        .container("postgres")
        .environment(&[("POSTGRES_DB", "shop")])
        .ready_when(&["psql", "-U", "postgres", "-d", "shop", "-c", "select 1"])
        .annotate(COMMAND, "pg_dump -U postgres --clean --if-exists shop")
        .annotate("stowaway.dev/file-extension", ".sql")
        .annotate(
            "stowaway.dev/restorecommand",
            "psql --quiet --single-transaction --set ON_ERROR_STOP=1 -U postgres -d shop -o /dev/null",
        )
        .deploy(namespace)
        .await?;
    Ok(pod.name_any())
}

fn psql(namespace: &Namespace, pod: &str, statement: &str) -> Result<String> {
    namespace.shell(pod, &format!("psql -AtXqU postgres -d shop -c \"{statement}\""))
}

async fn claims(namespace: &Namespace) -> Result<()> {
    for name in CLAIMS {
        let object = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
            "spec": volume::claim(namespace, "ReadWriteOnce"),
        });
        namespace.apply_object(object).await?;
    }
    Ok(())
}

/// Creates two volumes and a database with data. Returns the name of the database's pod.
async fn fill(namespace: &Namespace) -> Result<String> {
    volume::provide(namespace, 2).await?;
    claims(namespace).await?;
    shelf(namespace).start(namespace).await?;
    namespace.shell(
        "shelf",
        "cd /data/books && mkdir -p a/b && seq 20000 >a/b/numbers && chown 1234:4321 a/b && chmod 2750 a \
         && head -c 3000000 /dev/urandom >/data/pictures/one && sync",
    )?;
    let pod = database(namespace).await?;
    psql(
        namespace,
        &pod,
        "create table ships as select n as id, md5(n::text) as name from generate_series(1, 20000) n",
    )?;
    Ok(pod)
}

/// Deletes the pod that mounts the volumes, and waits until it is deleted.
fn delete_shelf(namespace: &Namespace) -> Result<()> {
    process::run(&mut namespace.kubectl(&["delete", "pod", "shelf", "--wait"]))?;
    Ok(())
}

fn exits(what: &str, output: &Output, code: i32) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    ensure!(
        output.status.code() == Some(code),
        "{what}: {} and not {code}\nstdout: {stdout}\nstderr: {stderr}",
        output.status
    );
    Ok(stdout)
}

/// Runs `stowaway restore --all` in this namespace.
fn restore_all(namespace: &Namespace, more: &[&str]) -> Result<Output> {
    process::output(&mut namespace.stowaway(&[&["restore", "--all"], more].concat())?)
}

/// The option `--create`, with the StorageClass of the volumes that the test provides, or else the cluster's default.
fn create(namespace: &Namespace) -> Vec<&str> {
    if namespace.cluster.is_built_in() { vec!["--size", "1Gi", "--create", &namespace.name] } else { vec!["--create"] }
}

/// The content of the volumes and of the database.
fn content(namespace: &Namespace, database: &str) -> Result<(String, String)> {
    Ok((namespace.shell("shelf", LIST_FILES)?, psql(namespace, database, ROWS)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_is_restored_completely_into_another_one_and_sources_without_a_pod_are_reported() -> Result<()> {
    in_namespace("all-from", async |old: &Namespace| {
        let s3 = S3::shared(old).await?;
        s3.repository(old).await?;
        let pod = fill(old).await?;
        let before = content(old, &pod)?;
        all_green(&old.back_up("one", json!({ "retryLimit": 0 })).await?)?;
        in_namespace("all-to", async |new: &Namespace| {
            volume::provide(new, 2).await?;
            s3.repository(new).await?;
            let nothing = exits("without --host", &restore_all(new, &[])?, 1)?;
            ensure!(nothing.is_empty(), "{nothing}");

            // The database's pod does not exist yet, so everything but the database is restored.
            let host = ["--host", old.name.as_str()];
            let dry = restore_all(new, &[&host[..], &create(new), &["--dry-run"]].concat())?;
            let output = exits("a dry run", &dry, 1)?;
            ensure_contains(
                "a dry run",
                &output,
                &["pvc/books", "pvc/pictures", "new claim books", DATABASE, "not restored"],
            )?;
            let claims: Api<PersistentVolumeClaim> = new.api();
            ensure!(claims.list(&ListParams::default()).await?.items.is_empty(), "the dry run created a claim");
            let output = exits("without the pod", &restore_all(new, &[&host[..], &create(new)].concat())?, 1)?;
            ensure_contains(
                "without the pod",
                &output,
                &["pvc/books: Succeeded", "pvc/pictures: Succeeded", &format!("{DATABASE}: not restored: no pod")],
            )?;

            let pod = database(new).await?;
            let commands = restore_all(new, &[&host[..], &["--only", "commands", "-o", "json"]].concat())?;
            let output: Value = serde_json::from_str(&exits("--only commands", &commands, 0)?)?;
            ensure!(output["ended"].as_array().is_some_and(|ended| ended.len() == 1), "{output}");
            ensure!(output["ended"][0]["source"] == DATABASE, "{output}");
            shelf(new).start(new).await?;
            let after = content(new, &pod)?;
            ensure!(after == before, "before:\n{before:?}\nafter:\n{after:?}");

            // Restores a single source from the newest snapshot of the other namespace.
            psql(new, &pod, "drop table ships")?;
            let one = |more: &[&str]| {
                process::output(&mut new.stowaway(&[&["restore", "--wait", "--source", DATABASE], more].concat())?)
            };
            exits("from its own namespace", &one(&[])?, 1)?;
            exits("from the other namespace", &one(&host)?, 0)?;
            ensure!(psql(new, &pod, ROWS)? == before.1, "the table has other rows");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_is_restored_as_of_a_time_over_existing_data() -> Result<()> {
    in_namespace("all-as-of", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let pod = fill(namespace).await?;
        let before = content(namespace, &pod)?;
        all_green(&namespace.back_up("monday", json!({ "retryLimit": 0 })).await?)?;
        let monday = jiff::Timestamp::now().to_string();
        namespace.shell(
            "shelf",
            "seq 2 20000 >/data/books/a/b/numbers && head -c 2000000 /dev/urandom >/data/pictures/one && sync",
        )?;
        psql(namespace, &pod, "delete from ships where id > 7")?;
        let changed = content(namespace, &pod)?;
        all_green(&namespace.back_up("tuesday", json!({ "retryLimit": 0 })).await?)?;

        // The volumes are in use and not empty, so only the database is restored.
        let used = exits("in use", &restore_all(namespace, &["--as-of", &monday])?, 1)?;
        ensure_contains("in use", &used, &["pvc/books: Failed (TargetInUse)", "pvc/pictures: Failed (TargetInUse)"])?;
        ensure_contains("in use", &used, &[&format!("{DATABASE}: Succeeded")])?;
        ensure!(content(namespace, &pod)? == (changed.0, before.1.clone()), "more than the database was changed");

        delete_shelf(namespace)?;
        exits("as of Monday", &restore_all(namespace, &["--as-of", &monday, "--overwrite"])?, 0)?;
        shelf(namespace).start(namespace).await?;
        let after = content(namespace, &pod)?;
        ensure!(after == before, "before:\n{before:?}\nafter:\n{after:?}");
        // As of a time before the first backup, nothing can be restored, and the output names each source.
        let never = exits("as of long ago", &restore_all(namespace, &["--as-of", "2020-01-01T00:00:00Z"])?, 1)?;
        ensure!(never.matches("not restored: its oldest snapshot").count() == 3, "{never}");
        restic.check("restic", true)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_is_restored_by_the_cli_with_its_workload_down_into_a_new_claim_and_as_an_archive() -> Result<()> {
    in_namespace("one-source", async |namespace: &Namespace| {
        let s3 = S3::shared(namespace).await?;
        s3.repository(namespace).await?;
        volume::provide(namespace, 3).await?;
        claims(namespace).await?;
        Workload::new(namespace, "reader", "toolbox")
            .set("volumeMounts", json!([{ "name": "data", "mountPath": "/data" }]))
            .set_in_pod("volumes", json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "books" } }]))
            .deploy(namespace)
            .await?;
        // The pod has another name after each scale-down.
        let reader = async |script: &str| {
            let pods = namespace.wait_until_pods_ready("app=reader", 1).await?;
            namespace.shell(&pods[0].name_any(), script)
        };
        reader("seq 1000 >/data/numbers && sync").await?;
        all_green(&namespace.back_up("one", json!({ "retryLimit": 0 })).await?)?;
        let run = |more: &[&str]| process::output(&mut namespace.stowaway(&[&["restore"], more].concat())?);
        let one = |more: &[&str]| run(&[&["--source", "pvc/books", "--wait"], more].concat());

        for (what, more) in [
            ("one", &["--source", "pvc/books", "--wait", "--claim", "books", "--scale-down", "deployment/reader"][..]),
            ("all", &["--all", "--only", "volumes", "--scale-down"]),
        ] {
            reader("echo changed >/data/numbers && sync").await?;
            exits(what, &run(&[more, &["--overwrite"]].concat())?, 0)?;
            let found = reader("tail -n 1 /data/numbers").await?;
            ensure!(found == "1000", "{what}: {found}");
        }
        // Of two concurrent Restores, the second one must not take the 0 replicas of the first one for the original
        // number.
        let spec = json!({
            "from": { "source": "pvc/books" }, "to": { "claim": { "name": "books", "overwrite": true } },
            "scaleDown": { "kind": "Deployment", "name": "reader" },
        });
        let (first, second) = tokio::try_join!(namespace.restore("a", spec.clone()), namespace.restore("b", spec))?;
        for restore in [first, second] {
            ended("both", &restore.status.unwrap_or_default().outcome, Verdict::Succeeded, &["Completed"])?;
        }
        let replicas = ["get", "deployment", "reader", "-o", "jsonpath={.spec.replicas}"];
        ensure!(process::run(&mut namespace.kubectl(&replicas))? == b"1", "the workload was not scaled up again");
        exits("a workload without a name", &one(&["--claim", "books", "--scale-down"])?, 2)?;

        let output = exits("into a new claim", &one(&[&["--claim", "copy"], &create(namespace)[..]].concat())?, 0)?;
        ensure_contains("into a new claim", &output, &["Succeeded (Completed)", "into claim copy"])?;

        let keys = json!({ "access-key-id": ACCESS_KEY_ID, "secret-access-key": SECRET_ACCESS_KEY });
        namespace.apply_object(secret("handover", &keys)).await?;
        let url = format!("s3:http://{}/backups/{}/away", s3.address, namespace.name);
        let archive = ["--archive", &url, "--archive-secret", "handover", "--format", "tar"];
        let output = exits("as an archive", &one(&archive)?, 0)?;
        let (_, name) = output.trim_end().rsplit_once("/away/").context(output.clone())?;
        let archive = s3.object(&format!("away/{name}"))?;
        ensure!(!name.contains(".tar.") && archive.windows(7).any(|bytes| bytes == b"numbers"), "{output}");
        Ok(())
    })
    .await
}

/// Deletes a namespace, and waits until it no longer exists.
async fn destroy(namespace: &Namespace) -> Result<()> {
    process::run(&mut namespace.kubectl(&[
        "delete",
        "namespace",
        &namespace.name,
        "--ignore-not-found",
        "--wait=false",
    ]))?;
    let namespaces: Api<KubernetesNamespace> = Api::all(namespace.cluster.client.clone());
    let is_deleted = async || Ok(namespaces.get_opt(&namespace.name).await?.is_none().then_some(()));
    namespace.wait_until("the namespace is deleted", is_deleted).await?;
    volume::clean_up(namespace).await
}

/// Fills a namespace whose repository has a generated password, and adds a recovery key, whose password is written to a
/// file outside of the cluster.
async fn fill_and_escrow(old: &Namespace, s3: &S3, password_file: &Path) -> Result<(String, String)> {
    old.ensure().await?;
    s3.secrets(old).await?;
    let mut repository = s3.repository_object("main", "random", true);
    repository["spec"]["passwordSecretRef"]["createIfNotExists"] = json!(true);
    old.apply_object(repository).await?;
    old.wait_until_repository_ready("main").await?;
    let pod = fill(old).await?;
    all_green(&old.back_up("one", json!({ "retryLimit": 0 })).await?)?;

    std::fs::write(password_file, "a sheet of paper in a drawer\n")?;
    let template = "go-template={{.data.password | base64decode}}";
    let random = process::run(&mut old.kubectl(&["get", "secret", "random", "-o", template]))?;
    let restic = Restic { password: String::from_utf8(random)?.trim_end().to_owned(), ..s3.restic() };
    let mut add = restic.command(process::stowaway()?);
    process::run(add.args(["key", "add", "--new-password-file"]).arg(password_file))?;
    content(old, &pod)
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_that_was_deleted_with_its_key_is_restored_with_a_key_that_was_kept_outside() -> Result<()> {
    in_namespace("escrow", async |new: &Namespace| {
        let s3 = S3::shared(new).await?;
        let folder = tempfile::tempdir()?;
        let password_file = folder.path().join("recovery");
        let old = Namespace { cluster: new.cluster.clone(), name: format!("{}-old", new.name) };
        let filled = fill_and_escrow(&old, &s3, &password_file).await;
        destroy(&old).await?;
        let before = filled?;

        // From here on only the store and the recovery password exist.
        volume::provide(new, 2).await?;
        s3.secrets(new).await?;
        let recovery = std::fs::read_to_string(&password_file)?;
        new.apply_object(secret("recovery", &json!({ "password": recovery.trim_end() }))).await?;
        new.apply_object(s3.repository_object("main", "recovery", true)).await?;
        new.wait_until_repository_ready("main").await?;
        let pod = database(new).await?;
        let host = ["--host", old.name.as_str()];
        let output = exits("from the store alone", &restore_all(new, &[&host[..], &create(new)].concat())?, 0)?;
        ensure!(output.matches(": Succeeded (Completed)").count() == 3, "{output}");
        shelf(new).start(new).await?;
        let after = content(new, &pod)?;
        ensure!(after == before, "before:\n{before:?}\nafter:\n{after:?}");
        Ok(())
    })
    .await
}
