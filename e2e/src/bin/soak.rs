//! The long truth tests: runs whose reader stalls on a busy machine, whose connection is cut at random offsets, whose
//! runner is killed at random times. It counts what may never happen, and exits 1 if any of it did.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use stowaway_e2e::{
    Kind, Namespace, Runner, Sequence, Workload, in_namespace,
    load::Load,
    proxy::{Fault, Proxy, Way},
    restic::Judgement,
    workload::CONTAINER,
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
    /// How many go on at once.
    #[arg(long, default_value_t = 3)]
    parallel: usize,
    /// Where the random numbers start; printed, so that a run can be repeated.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const STALLED: Sequence = Sequence::new(Kind::Random, 31, 22_900_000);
const CUT: Sequence = Sequence::new(Kind::Random, 32, 3_000_000);
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

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    println!("seed {}", arguments.seed);
    let mut is_true = false;
    in_namespace("soak", async |namespace: &Namespace| {
        let pod = Workload::new(namespace, "box", "toolbox")
            .named_command("stalled", &STALLED.command())
            .named_command("cut", &CUT.command())
            .named_command("killed", &KILLED.command())
            .start(namespace)
            .await?;
        let stalls = stalls(namespace, &pod, &arguments).await?.tell("stalls");
        let cuts = cuts(namespace, &pod, &arguments).await?.tell("cuts");
        let kills = kills(namespace, &pod, &arguments).await?.tell("kills");
        namespace.wait_until_gone("box", CONTAINER, "emit --kind").await?;
        is_true = stalls && cuts && kills;
        Ok(())
    })
    .await?;
    Ok(if is_true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

async fn stalls(namespace: &Namespace, pod: &Pod, arguments: &Arguments) -> Result<Tally> {
    let (runner, restic) = Runner::with_folder(namespace).await?;
    let digest = STALLED.digest();
    let load = Load::on_every_core();
    let mut tally = Tally::default();
    let runs = stream::iter(0..arguments.stalls).map(async |number| {
        let offset = random(arguments.seed, number, STALLED.bytes);
        let fault = Fault::StallAfter(Way::FromServer, offset, Duration::from_secs(5));
        let (own, _proxy) = behind(namespace, &runner, fault).await?;
        let name = format!("stall/{number}/at/{offset}");
        let ended = own.run(own.backup(pod, Some("stalled"), &name)?).await?;
        let judgement = restic.judge(&name, ended.report.as_ref(), &digest)?;
        anyhow::Ok((name, judgement, ended.log))
    });
    let mut runs = Box::pin(runs.buffer_unordered(arguments.parallel));
    while let Some((name, judgement, log)) = runs.try_next().await? {
        tally.count(&name, judgement, true, &log);
    }
    drop(load);
    restic.check("restic", true)?;
    Ok(tally)
}

async fn cuts(namespace: &Namespace, pod: &Pod, arguments: &Arguments) -> Result<Tally> {
    let (runner, restic) = Runner::with_folder(namespace).await?;
    let digest = CUT.digest();
    let (own, proxy) = behind(namespace, &runner, Fault::None).await?;
    own.run(own.backup(pod, Some("cut"), "uncut")?).await?;
    let total = proxy.passed(Way::FromServer);
    let mut tally = Tally::default();
    let runs = stream::iter(0..arguments.cuts).map(async |number| {
        // One in three within the last bytes: that is where a lie would hide.
        let last = 100_000.min(total);
        let offset = match number % 3 {
            0 => total - random(arguments.seed, number, last),
            _ => random(arguments.seed, number, total),
        };
        let (own, _proxy) = behind(namespace, &runner, Fault::CutAfter(Way::FromServer, offset)).await?;
        let name = format!("cut/{number}/at/{offset}/of/{total}");
        let ended = own.run(own.backup(pod, Some("cut"), &name)?).await?;
        anyhow::Ok((name.clone(), restic.judge(&name, ended.report.as_ref(), &digest)?, ended.log))
    });
    let mut runs = Box::pin(runs.buffer_unordered(arguments.parallel));
    while let Some((name, judgement, log)) = runs.try_next().await? {
        tally.count(&name, judgement, false, &log);
    }
    restic.check("restic", true)?;
    Ok(tally)
}

/// Each killed run is tried again under the same name, as the controller would: that must end green, with one snapshot.
async fn kills(namespace: &Namespace, pod: &Pod, arguments: &Arguments) -> Result<Tally> {
    let (runner, restic) = Runner::with_folder(namespace).await?;
    let digest = KILLED.digest();
    let started = Instant::now();
    runner.run(runner.backup(pod, Some("killed"), "whole")?).await?;
    let longest = u64::try_from(started.elapsed().as_millis())? * 11 / 10;
    let mut tally = Tally::default();
    for number in 0..arguments.kills {
        let after = Duration::from_millis(random(arguments.seed, number, longest));
        let name = format!("kill/{number}/after/{}ms", after.as_millis());
        killed(&runner, pod, &name, after, if number % 2 == 0 { "KILL" } else { "TERM" }).await?;
        let retry = runner.run(runner.backup(pod, Some("killed"), &name)?).await?;
        tally.count(&name, restic.judge(&name, retry.report.as_ref(), &digest)?, true, &retry.log);
    }
    restic.check("restic", true)?;
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
