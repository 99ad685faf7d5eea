//! A pod in miniature: a folder in which a sidecar finds its mounts, the real supervisor, and a Job that drives runs in it.
//!
//! It must not know what is tested.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use stowaway::{
    cluster::exec::{Session, local_session},
    model::{
        BackendConfig, Connection, Failure, Reason, SnapshotIdentity, SourceReport, TargetCommand, TargetVolume, Task,
        TaskKind,
    },
    repository::{Repository, SnapshotSummary, open},
    runner::sidecar::{Driven, Errand, HelperCommand, drive},
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
        words,
    },
};

pub const SOURCE: &str = "deployment/mill/press";

/// As whom the sidecar works, where we may say so; the app is another one.
const SIDECAR_USER: u32 = 65_532;

pub struct Pod {
    pub root: OpenFolder,
    supervisor: Mutex<Option<Child>>,
    log: Arc<Mutex<String>>,
}

/// Puts a program where every user can start it: it may have been built in somebody's own home.
fn place(program: &Path, at: &Path) {
    if std::fs::hard_link(program, at).is_err() {
        std::fs::copy(program, at).unwrap();
    }
}

impl Pod {
    /// With a repository, and a sidecar that waits.
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
        place(Path::new(program()), &pod.root.file("usr/local/bin/stowaway-helper"));
        place(Path::new(env!("CARGO_BIN_EXE_stowaway")), &pod.own_program());
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
        timeout(DEADLINE, listens).await.expect("it does not listen");
    }

    fn control(&self) -> PathBuf {
        self.root.file("tmp/stowaway-sidecar.socket")
    }

    /// What the container's log says.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn supervisor(&self) -> String {
        self.supervisor.lock().unwrap().as_ref().unwrap().id().unwrap().to_string()
    }

    /// Numbers of the processes of runs.
    pub fn children(&self) -> Vec<String> {
        let pid = self.supervisor();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(str::to_owned).collect()
    }

    /// The process of the run that is under way.
    pub async fn child(&self) -> String {
        eventually(|| self.children().len() == 1).await;
        self.children().remove(0)
    }

    /// One exec into the sidecar's container.
    pub fn exec(&self, line: &[String]) -> Result<Session, Failure> {
        assert_eq!(line[..3], words(&["/usr/local/bin/stowaway-helper", "ask", "/tmp/stowaway-sidecar.socket"]));
        let place = self.control().to_str().unwrap().to_owned();
        let line = [words(&[program(), "ask", &place]), line[3..].to_vec()].concat();
        local_session(&line).map_err(|error| Failure::new(Reason::StreamCut, error.to_string()))
    }

    /// The same, cut off by this filter, and called a success.
    pub fn cut_exec(&self, line: &[String], filter: &str) -> Result<Session, Failure> {
        let place = path(&self.control());
        let script = format!("\"$@\" | {filter}");
        let line = [words(&["sh", "-c", &script, "sh", program(), "ask", &place]), line[3..].to_vec()].concat();
        local_session(&line).map_err(|error| Failure::new(Reason::StreamCut, error.to_string()))
    }

    /// One exec into the app's container, where another user works.
    pub fn exec_in_app(line: &[String]) -> Result<Session, Failure> {
        let user =
            if is_root() { words(&["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]) } else { vec![] };
        local_session(&[user, line.to_vec()].concat())
            .map_err(|error| Failure::new(Reason::StreamCut, error.to_string()))
    }

    /// One `ask` of a test's own.
    pub fn ask(&self, request: &[&str]) -> Command {
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
            kind,
            note: String::new(),
        }
    }

    /// Drives a run as its Job would.
    pub async fn drive(&self, id: &str, task: &Task, command: Option<&[String]>) -> Result<Driven, Failure> {
        self.drive_until(id, task, command, &CancellationToken::new()).await
    }

    pub async fn drive_until(
        &self,
        id: &str,
        task: &Task,
        command: Option<&[String]>,
        cancel: &CancellationToken,
    ) -> Result<Driven, Failure> {
        let sidecar = async |line: &[String]| self.exec(line);
        let app = async |line: &[String]| Self::exec_in_app(line);
        let driving = drive(errand(id, task, command), sidecar, app, cancel);
        timeout(DEADLINE, driving).await.expect("a hang")
    }

    /// The report of a run of this command.
    pub async fn backup(&self, id: &str, command: &[String]) -> SourceReport {
        match self.drive(id, &self.backup_task(id), Some(command)).await {
            Ok(Driven::Report(report)) => *report,
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

    /// Sockets that wait for a helper.
    pub fn doors(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.root.file("stowaway-socket")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

pub fn errand<'a>(id: &'a str, task: &'a Task, command: Option<&[String]>) -> Errand<'a> {
    let restore = matches!(task.kind, TaskKind::Restore { .. });
    let key = match &task.kind {
        TaskKind::Backup { identity, .. } | TaskKind::BackupVolume { identity, .. } => {
            identity.tag(SnapshotIdentity::RUN).unwrap()
        }
        _ => id,
    };
    let helper =
        command.map(|command| HelperCommand { program: program().to_owned(), restore, command: command.to_vec() });
    Errand { id, key, task, helper, limit: DEADLINE }
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

/// Kills them by one call.
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
    /// How the sidecar ended.
    pub async fn exit_status(&self) -> Option<i32> {
        let mut supervisor = self.supervisor.lock().unwrap().take().unwrap();
        timeout(DEADLINE, supervisor.wait()).await.expect("it lives on").unwrap().code()
    }
}
