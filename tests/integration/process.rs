//! The webhook and the controller as processes, with an API server which never answers.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// A kubeconfig of an API server which does not exist.
const UNREACHABLE: &str = "apiVersion: v1
kind: Config
clusters: [{ name: a, cluster: { server: 'http://127.0.0.1:9' } }]
users: [{ name: a, user: {} }]
contexts: [{ name: a, context: { cluster: a, user: a } }]
current-context: a
";

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// The response to a GET of this path, or `None` while the port is closed.
fn try_get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Starts `stowaway` with this kubeconfig.
fn start(folder: &Path, arguments: &[&str]) -> KillOnDrop {
    let kubeconfig = folder.join("kubeconfig");
    std::fs::write(&kubeconfig, UNREACHABLE).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_stowaway"))
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    KillOnDrop(child)
}

/// The first response to a GET of this path.
fn first_answer(process: &mut KillOnDrop, port: u16, path: &str) -> String {
    loop {
        if let Some(answer) = try_get(port, path) {
            return answer;
        }
        assert!(process.0.try_wait().unwrap().is_none(), "the process ended by itself");
        thread::yield_now();
    }
}

#[test]
fn webhook_with_a_quiet_log_still_waits_for_its_signal() {
    let folder = tempfile::tempdir().unwrap();
    let (port, health) = (free_port().to_string(), free_port());
    let arguments = ["--log-level", "error", "webhook", "--image", "none", "--drain", "60s", "--port", &port];
    let mut webhook = start(folder.path(), &[&arguments[..], &["--health-port", &health.to_string()]].concat());
    let answer = first_answer(&mut webhook, health, "/readyz");
    assert!(answer.starts_with("HTTP/1.1 503") && !answer.contains("shutting down"), "{answer}");
}

#[test]
fn controller_ends_on_sigterm_although_its_cluster_never_answered() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut controller = start(folder.path(), &["controller", "--image", "none", "--metrics-port", &port.to_string()]);
    let answer = first_answer(&mut controller, port, "/healthz");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let id = controller.0.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    signal("-TERM");
    let (sender, ended) = mpsc::channel();
    let waiting = thread::spawn(move || sender.send(controller.0.wait().unwrap()).unwrap());
    let status = ended.recv_timeout(Duration::from_mins(1));
    if status.is_err() {
        signal("-KILL");
    }
    waiting.join().unwrap();
    assert_eq!(status.map(|status| status.code()), Ok(Some(0)));
}
