//! OpenSSH's sshd, with a configuration of its own.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use stowaway::model::{BackendConfig, Credential, SftpConfig};

use super::{Running, Server, access, free_port};

pub fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let mut server = start_in(&folder.path().join("repository/below"));
    server.kept.push(Box::new(folder));
    server
}

/// With the repository in that folder.
pub fn start_in(path: &Path) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Several: the server prefers another one than the one that is known.
    for (name, kind) in [("user", "ed25519"), ("host-ecdsa", "ecdsa"), ("host-ed25519", "ed25519")] {
        make_key(&at(name), kind);
    }
    let port = free_port();
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "root".to_owned());
    if rustix::process::geteuid().is_root() {
        // Where Debian's service makes it: sshd does not start without it.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    fs::write(
        at("config"),
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nHostKey {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             AuthorizedKeysFile {}\nPasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n\
             MaxStartups 100\nMaxSessions 100\n",
            at("host-ecdsa"),
            at("host-ed25519"),
            at("user.pub")
        ),
    )
    .unwrap();
    // What serves a connection leaves the server's process group: as processes of a namespace all of them end with it.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "/usr/sbin/sshd", "-D", "-e", "-f", &at("config")]);
    let running = Running::start(command, port);
    let host_key = fs::read_to_string(at("host-ed25519.pub")).unwrap();
    fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let backend =
        BackendConfig::Sftp(SftpConfig { host: "127.0.0.1".to_owned(), port, user: user.clone(), path: path.clone() });
    let key = fs::read_to_string(at("user")).unwrap();
    let ssh = format!(
        "ssh {user}@127.0.0.1 -p {port} -i {} -o UserKnownHostsFile={} -o IdentitiesOnly=yes -o BatchMode=yes -s sftp",
        at("user"),
        at("known_hosts")
    );
    Server {
        access: access(backend, &[(Credential::SftpPrivateKey, &key), (Credential::HostKeys, &host_key)]),
        url: format!("sftp:{user}@127.0.0.1:{path}"),
        environment: Vec::new(),
        options: vec!["-o".to_owned(), format!("sftp.command={ssh}")],
        newest_options: Vec::new(),
        running: Some(running),
        kept: vec![Box::new(folder)],
    }
}

/// A private key that nobody knows.
pub fn new_ssh_key() -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    make_key(file.to_str().unwrap(), "ed25519");
    fs::read_to_string(file).unwrap()
}

fn make_key(file: &str, kind: &str) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-f", file])
        .stdin(Stdio::null())
        .status()
        .expect("this test needs the Debian packages openssh-server and openssh-client");
    assert!(made.success());
}
