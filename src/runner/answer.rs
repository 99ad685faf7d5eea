//! Answers the CLI's questions from within the cluster, where the store can be reached: by the same proven stream as a
//! dump, since the exec's own status is no proof.
//!
//! It must not know how the CLI prints things.

use std::io;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::BufReader;
use tokio_util::{io::StreamReader, sync::CancellationToken};
use tracing::error;

use super::{
    doctor,
    job::{with_repository_to_read, within_grace},
    questions::{self, Question},
    settings::{self, Identity},
};
use crate::{
    model::{Failure, Reason},
    repository::{Access, Repository},
    seal,
    stream::Piece,
};

/// Answers one question on stdout, and returns the process's exit status. What failed is said on stderr.
pub async fn answer(question: Question) -> u8 {
    let cancel = CancellationToken::new();
    let answered = within_grace(&cancel, async {
        let task = settings::task()?;
        let access = settings::access(&task.backend, &task.connection, &Identity::from_environment())?;
        reply(access, &cancel, question).await
    });
    match answered.await {
        Ok(()) => 0,
        Err(failure) => {
            error!("{failure}");
            1
        }
    }
}

async fn reply(access: Access, cancel: &CancellationToken, question: Question) -> Result<(), Failure> {
    match question {
        Question::Snapshots => {
            let reply = async |repository: &_| send(json(&questions::snapshots(repository).await?)?).await;
            with_repository_to_read(access, cancel, reply).await
        }
        Question::List { snapshot } => {
            let reply = async |repository: &_| send(json(&questions::list(repository, &snapshot).await?)?).await;
            with_repository_to_read(access, cancel, reply).await
        }
        Question::File { snapshot, path } => {
            let reply = async |repository: &_| send_file(repository, &snapshot, path.as_deref()).await;
            with_repository_to_read(access, cancel, reply).await
        }
        // That it cannot be opened is an answer as well.
        Question::Examine { data } => send(json(&doctor::examine(access, cancel, data).await?)?).await,
    }
}

async fn send_file(repository: &Repository, snapshot: &str, path: Option<&str>) -> Result<(), Failure> {
    let mut file = questions::file(repository, snapshot, path).await?;
    // A stored file that breaks ends as an error, so that the asking side sees no trailer.
    let pieces = futures::stream::poll_fn(move |context| {
        file.pieces.poll_recv(context).map(|piece| match piece {
            Some(Piece::Data(bytes)) => Some(Ok(bytes)),
            Some(Piece::End(_)) => None,
            Some(Piece::Broken(failure)) => Some(Err(io::Error::other(failure))),
            None => Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof))),
        })
    });
    send(StreamReader::new(pieces)).await
}

fn json(value: &impl Serialize) -> Result<io::Cursor<Bytes>, Failure> {
    let text = serde_json::to_vec(value).map_err(|error| Failure::new(Reason::InternalError, error.to_string()))?;
    Ok(io::Cursor::new(text.into()))
}

async fn send(content: impl tokio::io::AsyncRead + Unpin) -> Result<(), Failure> {
    let input = BufReader::new(tokio::io::stdin());
    seal::answer(input, tokio::io::stdout(), content, || 0)
        .await
        .map_err(|error| Failure::new(Reason::StreamCut, error.to_string()))
}
