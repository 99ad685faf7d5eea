//! The connection to an SSH server. It is opened when it is needed, shared by all requests, and opened again after it
//! broke.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    ops::Deref,
    sync::{Arc, Mutex as StateMutex, PoisonError},
    time::Duration,
};

use russh::{
    MethodKind,
    client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key},
};
use russh_sftp::client::{Config, RawSftpSession};
use tokio::sync::Mutex;

use super::host_keys::HostKeys;
use crate::{StoreFault, store::fault::Fault};
use stowaway_model::{self, Credential, Secret, SftpConfig};

/// The name of an extension of OpenSSH.
pub(super) const POSIX_RENAME: &str = "posix-rename@openssh.com";
/// The library's own request timeout. The caller's deadlines are shorter.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(30);
/// The interval of keepalive messages to a silent server. After three unanswered messages the connection ends.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// An open session.
pub(super) struct Connection {
    pub sftp: RawSftpSession,
    extensions: HashSet<String>,
    /// Ends the connection when it is dropped.
    ssh: Handle<Client>,
}

impl Connection {
    /// Whether the server supports this extension of the protocol.
    pub fn can(&self, extension: &str) -> bool {
        self.extensions.contains(extension)
    }
}

/// The credential for the login.
#[derive(Clone)]
enum Login {
    Key(Arc<PrivateKey>),
    Password(Secret),
}

