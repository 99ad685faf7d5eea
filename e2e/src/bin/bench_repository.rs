//! Compares Stowaway with restic on the same folders, alternately, each with a repository of its own on the disk of
//! this machine. The steps are a first backup, a second one without changes, a check of all data, a restore, a backup
//! after a third of the files has changed, and a prune. Then it compares both on a repository with many snapshots.
//! Prints a Markdown table with time, CPU time, peak memory, and the ratios of time and memory.
//!
//! It needs no cluster: a child of this program backs up a folder as the pod of a run does.

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
    model::{BackendConfig, Connection, DamagedPacks, Proof, Secret, SnapshotIdentity, mounts},
    repository::{self, LockHolder, LockRules, OpenOptions, PruneRules, Repository, StoreRules, Timeouts},
    runner::{VolumeRun, backup_volume},
    stream::{End, StreamItem, pieces},
};
use stowaway_e2e::{
    measure::{Cost, measure},
    process,
    store::PASSWORD,
};
use tokio_util::sync::CancellationToken;

/// The last two are the largest folders that Stowaway promises to handle within the memory limit of a run.
const FOLDERS: [&str; 5] = ["20000x20000", "235298x100", "2x1073741824", "2000000x20", "1000000x20/1000000"];

/// Compares Stowaway's repository operations with restic's, without a cluster.
#[derive(Parser)]
struct Arguments {
    /// Folders, as `FILESxBYTES` or `FILESxBYTES/FILES-PER-FOLDER` (100 by default).
    #[arg(long, value_delimiter = ',', default_values_t = FOLDERS.map(String::from))]
    folders: Vec<String>,
    /// Number of snapshots of the last repository; 0 skips it.
    #[arg(long, default_value_t = 10_000)]
    snapshots: u32,
    /// Number of repetitions of each measurement; the fastest counts.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    #[command(subcommand)]
    child: Option<Job>,
}

/// The task of a child of this program.
#[derive(Subcommand)]
enum Job {
    /// Backs up a folder as the pod of a run does.
    #[command(hide = true)]
    Backup { repository: PathBuf, folder: PathBuf },
    /// Creates a repository with this number of snapshots.
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
    println!("| step | Stowaway s | CPU s | peak MiB | restic s | CPU s | peak MiB | time ratio | memory ratio |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for folder in &arguments.folders {
        let (files, rest) =
            folder.split_once('x').context("write folders as FILESxBYTES or FILESxBYTES/FILES-PER-FOLDER")?;
        let (bytes, per_folder) = rest.split_once('/').unwrap_or((rest, "100"));
        compare_folder(files.parse()?, bytes.parse()?, per_folder.parse()?, arguments.rounds)?;
    }
    if arguments.snapshots > 0 {
        compare_snapshots(arguments.snapshots)?;
    }
    Ok(())
}

fn access(repository: &Path) -> OpenOptions {
    OpenOptions {
        backend: BackendConfig::Folder { path: repository.display().to_string() },
        password: Secret::new(PASSWORD.to_owned()),
        untrimmed_password: None,
        connection: Connection::default(),
        credentials: std::collections::BTreeMap::new(),
        holder: LockHolder { host: "bench".to_owned(), user: "bench".to_owned() },
        locks: LockRules::default(),
        timeouts: Timeouts::default(),
        expected_ids: Vec::new(),
        damaged_packs: DamagedPacks::default(),
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
        let content = format!("the content of snapshot {number}");
        let bytes = content.len() as u64;
        sender.send(StreamItem::Data(content.into())).await?;
        sender.send(StreamItem::End(End { proof: Proof::Sealed, bytes })).await?;
        let time = first + jiff::SignedDuration::from_mins(i64::from(number));
        let rules = StoreRules { allow_empty: false, accept_unproven: false, time, device: None };
        repository.store_stream(&identity(&[format!("run={number}")]), &rules, receiver, Arc::default()).await?;
        // Prunes from time to time, as a schedule does, because each snapshot otherwise reads the indexes of all before
        // it.
        if number % 500 == 499 {
            repository.prune(&PruneRules::default()).await?;
        }
    }
    repository.close().await;
    Ok(())
}

