//! Reads a repository with the real `restic`, and checks the invariants of every run: each visible snapshot is
//! complete, a green run has a visible snapshot, a failed run has none, and `restic check` finds no errors.

use std::{
    collections::BTreeMap,
    io::Read,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::serde::Deserialize;
use sha2::{Digest, Sha256};
use stowaway::{
    api::Backup,
    model::{Reason, RunReport, Verdict},
};

use crate::{process, sequence};

/// The programs of the oldest restic that must read Stowaway's repositories, and of the newest one.
pub const RESTICS: [&str; 2] = ["restic-0.14", "restic"];

/// The settings with which restic opens a repository.
#[derive(Clone, Debug)]
pub struct Restic {
    /// The location of the repository, in the form of `RESTIC_REPOSITORY`.
    pub url: String,
    /// The password of the repository.
    pub password: String,
    /// The credentials of the store, as environment variables.
    pub credentials: Vec<(&'static str, String)>,
}

/// A snapshot as `restic snapshots --json` prints it.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "k8s_openapi::serde")]
pub struct Snapshot {
    /// The id, 64 hex digits.
    pub id: String,
    /// The host.
    pub hostname: String,
    /// The paths; a snapshot of Stowaway has one.
    pub paths: Vec<String>,
    /// The tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

impl Snapshot {
    /// The value of a tag `key=value`.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='))
    }

    /// The first path.
    pub fn path(&self) -> &str {
        self.paths.first().map_or("", String::as_str)
    }
}

impl Restic {
    /// A repository in a folder of this machine.
    pub fn folder(path: &std::path::Path, password: &str) -> Self {
        Self { url: path.display().to_string(), password: password.to_owned(), credentials: Vec::new() }
    }

    /// A program that reads restic's environment variables, so that no secret is in its arguments.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("RESTIC_REPOSITORY", &self.url).env("RESTIC_PASSWORD", &self.password);
        command.envs(self.credentials.iter().map(|(name, value)| (name, value)));
        command
    }

    /// One of the [`RESTICS`], without a cache, so that its output comes from the repository alone.
    pub fn restic(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(process::program(name));
        command.arg("--no-cache").args(arguments);
        command
    }

    /// All visible snapshots.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let json = process::run(&mut self.restic("restic", &["snapshots", "--json"]))?;
        serde_json::from_slice(&json).context("failed to read what `restic snapshots --json` wrote")
    }

    /// Runs `restic check`, and reads all data if `read_data` is set. It takes no lock, because a killed run leaves its
    /// lock behind, as a killed restic does, and that lock would make `check` fail.
    pub fn check(&self, name: &str, read_data: bool) -> Result<()> {
        let mut command = self.restic(name, &["check", "--no-lock"]);
        if read_data {
            command.arg("--read-data");
        }
        process::run(&mut command).with_context(|| format!("{name} check reports damage in the repository"))?;
        Ok(())
    }

    /// The number of locks, including those that killed processes left behind.
    pub fn locks(&self) -> Result<usize> {
        let listed = process::run(&mut self.restic("restic", &["list", "locks", "--no-lock"]))?;
        Ok(String::from_utf8_lossy(&listed).lines().filter(|line| !line.is_empty()).count())
    }

    /// The SHA-256 and the length of the output of `restic dump`.
    pub fn dump(&self, name: &str, snapshot: &Snapshot) -> Result<(String, u64)> {
        let mut command = self.restic(name, &["dump", &snapshot.id, snapshot.path()]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("failed to start restic")?;
        let mut stdout = child.stdout.take().context("restic has no stdout")?;
        let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 64 * 1024]);
        loop {
            let length = stdout.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            digest.update(&buffer[..length]);
            bytes += length as u64;
        }
        let status = child.wait()?;
        ensure!(status.success(), "{name} dump {} {} ended with {status}", snapshot.id, snapshot.path());
        Ok((sequence::hex(&digest.finalize()), bytes))
    }

    /// Checks that every visible snapshot is complete, and that `restic check` finds no errors. A snapshot is complete
    /// if its bytes have the digest of its own tag, and the one that `expected` has for its source. Returns the
    /// snapshots.
    pub fn every_visible_snapshot_is_whole(&self, expected: &BTreeMap<String, String>) -> Result<Vec<Snapshot>> {
        let snapshots = self.snapshots()?;
        for snapshot in &snapshots {
            let source = snapshot.tag("source").unwrap_or_default();
            let (digest, bytes) = self.dump("restic", snapshot)?;
            ensure!(
                snapshot.tag("sha256") == Some(&digest),
                "snapshot {} of {source} has {bytes} bytes with digest {digest}, and its tags are {:?}",
                snapshot.id,
                snapshot.tags
            );
            match expected.get(source) {
                Some(whole) => {
                    ensure!(*whole == digest, "snapshot {} of {source} is incomplete: {bytes} bytes", snapshot.id);
                }
                None => bail!("snapshot {} of {source} should not exist: tags {:?}", snapshot.id, snapshot.tags),
            }
        }
        self.check("restic", false)?;
        Ok(snapshots)
    }

    /// Checks that the status of `backup` agrees with the repository for each source. A Succeeded, Unproven or Suspect
    /// source has exactly one visible snapshot, with the id and the digest of the status; any other source has none. It
    /// also checks [`Self::every_visible_snapshot_is_whole`].
    pub fn agrees_with(&self, backup: &Backup, expected: &BTreeMap<String, String>) -> Result<()> {
        let snapshots = self.every_visible_snapshot_is_whole(expected)?;
        let uid = backup.metadata.uid.as_deref().unwrap_or_default();
        let status = backup.status.as_ref().context("the Backup has no status")?;
        for source in &status.sources {
            let run = format!("{uid}/{}", source.name);
            let of_run: Vec<&Snapshot> =
                snapshots.iter().filter(|snapshot| snapshot.tag("run") == Some(&run)).collect();
            let outcome = &source.outcome;
            agree(&run, outcome.verdict, outcome.snapshot.as_deref(), outcome.digest.as_deref(), &of_run)?;
        }
        Ok(())
    }

    /// Does the same as [`Self::agrees_with`] for the report of one runner.
    pub fn agrees_with_report(
        &self,
        run: &str,
        report: Option<&RunReport>,
        expected: &BTreeMap<String, String>,
    ) -> Result<()> {
        let snapshots = self.every_visible_snapshot_is_whole(expected)?;
        let of_run: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| snapshot.tag("run") == Some(run)).collect();
        let (snapshot, digest) =
            (report.and_then(|report| report.snapshot.as_deref()), report.and_then(|report| report.digest.as_deref()));
        agree(run, report.map(|report| report.verdict), snapshot, digest, &of_run)
    }
}

