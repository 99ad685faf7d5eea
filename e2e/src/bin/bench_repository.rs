//! Our program beside restic on the same folders, in turns, each in a repository of its own on this machine's disk: first
//! backup, second one of the same, check of all data, restore, and the prune after a third of the files has changed; then a
//! repository of many snapshots. Prints a Markdown table with time, CPU time, peak memory, and the ratios of time and memory.
//!
//! It needs no cluster. A folder is backed up by a child of this program that does what the pod of a run does.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use stowaway::{
    model::{BackendConfig, Connection, Proof, Secret, SnapshotIdentity, mounts},
    repository::{self, Access, LockHolder, LockRules, Patience, PruneRules, Repository, StoreRules},
    runner::{VolumeRun, backup_volume},
    stream::{End, Piece, pieces},
};
use stowaway_e2e::{
    measure::{Cost, measure},
    process,
    store::PASSWORD,
};
use tokio_util::sync::CancellationToken;

/// The last two are as large as Stowaway promises to handle within the memory of a run.
const FOLDERS: [&str; 5] = ["20000x20000", "235298x100", "2x1073741824", "2000000x20", "1000000x20/1000000"];

/// Compares our repositories with restic's, without a cluster.
#[derive(Parser)]
struct Arguments {
    /// Folders: so many files, each of so many bytes, 100 files to a folder or as many as stand behind a slash.
    #[arg(long, value_delimiter = ',', default_values_t = FOLDERS.map(String::from))]
    folders: Vec<String>,
    /// How many snapshots the last repository has; 0 leaves it out.
    #[arg(long, default_value_t = 10_000)]
    snapshots: u32,
    /// How often each is measured; the fastest counts.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    #[command(subcommand)]
    child: Option<Job>,
}

/// What a child of this program does.
#[derive(Subcommand)]
enum Job {
    /// Stores a folder, as the pod of a run does.
    #[command(hide = true)]
    Backup { repository: PathBuf, folder: PathBuf },
    /// Makes a repository of so many snapshots.
    #[command(hide = true)]
    Fill { repository: PathBuf, snapshots: u32 },
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.child {
        Some(Job::Backup { repository, folder }) => return back_up(repository, folder).await,
        Some(Job::Fill { repository, snapshots }) => return fill(repository, *snapshots).await,
        None => {}
    }
    println!("| what | ours s | CPU s | peak MiB | restic s | CPU s | peak MiB | time ratio | memory ratio |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for folder in &arguments.folders {
        let (files, rest) =
            folder.split_once('x').context("write folders as FILESxBYTES or FILESxBYTES/FILES-A-FOLDER")?;
        let (bytes, together) = rest.split_once('/').unwrap_or((rest, "100"));
        of_folder(files.parse()?, bytes.parse()?, together.parse()?, arguments.rounds)?;
    }
    if arguments.snapshots > 0 {
        of_snapshots(arguments.snapshots)?;
    }
    Ok(())
}

fn access(repository: &Path) -> Access {
    Access {
        backend: BackendConfig::Folder { path: repository.display().to_string() },
        password: Secret::new(PASSWORD.to_owned()),
        untrimmed_password: None,
        connection: Connection::default(),
        credentials: std::collections::BTreeMap::new(),
        holder: LockHolder { host: "bench".to_owned(), user: "bench".to_owned() },
        locks: LockRules::default(),
        patience: Patience::default(),
        expected_ids: Vec::new(),
    }
}

fn identity(tags: &[String]) -> SnapshotIdentity {
    let tags = [&["source=pvc/claim".to_owned()], tags].concat();
    SnapshotIdentity { host: "bench".to_owned(), path: "/data/claim".to_owned(), tags }
}

async fn opened(repository: &Path) -> Result<Repository> {
    Ok(repository::open_or_create(access(repository), CancellationToken::new()).await?)
}

async fn back_up(repository: &Path, folder: &Path) -> Result<()> {
    let repository = opened(repository).await?;
    let run = VolumeRun { identity: identity(&[]), exclude: Vec::new(), accept_shrunken: false, timeout: None };
    let report = backup_volume(&repository, run, folder, Arc::default()).await;
    repository.close().await;
    ensure!(report.verdict.is_green(), "{}", report.message);
    Ok(())
}

