//! A minimal pod: a folder with the mounts of a sidecar, the real supervisor, and a Job which drives runs in it.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use stowaway::{
    exec::{Session, local_session},
    model::{
        BackendConfig, Connection, DamagedPacks, Failure, Reason, RunReport, SnapshotIdentity, TargetCommand,
        TargetVolume, Task, TaskKind,
    },
    repository::{Repository, SnapshotSummary, open},
    runner::sidecar::{HelperCommand, SidecarOutcome, SidecarRun, drive},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    helper::remote::program,
    repository::{PASSWORD, folder, never, new_repository},
    shell::{
        DEADLINE, OpenFolder,
        container::{eventually, is_root},
        strings,
    },
};

pub const SOURCE: &str = "deployment/mill/press";

/// The user of the sidecar, if the test runs as root. The app has another user.
const SIDECAR_USER: u32 = 65_532;

pub struct Pod {
    pub root: OpenFolder,
    supervisor: Mutex<Option<Child>>,
    log: Arc<Mutex<String>>,
}

/// Puts a program where every user can execute it, because it may have been built in a private home directory.
fn install_program(program: &Path, at: &Path) {
    if std::fs::hard_link(program, at).is_err() {
        std::fs::copy(program, at).unwrap();
    }
}

impl Pod {
    /// A pod with a repository and a running sidecar.
    pub async fn start() -> Self {
        let pod = Self::without_sidecar().await;
        pod.start_sidecar().await;
        pod
    }

    pub async fn without_sidecar() -> Self {
        let root = OpenFolder::new();
        for folder in
            ["run/stowaway/password", "tmp", "stowaway-socket", "stowaway-volumes/data", "usr/local/bin", "cellar"]
        {
            std::fs::create_dir_all(root.file(folder)).unwrap();
        }
        std::fs::set_permissions(root.file("stowaway-socket"), std::fs::Permissions::from_mode(0o777)).unwrap();
        let pod = Self { root, supervisor: Mutex::default(), log: Arc::default() };
        pod.set_password(PASSWORD);
        new_repository(&pod.root.file("cellar")).await.close().await;
        if is_root() {
            let owned =
                Command::new("chown").arg("-R").arg(SIDECAR_USER.to_string()).arg(pod.root.path()).status().await;
            assert!(owned.unwrap().success());
        }
        install_program(Path::new(program()), &pod.root.file("usr/local/bin/stowaway-helper"));
        install_program(Path::new(env!("CARGO_BIN_EXE_stowaway")), &pod.own_program());
        pod
    }

    fn own_program(&self) -> PathBuf {
        self.root.file("usr/local/bin/stowaway")
    }

    pub fn set_password(&self, password: &str) {
        std::fs::write(self.root.file("run/stowaway/password/password"), password).unwrap();
    }

    pub fn backend(&self) -> BackendConfig {
        BackendConfig::Folder { path: self.root.file("cellar").to_str().unwrap().to_owned() }
    }

