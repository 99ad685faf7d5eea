//! Kills `stowaway` at random times while it backs up, restores, checks and prunes. After each kill `restic check`
//! finds no errors, every visible snapshot is complete, the same command succeeds at once, and no lock remains. Exits
//! with 1 if any of this does not hold. It needs no cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use stowaway_e2e::{
    Kind, Restic, Sequence,
    process::{self, output, run},
};

/// Soak test of killed repository operations.
#[derive(Parser)]
struct Arguments {
    /// Number of kills of each of the four operations.
    #[arg(long, default_value_t = 50)]
    kills: u64,
    /// Seed of the random numbers; printed, so that the test can be repeated.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const PASSWORD: &str = "soak";
/// The content of the stream that is backed up.
const DUMP: Sequence = Sequence::new(Kind::Random, 7, 30_000_000);
/// The number of files in the folder that is backed up.
const FILES: u64 = 400;
const FILE_BYTES: u64 = 50_000;

/// An operation that is killed.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Backup,
    Restore,
    Check,
    Prune,
}

/// The folder with the repository, the data to back up and the restored data.
struct Workspace {
    folder: tempfile::TempDir,
}

impl Workspace {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn restic(&self) -> Restic {
        Restic::folder(&self.path("repository"), PASSWORD)
    }

    fn stowaway(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.restic().command(process::stowaway()?);
        command
            .env_remove("KUBECONFIG")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(command)
    }

    /// The command of an operation.
    fn command(&self, operation: Operation) -> Result<Command> {
        let (dump, restored) = (self.path("dump"), self.path("restored"));
        let text = |path: &Path| path.to_str().map(str::to_owned).context("the path is not UTF-8");
        match operation {
            Operation::Backup => self.stowaway(&[
                "backup",
                "--source",
                "job/soak/dump",
                "--stdin-filename",
                "dump",
                "--",
                "cat",
                &text(&dump)?,
            ]),
            Operation::Restore => self.stowaway(&["restore", "--source", "pvc/claim", "--target", &text(&restored)?]),
            Operation::Check => self.stowaway(&["check", "--read-data"]),
            Operation::Prune => self.stowaway(&["prune", "--max-unused", "0"]),
        }
    }

    /// Creates a repository with snapshots of a folder, of which a prune removes and repacks much data.
    fn new() -> Result<Self> {
        let workspace = Self { folder: tempfile::tempdir_in("/var/tmp")? };
        fs::write(workspace.path("dump"), DUMP.content())?;
        run(&mut workspace.restic().restic("restic", &["init"]))?;
        for version in 0..3 {
            for number in 0..FILES {
                let seed = if number % 3 == 0 { number } else { number + FILES * version };
                let path = workspace.path("source").join((number % 10).to_string());
                fs::create_dir_all(&path)?;
                fs::write(path.join(number.to_string()), Sequence::new(Kind::Random, seed, FILE_BYTES).content())?;
            }
            let mut backup =
                workspace.restic().restic("restic", &["backup", "--host", "soak", "--tag", "source=pvc/claim", "."]);
            run(backup.current_dir(workspace.path("source")))?;
        }
        run(&mut workspace.restic().restic("restic", &["forget", "--keep-last", "1", "--group-by", ""]))?;
        Ok(workspace)
    }

    /// Checks the repository and the restored files after the killed operation was repeated.
    fn check_result(&self, operation: Operation) -> Result<()> {
        let restic = self.restic();
        restic.check("restic", true)?;
        let locks = restic.locks()?;
        ensure!(locks == 0, "{locks} locks remain");
        for snapshot in restic.snapshots()?.iter().filter(|snapshot| snapshot.tag("source") == Some("job/soak/dump")) {
            ensure!(restic.dump("restic", snapshot)?.0 == DUMP.digest(), "snapshot {} is incomplete", snapshot.id);
        }
        if matches!(operation, Operation::Restore) {
            run(Command::new("diff").arg("-r").args([self.path("source"), self.path("restored")]))?;
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-r").arg(from).arg(to)).map(drop)
}

/// A pseudo-random number below `below`, which depends only on `seed` and `number`.
fn random(seed: u64, number: u64, below: u64) -> Result<u64> {
    let content = Sequence::new(Kind::Random, seed.wrapping_mul(1_000_003).wrapping_add(number), 32).content();
    Ok(u64::from_le_bytes(content[24..].try_into()?) % below.max(1))
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    println!("seed {}", arguments.seed);
    let workspace = Workspace::new()?;
    copy(&workspace.path("repository"), &workspace.path("initial"))?;
    let mut wrong = 0;
    for operation in [Operation::Backup, Operation::Restore, Operation::Check, Operation::Prune] {
        wrong += kills(&workspace, operation, &arguments)?;
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Resets the repository to its initial state, and deletes the restored files.
fn reset(workspace: &Workspace) -> Result<()> {
    fs::remove_dir_all(workspace.path("repository"))?;
    copy(&workspace.path("initial"), &workspace.path("repository"))?;
    if workspace.path("restored").exists() {
        fs::remove_dir_all(workspace.path("restored"))?;
    }
    Ok(())
}

fn kills(workspace: &Workspace, operation: Operation, arguments: &Arguments) -> Result<u64> {
    reset(workspace)?;
    let started = Instant::now();
    run(&mut workspace.command(operation)?)?;
    let longest = u64::try_from(started.elapsed().as_micros())? * 11 / 10;
    let (mut killed, mut wrong) = (0, 0);
    for number in 0..arguments.kills {
        reset(workspace)?;
        let after = Duration::from_micros(random(arguments.seed, number, longest)?);
        let mut child = workspace.command(operation)?.spawn()?;
        std::thread::sleep(after);
        killed += u64::from(child.try_wait()?.is_none());
        child.kill()?;
        child.wait()?;
        let again = || -> Result<()> {
            // The lock of the killed process still exists here.
            workspace.restic().check("restic", true)?;
            let again = output(&mut workspace.command(operation)?)?;
            // A restore that completed before the kill refuses to restore again, because its target is not empty.
            let is_done = matches!(operation, Operation::Restore) && again.status.code() == Some(1);
            ensure!(again.status.success() || is_done, "the repeated command ended with {}", again.status);
            workspace.check_result(operation)
        };
        if let Err(error) = again() {
            wrong += 1;
            println!("  {operation:?} killed after {} us: {error:#}", after.as_micros());
        }
    }
    println!(
        "{operation:?}: {} kills, {killed} of them before the end of the operation, {wrong} wrong",
        arguments.kills
    );
    Ok(wrong)
}