async fn fill(repository: &Path, snapshots: u32) -> Result<()> {
    opened(repository).await?.close().await;
    let repository = repository::open_exclusively(access(repository), CancellationToken::new()).await?;
    let first = Timestamp::now() - jiff::SignedDuration::from_mins(i64::from(snapshots));
    for number in 0..snapshots {
        let (sender, receiver) = pieces();
        let content = format!("the content of number {number}");
        let bytes = content.len() as u64;
        sender.send(Piece::Data(content.into())).await?;
        sender.send(Piece::End(End { proof: Proof::Sealed, bytes })).await?;
        let time = first + jiff::SignedDuration::from_mins(i64::from(number));
        let rules = StoreRules { allow_empty: false, time, device: None };
        repository.store_stream(&identity(&[format!("run={number}")]), &rules, receiver, Arc::default()).await?;
        // As by schedule: else each snapshot reads the indexes of all before it.
        if number % 500 == 499 {
            repository.prune(&PruneRules::default()).await?;
        }
    }
    repository.close().await;
    Ok(())
}

/// Whose turn it is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Side {
    Ours,
    Restic,
}

/// One side's repository and cache.
struct Place {
    side: Side,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(side: Side) -> Result<Self> {
        // On a disk: the folder for temporary files may be in memory.
        Ok(Self { side, folder: tempfile::tempdir_in("/var/tmp")? })
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .envs(mounts::ALLOCATOR)
            .env("RESTIC_REPOSITORY", self.repository())
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_CACHE_DIR", self.folder.path().join("cache"))
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// The verb with these arguments, as this side has it.
    fn verb(&self, arguments: &[&str]) -> Result<Command> {
        let program = match self.side {
            Side::Ours => process::stowaway()?,
            Side::Restic => process::program("restic"),
        };
        let mut command = self.command(program);
        command.args(arguments);
        Ok(command)
    }

    fn backup(&self, folder: &Path) -> Result<Command> {
        let Side::Ours = self.side else {
            let mut command = self.verb(&["backup", "--host", "bench", "--tag", "source=pvc/claim", "."])?;
            command.current_dir(folder);
            return Ok(command);
        };
        let mut command = self.command(std::env::current_exe()?);
        command.envs(mounts::STORING_ALLOCATOR);
        command.arg("backup").arg(self.repository()).arg(folder);
        Ok(command)
    }

    fn restore(&self, target: &Path) -> Result<Command> {
        let target = target.to_str().context("no name")?;
        match self.side {
            Side::Ours => self.verb(&["restore", "--source", "pvc/claim", "--target", target]),
            Side::Restic => self.verb(&["restore", "latest", "--target", target]),
        }
    }

    /// Ids of all snapshots, oldest first.
    fn snapshots(&self) -> Result<Vec<String>> {
        let listed = process::run(
            self.command(process::program("restic")).args(["snapshots", "--json"]).stdout(Stdio::piped()),
        )?;
        let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed)?;
        Ok(listed.iter().filter_map(|one| Some(one["id"].as_str()?.to_owned())).collect())
    }
}

fn cost(mut command: Command) -> Result<Cost> {
    let started = Instant::now();
    let told = format!("{command:?}");
    measure(started, vec![command.spawn()?]).context(told)
}

/// What each side needed for each step.
#[derive(Default)]
struct Rows(Vec<(String, Option<Cost>, Option<Cost>)>);

