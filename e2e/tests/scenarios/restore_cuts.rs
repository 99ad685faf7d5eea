//! A restore into `PostgreSQL` that is cut or killed leaves the old data, whatever program the command goes through.
//!
//! The dump is the `text` sequence of `emit`: one `INSERT INTO stowage` a line. Each way has a database of its own with
//! one old row, so 1 row is the old state and all rows more is the new one; anything else is half a restore.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use stowaway::model::{Reason, Verdict};
use stowaway_e2e::{
    Kind, Namespace, Runner, Sequence, Workload, in_namespace,
    namespace::GLANCE,
    process,
    proxy::{Fault, Proxy, Way},
    workload::{COMMAND, INJECT},
};

const ROWS: u64 = 20_000;
const DUMP: Sequence = Sequence::new(Kind::Text, 1, ROWS * 64);
const SOURCE: &str = "pod/postgres/main";
/// Ways by which a command gets out of the process group, the session or the family of who started it.
const WAYS: [&str; 5] = ["plain", "su", "sudo", "setsid", "daemon"];

fn restore_command(way: &str, database: &str) -> Value {
    let psql =
        format!("psql --quiet --single-transaction --set ON_ERROR_STOP=1 -U postgres -d {database} -o /dev/null");
    let words = |line: String| json!(line.split(' ').collect::<Vec<_>>());
    match way {
        "su" => json!(["su", "postgres", "-c", psql]),
        "sudo" => words(format!("sudo -u postgres {psql}")),
        "setsid" => words(format!("setsid --wait {psql}")),
        // Forks twice: its parent is gone, and so are group and session. The end of psql shows in a file: its command line
        // stands in that of the shells, too.
        "daemon" => {
            let done = format!("/tmp/{database}.done");
            let program = format!("setsid sh -c '{psql}; touch {done}' <&3 3<&-");
            json!([
                "sh",
                "-c",
                format!("({program} &) 3<&0 </dev/null; exec </dev/null; until [ -e {done} ]; do sleep 0.2; done")
            ])
        }
        _ => words(psql),
    }
}

/// A server that is process 1 of its container takes a killed orphan for a crashed backend, and ends every transaction:
/// then each case would be decided by the others. So it is process 1 only where that is what is looked at.
async fn postgres(namespace: &Namespace, inject: &str, as_first_process: bool) -> Result<Pod> {
    let ready = ["psql", "-U", "postgres", "-c", "select 1"];
    Workload::new(namespace, "postgres", "postgres")
        .annotate(COMMAND, &DUMP.command())
        .annotate(INJECT, inject)
        .ready_when(&ready)
        .set_in_pod("shareProcessNamespace", json!(!as_first_process))
        .start(namespace)
        .await
}

/// A database with the old row, and a Restore whose command the runner reads. The Restore names a Repository that is not
/// there, so that the controller leaves it alone.
async fn prepare(namespace: &Namespace, name: &str, way: &str) -> Result<()> {
    let database = name.replace('-', "_");
    namespace.shell(
        "postgres",
        &format!(
            "createdb -U postgres {database} && psql -qU postgres -d {database} \
             -c 'create table stowage(number numeric, word text)' -c \"insert into stowage values (0, 'old')\""
        ),
    )?;
    let spec = json!({
        "from": { "source": SOURCE }, "repositoryRef": { "name": "none" },
        "to": { "pod": "postgres", "command": restore_command(way, &database) },
    });
    let object =
        json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": { "name": name }, "spec": spec });
    namespace.apply_object(object).await
}

