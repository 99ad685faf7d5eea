//! Real stores, each started for one test on the loopback interface, with the access for Stowaway and the URL for
//! restic.

mod azure;
mod fill;
mod folder;
mod gcs;
pub mod meddler;
mod rest;
mod s3;
mod sftp;
pub mod tls;
pub mod tokens;

use std::{
    any::Any,
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use stowaway::{
    model::{BackendConfig, Connection, Credential, Secret},
    repository::OpenOptions,
};

use super::restic::{self, Restic};

/// A store which runs until it is dropped, with an empty location for a repository.
pub struct Server {
    /// The location for Stowaway.
    pub access: OpenOptions,
    /// The location in restic's notation.
    pub url: String,
    pub environment: Vec<(String, String)>,
    options: Vec<String>,
    /// Options for all but the oldest restic.
    newest_options: Vec<String>,
    /// Stopped to make the store unreachable; dropped first.
    pub running: Option<Running>,
    /// Resources which must live as long as the store.
    kept: Vec<Box<dyn Any + Send + Sync>>,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Folder,
    S3,
    /// Another implementation, with other quirks.
    OtherS3,
    Azure,
    Gcs,
    Rest,
    Sftp,
    /// With a password.
    SftpPassword,
    /// With a password for which the server prompts with a text of its own.
    SftpPrompt,
}

impl Server {
    pub async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Folder => folder::start(),
            Kind::S3 => s3::start(),
            Kind::OtherS3 => s3::start_other(),
            Kind::Azure => azure::start().await,
            Kind::Gcs => gcs::start(),
            Kind::Rest => rest::start(&[]),
            Kind::Sftp => sftp::start(),
            Kind::SftpPassword => sftp::start_with_password(),
            Kind::SftpPrompt => sftp::start_with_prompt(),
        }
    }

    /// All versions of restic, oldest first, with the options to reach the store.
    pub fn restics(&self) -> [Restic; 3] {
        let [oldest, middle, newest] = restic::all().map(|restic| restic.with(&self.environment, &self.options));
        [oldest, middle.with(&[], &self.newest_options), newest.with(&[], &self.newest_options)]
    }

    /// The endpoint, if the store uses HTTP.
    pub fn endpoint(&mut self) -> Option<&mut String> {
        match &mut self.access.backend {
            BackendConfig::S3(config) => Some(&mut config.endpoint),
            BackendConfig::Azure(config) => Some(&mut config.endpoint),
            BackendConfig::Gcs(config) => Some(&mut config.endpoint),
            BackendConfig::Rest(config) => Some(&mut config.url),
            BackendConfig::Sftp(_) | BackendConfig::Folder { .. } => None,
        }
    }
}

pub use azure::{proxy_to, start_with_sas as azure_with_sas, start_with_tokens as azure_with_tokens};
pub use fill::put_unknown_packs;
pub use rest::start as rest_with;
pub use s3::{start_for_parts as s3_for_parts, start_in as s3_in};
pub use sftp::{new_ssh_key, start_in as sftp_in, start_those_that_want_more as sftp_that_want_more};

/// Access to the backend with these credentials.
fn access(backend: BackendConfig, credentials: &[(Credential, &str)]) -> OpenOptions {
    let mut access = OpenOptions { backend, ..super::folder(std::path::Path::new("/nowhere")) };
    access.connection = Connection {
        credentials: credentials.iter().map(|(credential, _)| *credential).collect(),
        ..Connection::default()
    };
    access.credentials =
        credentials.iter().map(|(credential, value)| (*credential, Secret::new((*value).to_owned()))).collect();
    access
}

/// A server process which is killed on drop.
pub struct Running {
    command: Command,
    port: u16,
    child: Child,
}

impl Running {
    /// Starts a server, and waits until it accepts connections.
    pub fn start(mut command: Command, port: u16) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = serving(&mut command, port);
        Self { command, port, child }
    }

    /// Terminates the server and its children. Some servers write their data only at that moment.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        let group = Pid::from_child(&self.child);
        // The group may have ended already.
        let _ = kill_process_group(group, signal);
    }

    pub fn start_again(&mut self) {
        self.child = serving(&mut self.command, self.port);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn serving(command: &mut Command, port: u16) -> Child {
    let mut child = command.spawn().unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{command:?} ended: {ended:?}");
        std::thread::yield_now();
    }
    child
}

/// A free port, bound and released again. In practice the kernel assigns it to no other process in the meantime.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
