//! The runner as a process of this machine, so that its connections can go through a proxy and its process can be killed.
//! It execs into real pods.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child as StandardChild, Command as StandardCommand, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use stowaway::model::{
    BackendConfig, Connection, Credential, Reason, SnapshotIdentity, SourceName, SourceReport, TargetCommand, Task,
    TaskKind, Verdict, mounts,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    Namespace, process,
    restic::Restic,
    store::{ACCESS_KEY_ID, PASSWORD, SECRET_ACCESS_KEY},
    workload::CONTAINER,
};

/// No run of a test is longer: a store that is gone is given up after two minutes.
const LONGEST: Duration = Duration::from_mins(4);

/// What a runner on this machine works with.
pub struct Runner {
    /// The way to the API server.
    pub kubeconfig: PathBuf,
    /// The repository.
    pub backend: BackendConfig,
    namespace: String,
    folder: TempDir,
}

impl Runner {
    /// With a new repository in a folder of this machine, which is deleted with it.
    pub async fn with_folder(namespace: &Namespace) -> Result<(Self, Restic)> {
        let folder = tempfile::tempdir()?;
        let place = folder.path().join("repository");
        let backend = BackendConfig::Folder { path: place.display().to_string() };
        let runner = Self { backend, folder, ..Self::new(namespace, BackendConfig::Folder { path: String::new() })? };
        runner.create_repository().await?;
        Ok((runner, Restic::folder(&place, PASSWORD)))
    }

    /// With a repository that is anywhere.
    pub fn new(namespace: &Namespace, backend: BackendConfig) -> Result<Self> {
        let kubeconfig = namespace.cluster.kubeconfig.clone();
        Ok(Self { kubeconfig, backend, namespace: namespace.name.clone(), folder: tempfile::tempdir()? })
    }

    /// Sends its connections to the API server through the proxy at that address from now on.
    pub fn go_through(&mut self, namespace: &Namespace, proxy: SocketAddr) -> Result<()> {
        self.kubeconfig = namespace.cluster.kubeconfig_through(proxy, self.folder.path())?;
        Ok(())
    }

    /// Creates the repository.
    pub async fn create_repository(&self) -> Result<()> {
        let ended = self.run(TaskKind::Init).await?;
        ended.is(Verdict::Succeeded, &[Reason::Completed])
    }

    /// The task of backing up the pod's annotated command; `run` is what a retry shares with the first attempt.
    pub fn backup(&self, pod: &Pod, command: Option<&str>, run: &str) -> Result<TaskKind> {
        let source = SourceName::new("pod", &pod.name_any(), CONTAINER, command)?;
        let path = format!(
            "/{}-{}{}",
            self.namespace,
            pod.name_any(),
            command.map(|name| format!("-{name}")).unwrap_or_default()
        );
        let mut identity = SnapshotIdentity { host: self.namespace.clone(), path: path.clone(), tags: Vec::new() };
        identity.push_tag(SnapshotIdentity::SOURCE, source.as_str())?;
        identity.push_tag(SnapshotIdentity::RUN, run)?;
        Ok(TaskKind::Backup {
            target: self.target(pod, command),
            source,
            identity,
            alternative_path: path,
            timeout: None,
            idle_timeout: None,
            allow_empty: false,
            accept_unproven: false,
            skip_format_check: false,
        })
    }

    /// The task of restoring the newest snapshot of `source` into the pod, by the command of the Restore of that name.
    pub fn restore(&self, pod: &Pod, command: Option<&str>, source: &str, restore: &str) -> Result<TaskKind> {
        Ok(TaskKind::Restore {
            restore: restore.to_owned(),
            target: self.target(pod, command),
            source: source.parse()?,
            snapshot: None,
            as_of: None,
            host: None,
            timeout: None,
            idle_timeout: None,
        })
    }

    fn target(&self, pod: &Pod, command: Option<&str>) -> TargetCommand {
        TargetCommand {
            namespace: self.namespace.clone(),
            pod: pod.name_any(),
            pod_uid: pod.uid().unwrap_or_default(),
            container: CONTAINER.to_owned(),
            command: command.map(str::to_owned),
        }
    }

    /// Starts the task.
    pub fn start(&self, kind: TaskKind) -> Result<Run> {
        let (command, root) = self.prepare(kind)?;
        let child = Command::from(command).kill_on_drop(true).spawn().context("failed to start the runner")?;
        Ok(Run { child, root })
    }