fn rows(namespace: &Namespace, name: &str) -> Result<u64> {
    let database = name.replace('-', "_");
    let count =
        namespace.shell("postgres", &format!("psql -AtXU postgres -d {database} -c 'select count(*) from stowage'"))?;
    Ok(count.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_or_killed_restore_leaves_the_old_data_through_su_sudo_setsid_and_a_double_fork() -> Result<()> {
    cut_or_killed("none").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_or_killed_restore_by_the_helper_leaves_the_old_data_through_su_sudo_setsid_and_a_double_fork()
-> Result<()> {
    cut_or_killed("helper").await
}

async fn cut_or_killed(inject: &str) -> Result<()> {
    in_namespace("half", async |namespace: &Namespace| {
        let pod = postgres(namespace, inject, false).await?;
        let (runner, _) = Runner::with_folder(namespace).await?;
        runner.run(runner.backup(&pod, None, "dump")?).await?.is(Verdict::Succeeded, &[Reason::Completed])?;
        let offset = two_thirds(namespace, &runner, &pod).await?;
        let cases: Vec<(String, &str, bool)> = WAYS
            .iter()
            .flat_map(|way| [(format!("{way}-cut"), *way, false), (format!("{way}-kill"), *way, true)])
            .collect();
        for (name, way, _) in &cases {
            prepare(namespace, name, way).await?;
        }
        try_join_all(
            cases
                .iter()
                .map(async |(name, _, kill)| interrupted(namespace, &runner, &pod, name, (offset, *kill)).await),
        )
        .await?;
        for (name, _, _) in &cases {
            namespace.wait_until_gone("postgres", "main", &format!("-d {}", name.replace('-', "_"))).await?;
            let rows = rows(namespace, name)?;
            ensure!(rows == 1, "{name}: {rows} rows are there, and the restore was interrupted");
        }
        // And the same ways work when nothing breaks.
        for way in WAYS {
            let name = format!("{way}-whole");
            prepare(namespace, &name, way).await?;
            let whole = runner.run(runner.restore(&pod, None, SOURCE, &name)?).await?;
            whole.is(Verdict::Succeeded, &[Reason::Completed])?;
            ensure!(rows(namespace, &name)? == ROWS + 1, "{name}: green, and {} rows", rows(namespace, &name)?);
        }
        Ok(())
    })
    .await
}

/// How many bytes of a whole restore go to the server until two thirds of it are on their way; the helper gets them
/// compressed.
async fn two_thirds(namespace: &Namespace, runner: &Runner, pod: &Pod) -> Result<u64> {
    prepare(namespace, "measured", "plain").await?;
    let proxy = Proxy::start(namespace.cluster.api_server().await?, Fault::None).await?;
    let mut own = Runner::new(namespace, runner.backend.clone())?;
    own.go_through(namespace, proxy.address())?;
    own.run(own.restore(pod, None, SOURCE, "measured")?).await?.is(Verdict::Succeeded, &[Reason::Completed])?;
    Ok(proxy.passed(Way::ToServer) / 3 * 2)
}

/// Cuts the connection, or kills the runner, when so many bytes are on their way.
async fn interrupted(
    namespace: &Namespace,
    runner: &Runner,
    pod: &Pod,
    name: &str,
    (offset, kill): (u64, bool),
) -> Result<()> {
    let server = namespace.cluster.api_server().await?;
    let fault = if kill {
        Fault::StallAfter(Way::ToServer, offset, stowaway_e2e::namespace::PATIENCE)
    } else {
        Fault::CutAfter(Way::ToServer, offset)
    };
    let proxy = Proxy::start(server, fault).await?;
    let mut own = Runner::new(namespace, runner.backend.clone())?;
    own.go_through(namespace, proxy.address())?;
    let run = own.start(own.restore(pod, None, SOURCE, name)?)?;
    if kill {
        while proxy.passed(Way::ToServer) < offset {
            tokio::time::sleep(GLANCE).await;
        }
        run.signal("KILL")?;
        run.ended().await?;
        return Ok(());
    }
    run.ended().await?.is(Verdict::Failed, &[Reason::StreamCut])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_go_leaves_the_old_data_or_all_of_the_new_but_never_half() -> Result<()> {
    missing_go("none").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_go_to_the_helper_leaves_the_old_data_or_all_of_the_new_but_never_half() -> Result<()> {
    missing_go("helper").await
}

async fn missing_go(inject: &str) -> Result<()> {
    in_namespace("go", async |namespace: &Namespace| {
        let pod = postgres(namespace, inject, false).await?;
        let (runner, _) = Runner::with_folder(namespace).await?;
        runner.run(runner.backup(&pod, None, "dump")?).await?.is(Verdict::Succeeded, &[Reason::Completed])?;
        let server = namespace.cluster.api_server().await?;
        let mut behind = Runner::new(namespace, runner.backend.clone())?;
        prepare(namespace, "uncut", "su").await?;
        let proxy = Proxy::start(server, Fault::None).await?;
        behind.go_through(namespace, proxy.address())?;
        behind.run(behind.restore(&pod, None, SOURCE, "uncut")?).await?.is(Verdict::Succeeded, &[Reason::Completed])?;
        let total = proxy.passed(Way::ToServer);
        for (number, before_end) in [1_000, 250, 150, 100, 60, 30].into_iter().enumerate() {
            let name = format!("go-{number}");
            prepare(namespace, &name, "su").await?;
            let proxy = Proxy::start(server, Fault::CutAfter(Way::ToServer, total - before_end)).await?;
            behind.go_through(namespace, proxy.address())?;
            let ended = behind.run(behind.restore(&pod, None, SOURCE, &name)?).await?;
            namespace.wait_until_gone("postgres", "main", &format!("-d go_{number}")).await?;
            let rows = rows(namespace, &name)?;
            ensure!(rows == 1 || rows == ROWS + 1, "cut {before_end} bytes before the end: {rows} rows");
            let reason = ended.report.as_ref().map(|report| report.reason);
            ensure!(!ended.is_green() || rows == ROWS + 1, "green, and nothing was restored");
            ensure!(
                rows == 1 || ended.is_green() || reason == Some(Reason::OutcomeUnknown),
                "all rows are there, and it says {reason:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_restore_does_not_crash_a_server_that_is_the_first_process_of_its_container() -> Result<()> {
    first_process("none").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_restore_by_the_helper_does_not_crash_a_server_that_is_the_first_process_of_its_container() -> Result<()>
{
    first_process("helper").await
}

async fn first_process(inject: &str) -> Result<()> {
    in_namespace("crash", async |namespace: &Namespace| {
        let pod = postgres(namespace, inject, true).await?;
        let (runner, _) = Runner::with_folder(namespace).await?;
        runner.run(runner.backup(&pod, None, "dump")?).await?.is(Verdict::Succeeded, &[Reason::Completed])?;
        let crashes = || -> Result<usize> {
            let log = process::run(&mut namespace.kubectl(&["logs", "postgres"]))?;
            Ok(String::from_utf8_lossy(&log).matches("all server processes terminated; reinitializing").count())
        };
        let offset = two_thirds(namespace, &runner, &pod).await?;
        let mut guilty = Vec::new();
        // A double fork leaves an orphan by its own doing: whoever ends that one ends a child of process 1.
        for way in WAYS.into_iter().filter(|way| *way != "daemon") {
            let (name, before) = (format!("{way}-first"), crashes()?);
            prepare(namespace, &name, way).await?;
            interrupted(namespace, &runner, &pod, &name, (offset, false)).await?;
            namespace.wait_until_gone("postgres", "main", &format!("-d {}", name.replace('-', "_"))).await?;
            // The server is heard of again only after it has said so.
            namespace.wait_until("PostgreSQL answers", async || Ok(rows(namespace, &name).ok())).await?;
            if crashes()? > before {
                guilty.push(way);
            }
        }
        ensure!(guilty.is_empty(), "the server ended all of its connections after a cut of: {}", guilty.join(", "));
        Ok(())
    })
    .await
}
