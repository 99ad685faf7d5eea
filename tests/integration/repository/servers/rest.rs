//! restic's rest-server, with a user name and a password.

use std::process::Command;

use stowaway::model::{BackendConfig, Credential, RestConfig};

use super::{Running, Server, access, free_port, owned, restic::find};

/// The password `hush-hush`, as Apache's htpasswd writes it (SHA-1).
const HTPASSWD: &str = "miller:{SHA}0n6oCh2SUzvYHMw/ZHiCE+3JZhY=\n";

/// Starts a server with these further arguments.
pub fn start(arguments: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("htpasswd");
    std::fs::write(&passwords, HTPASSWD).unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let port = free_port();
    let mut command = Command::new(find("STOWAWAY_REST_SERVER", "rest-server"));
    command
        .args(["--listen", &format!("127.0.0.1:{port}"), "--htpasswd-file", passwords.to_str().unwrap()])
        .args(["--path", folder.path().join("data").to_str().unwrap()])
        .args(arguments);
    let running = Running::start(command, port);
    let url = format!("http://127.0.0.1:{port}/shop/main");
    let backend = BackendConfig::Rest(RestConfig { url: url.clone() });
    Server {
        access: access(backend, &[(Credential::RestUser, "miller"), (Credential::RestPassword, "hush-hush")]),
        // The oldest restic reads user name and password only from the URL.
        url: format!("rest:{}/", url.replace("://", "://miller:hush-hush@")),
        environment: owned(&[]),
        options: Vec::new(),
        newest_options: Vec::new(),
        running: Some(running),
        kept: vec![Box::new(folder)],
    }
}
