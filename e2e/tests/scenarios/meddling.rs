//! A man in the middle between runner and API server changes the output of the command. A network does not do that, and
//! TLS prevents it, but the proof of a stream must depend on neither.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use std::time::Duration;
use stowaway::model::{Proof, Verdict};
use stowaway_e2e::{
    Kind, MitmProxy, Namespace, Runner, Sequence, Tampering, Workload, in_namespace, runs::known, workload::CONTAINER,
};

const STREAM: Sequence = Sequence::new(Kind::Random, 41, 400_000);

/// Backs the pod up through a man in the middle, once for each kind of tampering. Only a complete stream may be green.
async fn tamper(namespace: &Namespace, pod: &Pod, name: &str, proof: Proof, changes: bool) -> Result<()> {
    let (mut runner, restic) = Runner::with_folder(namespace).await?;
    let expected = known(&[(format!("pod/{name}/{CONTAINER}").as_str(), &STREAM)]);
    let proxy = MitmProxy::start(namespace, Tampering::Nothing).await?;
    runner.kubeconfig = proxy.kubeconfig();
    let run = format!("{name}/untampered");
    let untampered = runner.run(runner.backup(pod, None, &run)?).await?;
    let report = untampered.report.as_ref();
    ensure!(report.is_some_and(|report| report.proof == proof), "not {proof}: {untampered:?}");
    restic.agrees_with_report(&run, report, &expected)?;
    let total = proxy.messages();
    ensure!(total > 3, "only {total} messages");

    let mut all = Vec::new();
    for at in [0, 1, total / 2, total - 2, total - 1] {
        all.extend([Tampering::Cut(at), Tampering::FakeSuccess(at), Tampering::Delay(at, Duration::from_secs(1))]);
        if changes {
            all.extend([Tampering::Lose(at), Tampering::Double(at), Tampering::Swap(at), Tampering::Change(at)]);
        }
    }
    for tampering in all {
        let proxy = MitmProxy::start(namespace, tampering).await?;
        runner.kubeconfig = proxy.kubeconfig();
        let run = format!("{name}/{tampering:?}").to_lowercase().replace(['(', ')', ' ', ','], "-");
        let ended = runner.run(runner.backup(pod, None, &run)?).await?;
        match ended.report.as_ref() {
            Some(report) if report.verdict == Verdict::Succeeded => {}
            // A success before the first message of the handshake looks like a container without a shell.
            Some(report) if tampering == Tampering::FakeSuccess(0) && report.verdict == Verdict::Unproven => {}
            Some(report) => ensure!(
                report.verdict == Verdict::Failed && !matches!(tampering, Tampering::Delay(..)),
                "{tampering:?}: {report:?}\n{}",
                ended.log
            ),
            None => anyhow::bail!("{tampering:?}: no report\n{}", ended.log),
        }
        restic.agrees_with_report(&run, ended.report.as_ref(), &expected)?;
    }
    namespace.wait_until_ended(name, CONTAINER, "emit --kind").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faked_success_and_a_late_message_cause_no_wrong_verdict_without_the_helper() -> Result<()> {
    in_namespace("tampered", async |namespace: &Namespace| {
        let pod = Workload::dumping(namespace, "plain", &STREAM).annotate("stowaway.dev/inject", "none");
        let pod = pod.start(namespace).await?;
        tamper(namespace, &pod, "plain", Proof::Acknowledged, false).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_doubled_moved_or_changed_message_is_detected_by_the_helper() -> Result<()> {
    in_namespace("tampered", async |namespace: &Namespace| {
        let pod = Workload::dumping(namespace, "helped", &STREAM).start(namespace).await?;
        tamper(namespace, &pod, "helped", Proof::Sealed, true).await
    })
    .await
}
