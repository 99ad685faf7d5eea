//! Somebody sits between runner and API server and changes what the command said. The network does no such thing, and
//! TLS lets nobody do it; but what proves a stream must not need either.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use std::time::Duration;
use stowaway::model::{Proof, Verdict};
use stowaway_e2e::{
    Kind, Meddler, Meddling, Namespace, Runner, Sequence, Workload, in_namespace, runs::known, workload::CONTAINER,
};

const STREAM: Sequence = Sequence::new(Kind::Random, 41, 400_000);

/// Backs the pod up through such a man in the middle, again and again; nothing but what is whole may be green.
async fn meddle(namespace: &Namespace, pod: &Pod, name: &str, proof: Proof, changes: bool) -> Result<()> {
    let (mut runner, restic) = Runner::with_folder(namespace).await?;
    let expected = known(&[(format!("pod/{name}/{CONTAINER}").as_str(), &STREAM)]);
    let meddler = Meddler::start(namespace, Meddling::Nothing).await?;
    runner.kubeconfig = meddler.kubeconfig();
    let run = format!("{name}/untouched");
    let untouched = runner.run(runner.backup(pod, None, &run)?).await?;
    let report = untouched.report.as_ref();
    ensure!(report.is_some_and(|report| report.proof == proof), "not {proof}: {untouched:?}");
    restic.agrees_with_report(&run, report, &expected)?;
    let total = meddler.messages();
    ensure!(total > 3, "only {total} messages");

    let mut all = Vec::new();
    for at in [0, 1, total / 2, total - 2, total - 1] {
        all.extend([Meddling::Cut(at), Meddling::FakeSuccess(at), Meddling::Delay(at, Duration::from_secs(1))]);
        if changes {
            all.extend([Meddling::Lose(at), Meddling::Double(at), Meddling::Swap(at), Meddling::Change(at)]);
        }
    }
    for meddling in all {
        let meddler = Meddler::start(namespace, meddling).await?;
        runner.kubeconfig = meddler.kubeconfig();
        let run = format!("{name}/{meddling:?}").to_lowercase().replace(['(', ')', ' ', ','], "-");
        let ended = runner.run(runner.backup(pod, None, &run)?).await?;
        match ended.report.as_ref() {
            Some(report) if report.verdict == Verdict::Succeeded => {}
            // Told before a word of it that all went well: it looks like a container without a shell.
            Some(report) if meddling == Meddling::FakeSuccess(0) && report.verdict == Verdict::Unproven => {}
            Some(report) => ensure!(
                report.verdict == Verdict::Failed && !matches!(meddling, Meddling::Delay(..)),
                "{meddling:?}: {report:?}\n{}",
                ended.log
            ),
            None => anyhow::bail!("{meddling:?}: no report\n{}", ended.log),
        }
        restic.agrees_with_report(&run, ended.report.as_ref(), &expected)?;
    }
    namespace.wait_until_gone(name, CONTAINER, "emit --kind").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faked_success_and_a_late_message_are_seen_through_without_the_helper() -> Result<()> {
    in_namespace("meddled", async |namespace: &Namespace| {
        let pod = Workload::dumping(namespace, "plain", &STREAM).annotate("stowaway.dev/inject", "none");
        let pod = pod.start(namespace).await?;
        meddle(namespace, &pod, "plain", Proof::Acknowledged, false).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_doubled_moved_or_changed_message_is_seen_by_the_helper() -> Result<()> {
    in_namespace("meddled", async |namespace: &Namespace| {
        let pod = Workload::dumping(namespace, "helped", &STREAM).start(namespace).await?;
        meddle(namespace, &pod, "helped", Proof::Sealed, true).await
    })
    .await
}
