//! A soak test of the verdicts. Its runs have a reader that stalls on a busy machine, a connection that is cut at a
//! random offset, a runner that is killed at a random time, or a proxy that changes messages. The runs use the
//! container's own shell, the helper and the sidecar in turn; those with changed messages use the helper only. At the
//! end the test restarts the webhook repeatedly while pods are created. It counts wrong reports and failures that must
//! not happen, and exits with 1 if there are any.

use std::{
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use stowaway_e2e::{
    Kind, MitmProxy, Namespace, Restic, Runner, S3, Sequence, Tampering, Workload,
    creates::Creates,
    in_namespace,
    load::Load,
    namespace::POLL_INTERVAL,
    process,
    proxy::{Direction, Fault, Proxy},
    restic::Judgement,
    runner::Ended,
    system::WEBHOOK,
    workload::{self, CONTAINER},
};

/// Soak test of the verdicts, on the cluster of `make cluster`.
#[derive(Parser)]
struct Arguments {
    /// Number of runs whose reader stalls for 5 seconds while all cores are busy.
    #[arg(long, default_value_t = 500)]
    stalls: u64,
    /// Number of runs whose connection is cut.
    #[arg(long, default_value_t = 1000)]
    cuts: u64,
    /// Number of runs whose runner is killed.
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Number of runs with a proxy before the API server that changes the command's output.
    #[arg(long, default_value_t = 500)]
    tamperings: u64,
    /// Number of rolling updates of the webhook while pods are created.
    #[arg(long, default_value_t = 10)]
    rollouts: u64,
    /// Number of runs in parallel.
    #[arg(long, default_value_t = 3)]
    parallel: usize,
    /// Seed of the random numbers; printed, so that the test can be repeated.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const STALLED: Sequence = Sequence::new(Kind::Random, 31, 22_900_000);
const CUT: Sequence = Sequence::new(Kind::Random, 32, 3_000_000);
const TAMPERED: Sequence = Sequence::new(Kind::Random, 34, 1_000_000);
const KILLED: Sequence = Sequence::new(Kind::Random, 33, 12_000_000);

/// The results of a series of runs.
#[derive(Default)]
struct Tally {
    runs: u64,
    green: u64,
    /// Contradictions between a report and the repository: green but not visible or incomplete, or failed but visible.
    wrong_reports: Vec<String>,
    /// Runs that failed although they had to be green.
    false_failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, name: &str, judgement: Judgement, must_be_green: bool, log: &str) {
        self.runs += 1;
        self.green += u64::from(judgement.is_green);
        self.wrong_reports.extend(judgement.wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
        if must_be_green && !judgement.is_green {
            let last = log.lines().last().unwrap_or_default();
            self.false_failures.push(format!("{name}: {last}"));
        }
    }

    /// Prints the results, and returns whether there was nothing wrong.
    fn print(&self, series: &str) -> bool {
        let (wrong_reports, false_failures) = (self.wrong_reports.len(), self.false_failures.len());
        println!(
            "{series}: {} runs, {} green, {wrong_reports} wrong reports, {false_failures} false failures",
            self.runs, self.green
        );
        for line in self.wrong_reports.iter().chain(&self.false_failures) {
            println!("  {line}");
        }
        wrong_reports + false_failures == 0
    }
}

/// A pod, and the repository of its backups.
struct Case {
    pod: Pod,
    runner: Runner,
    restic: Restic,
}

/// One case each for shell, helper and sidecar. The sidecar's repository is on S3, because its pod must reach it.
async fn cases(namespace: &Namespace) -> Result<Vec<Case>> {
    let server = S3::shared(namespace).await?;
    let reachable = server.repository(namespace).await?;
    let workload = |inject: &str| {
        Workload::new(namespace, inject, "toolbox")
            .annotate("stowaway.dev/inject", inject)
            .named_command("stalled", &STALLED.command())
            .named_command("cut", &CUT.command())
            .named_command("killed", &KILLED.command())
            .named_command("tampered", &TAMPERED.command())
    };
    let pods = workload::start_all(namespace, &["none", "helper", "sidecar"].map(workload)).await?;
    let mut cases = Vec::new();
    for pod in pods {
        let (runner, restic) = if pod.name_any() == "sidecar" {
            (Runner::new(namespace, server.backend(server.from_here))?, reachable.clone())
        } else {
            Runner::with_folder(namespace).await?
        };
        cases.push(Case { pod, runner, restic });
    }
    Ok(cases)
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    println!("seed {}", arguments.seed);
    let mut has_passed = false;
    in_namespace("soak", async |namespace: &Namespace| {
        let cases = cases(namespace).await?;
        let stalls = stalls(namespace, &cases, &arguments).await?.print("stalls");
        let cuts = cuts(namespace, &cases, &arguments).await?.print("cuts");
        let kills = kills(&cases, &arguments).await?.print("kills");
        let tamperings = tamperings(namespace, &cases[1], &arguments).await?.print("tamperings");
        let rollouts = rollouts(namespace, arguments.rollouts).await?;
        for case in &cases {
            namespace.wait_until_ended(&case.pod.name_any(), CONTAINER, "emit --kind").await?;
            case.restic.check("restic", true)?;
        }
        has_passed = stalls && cuts && kills && tamperings && rollouts;
        Ok(())
    })
    .await?;
    Ok(if has_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The case of the run with that number.
fn case_of(cases: &[Case], number: u64) -> &Case {
    &cases[usize::try_from(number).unwrap_or_default() % cases.len()]
}

/// A pseudo-random number below `below`, which depends only on `seed` and `number`.
fn random(seed: u64, number: u64, below: u64) -> u64 {
    let content = Sequence::new(Kind::Random, seed.wrapping_mul(1_000_003).wrapping_add(number + 1), 32).content();
    let value = u64::from_le_bytes(content[24..].try_into().unwrap_or_default());
    value % below.max(1)
}

async fn behind_proxy(namespace: &Namespace, runner: &Runner, fault: Fault) -> Result<(Runner, Proxy)> {
    let proxy = Proxy::start(namespace.cluster.api_server().await?, fault).await?;
    let mut own = Runner::new(namespace, runner.backend.clone())?;
    own.connect_through(namespace, proxy.address())?;
    Ok((own, proxy))
}

async fn stalls(namespace: &Namespace, cases: &[Case], arguments: &Arguments) -> Result<Tally> {
    let digest = STALLED.digest();
    let load = Load::on_every_core();
    let mut tally = Tally::default();
    let runs = stream::iter(0..arguments.stalls).map(async |number| {
        let case = case_of(cases, number);
        let offset = random(arguments.seed, number, STALLED.bytes);
        let fault = Fault::StallAfter(Direction::FromServer, offset, Duration::from_secs(5));
        let (own, _proxy) = behind_proxy(namespace, &case.runner, fault).await?;
        let name = format!("stall/{}/{number}/at/{offset}", case.pod.name_any());
        let ended = own.run(own.backup(&case.pod, Some("stalled"), &name)?).await?;
        let judgement = case.restic.judge(&name, ended.report.as_ref(), &digest)?;
        anyhow::Ok((name, judgement, ended.log))
    });
    let mut runs = Box::pin(runs.buffer_unordered(arguments.parallel));
    while let Some((name, judgement, log)) = runs.try_next().await? {
        tally.count(&name, judgement, true, &log);
    }
    drop(load);
    Ok(tally)
}

async fn cuts(namespace: &Namespace, cases: &[Case], arguments: &Arguments) -> Result<Tally> {
    let digest = CUT.digest();
    let mut totals = Vec::new();
    for case in cases {
        let (own, proxy) = behind_proxy(namespace, &case.runner, Fault::None).await?;
        own.run(own.backup(&case.pod, Some("cut"), "uncut")?).await?;
        totals.push(proxy.passed(Direction::FromServer));
    }
    let mut tally = Tally::default();
    let runs = stream::iter(0..arguments.cuts).map(async |number| {
        let case = case_of(cases, number);
        let total = totals[usize::try_from(number)? % totals.len()];
        // Every third cut is within the last bytes, where a wrong verdict is most likely.
        let last = 100_000.min(total);
        let offset = match number / cases.len() as u64 % 3 {
            0 => total - random(arguments.seed, number, last),
            _ => random(arguments.seed, number, total),
        };
        let fault = Fault::CutAfter(Direction::FromServer, offset);
        let (own, proxy) = behind_proxy(namespace, &case.runner, fault).await?;
        let name = format!("cut/{}/{number}/at/{offset}/of/{total}", case.pod.name_any());
        // A run in a sidecar continues after the cut, and its Job reconnects as soon as the proxy admits it.
        let survives = case.pod.name_any() == "sidecar";
        let running = own.run(own.backup(&case.pod, Some("cut"), &name)?);
        let ended = if survives { reconnect_after_cut(running, &proxy, offset).await? } else { running.await? };
        let judgement = case.restic.judge(&name, ended.report.as_ref(), &digest)?;
        // A run that was cut before it started in the sidecar fails; in a cluster the controller retries it.
        let survives = survives && ended.log.contains("begins in the pod's sidecar");
        anyhow::Ok((name.clone(), judgement, survives, ended.log))
    });
    let mut runs = Box::pin(runs.buffer_unordered(arguments.parallel));
    while let Some((name, judgement, must_be_green, log)) = runs.try_next().await? {
        tally.count(&name, judgement, must_be_green, &log);
    }
    Ok(tally)
}

/// Admits new connections once the proxy has cut the first one.
async fn reconnect_after_cut(
    running: impl Future<Output = Result<Ended>>,
    proxy: &Proxy,
    offset: u64,
) -> Result<Ended> {
    let cut = async {
        while proxy.passed(Direction::FromServer) < offset {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let mut running = pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        () = cut => proxy.set_fault(Fault::None),
    }
    running.await
}

/// Kills runs, and retries each under the same name, as the controller does. The retry must be green, with one
/// snapshot.
async fn kills(cases: &[Case], arguments: &Arguments) -> Result<Tally> {
    let digest = KILLED.digest();
    let mut longest = Vec::new();
    for case in cases {
        let started = Instant::now();
        case.runner.run(case.runner.backup(&case.pod, Some("killed"), "whole")?).await?;
        longest.push(u64::try_from(started.elapsed().as_millis())? * 11 / 10);
    }
    let mut tally = Tally::default();
    for number in 0..arguments.kills {
        let Case { pod, runner, restic } = case_of(cases, number);
        let longest = longest[usize::try_from(number)? % longest.len()];
        let after = Duration::from_millis(random(arguments.seed, number, longest));
        let name = format!("kill/{}/{number}/after/{}ms", pod.name_any(), after.as_millis());
        killed(runner, pod, &name, after, if number % 2 == 0 { "KILL" } else { "TERM" }).await?;
        let retry = runner.run(runner.backup(pod, Some("killed"), &name)?).await?;
        tally.count(&name, restic.judge(&name, retry.report.as_ref(), &digest)?, true, &retry.log);
    }
    Ok(tally)
}

async fn killed(runner: &Runner, pod: &Pod, name: &str, after: Duration, signal: &str) -> Result<()> {
    let run = runner.start(runner.backup(pod, Some("killed"), name)?)?;
    tokio::time::sleep(after).await;
    // Fails if the run has already ended.
    let _ignored = run.signal(signal);
    run.ended().await?;
    Ok(())
}

/// Changes messages of runs by the helper only, because the shell protocol relies on TLS to detect all of these
/// changes.
async fn tamperings(namespace: &Namespace, helped: &Case, arguments: &Arguments) -> Result<Tally> {
    let digest = TAMPERED.digest();
    let through = async |tampering| {
        let proxy = MitmProxy::start(namespace, tampering).await?;
        let mut own = Runner::new(namespace, helped.runner.backend.clone())?;
        own.kubeconfig = proxy.kubeconfig();
        anyhow::Ok((own, proxy))
    };
    let (own, proxy) = through(Tampering::Nothing).await?;
    own.run(own.backup(&helped.pod, Some("tampered"), "untampered")?).await?;
    let total = proxy.messages();
    let mut tally = Tally::default();
    let runs = stream::iter(0..arguments.tamperings).map(async |number| {
        let at = random(arguments.seed, number, total);
        let tampering = match number % 7 {
            0 => Tampering::Cut(at),
            1 => Tampering::FakeSuccess(at),
            2 => Tampering::Lose(at),
            3 => Tampering::Double(at),
            4 => Tampering::Swap(at),
            5 => Tampering::Change(at),
            _ => Tampering::Delay(at, Duration::from_secs(1)),
        };
        let (own, _proxy) = through(tampering).await?;
        let name = format!("tampered/{number}/at/{at}/of/{total}");
        let ended = own.run(own.backup(&helped.pod, Some("tampered"), &name)?).await?;
        let judgement = helped.restic.judge(&name, ended.report.as_ref(), &digest)?;
        anyhow::Ok((format!("{name} {tampering:?}"), judgement, ended.log, matches!(tampering, Tampering::Delay(..))))
    });
    let mut runs = Box::pin(runs.buffer_unordered(arguments.parallel));
    while let Some((name, judgement, log, must_be_green)) = runs.try_next().await? {
        tally.count(&name, judgement, must_be_green, &log);
    }
    Ok(tally)
}

/// Restarts the webhook while pods are created. Returns whether every pod was created and injected.
async fn rollouts(namespace: &Namespace, count: u64) -> Result<bool> {
    let load = Creates::start(namespace);
    for _ in 0..count {
        load.wait_for_more().await;
        let webhook = format!("deployment/{WEBHOOK}");
        process::run(&mut namespace.system().kubectl(&["rollout", "restart", &webhook]))?;
        namespace.rolled_out(WEBHOOK)?;
    }
    load.wait_for_more().await;
    let (created, wrong) = load.stop().await?;
    println!("rolling updates: {count}, {created} pods created meanwhile, {} failed or not injected", wrong.len());
    for line in &wrong {
        println!("  {line}");
    }
    Ok(wrong.is_empty())
}
