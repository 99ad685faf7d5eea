//! Restores that cannot be executed report the reason and change nothing.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use stowaway::model::Verdict;
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, in_namespace,
    runs::{all_green, ended, ensure_contains},
};

const DUMP: Sequence = Sequence::new(Kind::Random, 12, 3_000_001);

/// A Restore: its name, its spec, the possible reasons of its failure, its exit code, and parts of its message.
type Case = (&'static str, Value, &'static [&'static str], Option<i32>, &'static [&'static str]);

#[tokio::test(flavor = "multi_thread")]
async fn restores_that_cannot_be_executed_report_the_reason_and_change_nothing() -> Result<()> {
    in_namespace("restore", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        server.repository(namespace).await?;
        let mut empty = server.repository_object("empty", "password", false);
        empty["spec"]["s3"]["prefix"] = json!(format!("{}/empty", namespace.name));
        namespace.apply_object(empty).await?;
        Workload::dumping(namespace, "box", &DUMP)
            .annotate("stowaway.dev/restorecommand", &format!("{} --check", DUMP.command()))
            .start(namespace)
            .await?;
        all_green(&namespace.back_up("one", json!({})).await?)?;
        namespace.wait_until_repository_ready("empty").await?;

        let from = json!({ "source": "pod/box/main" });
        let touch = json!(["sh", "-c", "cat >/scratch/touched"]);
        let exits = |code: i32| json!(["sh", "-c", format!("cat >/dev/null; echo sorry >&2; exit {code}")]);
        let cases: Vec<Case> = vec![
            (
                "unknown-source",
                json!({ "from": { "source": "pod/other/main" }, "to": { "pod": "box", "command": touch } }),
                &["SnapshotNotFound"],
                None,
                &["pod/other/main", "pod/box/main"],
            ),
            (
                "no-target",
                json!({ "from": { "source": "pod/other/main" } }),
                &["InvalidRequest"],
                None,
                &["pod/other/main", "pod/box/main"],
            ),
            (
                "unknown-id",
                json!({ "from": { "source": "pod/box/main", "snapshot": "00000000" }, "to": { "pod": "box", "command": touch } }),
                &["SnapshotNotFound"],
                None,
                &["00000000"],
            ),
            (
                "wrong-pod",
                json!({ "from": from, "to": { "pod": "elsewhere", "command": touch } }),
                &["InvalidRequest", "PodGone"],
                None,
                &["elsewhere"],
            ),
            (
                "wrong-container",
                json!({ "from": from, "to": { "pod": "box", "container": "sidecar", "command": touch } }),
                &["InvalidRequest"],
                None,
                &["sidecar", "main"],
            ),
            (
                "empty-repository",
                json!({ "from": from, "to": { "pod": "box", "command": touch }, "repositoryRef": { "name": "empty" } }),
                &["SnapshotNotFound"],
                None,
                &["pod/box/main"],
            ),
            ("failing", json!({ "from": from, "to": { "command": exits(9) } }), &["CommandFailed"], Some(9), &["9"]),
            (
                "not-found",
                json!({ "from": from, "to": { "command": ["no-such-program"] } }),
                &["CommandNotFound"],
                Some(127),
                &[],
            ),
            (
                "early",
                json!({ "from": from, "to": { "command": ["head", "-c", "10"] } }),
                &["InputNotConsumed"],
                None,
                &[],
            ),
        ];
        try_join_all(cases.iter().map(async |(name, spec, reasons, exit_code, texts)| {
            let status = namespace.restore(name, spec.clone()).await?.status.unwrap_or_default();
            ended(name, &status.outcome, Verdict::Failed, reasons)?;
            if exit_code.is_some() {
                ensure!(status.outcome.exit_code == *exit_code, "{name}: exit code {:?}", status.outcome.exit_code);
            }
            ensure_contains(name, &status.outcome.message, texts)
        }))
        .await?;
        ensure!(namespace.shell("box", "test ! -e /scratch/touched && echo untouched")? == "untouched", "something was changed");

        // The annotated restore command reads exactly the bytes of the dump.
        let whole = namespace.restore("whole", json!({ "from": from })).await?.status.unwrap_or_default();
        ended("whole", &whole.outcome, Verdict::Succeeded, &["Completed"])?;
        ensure!(whole.outcome.bytes == Some(DUMP.bytes), "{:?}", whole.outcome.bytes);
        Ok(())
    })
    .await
}
