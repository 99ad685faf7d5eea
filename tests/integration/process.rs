//! The webhook as a process. It must not know what it answers.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

/// A kubeconfig of an API server that nobody runs.
const NOBODY: &str = "apiVersion: v1
kind: Config
clusters: [{ name: a, cluster: { server: 'http://127.0.0.1:9' } }]
users: [{ name: a, user: {} }]
contexts: [{ name: a, context: { cluster: a, user: a } }]
current-context: a
";

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn readiness(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn with_a_quiet_log_it_still_waits_for_its_signal() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, NOBODY).unwrap();
    let health = free_port();
    let child = Command::new(env!("CARGO_BIN_EXE_stowaway"))
        .args(["--log-level", "error", "webhook", "--image", "none", "--drain", "60s"])
        .args(["--port", &free_port().to_string(), "--health-port", &health.to_string()])
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Ended(child);
    let answer = loop {
        if let Some(answer) = readiness(health) {
            break answer;
        }
        assert!(child.0.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    };
    assert!(answer.starts_with("HTTP/1.1 503") && !answer.contains("shutting down"), "{answer}");
}
