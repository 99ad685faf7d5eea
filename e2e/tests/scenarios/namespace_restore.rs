//! A whole namespace comes back with one command: from a store that another namespace filled, as of a time, with what cannot
//! be restored told, and after the namespace is gone with its key.

use std::{path::Path, process::Output};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace as KubernetesNamespace, PersistentVolumeClaim};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use stowaway::model::Verdict;
use stowaway_e2e::{
    Namespace, Restic, S3, Workload, in_namespace, process,
    runs::{all_green, ended, says},
    store::{ACCESS_KEY_ID, SECRET_ACCESS_KEY, secret},
    volume,
    workload::COMMAND,
};

const CLAIMS: [&str; 2] = ["books", "pictures"];
const DATABASE: &str = "deployment/shop/postgres";
/// Owner, mode and content of all that is in the volumes.
const LOOK: &str = "cd /data && find . -mindepth 1 ! -name lost+found -exec stat -c '%n %u:%g %a %F %Y' {} + | sort && find . -type f -exec sha256sum {} + | sort";
const ROWS: &str = "select count(*), md5(string_agg(name, '' order by id)) from ships";

/// A pod without annotations that has both claims.
fn shelf(namespace: &Namespace) -> Workload {
    let volumes = CLAIMS.map(|name| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }));
    let mounts = CLAIMS.map(|name| json!({ "name": name, "mountPath": format!("/data/{name}") }));
    Workload::new(namespace, "shelf", "toolbox")
        .set("volumeMounts", json!(mounts))
        .set_in_pod("volumes", json!(volumes))
}

/// An empty database that is dumped, and brought back in one transaction.
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

/// Two volumes and a database with something in them.
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

