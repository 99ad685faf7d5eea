//! Backup and restore of real databases, with commands as users write them.

use anyhow::{Result, ensure};
use serde_json::json;
use stowaway::model::{Proof, Verdict};
use stowaway_e2e::{
    Namespace, S3, Workload, in_namespace, process,
    runs::{all_green, ended, ensure_contains, source},
    workload::COMMAND,
};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_postgresql_come_back_in_one_transaction() -> Result<()> {
    in_namespace("postgres", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let psql = |pod: &str, statement: &str| {
            namespace.shell(pod, &format!("psql -AtXqU postgres -d shop -c \"{statement}\""))
        };
        let pod = Workload::new(namespace, "shop", "postgres")
            .container("postgres")
            .environment(&[("POSTGRES_DB", "shop")])
            .ready_when(&["psql", "-U", "postgres", "-d", "shop", "-c", "select 1"])
            .annotate(COMMAND, "pg_dump -U postgres shop")
            .annotate("stowaway.dev/file-extension", ".sql")
            .annotate(
                "stowaway.dev/restorecommand",
                "psql --quiet --single-transaction --set ON_ERROR_STOP=1 -U postgres -d shop -o /dev/null",
            )
            .deploy(namespace)
            .await?;
        let name = pod.metadata.name.unwrap_or_default();
        psql(&name, "create table ships as select n as id, md5(n::text) as name from generate_series(1, 50000) n")?;
        let before = psql(&name, "select count(*), md5(string_agg(name, '' order by id)) from ships")?;
        let backup = namespace.back_up("one", json!({})).await?;
        all_green(&backup)?;
        let outcome = &source(&backup, "deployment/shop/postgres")?.outcome;
        ensure!(outcome.proof == Some(Proof::Sealed), "{outcome:?}");
        let snapshots = restic.snapshots()?;
        let [snapshot] = snapshots.as_slice() else { anyhow::bail!("{} snapshots", snapshots.len()) };
        ensure!(snapshot.path() == format!("/{}-postgres.sql", namespace.name), "path {}", snapshot.path());
        ensure!(restic.dump("restic-0.14", snapshot)?.0 == outcome.digest.clone().unwrap_or_default(), "another dump");

        psql(&name, "drop table ships")?;
        let restore = namespace.restore("back", json!({ "from": { "source": "deployment/shop/postgres" } })).await?;
        ended("back", &restore.status.unwrap_or_default().outcome, Verdict::Succeeded, &["Completed"])?;
        let after = psql(&name, "select count(*), md5(string_agg(name, '' order by id)) from ships")?;
        ensure!(before == after, "before {before}, after {after}");

        // The table exists, so the first statements of the dump fail. The transaction is rolled back, and no row is
        // duplicated.
        let refused = namespace.restore("again", json!({ "from": { "source": "deployment/shop/postgres" } })).await?;
        let outcome = refused.status.unwrap_or_default().outcome;
        ended("again", &outcome, Verdict::Failed, &["CommandFailed", "InputNotConsumed"])?;
        ensure!(outcome.stderr_tail.contains("already exists"), "stderr: {}", outcome.stderr_tail);
        ensure!(
            psql(&name, "select count(*), md5(string_agg(name, '' order by id)) from ships")? == before,
            "something changed"
        );

        // Only the user knows that the data is whole, and confirms it by deleting the failed Restore.
        let doubtful = namespace.back_up("two", json!({})).await?;
        let outcome = &source(&doubtful, "deployment/shop/postgres")?.outcome;
        ended("two", outcome, Verdict::Suspect, &["RestoreUnfinished"])?;
        ensure_contains(
            "the message",
            &outcome.message,
            &["Restore again into this command failed", "--remove suspect"],
        )?;
        let suspect =
            restic.snapshots()?.iter().filter(|snapshot| snapshot.tags.iter().any(|tag| tag == "suspect")).count();
        ensure!(suspect == 1, "{suspect} suspect snapshots");
        process::run(&mut namespace.kubectl(&["delete", "restores.stowaway.dev", "again"]))?;
        all_green(&namespace.back_up("three", json!({})).await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysqldump_as_users_write_it_restores_mariadb() -> Result<()> {
    in_namespace("mariadb", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let mysql =
            |statement: &str| namespace.shell("mariadb-0", &format!("mysql -uroot -psecure -N -e \"{statement}\""));
        Workload::new(namespace, "mariadb-0", "mariadb")
            .container("mariadb")
            .environment(&[("MARIADB_ROOT_PASSWORD", "secure"), ("MARIADB_DATABASE", "shop")])
            .ready_when(&["mysql", "-uroot", "-psecure", "-e", "select 1"])
            .annotate("k8up.io/backupcommand", "mysqldump -uroot -psecure --all-databases")
            .annotate("k8up.io/file-extension", ".sql")
            .start(namespace)
            .await?;
        mysql("use shop; create table ships as select seq as id, md5(seq) as name from seq_1_to_20000")?;
        let checksum = "select count(*), sum(crc32(concat(id, name))) from shop.ships";
        let before = mysql(checksum)?;
        let backup = namespace.back_up("one", json!({})).await?;
        all_green(&backup)?;
        let outcome = &source(&backup, "pod/mariadb-0/mariadb")?.outcome;
        let snapshots = restic.snapshots()?;
        let [snapshot] = snapshots.as_slice() else { anyhow::bail!("{} snapshots", snapshots.len()) };
        ensure!(restic.dump("restic", snapshot)?.0 == outcome.digest.clone().unwrap_or_default(), "another dump");

        mysql("drop database shop")?;
        let spec = json!({
            "from": { "source": "pod/mariadb-0/mariadb" }, "to": { "command": ["mysql", "-uroot", "-psecure"] },
        });
        let restore = namespace.restore("back", spec).await?;
        ended("back", &restore.status.unwrap_or_default().outcome, Verdict::Succeeded, &["Completed"])?;
        let after = mysql(checksum)?;
        ensure!(before == after, "before {before}, after {after}");
        Ok(())
    })
    .await
}
