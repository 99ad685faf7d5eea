//! Compares Stowaway's runner with `kubectl exec | restic backup --stdin`: both back up the same streams from the same
//! kind of pod into the same stores, alternately. Prints a Markdown table with rate, CPU time, peak memory, and the
//! ratio of the rates. Each mode of Stowaway has a row: the container's own shell, the helper, and the sidecar, whose
//! cost in the app's pod is not in the table.
//!
//! A first table compares the transport through the API server alone, without a store: plain exec and the sealed
//! stream.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kube::ResourceExt;
use stowaway::{
    exec::{self, Control, ExecTarget, Limits, Lines},
    model::{BackendConfig, Proof, injected::HELPER_PROGRAM},
    seal::ExecMode,
    stream::{StreamItem, pieces},
};
use stowaway_e2e::{
    Kind, Namespace, Restic, Runner, S3, Sequence, Workload, in_namespace,
    measure::{Cost, measure},
    process,
    store::PASSWORD,
    workload::CONTAINER,
};
use tokio_util::sync::CancellationToken;

/// Compares Stowaway's runner with `kubectl exec | restic backup --stdin`, on the cluster of `make cluster`.
#[derive(Parser)]
struct Arguments {
    /// Sizes of the streams in MiB.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 4096])]
    sizes: Vec<u64>,
    /// Number of repetitions of each measurement; the fastest counts.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Measure only the transport through the API server, without a store.
    #[arg(long)]
    transport_only: bool,
    /// Measure only the repository in a folder, not the one on S3.
    #[arg(long)]
    volume_only: bool,
    /// Modes of injection: none (the container's own shell), helper, sidecar (with S3 only).
    #[arg(long, value_delimiter = ',', default_values_t = ["none", "helper", "sidecar"].map(String::from))]
    modes: Vec<String>,
}

const KINDS: [Kind; 3] = [Kind::Random, Kind::Text, Kind::Zero];

/// A new repository for one measurement.
enum Store {
    S3(S3),
    Folder(tempfile::TempDir),
}

impl Store {
    fn restic(&self) -> Restic {
        match self {
            Self::S3(server) => server.restic(),
            Self::Folder(folder) => Restic::folder(&folder.path().join("repository"), PASSWORD),
        }
    }

