//! Backups of commands that fail, hang, are killed, or lose their pod.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use stowaway::model::Verdict::{self, Failed, Succeeded};
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, in_namespace, process,
    runs::{all_green, ended, known, source},
    workload::{self, CONTAINER},
};

const SHORT: Sequence = Sequence::new(Kind::Every, 0, 1000);

/// A named command and the expected outcome of its backup.
struct Case {
    name: &'static str,
    command: String,
    verdict: Verdict,
    reason: &'static str,
    exit_code: Option<i32>,
}

fn case(name: &'static str, command: &str, verdict: Verdict, reason: &'static str, exit_code: Option<i32>) -> Case {
    Case { name, command: command.to_owned(), verdict, reason, exit_code }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_commands_have_distinct_reasons_and_leave_no_snapshot() -> Result<()> {
    let short = SHORT.command();
    let cases = [
        case("exit-at-once", "emit --bytes 0 --exit 1", Failed, "CommandFailed", Some(1)),
        case("exit-after-1m", "emit --bytes 1m --exit 1", Failed, "CommandFailed", Some(1)),
        case("exit-after-20m", "emit --bytes 20m --exit 42", Failed, "CommandFailed", Some(42)),
        case("nothing", "emit --bytes 0", Failed, "EmptyStream", None),
        case("not-found", "no-such-program --now", Failed, "CommandNotFound", Some(127)),
        case("not-executable", "/etc/passwd", Failed, "CommandNotFound", Some(126)),
        case("killed", r#"["sh", "-c", "emit --bytes 1m; kill -9 $$"]"#, Failed, "CommandKilled", Some(137)),
        case("terminated", r#"["sh", "-c", "emit --bytes 1m; kill -15 $$"]"#, Failed, "CommandKilled", Some(143)),
        case("reads-stdin", &format!("{short} --read-stdin"), Succeeded, "Completed", Some(0)),
        case("background-child", &format!("{short} --background-child 8"), Failed, "OutputHeldOpen", Some(0)),
        case("first-half", r#"["bash", "-c", "emit --bytes 1m --exit 3 | gzip"]"#, Failed, "CommandFailed", Some(3)),
        case("chatty", &format!("{short} --stderr-bytes 4m"), Succeeded, "Completed", Some(0)),
    ];
    in_namespace("failures", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let mut pod = Workload::new(namespace, "box", "toolbox");
        for case in &cases {
            pod = pod.named_command(case.name, &case.command);
        }
        let waiting = "emit --kind text --bytes 2m --stall-after 1m --stall 300";
        let limited = |name: &str, key: &str, command: &str| {
            Workload::toolbox(namespace, name, command).annotate(&format!("stowaway.dev/{key}"), "3s")
        };
        let pods = [
            pod,
            limited("late", "timeout", waiting),
            limited("idle", "idle-timeout", waiting),
            limited("stubborn", "timeout", &format!("{waiting} --ignore-term")),
            Workload::toolbox(namespace, "empty", "emit --bytes 0").annotate("stowaway.dev/allow-empty", "true"),
        ];
        workload::start_all(namespace, &pods).await?;
        let backup = namespace.back_up("all", json!({ "retryLimit": 0 })).await?;

        for case in &cases {
            let name = format!("pod/box/main/{}", case.name);
            let outcome = &source(&backup, &name)?.outcome;
            ended(&name, outcome, case.verdict, &[case.reason])?;
            ensure!(outcome.exit_code == case.exit_code, "{name}: exit code {:?}", outcome.exit_code);
        }
        for (name, reason) in [("late", "Timeout"), ("idle", "IdleTimeout"), ("stubborn", "Timeout")] {
            ended(name, &source(&backup, &format!("pod/{name}/main"))?.outcome, Failed, &[reason])?;
            namespace.wait_until_ended(name, CONTAINER, "emit --kind").await?;
        }
        let empty = &source(&backup, "pod/empty/main")?.outcome;
        ended("empty", empty, Succeeded, &["Completed"])?;
        ensure!(empty.bytes == Some(0), "{:?}", empty.bytes);
        namespace.wait_until_ended("box", CONTAINER, "emit --kind").await?;

        let nothing = Sequence { bytes: 0, ..SHORT };
        restic.agrees_with(
            &backup,
            &known(&[
                ("pod/box/main/reads-stdin", &SHORT),
                ("pod/box/main/chatty", &SHORT),
                ("pod/empty/main", &nothing),
            ]),
        )
    })
    .await
}

/// Waits until the Backup has Events with these types, reasons and parts of messages.
async fn wait_for_events(namespace: &Namespace, backup: &str, expected: &[(&str, &str, &str)]) -> Result<()> {
    let about = ListParams::default().fields(&format!("involvedObject.kind=Backup,involvedObject.name={backup}"));
    let events: Api<Event> = namespace.api();
    let matches = |event: &Event, (kind, reason, text): (&str, &str, &str)| {
        let is = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
        let has_text = event.message.as_ref().is_some_and(|message| message.contains(text));
        is(&event.type_, kind) && is(&event.reason, reason) && has_text
    };
    namespace
        .wait_until(&format!("Events {expected:?} of Backup {backup}"), async || {
            let events = events.list(&about).await?.items;
            let all = expected.iter().all(|wanted| events.iter().any(|event| matches(event, *wanted)));
            Ok(all.then_some(()))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_source_of_three_fails_alone_and_only_it_is_retried() -> Result<()> {
    let (first, second, third) = (
        Sequence::new(Kind::Random, 1, 300_000),
        Sequence::new(Kind::Random, 2, 300_000),
        Sequence::new(Kind::Random, 3, 300_000),
    );
    in_namespace("retry", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let counting = |name: &str, sequence: &Sequence, unless: &str| {
            let script = format!("echo run >>/scratch/runs; {unless} exec {}", sequence.command());
            Workload::toolbox(namespace, name, &json!(["sh", "-c", script]).to_string())
        };
        let fails_once = "if [ ! -e /scratch/failed ]; then : >/scratch/failed; emit --bytes 1m; exit 1; fi;";
        let pods = [counting("a", &first, ""), counting("b", &second, fails_once), counting("c", &third, "")];
        workload::start_all(namespace, &pods).await?;
        let expected = known(&[("pod/a/main", &first), ("pod/b/main", &second), ("pod/c/main", &third)]);

        let alone = namespace.back_up("alone", json!({ "retryLimit": 0 })).await?;
        ended("b", &source(&alone, "pod/b/main")?.outcome, Failed, &["CommandFailed"])?;
        for name in ["pod/a/main", "pod/c/main"] {
            ended(name, &source(&alone, name)?.outcome, Succeeded, &["Completed"])?;
        }
        let verdict = alone.status.as_ref().and_then(|status| status.verdict);
        ensure!(verdict == Some(Verdict::Incomplete), "one source of three failed, but the Backup is {verdict:?}");
        restic.agrees_with(&alone, &expected)?;
        wait_for_events(
            namespace,
            "alone",
            &[("Warning", "CommandFailed", "pod/b/main"), ("Normal", "Completed", "pod/a/main")],
        )
        .await?;

        for name in ["a", "b", "c"] {
            namespace.shell(name, "rm -f /scratch/runs /scratch/failed")?;
        }
        let retried = namespace.back_up("retried", json!({ "retryLimit": 1 })).await?;
        all_green(&retried)?;
        for (name, runs) in [("a", 1), ("b", 2), ("c", 1)] {
            let status = source(&retried, &format!("pod/{name}/main"))?;
            let counted = namespace.shell(name, "wc -l </scratch/runs")?;
            ensure!(
                status.attempt == runs && counted == runs.to_string(),
                "{name}: {} attempts, {counted} runs",
                status.attempt
            );
        }
        restic.agrees_with(&retried, &expected)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_command_a_restarted_container_and_a_deleted_pod_fail_and_the_next_run_works() -> Result<()> {
    let sequence = Sequence::new(Kind::Text, 9, 500_000);
    in_namespace("disruptions", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let names = ["killed", "restarted", "deleted"];
        let slow = names.map(|name| Workload::toolbox(namespace, name, "emit --kind random --bytes 900m --rate 1m"));
        workload::start_all(namespace, &slow).await?;
        namespace.start_backup("disrupted", json!({ "retryLimit": 0 })).await?;
        for name in names {
            namespace.wait_until_running(name, CONTAINER, "emit --kind").await?;
        }
        // Inside a container SIGKILL has no effect on its first process, but SIGTERM has if the process handles it.
        namespace.shell("killed", "pkill -KILL -x emit")?;
        process::output(&mut namespace.kubectl(&["exec", "restarted", "--", "sh", "-c", "kill -TERM 1"]))?;
        namespace.api::<Pod>().delete("deleted", &DeleteParams::default()).await?;
        let backup = namespace.backup_ended("disrupted").await?;
        let outcome = |name: &str| source(&backup, &format!("pod/{name}/main")).map(|source| &source.outcome);
        ended("killed", outcome("killed")?, Failed, &["CommandKilled"])?;
        for name in ["restarted", "deleted"] {
            ended(name, outcome(name)?, Failed, &["StreamCut", "PodGone", "CommandKilled"])?;
        }
        restic.agrees_with(&backup, &known(&[]))?;
        ensure!(restic.snapshots()?.is_empty(), "a failed run left a snapshot");

        let next = names.map(|name| Workload::dumping(namespace, name, &sequence));
        workload::start_all(namespace, &next).await?;
        let backup = namespace.back_up("next", json!({})).await?;
        all_green(&backup)?;
        restic.agrees_with(
            &backup,
            &known(&[
                ("pod/killed/main", &sequence),
                ("pod/restarted/main", &sequence),
                ("pod/deleted/main", &sequence),
            ]),
        )
    })
    .await
}