/// Opens connections to one server.
#[derive(Clone)]
pub(super) struct Connector {
    config: SftpConfig,
    host_keys: HostKeys,
    login: Login,
    /// The shared connection.
    current: Arc<StateMutex<Option<Arc<Connection>>>>,
    /// Held while a connection is being opened, so that only one is opened at a time.
    connecting: Arc<Mutex<()>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connector {
    pub fn new(
        config: &SftpConfig,
        connection: &stowaway_model::Connection,
        credentials: &BTreeMap<Credential, Secret>,
    ) -> Result<Self, String> {
        let host_keys = if connection.insecure_skip_verify {
            HostKeys::Any
        } else {
            let given = credentials.get(&Credential::HostKeys).map(Secret::expose);
            HostKeys::parse(connection.host_keys.iter().map(String::as_str).chain(given))?
        };
        let key = credentials.get(&Credential::SftpPrivateKey);
        let login = match (key, credentials.get(&Credential::SftpPassword)) {
            (Some(key), _) => Login::Key(Arc::new(decode_secret_key(key.expose(), None).map_err(|_| {
                // The library's error is omitted, because it may contain parts of the Secret.
                let title = Credential::SftpPrivateKey.title();
                format!("{title} cannot be read; give it as ssh-keygen writes it, without a passphrase")
            })?)),
            (None, Some(password)) => Login::Password(password.clone()),
            (None, None) => return Err("a private SSH key or a password is needed".to_owned()),
        };
        Ok(Self { config: config.clone(), host_keys, login, current: Arc::default(), connecting: Arc::default() })
    }

    /// Returns the shared connection, or opens a new one.
    pub async fn open(&self) -> Result<Lease, Fault> {
        let connection = self.connection().await?;
        Ok(Lease { connector: self.clone(), connection, is_answered: false })
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self) -> Result<Arc<Connection>, Fault> {
        if let Some(connection) = self.current().clone() {
            return Ok(connection);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(connection) = self.current().clone() {
            return Ok(connection);
        }
        let connection = Arc::new(self.connect().await?);
        *self.current() = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let mut config = client::Config { nodelay: true, keepalive_interval: Some(KEEPALIVE), ..Default::default() };
        config.preferred.key = self.host_keys.algorithms(&config.preferred.key).into();
        let SftpConfig { host, port, .. } = &self.config;
        let address = (host.trim_start_matches('[').trim_end_matches(']'), *port);
        let client = Client { host_keys: self.host_keys.clone() };
        let mut ssh = client::connect(Arc::new(config), address, client).await.map_err(broken)?;
        self.log_in(&mut ssh).await?;
        let channel = ssh.channel_open_session().await.map_err(broken)?;
        channel.request_subsystem(true, "sftp").await.map_err(broken)?;
        let config = Config { request_timeout_secs: REQUEST_TIMEOUT.as_secs(), ..Config::default() };
        let sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
        let version = sftp.init().await.map_err(Fault::from)?;
        let extensions = version.extensions.into_keys().collect();
        Ok(Connection { sftp, extensions, ssh })
    }

    async fn log_in(&self, ssh: &mut Handle<Client>) -> Result<(), Fault> {
        let user = &self.config.user;
        let (what, method, answer) = match &self.login {
            Login::Key(key) => {
                let hash = if key.algorithm().is_rsa() {
                    ssh.best_supported_rsa_hash().await.map_err(broken)?.unwrap_or(Some(HashAlg::Sha256))
                } else {
                    None
                };
                let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
                ("private key", MethodKind::PublicKey, ssh.authenticate_publickey(user, key).await)
            }
            Login::Password(password) => {
                ("password", MethodKind::Password, ssh.authenticate_password(user, password.expose()).await)
            }
        };
        let (taken, is_half) = match answer.map_err(broken)? {
            AuthResult::Success => return Ok(()),
            AuthResult::Failure { remaining_methods, partial_success } => (remaining_methods, partial_success),
        };
        let others = || taken.iter().map(<&str>::from).collect::<Vec<_>>().join(", ");
        match &self.login {
            // The answer lists no login methods if the connection broke.
            _ if taken.is_empty() => {
                Err(Fault::Transient(StoreFault::Ssh("the connection ended during the login".to_owned())))
            }
            _ if is_half => Err(denied(format!("the server requires more from {user} than this {what}: {}", others()))),
            _ if taken.contains(&method) => Err(refused(user, what)),
            // Servers that use PAM may accept a password only as an answer to a prompt.
            Login::Password(password) if taken.contains(&MethodKind::KeyboardInteractive) => {
                answer_prompt(ssh, user, password).await
            }
            _ => Err(denied(format!("the server does not allow {user} to log in by {what}, but by: {}", others()))),
        }
    }
}

/// Answers a server's prompt with the password. Fails if the server prompts for anything else.
async fn answer_prompt(ssh: &mut Handle<Client>, user: &str, password: &Secret) -> Result<(), Fault> {
    let mut answer = ssh.authenticate_keyboard_interactive_start(user, None).await;
    let mut is_given = false;
    loop {
        let answers = match answer.map_err(broken)? {
            KeyboardInteractiveAuthResponse::Success => return Ok(()),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Err(refused(user, "password")),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => match prompts.as_slice() {
                // A message without a prompt.
                [] => Vec::new(),
                [prompt] if !prompt.echo && !is_given => {
                    is_given = true;
                    vec![password.expose().to_owned()]
                }
                _ => return Err(denied(format!("the server prompts {user} for more than a password"))),
            },
        };
        answer = ssh.authenticate_keyboard_interactive_respond(answers).await;
    }
}

fn refused(user: &str, what: &str) -> Fault {
    denied(format!("the server rejected this {what} for {user}"))
}

fn denied(why: String) -> Fault {
    Fault::Denied(StoreFault::Ssh(why))
}

/// The use of a connection for one request. If the request is not answered, or is cancelled, the connection is not used
/// again.
pub(super) struct Lease {
    connector: Connector,
    connection: Arc<Connection>,
    is_answered: bool,
}

impl Lease {
    /// Returns the connection, for work that outlives the request.
    pub fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    /// Ends the use with the result of the request.
    pub fn end<T>(mut self, answer: Result<T, Fault>) -> Result<T, Fault> {
        self.is_answered = !self.connection.ssh.is_closed() && !matches!(answer, Err(Fault::Transient(_)));
        answer
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let mut current = self.connector.current();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &self.connection)) {
            *current = None;
        }
    }
}

/// The handler that checks the server's key during the handshake.
struct Client {
    host_keys: HostKeys,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(self.host_keys.allows(shown))
    }
}

fn broken(error: russh::Error) -> Fault {
    match error {
        russh::Error::UnknownKey | russh::Error::NoCommonAlgo { .. } => Fault::Permanent(StoreFault::Ssh(format!(
            "{error}: the server presented none of the configured host keys; if it has a new key, verify the key and \
             add it to the host keys"
        ))),
        other => Fault::Transient(StoreFault::Ssh(super::super::http::with_causes(&other))),
    }
}