    fn backend(&self) -> BackendConfig {
        match self {
            Self::S3(server) => server.backend(server.from_here),
            Self::Folder(folder) => {
                BackendConfig::Folder { path: folder.path().join("repository").display().to_string() }
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    in_namespace("bench", async |namespace: &Namespace| {
        for megabytes in &arguments.sizes {
            transport(namespace, *megabytes, arguments.rounds).await?;
        }
        if arguments.transport_only {
            return Ok(());
        }
        let server = S3::shared(namespace).await?;
        println!(
            "| stream | store | mode | Stowaway MiB/s | CPU s | peak MiB | kubectl and restic MiB/s | CPU s | peak MiB | ratio |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for megabytes in &arguments.sizes {
            for kind in KINDS {
                for on_s3 in [true, false] {
                    if on_s3 && arguments.volume_only {
                        continue;
                    }
                    let sequence = Sequence::new(kind, 1, megabytes << 20);
                    for mode in &arguments.modes {
                        if on_s3 || mode != "sidecar" {
                            row(namespace, on_s3.then_some(&server), sequence, mode, arguments.rounds).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    })
    .await
}

/// Compares plain exec, which proves nothing, with the helper's sealed stream. The same client reads both, and discards
/// the data.
async fn transport(namespace: &Namespace, megabytes: u64, rounds: u64) -> Result<()> {
    println!("| stream without a store | plain exec MiB/s | sealed MiB/s | ratio |\n|---|---|---|---|");
    for kind in KINDS {
        let sequence = Sequence::new(kind, 1, megabytes << 20);
        let pod = Workload::dumping(namespace, "transport", &sequence).start(namespace).await?;
        let target =
            ExecTarget { namespace: namespace.name.clone(), pod: pod.name_any(), container: CONTAINER.to_owned() };
        let (mut plain, mut sealed) = (Duration::MAX, Duration::MAX);
        for _ in 0..rounds.max(1) {
            plain = plain.min(discard(namespace, &target, sequence, false).await?);
            sealed = sealed.min(discard(namespace, &target, sequence, true).await?);
        }
        process::run(&mut namespace.kubectl(&["delete", "pod", "transport", "--wait"]))?;
        println!(
            "| {kind} {megabytes} MiB | {:.0} | {:.0} | {:.2} |",
            rate(sequence, plain),
            rate(sequence, sealed),
            plain.as_secs_f64() / sealed.as_secs_f64()
        );
    }
    println!();
    Ok(())
}

async fn discard(namespace: &Namespace, target: &ExecTarget, sequence: Sequence, is_sealed: bool) -> Result<Duration> {
    let client = &namespace.cluster.client;
    let command: Vec<String> = sequence.command().split(' ').map(str::to_owned).collect();
    let control = Control {
        limits: Limits::default(),
        cancel: CancellationToken::new(),
        lines: Lines::new().0,
        progress: std::sync::Arc::default(),
    };
    let (sender, mut receiver) = pieces();
    let discarding = tokio::spawn(async move {
        let mut end = None;
        while let Some(piece) = receiver.recv().await {
            if let StreamItem::End(received) = piece {
                end = Some(received);
            }
        }
        end
    });
    let started = Instant::now();
    if is_sealed {
        let mode = ExecMode::Helper(HELPER_PROGRAM.to_owned());
        exec::dump(client, target, &mode, &command, &control, &sender).await?;
    } else {
        exec::dump_plain(client, target, &command, &control, &sender).await?;
    }
    drop(sender);
    let end = discarding.await?.context("the stream had no end")?;
    let elapsed = started.elapsed();
    let proof = if is_sealed { Proof::Sealed } else { Proof::None };
    ensure!((end.bytes, end.proof) == (sequence.bytes, proof), "the stream ended with {end:?}");
    Ok(elapsed)
}

async fn row(namespace: &Namespace, server: Option<&S3>, sequence: Sequence, mode: &str, rounds: u64) -> Result<()> {
    let (mut stowaway, mut restic): (Option<Cost>, Option<Cost>) = (None, None);
    for round in 0..rounds.max(1) {
        for is_stowaway in [round % 2 == 0, round % 2 != 0] {
            let store = match server {
                Some(server) => Store::S3(server.below(&format!("bench-{is_stowaway}"))),
                // On a disk, because the folder for temporary files may be in memory.
                None => Store::Folder(tempfile::tempdir_in("/var/tmp")?),
            };
            let cost = if is_stowaway {
                run_stowaway(namespace, &store, sequence, mode).await?
            } else {
                run_restic(namespace, &store, sequence).await?
            };
            let best = if is_stowaway { &mut stowaway } else { &mut restic };
            if best.is_none_or(|best| cost.elapsed < best.elapsed) {
                *best = Some(cost);
            }
            if let Store::S3(server) = &store {
                server.delete(&namespace.cluster);
            }
        }
    }
    let (stowaway, restic) = (stowaway.context("not measured")?, restic.context("not measured")?);
    let store = if server.is_some() { "S3" } else { "volume" };
    println!(
        "| {} {} MiB | {store} | {mode} | {} | {} | {:.2} |",
        sequence.kind,
        sequence.bytes >> 20,
        cells(sequence, stowaway),
        cells(sequence, restic),
        restic.elapsed.as_secs_f64() / stowaway.elapsed.as_secs_f64()
    );
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "the figures are rounded")]
fn cells(sequence: Sequence, cost: Cost) -> String {
    let peak = cost.peak_memory as f64 / f64::from(1 << 20);
    format!("{:.0} | {:.1} | {peak:.0}", rate(sequence, cost.elapsed), cost.cpu.as_secs_f64())
}

/// The rate in MiB/s.
#[allow(clippy::cast_precision_loss, reason = "the figures are rounded")]
fn rate(sequence: Sequence, elapsed: Duration) -> f64 {
    sequence.bytes as f64 / f64::from(1 << 20) / elapsed.as_secs_f64()
}

async fn run_stowaway(namespace: &Namespace, store: &Store, sequence: Sequence, mode: &str) -> Result<Cost> {
    let runner = Runner::new(namespace, store.backend())?;
    runner.create_repository().await?;
    if let (Store::S3(server), "sidecar") = (store, mode) {
        server.secrets(namespace).await?;
        process::run(&mut namespace.kubectl(&[
            "delete",
            "repositories.stowaway.dev",
            "main",
            "--ignore-not-found",
            "--wait",
        ]))?;
        namespace.apply_object(server.repository_object("main", "password", true)).await?;
        namespace.wait_until_repository_ready("main").await?;
    }
    let pod =
        Workload::dumping(namespace, mode, &sequence).annotate("stowaway.dev/inject", mode).start(namespace).await?;
    let started = Instant::now();
    let run = runner.start_process(runner.backup(&pod, None, "bench")?)?;
    let cost = measure(started, vec![run.0])
        .with_context(|| std::fs::read_to_string(run.1.path().join("log")).unwrap_or_default());
    // Deletes the pod, because it was injected for this repository, and the next measurement uses another one.
    process::run(&mut namespace.kubectl(&["delete", "pod", mode, "--wait"]))?;
    cost
}

async fn run_restic(namespace: &Namespace, store: &Store, sequence: Sequence) -> Result<Cost> {
    let pod = Workload::dumping(namespace, "box", &sequence).annotate("stowaway.dev/inject", "none");
    let pod = pod.start(namespace).await?.name_any();
    let restic = store.restic();
    process::run(&mut restic.restic("restic", &["init"]))?;
    let started = Instant::now();
    let command = sequence.command();
    let mut exec = namespace.kubectl(&["exec", &pod, "--"]);
    let mut exec: Child = exec.args(command.split(' ')).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let stdout = exec.stdout.take().context("kubectl has no stdout")?;
    let backup =
        restic.restic("restic", &["backup", "--quiet", "--stdin", "--stdin-filename", "dump"]).stdin(stdout).spawn()?;
    measure(started, vec![exec, backup])
}
