//! A restore into `PostgreSQL` that is cut or killed leaves the old data, whatever program starts its command.
//!
//! The dump is the `text` sequence of `emit`, with one `INSERT INTO stowage` per line. Each wrapper of the command has
//! a database of its own with one old row. So one row is the old state, `ROWS` + 1 rows are the new state, and any
//! other number is a partial restore.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use stowaway::model::{Reason, Verdict};
use stowaway_e2e::{
    Kind, Namespace, Runner, Sequence, Workload, in_namespace,
    namespace::POLL_INTERVAL,
    process,
    proxy::{Direction, Fault, Proxy},
    workload::{COMMAND, INJECT},
};

const ROWS: u64 = 20_000;
const DUMP: Sequence = Sequence::new(Kind::Text, 1, ROWS * 64);
const SOURCE: &str = "pod/postgres/main";
/// Wrappers by which a command leaves the process group, the session or the process tree of its parent; `plain` is
/// none.
const WRAPPERS: [&str; 5] = ["plain", "su", "sudo", "setsid", "daemon"];

fn restore_command(wrapper: &str, database: &str) -> Value {
    let psql =
        format!("psql --quiet --single-transaction --set ON_ERROR_STOP=1 -U postgres -d {database} -o /dev/null");
    let argv = |line: String| json!(line.split(' ').collect::<Vec<_>>());
    match wrapper {
        "su" => json!(["su", "postgres", "-c", psql]),
        "sudo" => argv(format!("sudo -u postgres {psql}")),
        "setsid" => argv(format!("setsid --wait {psql}")),
        // Forks twice, so that psql has another parent, group and session. A file shows the end of psql, because a
        // search for its command line would also find the shells.
        "daemon" => {
            let done = format!("/tmp/{database}.done");
            let program = format!("setsid sh -c '{psql}; touch {done}' <&3 3<&-");
            json!([
                "sh",
                "-c",
                format!("({program} &) 3<&0 </dev/null; exec </dev/null; until [ -e {done} ]; do sleep 0.2; done")
            ])
        }
        _ => argv(psql),
    }
}

/// Starts `PostgreSQL`. A server which is process 1 of its container takes a killed orphan for a crashed backend and
/// aborts all transactions, so that the cases would affect each other. So it is process 1 only in the test of that
/// behaviour.
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

/// Creates a database with the old row, and a Restore from which the runner reads its command. The Restore refers to a
/// Repository that does not exist, so that the controller does not execute it.
async fn prepare(namespace: &Namespace, name: &str, wrapper: &str) -> Result<()> {
    let database = name.replace('-', "_");
    namespace.shell(
        "postgres",
        &format!(
            "createdb -U postgres {database} && psql -qU postgres -d {database} \
             -c 'create table stowage(number numeric, side text)' -c \"insert into stowage values (0, 'old')\""
        ),
    )?;
    let spec = json!({
        "from": { "source": SOURCE }, "repositoryRef": { "name": "none" },
        "to": { "pod": "postgres", "command": restore_command(wrapper, &database) },
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
        let cases: Vec<(String, &str, bool)> = WRAPPERS
            .iter()
            .flat_map(|wrapper| {
                [(format!("{wrapper}-cut"), *wrapper, false), (format!("{wrapper}-kill"), *wrapper, true)]
            })
            .collect();
        for (name, wrapper, _) in &cases {
            prepare(namespace, name, wrapper).await?;
        }
        try_join_all(
            cases
                .iter()
                .map(async |(name, _, kill)| interrupted(namespace, &runner, &pod, name, (offset, *kill)).await),
        )
        .await?;
        for (name, _, _) in &cases {
            namespace.wait_until_ended("postgres", "main", &format!("-d {}", name.replace('-', "_"))).await?;
            let rows = rows(namespace, name)?;
            ensure!(rows == 1, "{name}: the restore was interrupted, but there are {rows} rows");
        }
        // All wrappers work without an interruption.
        for wrapper in WRAPPERS {
            let name = format!("{wrapper}-whole");
            prepare(namespace, &name, wrapper).await?;
            let whole = runner.run(runner.restore(&pod, None, SOURCE, &name)?).await?;
            whole.is(Verdict::Succeeded, &[Reason::Completed])?;
            ensure!(rows(namespace, &name)? == ROWS + 1, "{name}: green, and {} rows", rows(namespace, &name)?);
        }
        Ok(())
    })
    .await
}