/// Waits until nothing has the volumes mounted.
fn empty_shelf(namespace: &Namespace) -> Result<()> {
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

/// `stowaway restore --all` in this namespace.
fn restore_all(namespace: &Namespace, more: &[&str]) -> Result<Output> {
    process::output(&mut namespace.stowaway(&[&["restore", "--all"], more].concat())?)
}

/// `--create`, of the class of the volumes that the test has provided, else of the cluster's own.
fn create(namespace: &Namespace) -> Vec<&str> {
    if namespace.cluster.is_built_in() { vec!["--size", "1Gi", "--create", &namespace.name] } else { vec!["--create"] }
}

/// What is in the volumes and in the database.
fn look(namespace: &Namespace, database: &str) -> Result<(String, String)> {
    Ok((namespace.shell("shelf", LOOK)?, psql(namespace, database, ROWS)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_comes_back_in_another_one_whole_and_what_has_no_pod_is_told() -> Result<()> {
    in_namespace("all-from", async |old: &Namespace| {
        let s3 = S3::shared(old).await?;
        s3.repository(old).await?;
        let pod = fill(old).await?;
        let before = look(old, &pod)?;
        all_green(&old.back_up("one", json!({ "retryLimit": 0 })).await?)?;
        in_namespace("all-to", async |new: &Namespace| {
            volume::provide(new, 2).await?;
            s3.repository(new).await?;
            let nothing = exits("of a host that is not named", &restore_all(new, &[])?, 1)?;
            ensure!(nothing.is_empty(), "{nothing}");

            // Nobody has made the database yet: it alone is missing in the end.
            let host = ["--host", old.name.as_str()];
            let dry = restore_all(new, &[&host[..], &create(new), &["--dry-run"]].concat())?;
            let told = exits("a dry run", &dry, 1)?;
            says("a dry run", &told, &["pvc/books", "pvc/pictures", "new claim books", DATABASE, "not restored"])?;
            let claims: Api<PersistentVolumeClaim> = new.api();
            ensure!(claims.list(&ListParams::default()).await?.items.is_empty(), "the dry run made a claim");
            let told = exits("without the pod", &restore_all(new, &[&host[..], &create(new)].concat())?, 1)?;
            says(
                "without the pod",
                &told,
                &["pvc/books: Succeeded", "pvc/pictures: Succeeded", &format!("{DATABASE}: not restored: no pod")],
            )?;

            let pod = database(new).await?;
            let commands = restore_all(new, &[&host[..], &["--only", "commands", "-o", "json"]].concat())?;
            let told: Value = serde_json::from_str(&exits("the commands alone", &commands, 0)?)?;
            ensure!(told["ended"].as_array().is_some_and(|ended| ended.len() == 1), "{told}");
            ensure!(told["ended"][0]["source"] == DATABASE, "{told}");
            shelf(new).start(new).await?;
            let after = look(new, &pod)?;
            ensure!(after == before, "before:\n{before:?}\nafter:\n{after:?}");

            // The same for one source: its newest of the other namespace.
            psql(new, &pod, "drop table ships")?;
            let one = |more: &[&str]| {
                process::output(&mut new.stowaway(&[&["restore", "--wait", "--source", DATABASE], more].concat())?)
            };
            exits("of its own namespace", &one(&[])?, 1)?;
            exits("of the other namespace", &one(&host)?, 0)?;
            ensure!(psql(new, &pod, ROWS)? == before.1, "another table");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_comes_back_as_of_a_time_over_what_is_there() -> Result<()> {
    in_namespace("all-as-of", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let pod = fill(namespace).await?;
        let before = look(namespace, &pod)?;
        all_green(&namespace.back_up("monday", json!({ "retryLimit": 0 })).await?)?;
        let monday = jiff::Timestamp::now().to_string();
        namespace.shell(
            "shelf",
            "seq 2 20000 >/data/books/a/b/numbers && head -c 2000000 /dev/urandom >/data/pictures/one && sync",
        )?;
        psql(namespace, &pod, "delete from ships where id > 7")?;
        let changed = look(namespace, &pod)?;
        all_green(&namespace.back_up("tuesday", json!({ "retryLimit": 0 })).await?)?;

        // The volumes are in use and hold something; only the database is as of Monday then.
        let used = exits("in use", &restore_all(namespace, &["--as-of", &monday])?, 1)?;
        says("in use", &used, &["pvc/books: Failed (TargetInUse)", "pvc/pictures: Failed (TargetInUse)"])?;
        says("in use", &used, &[&format!("{DATABASE}: Succeeded")])?;
        ensure!(look(namespace, &pod)? == (changed.0, before.1.clone()), "something else was changed");

        empty_shelf(namespace)?;
        exits("as of Monday", &restore_all(namespace, &["--as-of", &monday, "--overwrite"])?, 0)?;
        shelf(namespace).start(namespace).await?;
        let after = look(namespace, &pod)?;
        ensure!(after == before, "before:\n{before:?}\nafter:\n{after:?}");
        // Before anything was stored nothing can come back, and each source says so.
        let never = exits("as of long ago", &restore_all(namespace, &["--as-of", "2020-01-01T00:00:00Z"])?, 1)?;
        ensure!(never.matches("not restored: its oldest snapshot").count() == 3, "{never}");
        restic.check("restic", true)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_comes_back_by_the_cli_with_its_workload_down_into_a_new_claim_and_as_an_archive() -> Result<()> {
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
        // Each time it was down it is another pod.
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
        // Two at once: the second one does not take the first one's 0 for what the workload was.
        let spec = json!({
            "from": { "source": "pvc/books" }, "to": { "claim": { "name": "books", "overwrite": true } },
            "scaleDown": { "kind": "Deployment", "name": "reader" },
        });
        let (first, second) = tokio::try_join!(namespace.restore("a", spec.clone()), namespace.restore("b", spec))?;
        for restore in [first, second] {
            ended("both", &restore.status.unwrap_or_default().outcome, Verdict::Succeeded, &["Completed"])?;
        }
        let replicas = ["get", "deployment", "reader", "-o", "jsonpath={.spec.replicas}"];
        ensure!(process::run(&mut namespace.kubectl(&replicas))? == b"1", "the workload is left down");
        exits("a workload without a name", &one(&["--claim", "books", "--scale-down"])?, 2)?;

        let told = exits("into a new claim", &one(&[&["--claim", "copy"], &create(namespace)[..]].concat())?, 0)?;
        says("into a new claim", &told, &["Succeeded (Completed)", "into claim copy"])?;

        let keys = json!({ "access-key-id": ACCESS_KEY_ID, "secret-access-key": SECRET_ACCESS_KEY });
        namespace.apply_object(secret("handover", &keys)).await?;
        let place = format!("s3:http://{}/backups/{}/away", s3.address, namespace.name);
        let archive = ["--archive", &place, "--archive-secret", "handover", "--format", "tar"];
        let told = exits("as an archive", &one(&archive)?, 0)?;
        let (_, name) = told.trim_end().rsplit_once("/away/").context(told.clone())?;
        let archive = s3.object(&format!("away/{name}"))?;
        ensure!(!name.contains(".tar.") && archive.windows(7).any(|bytes| bytes == b"numbers"), "{told}");
        Ok(())
    })
    .await
}

/// Deletes a namespace, and waits until it is gone with all that was in it.
async fn destroy(namespace: &Namespace) -> Result<()> {
    process::run(&mut namespace.kubectl(&[
        "delete",
        "namespace",
        &namespace.name,
        "--ignore-not-found",
        "--wait=false",
    ]))?;
    let namespaces: Api<KubernetesNamespace> = Api::all(namespace.cluster.client.clone());
    let gone = async || Ok(namespaces.get_opt(&namespace.name).await?.is_none().then_some(()));
    namespace.wait_until("the namespace is gone", gone).await?;
    volume::clean_up(namespace).await
}

/// Fills a namespace whose key nobody knows, and adds one for the drawer.
async fn fill_and_escrow(old: &Namespace, s3: &S3, drawer: &Path) -> Result<(String, String)> {
    old.ensure().await?;
    s3.secrets(old).await?;
    let mut repository = s3.repository_object("main", "random", true);
    repository["spec"]["passwordSecretRef"]["createIfNotExists"] = json!(true);
    old.apply_object(repository).await?;
    old.wait_until_repository_ready("main").await?;
    let pod = fill(old).await?;
    all_green(&old.back_up("one", json!({ "retryLimit": 0 })).await?)?;

    std::fs::write(drawer, "a sheet of paper in a drawer\n")?;
    let template = "go-template={{.data.password | base64decode}}";
    let random = process::run(&mut old.kubectl(&["get", "secret", "random", "-o", template]))?;
    let restic = Restic { password: String::from_utf8(random)?.trim_end().to_owned(), ..s3.restic() };
    let mut add = restic.command(process::stowaway()?);
    process::run(add.args(["key", "add", "--new-password-file"]).arg(drawer))?;
    look(old, &pod)
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_that_is_gone_with_its_key_comes_back_by_the_key_that_was_kept_outside() -> Result<()> {
    in_namespace("escrow", async |new: &Namespace| {
        let s3 = S3::shared(new).await?;
        let folder = tempfile::tempdir()?;
        let drawer = folder.path().join("recovery");
        let old = Namespace { cluster: new.cluster.clone(), name: format!("{}-old", new.name) };
        let filled = fill_and_escrow(&old, &s3, &drawer).await;
        destroy(&old).await?;
        let before = filled?;

        // From here on there is the store, and what is in the drawer.
        volume::provide(new, 2).await?;
        s3.secrets(new).await?;
        let kept = std::fs::read_to_string(&drawer)?;
        new.apply_object(secret("recovery", &json!({ "password": kept.trim_end() }))).await?;
        new.apply_object(s3.repository_object("main", "recovery", true)).await?;
        new.wait_until_repository_ready("main").await?;
        let pod = database(new).await?;
        let host = ["--host", old.name.as_str()];
        let told = exits("from the store alone", &restore_all(new, &[&host[..], &create(new)].concat())?, 0)?;
        ensure!(told.matches(": Succeeded (Completed)").count() == 3, "{told}");
        shelf(new).start(new).await?;
        let after = look(new, &pod)?;
        ensure!(after == before, "before:\n{before:?}\nafter:\n{after:?}");
        Ok(())
    })
    .await
}
