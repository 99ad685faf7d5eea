//! The Unix socket of one run. It hands over a single connection: the first which presents the run's token. Any process
//! in the pod may try to connect, because the app runs as another user. The random path is hard to guess, and without
//! the token no connection is used.

use std::{io, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use rand::random;
use sha2::{Digest, Sha256};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    exec::{Control, Session, socket_session},
    model::{Failure, Reason},
    seal::{Nonce, sealed::Event},
};

/// The time that the helper may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_mins(2);
/// The time that a client may take to send its token.
const TOKEN_WITHIN: Duration = Duration::from_secs(10);
/// The number of clients that are checked at the same time. Further clients wait.
const MAX_PENDING: usize = 8;

/// The socket to which the helper connects.
#[derive(Clone)]
pub struct RunSocket {
    folder: PathBuf,
    announce: Arc<dyn Fn(&Event) + Send + Sync>,
}

impl RunSocket {
    /// Creates the socket's parameters. The socket will be in `folder`; `announce` receives its path and token, which
    /// only the sender of the helper must see.
    pub fn new(folder: PathBuf, announce: Arc<dyn Fn(&Event) + Send + Sync>) -> Self {
        Self { folder, announce }
    }

    /// Opens and announces the socket, and waits for the helper's connection. Nothing runs before the helper connects.
    pub async fn helper(&self, control: &Control) -> Result<Session, Failure> {
        let socket = Socket { path: self.folder.join(Nonce::new(random()).as_str()) };
        let token = Nonce::new(random());
        let listener = socket.listen().map_err(|error| {
            let message = format!("the sidecar cannot open its socket in {}: {error}", self.folder.display());
            Failure::new(Reason::ExecRefused, message)
        })?;
        info!("waiting for the pod's helper");
        let path = socket.path.to_string_lossy().into_owned();
        (self.announce)(&Event::Ready { token: token.as_str().to_owned(), socket: path });
        let stream = tokio::select! {
            biased;
            () = control.cancel.cancelled() => {
                return Err(Failure::new(Reason::Cancelled, "the run was cancelled"));
            }
            stream = accept_helper(&listener, &token) => stream,
            () = sleep(CONNECT_WITHIN) => {
                let seconds = CONNECT_WITHIN.as_secs();
                let message = format!("the pod's helper did not connect within {seconds} s; nothing ran");
                return Err(Failure::new(Reason::StreamCut, message));
            }
        };
        (self.announce)(&Event::Connected);
        info!("the pod's helper has connected");
        Ok(socket_session(stream))
    }
}

/// The first connection which presents the token. All other connections are closed.
async fn accept_helper(listener: &UnixListener, token: &Nonce) -> UnixStream {
    let mut pending = JoinSet::new();
    loop {
        tokio::select! {
            Some(checked) = pending.join_next() => match checked {
                Ok(Some(stream)) => return stream,
                _ => warn!("a connection to the run's socket was rejected, because it did not present the token"),
            },
            accepted = listener.accept(), if pending.len() < MAX_PENDING => match accepted {
                Ok((stream, _)) => drop(pending.spawn(check(stream, token.clone()))),
                // Descriptors may have run out; they may be available again soon.
                Err(error) => {
                    warn!("a connection to the run's socket could not be accepted: {error}");
                    sleep(Duration::from_secs(1)).await;
                }
            },
        }
    }
}

/// Returns the stream if it begins with the token. The helper sends nothing more until it receives the hello.
async fn check(mut stream: UnixStream, token: Nonce) -> Option<UnixStream> {
    let expected = token.line();
    let mut received = vec![0; expected.len()];
    timeout(TOKEN_WITHIN, stream.read_exact(&mut received)).await.ok()?.ok()?;
    // Digests are compared, so that the time of the comparison does not reveal how much of the token was right.
    (Sha256::digest(&received) == Sha256::digest(&expected)).then_some(stream)
}

/// The socket's file, which is removed when this value is dropped.
struct Socket {
    path: PathBuf,
}

impl Socket {
    fn listen(&self) -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&self.path)?;
        // The app runs as another user, and a client needs the right to write in order to connect.
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o666))?;
        Ok(listener)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}