    /// Starts the task as a process that the caller waits for; its log is the file `log` in the folder.
    pub fn start_process(&self, kind: TaskKind) -> Result<(StandardChild, TempDir)> {
        let (mut command, root) = self.prepare(kind)?;
        Ok((command.spawn().context("failed to start the runner")?, root))
    }

    /// What the runner finds in its pod, in a folder of its own.
    fn prepare(&self, kind: TaskKind) -> Result<(StandardCommand, TempDir)> {
        let root = tempfile::tempdir()?;
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        let write = |folder: &str, file: &str, text: &str| -> Result<()> {
            fs::create_dir_all(at(folder))?;
            Ok(fs::write(at(folder).join(file), text)?)
        };
        write(mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE, PASSWORD)?;
        let keys = [(Credential::S3AccessKeyId, ACCESS_KEY_ID), (Credential::S3SecretAccessKey, SECRET_ACCESS_KEY)];
        let mut connection = Connection::default();
        if matches!(self.backend, BackendConfig::S3(_)) {
            for (credential, value) in keys {
                write(mounts::CREDENTIALS_FOLDER, credential.file(), value)?;
                connection.credentials.insert(credential);
            }
        }
        fs::create_dir_all(at("dev"))?;
        let log = fs::File::create(root.path().join("log"))?;
        let task = serde_json::to_string(&Task {
            backend: self.backend.clone(),
            connection,
            cluster: String::new(),
            repository_id: None,
            kind,
            note: String::new(),
        })?;
        let mut command = StandardCommand::new(process::stowaway()?);
        command
            .arg("runner")
            .env(mounts::TASK_VARIABLE, task)
            .env(mounts::ROOT_VARIABLE, root.path())
            .env("KUBECONFIG", &self.kubeconfig)
            // Each run has a pod of its own, as in a Job.
            .env("POD_NAME", format!("runner{}", root.path().file_name().unwrap_or_default().to_string_lossy()))
            .env("POD_UID", "00000000-0000-0000-0000-000000000000")
            .env("POD_NAMESPACE", &self.namespace)
            .envs(mounts::STORING_ALLOCATOR)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log);
        Ok((command, root))
    }

    /// Starts the task and waits for its end.
    pub async fn run(&self, kind: TaskKind) -> Result<Ended> {
        self.start(kind)?.ended().await
    }
}

/// A run that goes on.
pub struct Run {
    child: Child,
    root: TempDir,
}

impl Run {
    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the runner has ended")
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) -> Result<()> {
        process::run(StandardCommand::new("kill").args(["-s", name, &self.pid()?.to_string()]))?;
        Ok(())
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Result<Ended> {
        let log = |root: &Path| fs::read_to_string(root.join("log")).unwrap_or_default();
        let status = tokio::time::timeout(LONGEST, self.child.wait()).await.map_err(|_| {
            anyhow!("the runner did not end within {} s:\n{}", LONGEST.as_secs(), log(self.root.path()))
        })??;
        let message = self.root.path().join(mounts::TERMINATION_MESSAGE.trim_start_matches('/'));
        let report = fs::read_to_string(message).ok().map(|text| serde_json::from_str(&text)).transpose()?;
        Ok(Ended { status, report, log: log(self.root.path()) })
    }
}

/// What is left of a run.
#[derive(Debug)]
pub struct Ended {
    /// How its process ended.
    pub status: ExitStatus,
    /// Its report, unless it was killed before it could give one.
    pub report: Option<SourceReport>,
    /// What it said.
    pub log: String,
}

impl Ended {
    /// Whether it called itself green.
    pub fn is_green(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.verdict.is_green())
    }

    /// It is that verdict for one of those reasons, its exit status says the same, and no secret is in its log.
    pub fn is(&self, verdict: Verdict, reasons: &[Reason]) -> Result<()> {
        let report =
            self.report.as_ref().with_context(|| format!("the run left no report ({}):\n{}", self.status, self.log))?;
        ensure!(
            report.verdict == verdict && reasons.contains(&report.reason),
            "expected {verdict} for {reasons:?}, it is {} for {}: {}\n{}",
            report.verdict,
            report.reason,
            report.message,
            self.log
        );
        ensure!(self.status.success() == verdict.is_green(), "{verdict}, and the process ended with {}", self.status);
        ensure!(
            !self.log.contains(PASSWORD) && !self.log.contains(SECRET_ACCESS_KEY),
            "a secret is in the log:\n{}",
            self.log
        );
        Ok(())
    }
}