/// One of the programs that are compared.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Tool {
    Stowaway,
    Restic,
}

/// The folder with the repository and the cache of one tool.
struct Workspace {
    tool: Tool,
    folder: tempfile::TempDir,
}

impl Workspace {
    fn new(tool: Tool) -> Result<Self> {
        // On a disk, because the folder for temporary files may be in memory.
        Ok(Self { tool, folder: tempfile::tempdir_in("/var/tmp")? })
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

    /// The tool with these arguments.
    fn tool(&self, arguments: &[&str]) -> Result<Command> {
        let program = match self.tool {
            Tool::Stowaway => process::stowaway()?,
            Tool::Restic => process::program("restic"),
        };
        let mut command = self.command(program);
        command.args(arguments);
        Ok(command)
    }

    fn backup(&self, folder: &Path) -> Result<Command> {
        let Tool::Stowaway = self.tool else {
            let mut command = self.tool(&["backup", "--host", "bench", "--tag", "source=pvc/claim", "."])?;
            command.current_dir(folder);
            return Ok(command);
        };
        let mut command = self.command(std::env::current_exe()?);
        command.envs(mounts::STORING_ALLOCATOR);
        command.arg("backup").arg(self.repository()).arg(folder);
        Ok(command)
    }

    fn restore(&self, target: &Path) -> Result<Command> {
        let target = target.to_str().context("the path is not UTF-8")?;
        match self.tool {
            Tool::Stowaway => self.tool(&["restore", "--source", "pvc/claim", "--target", target]),
            Tool::Restic => self.tool(&["restore", "latest", "--target", target]),
        }
    }

    /// The ids of all snapshots, oldest first.
    fn snapshots(&self) -> Result<Vec<String>> {
        let listed = process::run(
            self.command(process::program("restic")).args(["snapshots", "--json"]).stdout(Stdio::piped()),
        )?;
        let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed)?;
        Ok(listed.iter().filter_map(|snapshot| Some(snapshot["id"].as_str()?.to_owned())).collect())
    }
}

fn cost(mut command: Command) -> Result<Cost> {
    let started = Instant::now();
    let description = format!("{command:?}");
    measure(started, vec![command.spawn()?]).context(description)
}

/// The cost of each step for Stowaway and for restic.
#[derive(Default)]
struct Rows(Vec<(String, Option<Cost>, Option<Cost>)>);

impl Rows {
    /// Adds a measurement, of which the fastest per step and tool is kept.
    fn add(&mut self, step: &str, tool: Tool, cost: Cost) {
        let index = self.0.iter().position(|row| row.0 == step).unwrap_or_else(|| {
            self.0.push((step.to_owned(), None, None));
            self.0.len() - 1
        });
        let (_, stowaway, restic) = &mut self.0[index];
        let best = if tool == Tool::Stowaway { stowaway } else { restic };
        if best.is_none_or(|best| cost.elapsed < best.elapsed) {
            *best = Some(cost);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "the figures are rounded")]
    fn print(&self) -> Result<()> {
        let cells = |cost: &Cost| {
            let peak = cost.peak_memory as f64 / f64::from(1 << 20);
            format!("{:.1} | {:.1} | {peak:.0}", cost.elapsed.as_secs_f64(), cost.cpu.as_secs_f64())
        };
        for (step, stowaway, restic) in &self.0 {
            let (Some(stowaway), Some(restic)) = (stowaway, restic) else { bail!("{step} was not measured") };
            println!(
                "| {step} | {} | {} | {:.2} | {:.2} |",
                cells(stowaway),
                cells(restic),
                restic.elapsed.as_secs_f64() / stowaway.elapsed.as_secs_f64(),
                stowaway.peak_memory as f64 / restic.peak_memory as f64
            );
        }
        Ok(())
    }
}