/// Measures an uninterrupted restore, and returns two thirds of the bytes that it sends to the API server. The number
/// depends on the protocol, because the helper receives compressed data.
async fn two_thirds(namespace: &Namespace, runner: &Runner, pod: &Pod) -> Result<u64> {
    prepare(namespace, "measured", "plain").await?;
    let proxy = Proxy::start(namespace.cluster.api_server().await?, Fault::None).await?;
    let mut own = Runner::new(namespace, runner.backend.clone())?;
    own.connect_through(namespace, proxy.address())?;
    own.run(own.restore(pod, None, SOURCE, "measured")?).await?.is(Verdict::Succeeded, &[Reason::Completed])?;
    Ok(proxy.passed(Direction::ToServer) / 3 * 2)
}

/// Runs the restore, and cuts its connection or kills its runner after `offset` bytes.
async fn interrupted(
    namespace: &Namespace,
    runner: &Runner,
    pod: &Pod,
    name: &str,
    (offset, kill): (u64, bool),
) -> Result<()> {
    let server = namespace.cluster.api_server().await?;
    let fault = if kill {
        Fault::StallAfter(Direction::ToServer, offset, stowaway_e2e::namespace::WAIT_LIMIT)
    } else {
        Fault::CutAfter(Direction::ToServer, offset)
    };
    let proxy = Proxy::start(server, fault).await?;
    let mut own = Runner::new(namespace, runner.backend.clone())?;
    own.connect_through(namespace, proxy.address())?;
    let run = own.start(own.restore(pod, None, SOURCE, name)?)?;
    if kill {
        while proxy.passed(Direction::ToServer) < offset {
            tokio::time::sleep(POLL_INTERVAL).await;
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
        behind.connect_through(namespace, proxy.address())?;
        behind.run(behind.restore(&pod, None, SOURCE, "uncut")?).await?.is(Verdict::Succeeded, &[Reason::Completed])?;
        let total = proxy.passed(Direction::ToServer);
        for (number, before_end) in [1_000, 250, 150, 100, 60, 30].into_iter().enumerate() {
            let name = format!("go-{number}");
            prepare(namespace, &name, "su").await?;
            let proxy = Proxy::start(server, Fault::CutAfter(Direction::ToServer, total - before_end)).await?;
            behind.connect_through(namespace, proxy.address())?;
            let ended = behind.run(behind.restore(&pod, None, SOURCE, &name)?).await?;
            namespace.wait_until_ended("postgres", "main", &format!("-d go_{number}")).await?;
            let rows = rows(namespace, &name)?;
            ensure!(rows == 1 || rows == ROWS + 1, "cut {before_end} bytes before the end: {rows} rows");
            let reason = ended.report.as_ref().map(|report| report.reason);
            ensure!(!ended.is_green() || rows == ROWS + 1, "green, and nothing was restored");
            ensure!(
                rows == 1 || ended.is_green() || reason == Some(Reason::OutcomeUnknown),
                "all rows were restored, but the reason is {reason:?}"
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
        // Without the double fork, which makes psql a child of process 1, so that ending psql always looks like a
        // crash.
        for wrapper in WRAPPERS.into_iter().filter(|wrapper| *wrapper != "daemon") {
            let (name, before) = (format!("{wrapper}-first"), crashes()?);
            prepare(namespace, &name, wrapper).await?;
            interrupted(namespace, &runner, &pod, &name, (offset, false)).await?;
            namespace.wait_until_ended("postgres", "main", &format!("-d {}", name.replace('-', "_"))).await?;
            // A server that has reinitialized logs that before it responds again.
            namespace.wait_until("PostgreSQL responds", async || Ok(rows(namespace, &name).ok())).await?;
            if crashes()? > before {
                guilty.push(wrapper);
            }
        }
        ensure!(guilty.is_empty(), "the server closed all connections after a cut with: {}", guilty.join(", "));
        Ok(())
    })
    .await
}