impl Rows {
    /// Keeps the fastest.
    fn add(&mut self, what: &str, side: Side, cost: Cost) {
        let index = self.0.iter().position(|row| row.0 == what).unwrap_or_else(|| {
            self.0.push((what.to_owned(), None, None));
            self.0.len() - 1
        });
        let (_, ours, restic) = &mut self.0[index];
        let best = if side == Side::Ours { ours } else { restic };
        if best.is_none_or(|best| cost.elapsed < best.elapsed) {
            *best = Some(cost);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn print(&self) -> Result<()> {
        let cells = |cost: &Cost| {
            let peak = cost.peak_memory as f64 / f64::from(1 << 20);
            format!("{:.1} | {:.1} | {peak:.0}", cost.elapsed.as_secs_f64(), cost.cpu.as_secs_f64())
        };
        for (what, ours, restic) in &self.0 {
            let (Some(ours), Some(restic)) = (ours, restic) else { bail!("{what} was not measured") };
            println!(
                "| {what} | {} | {} | {:.2} | {:.2} |",
                cells(ours),
                cells(restic),
                restic.elapsed.as_secs_f64() / ours.elapsed.as_secs_f64(),
                ours.peak_memory as f64 / restic.peak_memory as f64
            );
        }
        Ok(())
    }
}

fn of_folder(files: u64, bytes: u64, together: u64, rounds: u32) -> Result<()> {
    let source = tempfile::tempdir_in("/var/tmp")?;
    let mut rows = Rows::default();
    for round in 0..rounds.max(1) {
        write_files(source.path(), files, bytes, together, |_| 0)?;
        let mut places = [Place::new(Side::Ours)?, Place::new(Side::Restic)?];
        if round % 2 != 0 {
            places.reverse();
        }
        for place in &places {
            if place.side == Side::Restic {
                process::run(&mut place.verb(&["init"])?)?;
            } else {
                // So that neither side's first backup makes the repository.
                process::run(place.command(std::env::current_exe()?).arg("fill").arg(place.repository()).arg("0"))?;
            }
        }
        let name = |step: &str| format!("{files} files of {bytes} B, {together} to a folder: {step}");
        let mut each = |step: &str, command: &dyn Fn(&Place) -> Result<Command>| -> Result<()> {
            for place in &places {
                rows.add(&name(step), place.side, cost(command(place)?)?);
            }
            Ok(())
        };
        each("backup", &|place| place.backup(source.path()))?;
        each("the same again", &|place| place.backup(source.path()))?;
        each("check of all data", &|place| place.verb(&["check", "--read-data"]))?;
        each("restore", &|place| place.restore(&place.folder.path().join("restored")))?;
        for place in &places {
            ensure!(count(&place.folder.path().join("restored"))? == files, "not all files were restored");
            fs::remove_dir_all(place.folder.path().join("restored"))?;
        }
        write_files(source.path(), files, bytes, together, |number| u64::from(number % 3 == 0))?;
        each("backup, a third changed", &|place| place.backup(source.path()))?;
        for place in &places {
            let mut ids = place.snapshots()?;
            ids.pop();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            process::run(&mut place.verb(&[&["forget"], &ids[..]].concat())?)?;
        }
        each("prune", &|place| place.verb(&["prune"]))?;
        for place in &places {
            process::run(place.command(process::program("restic")).args(["check", "--read-data"]))?;
        }
    }
    rows.print()
}

fn of_snapshots(snapshots: u32) -> Result<()> {
    let places = [Place::new(Side::Ours)?, Place::new(Side::Restic)?];
    let [ours, restic] = &places;
    process::run(ours.command(std::env::current_exe()?).arg("fill").arg(ours.repository()).arg(snapshots.to_string()))?;
    process::run(Command::new("cp").arg("-r").arg(ours.repository()).arg(restic.repository()))?;
    let mut rows = Rows::default();
    for (step, arguments) in [
        ("list", &["snapshots"][..]),
        ("check", &["check"]),
        ("forget all but 100", &["forget", "--keep-last", "100"]),
        ("prune", &["prune"]),
    ] {
        for place in &places {
            rows.add(&format!("{snapshots} snapshots: {step}"), place.side, cost(place.verb(arguments)?)?);
        }
    }
    for place in &places {
        ensure!(place.snapshots()?.len() == 100, "not 100 snapshots are left");
    }
    rows.print()
}

/// Files that do not compress, so many to a folder; each is written again only if its version is another.
fn write_files(folder: &Path, files: u64, bytes: u64, together: u64, version: impl Fn(u64) -> u64) -> Result<()> {
    for number in 0..files {
        let below = folder.join((number / together).to_string());
        let path = below.join(number.to_string());
        let seed = number + version(number) * files;
        if version(number) == 0 && path.exists() && fs::metadata(&path)?.len() == bytes && number % 3 != 0 {
            continue;
        }
        fs::create_dir_all(&below)?;
        let mut file = std::io::BufWriter::new(fs::File::create(&path)?);
        let mut left = bytes;
        let mut block = Sha256::digest(seed.to_le_bytes());
        while left > 0 {
            let length = left.min(32);
            std::io::Write::write_all(&mut file, &block[..usize::try_from(length)?])?;
            left -= length;
            block = Sha256::digest(block);
        }
        std::io::Write::flush(&mut file)?;
    }
    Ok(())
}

/// How many files there are.
fn count(folder: &Path) -> Result<u64> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}
