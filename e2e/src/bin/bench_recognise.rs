//! Measures the recognition of dump formats and their ends: the rate for each format, and its ratio to the rate of
//! SHA-256 over the same bytes, in the same process and on one core. Prints a Markdown table. It needs no cluster.

use std::{
    fmt::Write,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Parser;
use sha2::{Digest, Sha256};
use stowaway::recognise::Recogniser;
use stowaway_e2e::process;

/// Measures the recognition of dump formats, without a cluster.
#[derive(Parser)]
struct Arguments {
    /// Size of the uncompressed dump in MiB.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Number of repetitions of each measurement; the fastest counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// The size of the chunks that the runner passes to the recogniser.
const CHUNK: usize = 64 * 1024;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("| format | MiB | MiB/s | MiB/s of SHA-256 | ratio |");
    println!("|---|---|---|---|---|");
    for (begin, end) in [
        ("--\n-- PostgreSQL database dump\n--\n", "-- PostgreSQL database dump complete\n"),
        ("not a known format\n", ""),
    ] {
        let dump = text(begin, end, arguments.size * 1024 * 1024)?;
        measure(&dump, arguments.rounds)?;
        if end.is_empty() {
            continue;
        }
        for program in ["gzip", "zstd", "lz4", "bzip2", "xz"] {
            measure(&compressed(program, &dump)?, arguments.rounds)?;
        }
        let mut file = dump;
        // The last of them is the header of a member, whose name has one byte.
        for begin in [
            &b"REDIS0011"[..],
            b"SQLite format 3\0",
            b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n",
            b"PK\x03\x04\x14\0\x08\0\x08\0................\x01\0\0\0",
        ] {
            file[..begin.len()].copy_from_slice(begin);
            measure(&file, arguments.rounds)?;
        }
        // The first page of a bbolt database: its magic, its version and the page size.
        file[..4096].fill(0);
        file[16..28].copy_from_slice(&[0xed, 0xda, 0x0c, 0xed, 2, 0, 0, 0, 0, 16, 0, 0]);
        measure(&file, arguments.rounds)?;
    }
    Ok(())
}

/// Lines in the format of PostgreSQL's `COPY`, between `begin` and `end`.
fn text(begin: &str, end: &str, size: usize) -> Result<Vec<u8>> {
    let mut text = begin.to_owned();
    let mut number = 1_u64;
    while text.len() < size {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        writeln!(text, "{}\tship {}\t2026-05-04 03:02:01\t{number:x}", number >> 40, number >> 50)?;
    }
    Ok((text + end).into_bytes())
}

fn compressed(program: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), bytes)?;
    let mut command = Command::new(program);
    command.arg("-1").stdin(Stdio::from(file.reopen()?));
    process::run(&mut command).with_context(|| format!("failed to run {program}"))
}

fn measure(bytes: &[u8], rounds: u32) -> Result<()> {
    let (mut recognition, mut hash) = (f64::MAX, f64::MAX);
    let mut format = String::new();
    for _ in 0..rounds {
        let started = Instant::now();
        let mut recogniser = Recogniser::default();
        bytes.chunks(CHUNK).for_each(|chunk| recogniser.push(chunk));
        let found = recogniser.finish();
        recognition = recognition.min(started.elapsed().as_secs_f64());
        format = found.map_or_else(|| "unknown".to_owned(), |found| found.format);
        let started = Instant::now();
        let mut sha = Sha256::new();
        bytes.chunks(CHUNK).for_each(|chunk| sha.update(chunk));
        std::hint::black_box(sha.finalize());
        hash = hash.min(started.elapsed().as_secs_f64());
    }
    let size = u32::try_from(bytes.len()).map(f64::from).context("at most 4 GiB are measured")? / 1024.0 / 1024.0;
    println!("| {format} | {size:.0} | {:.0} | {:.0} | {:.2} |", size / recognition, size / hash, hash / recognition);
    Ok(())
}
