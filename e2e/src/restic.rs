//! What the real `restic` sees in a repository, and the invariants that hold whatever happened: every visible snapshot
//! is whole, green implies visible, failed implies not visible, and `restic check` is clean.

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
    model::{Reason, SourceReport, Verdict},
};

use crate::{process, sequence};

/// Which restic: the oldest that must read our repositories, and the newest.
pub const RESTICS: [&str; 2] = ["restic-0.14", "restic"];

/// A repository as restic is told of it.
#[derive(Clone, Debug)]
pub struct Restic {
    /// restic's name of the place.
    pub url: String,
    /// The password.
    pub password: String,
    /// Credentials, as environment variables.
    pub credentials: Vec<(&'static str, String)>,
}

/// A snapshot as `restic snapshots --json` tells it.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "k8s_openapi::serde")]
pub struct Snapshot {
    /// Its id, 64 hex digits.
    pub id: String,
    /// Its host.
    pub hostname: String,
    /// Its paths; ours have one.
    pub paths: Vec<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

impl Snapshot {
    /// The value of a tag `key=value`.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='))
    }

    /// The path of its one file.
    pub fn path(&self) -> &str {
        self.paths.first().map_or("", String::as_str)
    }
}

impl Restic {
    /// A repository in a folder of this machine.
    pub fn folder(path: &std::path::Path, password: &str) -> Self {
        Self { url: path.display().to_string(), password: password.to_owned(), credentials: Vec::new() }
    }

    /// A program that reads restic's environment: secrets are never in argv.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("RESTIC_REPOSITORY", &self.url).env("RESTIC_PASSWORD", &self.password);
        command.envs(self.credentials.iter().map(|(name, value)| (name, value)));
        command
    }

    /// One of the [`RESTICS`], without a cache: what it says comes from the repository.
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

    /// `restic check`; all data is read when `read_data`. Without a lock of its own: a run that was killed leaves its lock,
    /// as a killed restic does, and only `check` and `prune` mind.
    pub fn check(&self, name: &str, read_data: bool) -> Result<()> {
        let mut command = self.restic(name, &["check", "--no-lock"]);
        if read_data {
            command.arg("--read-data");
        }
        process::run(&mut command).with_context(|| format!("{name} check finds the repository damaged"))?;
        Ok(())
    }

    /// How many locks are held or left.
    pub fn locks(&self) -> Result<usize> {
        let listed = process::run(&mut self.restic("restic", &["list", "locks", "--no-lock"]))?;
        Ok(String::from_utf8_lossy(&listed).lines().filter(|line| !line.is_empty()).count())
    }

    /// SHA-256 and length of what `restic dump` writes.
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

    /// Every visible snapshot is whole (its bytes have the digest that `expected` names for its source, and that its own
    /// tag names), and `restic check` is clean. Returns the snapshots.
    pub fn every_visible_snapshot_is_whole(&self, expected: &BTreeMap<String, String>) -> Result<Vec<Snapshot>> {
        let snapshots = self.snapshots()?;
        for snapshot in &snapshots {
            let source = snapshot.tag("source").unwrap_or_default();
            let (digest, bytes) = self.dump("restic", snapshot)?;
            ensure!(
                snapshot.tag("sha256") == Some(&digest),
                "snapshot {} of {source} has {bytes} bytes of {digest}, and its tags are {:?}",
                snapshot.id,
                snapshot.tags
            );
            match expected.get(source) {
                Some(whole) => {
                    ensure!(*whole == digest, "snapshot {} of {source} is not whole: {bytes} bytes", snapshot.id);
                }
                None => bail!("snapshot {} of {source} should not be there: tags {:?}", snapshot.id, snapshot.tags),
            }
        }
        self.check("restic", false)?;
        Ok(snapshots)
    }

    /// What the status of `backup` says of each source is what the repository holds: green (and unproven) implies visible
    /// with that very digest, once; failed implies not visible. And what [`Self::every_visible_snapshot_is_whole`] says.
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

    /// The same for the report of one runner.
    pub fn agrees_with_report(
        &self,
        run: &str,
        report: Option<&SourceReport>,
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
    /// Whether what one run says of itself is so, looking at no other run's snapshots: green is visible once and whole,
    /// anything else is not visible. For long series; the small ones look at everything.
    pub fn judge(&self, run: &str, report: Option<&SourceReport>, digest: &str) -> Result<Judgement> {
        let snapshots = self.snapshots()?;
        let of_run: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| snapshot.tag("run") == Some(run)).collect();
        let mut wrong = Vec::new();
        for snapshot in &of_run {
            let (found, bytes) = self.dump("restic", snapshot)?;
            if found != digest {
                wrong.push(format!("snapshot {} is not whole: {bytes} bytes", snapshot.id));
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

/// What is to be thought of a run.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// It called itself green.
    pub is_green: bool,
    /// What is not as it says; nothing when all is true.
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
            let is_tagged = snapshot.tags.iter().any(|tag| tag == "unproven");
            ensure!(
                is_tagged == (snapshot.tag("proof") == Some("None")),
                "{run}: the tag unproven contradicts the proof: {:?}",
                snapshot.tags
            );
        }
        (false, []) => ensure!(id.is_none(), "{run}: nothing is visible, and the status names snapshot {id:?}"),
        (true, _) => bail!("FALSE GREEN: {run} is {verdict:?}, and {} snapshots are visible", visible.len()),
        (false, _) => bail!("{run} is {verdict:?}, and {} snapshots are visible", visible.len()),
    }
    Ok(())
}