impl Restic {
    /// Compares the report of one run with the snapshots of that run: a green run has one visible, complete snapshot,
    /// any other run has none. A run without a report, or with `CommitUnknown`, may have one. It reads the data of no
    /// other run, so that the cost of a long series stays low.
    pub fn judge(&self, run: &str, report: Option<&RunReport>, digest: &str) -> Result<Judgement> {
        let snapshots = self.snapshots()?;
        let of_run: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| snapshot.tag("run") == Some(run)).collect();
        let mut wrong = Vec::new();
        for snapshot in &of_run {
            let (found, bytes) = self.dump("restic", snapshot)?;
            if found != digest {
                wrong.push(format!("snapshot {} is incomplete: {bytes} bytes", snapshot.id));
            }
        }
        let is_green = report.is_some_and(|report| report.verdict.is_green());
        if is_green && of_run.len() != 1 || of_run.len() > 1 {
            wrong.push(format!("green is {is_green}, and {} snapshots are visible", of_run.len()));
        }
        let may_be_visible = report.is_none_or(|report| report.reason == Reason::CommitUnknown);
        if !is_green && !may_be_visible && !of_run.is_empty() {
            wrong.push("it failed, and a snapshot is visible".to_owned());
        }
        Ok(Judgement { is_green, wrong })
    }
}

/// The result of comparing the report of a run with the repository.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Whether the run reported a green verdict.
    pub is_green: bool,
    /// A line for each contradiction between report and repository.
    pub wrong: Vec<String>,
}

fn agree(
    run: &str,
    verdict: Option<Verdict>,
    id: Option<&str>,
    digest: Option<&str>,
    visible: &[&Snapshot],
) -> Result<()> {
    let stored = matches!(verdict, Some(Verdict::Succeeded | Verdict::Unproven | Verdict::Suspect));
    match (stored, visible) {
        (true, [snapshot]) => {
            ensure!(id == Some(&snapshot.id), "{run}: the status names snapshot {id:?}, visible is {}", snapshot.id);
            ensure!(digest == snapshot.tag("sha256"), "{run}: the status has another digest than the snapshot's tag");
            let has = |tag: &str| snapshot.tags.iter().any(|one| one == tag);
            let (is_proven, is_green) = (snapshot.tag("proof") != Some("None"), verdict == Some(Verdict::Succeeded));
            // A restore uses what a green run has stored, and by default nothing else without proof.
            ensure!(
                (has("unproven"), has("accepted-unproven")) == (!is_proven && !is_green, !is_proven && is_green),
                "{run} is {verdict:?}, and the tags contradict the proof: {:?}",
                snapshot.tags
            );
        }
        (false, []) => ensure!(id.is_none(), "{run}: nothing is visible, and the status names snapshot {id:?}"),
        (true, _) => bail!("FALSE GREEN: {run} is {verdict:?}, and {} snapshots are visible", visible.len()),
        (false, _) => bail!("{run} is {verdict:?}, and {} snapshots are visible", visible.len()),
    }
    Ok(())
}
