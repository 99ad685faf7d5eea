//! The runner as a process of this machine, so that its connections can pass through a proxy and its process can be
//! killed. It execs into real pods.

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
    BackendConfig, Connection, Credential, DamagedPacks, Reason, RunReport, SnapshotIdentity, SourceName,
    TargetCommand, Task, TaskKind, Verdict, mounts,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    Namespace, process,
    restic::Restic,
    store::{ACCESS_KEY_ID, PASSWORD, SECRET_ACCESS_KEY},
    workload::CONTAINER,
};

/// The longest run of a test. It exceeds the two minutes after which a run gives up an unreachable store.
const LONGEST: Duration = Duration::from_mins(4);

/// The settings of runs on this machine.
pub struct Runner {
    /// The kubeconfig of its connections to the API server.
    pub kubeconfig: PathBuf,
    /// The store of its repository.
    pub backend: BackendConfig,
    namespace: String,
    folder: TempDir,
}

impl Runner {
    /// A runner with a new repository in a temporary folder of this machine.
    pub async fn with_folder(namespace: &Namespace) -> Result<(Self, Restic)> {
        let folder = tempfile::tempdir()?;
        let repository = folder.path().join("repository");
        let backend = BackendConfig::Folder { path: repository.display().to_string() };
        let runner = Self { backend, folder, ..Self::new(namespace, BackendConfig::Folder { path: String::new() })? };
        runner.create_repository().await?;
        Ok((runner, Restic::folder(&repository, PASSWORD)))
    }

    /// A runner with the repository in this store.
    pub fn new(namespace: &Namespace, backend: BackendConfig) -> Result<Self> {
        let kubeconfig = namespace.cluster.kubeconfig.clone();
        Ok(Self { kubeconfig, backend, namespace: namespace.name.clone(), folder: tempfile::tempdir()? })
    }

    /// Routes its connections to the API server through the proxy at that address.
    pub fn connect_through(&mut self, namespace: &Namespace, proxy: SocketAddr) -> Result<()> {
        self.kubeconfig = namespace.cluster.kubeconfig_through(proxy, self.folder.path())?;
        Ok(())
    }

    /// Creates the repository in the store.
    pub async fn create_repository(&self) -> Result<()> {
        let ended = self.run(TaskKind::Init).await?;
        ended.is(Verdict::Succeeded, &[Reason::Completed])
    }

    /// A task that backs up the pod's annotated command. `run` is the id that a retry shares with the first attempt.
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

    /// A task that restores the newest snapshot of `source` into the pod, with the command of the Restore named
    /// `restore`.
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

    /// Starts the task as a process that the caller waits for. Its log is the file `log` in the returned folder.
    pub fn start_process(&self, kind: TaskKind) -> Result<(StandardChild, TempDir)> {
        let (mut command, root) = self.prepare(kind)?;
        Ok((command.spawn().context("failed to start the runner")?, root))
    }

    /// Writes the files that a runner finds in its pod into a new folder, and builds the command of the runner.
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
            damaged_packs: DamagedPacks::default(),
            not_before: None,
            kind,
            note: String::new(),
        })?;
        let mut command = StandardCommand::new(process::stowaway()?);
        command
            .arg("runner")
            .env(mounts::TASK_VARIABLE, task)
            .env(mounts::ROOT_VARIABLE, root.path())
            .env("KUBECONFIG", &self.kubeconfig)
            // Each run has another pod name, as the runs of Jobs do.
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

/// A running task.
pub struct Run {
    child: Child,
    root: TempDir,
}

impl Run {
    /// The id of its process.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the runner has ended")
    }

    /// Sends a signal, such as `TERM`, to its process.
    pub fn signal(&self, name: &str) -> Result<()> {
        process::run(StandardCommand::new("kill").args(["-s", name, &self.pid()?.to_string()]))?;
        Ok(())
    }

    /// Waits until the process ends.
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

/// The result of a run.
#[derive(Debug)]
pub struct Ended {
    /// The exit status of its process.
    pub status: ExitStatus,
    /// Its report; `None` if the process was killed before it wrote one.
    pub report: Option<RunReport>,
    /// Its stdout and stderr.
    pub log: String,
}

impl Ended {
    /// Whether its report is green.
    pub fn is_green(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.verdict.is_green())
    }

    /// Checks that it has that verdict for one of those reasons, that its exit status matches the verdict, and that its
    /// log contains no secret.
    pub fn is(&self, verdict: Verdict, reasons: &[Reason]) -> Result<()> {
        let report =
            self.report.as_ref().with_context(|| format!("the run left no report ({}):\n{}", self.status, self.log))?;
        ensure!(
            report.verdict == verdict && reasons.contains(&report.reason),
            "expected {verdict} for {reasons:?}, got {} for {}: {}\n{}",
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
