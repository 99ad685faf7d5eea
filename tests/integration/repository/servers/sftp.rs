//! OpenSSH's sshd, with a configuration of its own.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use stowaway::model::{BackendConfig, Credential, SftpConfig};

use super::{Running, Server, access, free_port, owned};

pub fn start() -> Server {
    start_with(Login::Key)
}

/// How the client authenticates.
#[derive(Clone, Copy)]
enum Login {
    Key,
    /// The SSH method `password`.
    Password,
    /// The SSH method `keyboard-interactive`, with PAM's prompt for the password.
    Answer,
    /// The same, but the password has expired, so PAM prompts for a new one.
    AnswerOfYesterday,
    /// A key and then a password.
    KeyAndPassword,
}

/// The password `hush-hush`, as it is in `/etc/shadow`.
const SHADOW: &str =
    "$6$orchard$pc26QFC36se5NDUvhYMpCSPlDBptgMTL9n7F0I5Zq6IC6QfYmIQcI3uzRvPXAfMMZFC4IBkmbCO96j4iF7F9e.";

/// A server which accepts a password, and no key.
pub fn start_with_password() -> Server {
    start_with(Login::Password)
}

/// A server which leaves the password to PAM, as FreeBSD's does by default. It does not support the SSH method
/// `password`.
pub fn start_with_prompt() -> Server {
    start_with(Login::Answer)
}

/// Servers for which neither a key nor a password alone suffices.
pub fn start_those_that_want_more() -> [Server; 2] {
    [start_with(Login::KeyAndPassword), start_with(Login::AnswerOfYesterday)]
}

fn start_with(login: Login) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let mut server = start_in_by(&folder.path().join("repository/below"), login);
    server.kept.push(Box::new(folder));
    server
}

/// A server with the repository in this folder.
pub fn start_in(path: &Path) -> Server {
    start_in_by(path, Login::Key)
}

fn start_in_by(path: &Path, login: Login) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Two host keys, so that the server prefers a key which the client does not know.
    for (name, kind) in [("user", "ed25519"), ("host-ecdsa", "ecdsa"), ("host-ed25519", "ed25519")] {
        make_key(&at(name), kind);
    }
    let port = free_port();
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "root".to_owned());
    if rustix::process::geteuid().is_root() {
        // sshd does not start without this folder, which Debian's service creates.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    fs::write(
        at("config"),
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nHostKey {}\nPidFile none\nStrictModes no\n\
             AuthorizedKeysFile {}\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n\
             MaxStartups 100\nMaxSessions 100\n{}\n",
            at("host-ecdsa"),
            at("host-ed25519"),
            at("user.pub"),
            match login {
                Login::Key => "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no",
                Login::KeyAndPassword => {
                    "UsePAM no\nKbdInteractiveAuthentication no\nAuthenticationMethods publickey,password"
                }
                Login::Password => {
                    "UsePAM no\nPasswordAuthentication yes\nPubkeyAuthentication no\nKbdInteractiveAuthentication no"
                }
                Login::Answer | Login::AnswerOfYesterday => {
                    "UsePAM yes\nPasswordAuthentication no\nPubkeyAuthentication no\nKbdInteractiveAuthentication yes"
                }
            }
        ),
    )
    .unwrap();
    // The day of the last password change. 0 means that the password must be changed.
    let since = if matches!(login, Login::AnswerOfYesterday) { 0 } else { 20_000 };
    fs::write(at("shadow"), format!("{user}:{SHADOW}:{since}::::::\n")).unwrap();
    fs::write(
        at("pam"),
        "auth required pam_unix.so nodelay\naccount required pam_unix.so\npassword required pam_unix.so\n\
         session required pam_permit.so\n",
    )
    .unwrap();
    // The program from which ssh reads the password.
    fs::write(at("askpass"), "#!/bin/sh\necho hush-hush\n").unwrap();
    fs::set_permissions(at("askpass"), Permissions::from_mode(0o700)).unwrap();
    // A process which serves a connection leaves the server's process group. In a PID namespace all processes end with
    // the server. The mount namespace replaces the machine's passwords.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--mount", "--fork", "--kill-child", "sh", "-c"]).args([
        "mount --bind \"$1\" /etc/shadow && mount --bind \"$2\" /etc/pam.d/sshd && exec /usr/sbin/sshd -D -e -f \"$3\"",
        "sh",
        &at("shadow"),
        &at("pam"),
        &at("config"),
    ]);
    let running = Running::start(command, port);
    let host_key = fs::read_to_string(at("host-ed25519.pub")).unwrap();
    fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let backend =
        BackendConfig::Sftp(SftpConfig { host: "127.0.0.1".to_owned(), port, user: user.clone(), path: path.clone() });
    let key = fs::read_to_string(at("user")).unwrap();
    let (opens, how) = match login {
        Login::Key | Login::KeyAndPassword => {
            ((Credential::SftpPrivateKey, key.as_str()), format!("BatchMode=yes -i {}", at("user")))
        }
        Login::Password | Login::Answer | Login::AnswerOfYesterday => {
            ((Credential::SftpPassword, "hush-hush"), "NumberOfPasswordPrompts=1".to_owned())
        }
    };
    let ssh = format!(
        "ssh {user}@127.0.0.1 -p {port} -o UserKnownHostsFile={} -o IdentitiesOnly=yes -o {how} -s sftp",
        at("known_hosts")
    );
    Server {
        access: access(backend, &[opens, (Credential::HostKeys, &host_key)]),
        url: format!("sftp:{user}@127.0.0.1:{path}"),
        environment: owned(&[("SSH_ASKPASS", &at("askpass")), ("SSH_ASKPASS_REQUIRE", "force")]),
        options: vec!["-o".to_owned(), format!("sftp.command={ssh}")],
        newest_options: Vec::new(),
        running: Some(running),
        kept: vec![Box::new(folder)],
    }
}

/// A private key which no server accepts.
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