    pub async fn start_sidecar(&self) {
        let mut command = Command::new(self.own_program());
        if is_root() {
            command.uid(SIDECAR_USER).gid(SIDECAR_USER);
        }
        let mut child = command
            .args(["sidecar", "--volume=data=pvc/harvest", "--volume=scratch"])
            .env_clear()
            .env("STOWAWAY_ROOT", self.root.path())
            .env("STOWAWAY_BACKEND", serde_json::to_string(&self.backend()).unwrap())
            .env("POD_NAME", "mill-0")
            .env("POD_NAMESPACE", "orchard")
            .env("POD_UID", "uid-of-mill-0")
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stdout, log) = (child.stdout.take().unwrap(), self.log.clone());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        *self.supervisor.lock().unwrap() = Some(child);
        let socket = self.control();
        let listens = async {
            while std::os::unix::net::UnixStream::connect(&socket).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, listens).await.expect("the sidecar does not listen");
    }

    fn control(&self) -> PathBuf {
        self.root.file("tmp/stowaway-sidecar.socket")
    }

    /// The container's log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn supervisor(&self) -> String {
        self.supervisor.lock().unwrap().as_ref().unwrap().id().unwrap().to_string()
    }

    /// The process ids of the runs.
    pub fn children(&self) -> Vec<String> {
        let pid = self.supervisor();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(str::to_owned).collect()
    }

    /// The process id of the current run.
    pub async fn child(&self) -> String {
        eventually(|| self.children().len() == 1).await;
        self.children().remove(0)
    }

    /// An exec into the sidecar's container.
    pub fn exec(&self, line: &[String]) -> Result<Session, Failure> {
        assert_eq!(line[..3], strings(&["/usr/local/bin/stowaway-helper", "ask", "/tmp/stowaway-sidecar.socket"]));
        let socket = self.control().to_str().unwrap().to_owned();
        let line = [strings(&[program(), "ask", &socket]), line[3..].to_vec()].concat();
        local_session(&line).map_err(|error| Failure::new(Reason::StreamCut, error.to_string()))
    }

    /// An exec whose output passes this filter, and which ends with a success.
    pub fn cut_exec(&self, line: &[String], filter: &str) -> Result<Session, Failure> {
        let socket = path(&self.control());
        let script = format!("\"$@\" | {filter}");
        let line = [strings(&["sh", "-c", &script, "sh", program(), "ask", &socket]), line[3..].to_vec()].concat();
        local_session(&line).map_err(|error| Failure::new(Reason::StreamCut, error.to_string()))
    }

    /// An exec into the app's container, as another user.
    pub fn exec_in_app(line: &[String]) -> Result<Session, Failure> {
        let user =
            if is_root() { strings(&["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]) } else { vec![] };
        local_session(&[user, line.to_vec()].concat())
            .map_err(|error| Failure::new(Reason::StreamCut, error.to_string()))
    }

    /// The helper's `ask` command with this request.
    pub fn client(&self, request: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("ask").arg(self.control()).args(request);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub fn backup_task(&self, run: &str) -> Task {
        let kind = TaskKind::Backup {
            target: TargetCommand {
                namespace: "orchard".into(),
                pod: "mill-0".into(),
                pod_uid: "uid-of-mill-0".into(),
                container: "press".into(),
                command: None,
            },
            source: SOURCE.parse().unwrap(),
            identity: label("/orchard-press.bin", SOURCE, run),
            alternative_path: "/orchard-mill-press.bin".into(),
            timeout: None,
            idle_timeout: None,
            allow_empty: false,
            accept_unproven: false,
            skip_format_check: false,
        };
        Task {
            backend: self.backend(),
            connection: Connection::default(),
            cluster: String::new(),
            repository_id: None,
            damaged_packs: DamagedPacks::default(),
            not_before: None,
            kind,
            note: String::new(),
        }
    }

    pub fn volume_task(&self, claim: &str, run: &str) -> Task {
        let source = format!("pvc/{claim}");
        let kind = TaskKind::BackupVolume {
            target: TargetVolume {
                namespace: "orchard".into(),
                pod: "mill-0".into(),
                pod_uid: "uid-of-mill-0".into(),
                claim: claim.into(),
            },
            identity: label(&format!("/data/{claim}"), &source, run),
            exclude: Vec::new(),
            accept_shrunken: false,
            source: source.parse().unwrap(),
            timeout: None,
        };
        Task {
            backend: self.backend(),
            connection: Connection::default(),
            cluster: String::new(),
            repository_id: None,
            damaged_packs: DamagedPacks::default(),
            not_before: None,
            kind,
            note: String::new(),
        }
    }

    pub fn restore_task(&self) -> Task {
        let TaskKind::Backup { target, source, .. } = self.backup_task("x").kind else { unreachable!() };
        let kind = TaskKind::Restore {
            restore: "undo".into(),
            target,
            source,
            snapshot: None,
            as_of: None,
            host: None,
            timeout: None,
            idle_timeout: None,
        };
        Task {
            backend: self.backend(),
            connection: Connection::default(),
            cluster: String::new(),
            repository_id: None,
            damaged_packs: DamagedPacks::default(),
            not_before: None,
            kind,
            note: String::new(),
        }
    }

    /// Drives a run as its Job would.
    pub async fn drive(&self, id: &str, task: &Task, command: Option<&[String]>) -> Result<SidecarOutcome, Failure> {
        self.drive_until(id, task, command, &CancellationToken::new()).await
    }

    pub async fn drive_until(
        &self,
        id: &str,
        task: &Task,
        command: Option<&[String]>,
        cancel: &CancellationToken,
    ) -> Result<SidecarOutcome, Failure> {
        let sidecar = async |line: &[String]| self.exec(line);
        let app = async |line: &[String]| Self::exec_in_app(line);
        let driving = drive(sidecar_run(id, task, command), sidecar, app, cancel);
        timeout(DEADLINE, driving).await.expect("timed out")
    }

    /// The report of a backup of this command.
    pub async fn backup(&self, id: &str, command: &[String]) -> RunReport {
        match self.drive(id, &self.backup_task(id), Some(command)).await {
            Ok(SidecarOutcome::Report(report)) => *report,
            other => panic!("{other:?}"),
        }
    }

    pub async fn repository(&self) -> Repository {
        open(folder(&self.root.file("cellar")), never()).await.unwrap()
    }

    pub async fn snapshots(&self) -> Vec<SnapshotSummary> {
        let repository = self.repository().await;
        let snapshots = repository.snapshots().await.unwrap();
        repository.close().await;
        snapshots
    }

    /// The sockets which wait for a helper.
    pub fn run_sockets(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.root.file("stowaway-socket")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

pub fn sidecar_run<'a>(id: &'a str, task: &'a Task, command: Option<&[String]>) -> SidecarRun<'a> {
    let restore = matches!(task.kind, TaskKind::Restore { .. });
    let key = match &task.kind {
        TaskKind::Backup { identity, .. } | TaskKind::BackupVolume { identity, .. } => {
            identity.tag(SnapshotIdentity::RUN).unwrap()
        }
        _ => id,
    };
    let helper =
        command.map(|command| HelperCommand { program: program().to_owned(), restore, command: command.to_vec() });
    SidecarRun { id, key, task, helper, limit: DEADLINE }
}

fn label(path: &str, source: &str, run: &str) -> SnapshotIdentity {
    SnapshotIdentity {
        host: "orchard".into(),
        path: path.into(),
        tags: vec![format!("source={source}"), format!("run={run}/{source}")],
    }
}

pub async fn kill(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().await.unwrap().success());
}

/// Kills all these processes by one call.
pub async fn kill_all(pids: &[&str]) {
    assert!(Command::new("kill").arg("-9").args(pids).status().await.unwrap().success());
}

pub fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, state)| !state.starts_with(" Z") && !state.starts_with(" X"))
}

pub fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

impl Pod {
    /// The exit status of the sidecar.
    pub async fn exit_status(&self) -> Option<i32> {
        let mut supervisor = self.supervisor.lock().unwrap().take().unwrap();
        timeout(DEADLINE, supervisor.wait()).await.expect("still alive").unwrap().code()
    }
}
