//! The long truth tests: runs whose reader stalls on a busy machine, whose connection is cut at random offsets, whose
//! runner is killed at random times, whose messages somebody changes. Each by the container's own shell, by the helper and by
//! the sidecar in turn. At last the webhook is rolled again and again while pods are created. It counts what may never
//! happen, and exits 1 if any of it did.

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
    Kind, Meddler, Meddling, Namespace, Restic, Runner, S3, Sequence, Workload,
    creates::Creates,
    in_namespace,
    load::Load,
    namespace::GLANCE,
    process,
    proxy::{Fault, Proxy, Way},
    restic::Judgement,
    runner::Ended,
    system::WEBHOOK,
    workload::{self, CONTAINER},
};

/// Long truth tests on the cluster that `make cluster` made.
#[derive(Parser)]
struct Arguments {
    /// Runs whose reader stalls for 5 seconds while all cores are busy.
    #[arg(long, default_value_t = 500)]
    stalls: u64,
    /// Runs whose connection is cut.
    #[arg(long, default_value_t = 1000)]
    cuts: u64,
    /// Runs whose runner is killed.
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Runs with somebody between runner and API server who changes what the command says.
    #[arg(long, default_value_t = 500)]
    meddlings: u64,
    /// Rolling updates of the webhook under a steady flow of pods that are created.
    #[arg(long, default_value_t = 10)]
    rollings: u64,
    /// How many go on at once.
    #[arg(long, default_value_t = 3)]
    parallel: usize,
    /// Where the random numbers start; printed, so that a run can be repeated.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const STALLED: Sequence = Sequence::new(Kind::Random, 31, 22_900_000);
const CUT: Sequence = Sequence::new(Kind::Random, 32, 3_000_000);
const MEDDLED: Sequence = Sequence::new(Kind::Random, 34, 1_000_000);
const KILLED: Sequence = Sequence::new(Kind::Random, 33, 12_000_000);

/// What came out of a series.
#[derive(Default)]
struct Tally {
    runs: u64,
    green: u64,
    /// Green, and not visible or not whole; or failed, and visible.
    lies: Vec<String>,
    /// Not green although it should have been.
    false_failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, name: &str, judgement: Judgement, must_be_green: bool, log: &str) {
        self.runs += 1;
        self.green += u64::from(judgement.is_green);
        self.lies.extend(judgement.wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
        if must_be_green && !judgement.is_green {
            let last = log.lines().last().unwrap_or_default();
            self.false_failures.push(format!("{name}: {last}"));
        }
    }

    fn tell(&self, what: &str) -> bool {
        let (lies, false_failures) = (self.lies.len(), self.false_failures.len());
        println!(
            "{what}: {} runs, {} green, {lies} false greens, {false_failures} false failures",
            self.runs, self.green
        );
        for line in self.lies.iter().chain(&self.false_failures) {
            println!("  {line}");
        }
        lies + false_failures == 0
    }
}

/// A pod, and a repository for what comes out of it.
struct Case {
    pod: Pod,
    runner: Runner,
    restic: Restic,
}

/// By shell, by helper, by sidecar. Only the last one's repository has to be where its pod can reach it.
async fn cases(namespace: &Namespace) -> Result<Vec<Case>> {
    let server = S3::shared(namespace).await?;
    let reachable = server.repository(namespace).await?;
    let workload = |inject: &str| {
        Workload::new(namespace, inject, "toolbox")
            .annotate("stowaway.dev/inject", inject)
            .named_command("stalled", &STALLED.command())
            .named_command("cut", &CUT.command())
            .named_command("killed", &KILLED.command())
            .named_command("meddled", &MEDDLED.command())
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
    let mut is_true = false;
    in_namespace("soak", async |namespace: &Namespace| {
        let cases = cases(namespace).await?;
        let stalls = stalls(namespace, &cases, &arguments).await?.tell("stalls");
        let cuts = cuts(namespace, &cases, &arguments).await?.tell("cuts");
        let kills = kills(&cases, &arguments).await?.tell("kills");
        let meddlings = meddlings(namespace, &cases[1], &arguments).await?.tell("meddlings");
        let is_rolled = rollings(namespace, arguments.rollings).await?;
        for case in &cases {
            namespace.wait_until_gone(&case.pod.name_any(), CONTAINER, "emit --kind").await?;
            case.restic.check("restic", true)?;
        }
        is_true = stalls && cuts && kills && meddlings && is_rolled;
        Ok(())
    })
    .await?;
    Ok(if is_true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The case whose turn it is.
fn turn(cases: &[Case], number: u64) -> &Case {
    &cases[usize::try_from(number).unwrap_or_default() % cases.len()]
}

/// Numbers that look random, the same for the same seed.
fn random(seed: u64, number: u64, below: u64) -> u64 {
    let word = Sequence::new(Kind::Random, seed.wrapping_mul(1_000_003).wrapping_add(number + 1), 32).content();
    let word = u64::from_le_bytes(word[24..].try_into().unwrap_or_default());
    word % below.max(1)
}

async fn behind(namespace: &Namespace, runner: &Runner, fault: Fault) -> Result<(Runner, Proxy)> {
    let proxy = Proxy::start(namespace.cluster.api_server().await?, fault).await?;
    let mut own = Runner::new(namespace, runner.backend.clone())?;
    own.go_through(namespace, proxy.address())?;
    Ok((own, proxy))
}

async fn stalls(namespace: &Namespace, cases: &[Case], arguments: &Arguments) -> Result<Tally> {
    let digest = STALLED.digest();
    let load = Load::on_every_core();
    let mut tally = Tally::default();
    let runs = stream::iter(0..arguments.stalls).map(async |number| {
        let case = turn(cases, number);
        let offset = random(arguments.seed, number, STALLED.bytes);
        let fault = Fault::StallAfter(Way::FromServer, offset, Duration::from_secs(5));
        let (own, _proxy) = behind(namespace, &case.runner, fault).await?;
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
        let (own, proxy) = behind(namespace, &case.runner, Fault::None).await?;
        own.run(own.backup(&case.pod, Some("cut"), "uncut")?).await?;
        totals.push(proxy.passed(Way::FromServer));
    }
    let mut tally = Tally::default();
    let runs = stream::iter(0..arguments.cuts).map(async |number| {
        let case = turn(cases, number);
        let total = totals[usize::try_from(number)? % totals.len()];
        // One in three within the last bytes: that is where a lie would hide.
        let last = 100_000.min(total);
        let offset = match number / cases.len() as u64 % 3 {
            0 => total - random(arguments.seed, number, last),
            _ => random(arguments.seed, number, total),
        };
        let (own, proxy) = behind(namespace, &case.runner, Fault::CutAfter(Way::FromServer, offset)).await?;
        let name = format!("cut/{}/{number}/at/{offset}/of/{total}", case.pod.name_any());
        // A run in a sidecar goes on, so the Job comes back as soon as it can.
        let survives = case.pod.name_any() == "sidecar";
        let running = own.run(own.backup(&case.pod, Some("cut"), &name)?);
        let ended = if survives { healing(running, &proxy, offset).await? } else { running.await? };
        let judgement = case.restic.judge(&name, ended.report.as_ref(), &digest)?;
        // Before that it is the controller that tries again.
        let survives = survives && ended.log.contains("begins in the pod's sidecar");
        anyhow::Ok((name.clone(), judgement, survives, ended.log))
    });
    let mut runs = Box::pin(runs.buffer_unordered(arguments.parallel));
    while let Some((name, judgement, must_be_green, log)) = runs.try_next().await? {
        tally.count(&name, judgement, must_be_green, &log);
    }
    Ok(tally)
}

/// Lets new connections through once the cut took place.
async fn healing(running: impl Future<Output = Result<Ended>>, proxy: &Proxy, offset: u64) -> Result<Ended> {
    let cut = async {
        while proxy.passed(Way::FromServer) < offset {
            tokio::time::sleep(GLANCE).await;
        }
    };
    let mut running = pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        () = cut => proxy.set_fault(Fault::None),
    }
    running.await
}

/// Each killed run is tried again under the same name, as the controller would: that must end green, with one snapshot.
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
        let Case { pod, runner, restic } = turn(cases, number);
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
    // One that has ended by itself needs no signal.
    let _ended = run.signal(signal);
    run.ended().await?;
    Ok(())
}

/// Only the helper's protocol claims to see all of this: the shell form has TLS for it.
async fn meddlings(namespace: &Namespace, helped: &Case, arguments: &Arguments) -> Result<Tally> {
    let digest = MEDDLED.digest();
    let through = async |meddling| {
        let meddler = Meddler::start(namespace, meddling).await?;
        let mut own = Runner::new(namespace, helped.runner.backend.clone())?;
        own.kubeconfig = meddler.kubeconfig();
        anyhow::Ok((own, meddler))
    };
    let (own, meddler) = through(Meddling::Nothing).await?;
    own.run(own.backup(&helped.pod, Some("meddled"), "unmeddled")?).await?;
    let total = meddler.messages();
    let mut tally = Tally::default();
    let runs = stream::iter(0..arguments.meddlings).map(async |number| {
        let at = random(arguments.seed, number, total);
        let meddling = match number % 7 {
            0 => Meddling::Cut(at),
            1 => Meddling::FakeSuccess(at),
            2 => Meddling::Lose(at),
            3 => Meddling::Double(at),
            4 => Meddling::Swap(at),
            5 => Meddling::Change(at),
            _ => Meddling::Delay(at, Duration::from_secs(1)),
        };
        let (own, _meddler) = through(meddling).await?;
        let name = format!("meddled/{number}/at/{at}/of/{total}");
        let ended = own.run(own.backup(&helped.pod, Some("meddled"), &name)?).await?;
        let judgement = helped.restic.judge(&name, ended.report.as_ref(), &digest)?;
        anyhow::Ok((format!("{name} {meddling:?}"), judgement, ended.log, matches!(meddling, Meddling::Delay(..))))
    });
    let mut runs = Box::pin(runs.buffer_unordered(arguments.parallel));
    while let Some((name, judgement, log, must_be_green)) = runs.try_next().await? {
        tally.count(&name, judgement, must_be_green, &log);
    }
    Ok(tally)
}

/// No create may fail, and none may be without injection.
async fn rollings(namespace: &Namespace, count: u64) -> Result<bool> {
    let flow = Creates::start(namespace);
    for _ in 0..count {
        flow.some_more().await;
        let webhook = format!("deployment/{WEBHOOK}");
        process::run(&mut namespace.system().kubectl(&["rollout", "restart", &webhook]))?;
        namespace.rolled_out(WEBHOOK)?;
    }
    flow.some_more().await;
    let (created, wrong) = flow.stop().await?;
    println!(
        "rolling updates: {count}, {created} pods created under them, {} failed or without injection",
        wrong.len()
    );
    for line in &wrong {
        println!("  {line}");
    }
    Ok(wrong.is_empty())
}
