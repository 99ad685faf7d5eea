//! The socket of one run, through which its helper comes: one, once, and only with the word that it was told.
//!
//! It must not know what is said behind the door. Everybody in the pod can knock: the path is hard to guess, and without
//! the word nobody gets in.

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
    cluster::exec::{Control, Session, socket_session},
    model::{Failure, Reason},
    seal::{Nonce, sealed::Event},
};

/// How long the helper may take to come.
const COMES_WITHIN: Duration = Duration::from_mins(2);
/// How long whoever knocks may take to say the word.
const SAYS_WITHIN: Duration = Duration::from_secs(10);
/// Who knocks beyond this number waits.
const AT_ONCE: usize = 8;

/// Where the helper will come in.
#[derive(Clone)]
pub struct Door {
    folder: PathBuf,
    announce: Arc<dyn Fn(&Event) + Send + Sync>,
}

impl Door {
    /// In this folder; `announce` tells those who send the helper, and nobody else.
    pub fn new(folder: PathBuf, announce: Arc<dyn Fn(&Event) + Send + Sync>) -> Self {
        Self { folder, announce }
    }

    /// Opens the door, says so, and waits for the helper. Nothing runs before it comes.
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
            stream = admit(&listener, &token) => stream,
            () = sleep(COMES_WITHIN) => {
                let message = format!("the pod's helper did not come within {} s; nothing ran", COMES_WITHIN.as_secs());
                return Err(Failure::new(Reason::StreamCut, message));
            }
        };
        (self.announce)(&Event::Connected);
        info!("the pod's helper is there");
        Ok(socket_session(stream))
    }
}

/// The first one that says the word. Who else is there by then is let go.
async fn admit(listener: &UnixListener, token: &Nonce) -> UnixStream {
    let mut knocking = JoinSet::new();
    loop {
        tokio::select! {
            Some(checked) = knocking.join_next() => match checked {
                Ok(Some(stream)) => return stream,
                _ => warn!("somebody who did not know the word came to the run's socket"),
            },
            accepted = listener.accept(), if knocking.len() < AT_ONCE => match accepted {
                Ok((stream, _)) => drop(knocking.spawn(check(stream, token.clone()))),
                // Of descriptors there may be enough again soon.
                Err(error) => {
                    warn!("the run's socket takes nobody in: {error}");
                    sleep(Duration::from_secs(1)).await;
                }
            },
        }
    }
}

/// The stream behind the word, if it was said. The helper says nothing more until it hears our hello.
async fn check(mut stream: UnixStream, token: Nonce) -> Option<UnixStream> {
    let expected = token.line();
    let mut said = vec![0; expected.len()];
    timeout(SAYS_WITHIN, stream.read_exact(&mut said)).await.ok()?.ok()?;
    // Digests, so that how long it takes tells nothing of how much of the word was right.
    (Sha256::digest(&said) == Sha256::digest(&expected)).then_some(stream)
}

/// The socket's file, which goes with this value.
struct Socket {
    path: PathBuf,
}

impl Socket {
    fn listen(&self) -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&self.path)?;
        // The app runs as another user; to connect one has to be able to write.
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o666))?;
        Ok(listener)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}
