//! The program killed at random points while it stores, restores, checks and prunes. After each kill the real restic finds
//! nothing wrong, whatever is visible is whole, the same again works at once, and no lock is left. Exits 1 if any of that
//! did not hold. It needs no cluster.

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

/// Kills by the hundred.
#[derive(Parser)]
struct Arguments {
    /// How often each of the four verbs is killed.
    #[arg(long, default_value_t = 50)]
    kills: u64,
    /// Where the random numbers start; printed, so that a run can be repeated.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const PASSWORD: &str = "soak";
/// What is stored as a stream.
const DUMP: Sequence = Sequence::new(Kind::Random, 7, 30_000_000);
/// How many files are stored as a folder, and their bytes.
const FILES: u64 = 400;
const FILE_BYTES: u64 = 50_000;

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Backup,
    Restore,
    Check,
    Prune,
}

/// Where all of it is.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
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

    /// The command that is killed, and done again.
    fn verb(&self, verb: Verb) -> Result<Command> {
        let (dump, restored) = (self.path("dump"), self.path("restored"));
        let text = |path: &Path| path.to_str().map(str::to_owned).context("no name");
        match verb {
            Verb::Backup => self.stowaway(&[
                "backup",
                "--source",
                "job/soak/dump",
                "--stdin-filename",
                "dump",
                "--",
                "cat",
                &text(&dump)?,
            ]),
            Verb::Restore => self.stowaway(&["restore", "--source", "pvc/claim", "--target", &text(&restored)?]),
            Verb::Check => self.stowaway(&["check", "--read-data"]),
            Verb::Prune => self.stowaway(&["prune", "--max-unused", "0"]),
        }
    }

    /// A repository with a folder in it, and much that a prune removes and packs anew.
    fn new() -> Result<Self> {
        let place = Self { folder: tempfile::tempdir_in("/var/tmp")? };
        fs::write(place.path("dump"), DUMP.content())?;
        run(&mut place.restic().restic("restic", &["init"]))?;
        for version in 0..3 {
            for number in 0..FILES {
                let seed = if number % 3 == 0 { number } else { number + FILES * version };
                let path = place.path("source").join((number % 10).to_string());
                fs::create_dir_all(&path)?;
                fs::write(path.join(number.to_string()), Sequence::new(Kind::Random, seed, FILE_BYTES).content())?;
            }
            let mut backup =
                place.restic().restic("restic", &["backup", "--host", "soak", "--tag", "source=pvc/claim", "."]);
            run(backup.current_dir(place.path("source")))?;
        }
        run(&mut place.restic().restic("restic", &["forget", "--keep-last", "1", "--group-by", ""]))?;
        Ok(place)
    }

    /// What must hold after what was killed was done again.
    fn holds_in_the_end(&self, verb: Verb) -> Result<()> {
        let restic = self.restic();
        restic.check("restic", true)?;
        let locks = restic.locks()?;
        ensure!(locks == 0, "{locks} locks are left");
        for snapshot in restic.snapshots()?.iter().filter(|snapshot| snapshot.tag("source") == Some("job/soak/dump")) {
            ensure!(restic.dump("restic", snapshot)?.0 == DUMP.digest(), "snapshot {} is not whole", snapshot.id);
        }
        if matches!(verb, Verb::Restore) {
            run(Command::new("diff").arg("-r").args([self.path("source"), self.path("restored")]))?;
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-r").arg(from).arg(to)).map(drop)
}

/// Numbers that look random, the same for the same seed.
fn random(seed: u64, number: u64, below: u64) -> Result<u64> {
    let word = Sequence::new(Kind::Random, seed.wrapping_mul(1_000_003).wrapping_add(number), 32).content();
    Ok(u64::from_le_bytes(word[24..].try_into()?) % below.max(1))
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    println!("seed {}", arguments.seed);
    let begun = Place::new()?;
    copy(&begun.path("repository"), &begun.path("kept"))?;
    let mut wrong = 0;
    for verb in [Verb::Backup, Verb::Restore, Verb::Check, Verb::Prune] {
        wrong += kills(&begun, verb, &arguments)?;
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The repository as it was in the beginning, and no target.
fn begin_again(place: &Place) -> Result<()> {
    fs::remove_dir_all(place.path("repository"))?;
    copy(&place.path("kept"), &place.path("repository"))?;
    if place.path("restored").exists() {
        fs::remove_dir_all(place.path("restored"))?;
    }
    Ok(())
}

fn kills(place: &Place, verb: Verb, arguments: &Arguments) -> Result<u64> {
    begin_again(place)?;
    let started = Instant::now();
    run(&mut place.verb(verb)?)?;
    let longest = u64::try_from(started.elapsed().as_micros())? * 11 / 10;
    let (mut killed, mut wrong) = (0, 0);
    for number in 0..arguments.kills {
        begin_again(place)?;
        let after = Duration::from_micros(random(arguments.seed, number, longest)?);
        let mut child = place.verb(verb)?.spawn()?;
        std::thread::sleep(after);
        killed += u64::from(child.try_wait()?.is_none());
        child.kill()?;
        child.wait()?;
        let again = || -> Result<()> {
            // The lock of what was killed is still there.
            place.restic().check("restic", true)?;
            let again = output(&mut place.verb(verb)?)?;
            // Before it was killed, it may have been done.
            let is_done = matches!(verb, Verb::Restore) && again.status.code() == Some(1);
            ensure!(again.status.success() || is_done, "the same again ended with {}", again.status);
            place.holds_in_the_end(verb)
        };
        if let Err(error) = again() {
            wrong += 1;
            println!("  {verb:?} killed after {} us: {error:#}", after.as_micros());
        }
    }
    println!("{verb:?}: {} kills, {killed} of them before its end, {wrong} wrong", arguments.kills);
    Ok(wrong)
}