fn compare_folder(files: u64, bytes: u64, per_folder: u64, rounds: u32) -> Result<()> {
    let source = tempfile::tempdir_in("/var/tmp")?;
    let mut rows = Rows::default();
    for round in 0..rounds.max(1) {
        write_files(source.path(), files, bytes, per_folder, |_| 0)?;
        let mut workspaces = [Workspace::new(Tool::Stowaway)?, Workspace::new(Tool::Restic)?];
        if round % 2 != 0 {
            workspaces.reverse();
        }
        for workspace in &workspaces {
            if workspace.tool == Tool::Restic {
                process::run(&mut workspace.tool(&["init"])?)?;
            } else {
                // Creates the repository now, so that it is not part of the cost of the first backup.
                let program = std::env::current_exe()?;
                process::run(workspace.command(program).arg("fill").arg(workspace.repository()).arg("0"))?;
            }
        }
        let name = |step: &str| format!("{files} files of {bytes} B, {per_folder} per folder: {step}");
        let mut each = |step: &str, command: &dyn Fn(&Workspace) -> Result<Command>| -> Result<()> {
            for workspace in &workspaces {
                rows.add(&name(step), workspace.tool, cost(command(workspace)?)?);
            }
            Ok(())
        };
        each("backup", &|workspace| workspace.backup(source.path()))?;
        each("backup without changes", &|workspace| workspace.backup(source.path()))?;
        each("check of all data", &|workspace| workspace.tool(&["check", "--read-data"]))?;
        each("restore", &|workspace| workspace.restore(&workspace.folder.path().join("restored")))?;
        for workspace in &workspaces {
            ensure!(count(&workspace.folder.path().join("restored"))? == files, "not all files were restored");
            fs::remove_dir_all(workspace.folder.path().join("restored"))?;
        }
        write_files(source.path(), files, bytes, per_folder, |number| u64::from(number % 3 == 0))?;
        each("backup, a third changed", &|workspace| workspace.backup(source.path()))?;
        for workspace in &workspaces {
            let mut ids = workspace.snapshots()?;
            ids.pop();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            process::run(&mut workspace.tool(&[&["forget"], &ids[..]].concat())?)?;
        }
        each("prune", &|workspace| workspace.tool(&["prune"]))?;
        for workspace in &workspaces {
            process::run(workspace.command(process::program("restic")).args(["check", "--read-data"]))?;
        }
    }
    rows.print()
}

fn compare_snapshots(snapshots: u32) -> Result<()> {
    let workspaces = [Workspace::new(Tool::Stowaway)?, Workspace::new(Tool::Restic)?];
    let [stowaway, restic] = &workspaces;
    let program = std::env::current_exe()?;
    process::run(stowaway.command(program).arg("fill").arg(stowaway.repository()).arg(snapshots.to_string()))?;
    process::run(Command::new("cp").arg("-r").arg(stowaway.repository()).arg(restic.repository()))?;
    let mut rows = Rows::default();
    for (step, arguments) in [
        ("list", &["snapshots"][..]),
        ("check", &["check"]),
        ("forget all but 100", &["forget", "--keep-last", "100"]),
        ("prune", &["prune"]),
    ] {
        for workspace in &workspaces {
            rows.add(&format!("{snapshots} snapshots: {step}"), workspace.tool, cost(workspace.tool(arguments)?)?);
        }
    }
    for workspace in &workspaces {
        ensure!(workspace.snapshots()?.len() == 100, "the repository does not have 100 snapshots");
    }
    rows.print()
}

/// Writes incompressible files, `per_folder` in each folder. Files that exist are rewritten only where they may have
/// another version.
fn write_files(folder: &Path, files: u64, bytes: u64, per_folder: u64, version: impl Fn(u64) -> u64) -> Result<()> {
    for number in 0..files {
        let below = folder.join((number / per_folder).to_string());
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

/// The number of files in the folder and all folders below it.
fn count(folder: &Path) -> Result<u64> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}
