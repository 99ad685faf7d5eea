//! Answers the CLI's queries from within the cluster, where the store can be reached. The CLI runs this process by the
//! image's helper, as a dump, so that the response is proven to be complete.

use std::io::{self, Write};

use bytes::Bytes;
use serde::Serialize;
use tokio::{
    io::{AsyncBufRead, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::{io::StreamReader, sync::CancellationToken};

use super::{
    doctor,
    job::{with_repository_to_read, within_grace},
    questions::{self, Question},
    settings::{self, Identity},
};
use crate::{
    model::{Failure, Reason},
    repository::{Entry, OpenOptions, Repository},
    stream::StreamItem,
};

/// Answers one query on stdout, and returns the process's exit status. On failure the last line on stderr is the
/// [`Failure`] as JSON. Its reason is the cause of the failure, and the CLI shows that failure only.
pub async fn answer(question: Question) -> u8 {
    let cancel = CancellationToken::new();
    let answered = within_grace(&cancel, async {
        let task = settings::task()?;
        let access = settings::access(&task.backend, &task.connection, &Identity::from_environment());
        match (access, &question) {
            // A repository whose Secrets are missing is a valid result, too.
            (Err(failure), Question::Examine { .. }) => send(json(&doctor::unopened(&failure))?).await,
            (access, _) => reply(access?, &cancel, question).await,
        }
    });
    match answered.await {
        Ok(()) => 0,
        Err(failure) => {
            let line = serde_json::to_string(&failure).unwrap_or_else(|_| failure.to_string());
            let _gone = writeln!(io::stderr(), "{line}");
            1
        }
    }
}

async fn reply(access: OpenOptions, cancel: &CancellationToken, question: Question) -> Result<(), Failure> {
    match question {
        Question::Snapshots => {
            let reply = async |repository: &_| send(json(&questions::snapshots(repository).await?)?).await;
            with_repository_to_read(access, cancel, reply).await
        }
        Question::List { snapshot } => {
            let reply = async |repository: &_| send_list(repository, &snapshot).await;
            with_repository_to_read(access, cancel, reply).await
        }
        Question::File { snapshot, path } => {
            let reply = async |repository: &_| send_file(repository, &snapshot, path.as_deref()).await;
            with_repository_to_read(access, cancel, reply).await
        }
        // A repository which cannot be opened is a valid result, too.
        Question::Examine { data } => send(json(&doctor::examine(access, cancel, data).await?)?).await,
    }
}

async fn send_file(repository: &Repository, snapshot: &str, path: Option<&str>) -> Result<(), Failure> {
    let mut file = questions::file(repository, snapshot, path).await?;
    // A stored file which cannot be read to its end becomes an error, so that the command fails.
    let pieces = futures::stream::poll_fn(move |context| {
        file.pieces.poll_recv(context).map(|piece| match piece {
            Some(StreamItem::Data(bytes)) => Some(Ok(bytes)),
            Some(StreamItem::End(_)) => None,
            Some(StreamItem::Broken(failure)) => Some(Err(io::Error::other(failure))),
            None => Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof))),
        })
    });
    send(StreamReader::new(pieces)).await
}

/// Sends the paths of a snapshot as one JSON list, of which only a small part is in memory at a time.
async fn send_list(repository: &Repository, snapshot: &str) -> Result<(), Failure> {
    let (sender, batches) = mpsc::channel(1);
    let (output, mut pieces) = mpsc::channel(1);
    let list = async {
        let listing = questions::list_into(repository, snapshot, sender);
        let (listed, written) = tokio::join!(listing, write_list(batches, &output));
        // A listing which fails becomes an error, so that the command fails.
        let end = listed.and(written).map(Bytes::from_static);
        let answered = end.as_ref().map(drop).map_err(Clone::clone);
        let _ = output.send(end.map_err(io::Error::other)).await;
        drop(output);
        answered
    };
    let content = StreamReader::new(futures::stream::poll_fn(move |context| pieces.poll_recv(context)));
    let (listed, sent) = tokio::join!(list, send(content));
    listed.and(sent)
}

/// Writes the entries of a list, and returns the bytes which end the list.
async fn write_list(
    mut batches: mpsc::Receiver<Vec<Entry>>,
    output: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<&'static [u8], Failure> {
    let mut separator = b'[';
    while let Some(batch) = batches.recv().await {
        let mut piece = Vec::new();
        for entry in batch {
            piece.push(std::mem::replace(&mut separator, b','));
            serde_json::to_writer(&mut piece, &entry)
                .map_err(|error| Failure::new(Reason::InternalError, error.to_string()))?;
        }
        // The client has disconnected, which the end of the response reports.
        if output.send(Ok(piece.into())).await.is_err() {
            break;
        }
    }
    Ok(if separator == b'[' { b"[]" } else { b"]" })
}

fn json(value: &impl Serialize) -> Result<io::Cursor<Bytes>, Failure> {
    let text = serde_json::to_vec(value).map_err(|error| Failure::new(Reason::InternalError, error.to_string()))?;
    Ok(io::Cursor::new(text.into()))
}

async fn send(content: impl AsyncBufRead) -> Result<(), Failure> {
    tokio::pin!(content);
    let mut output = tokio::io::stdout();
    tokio::io::copy_buf(&mut content, &mut output).await.map_err(failed)?;
    output.flush().await.map_err(failed)
}

/// The failure of a response which was not delivered. If its content could not be read, this is the failure of the
/// content.
fn failed(error: io::Error) -> Failure {
    error
        .downcast::<Failure>()
        .unwrap_or_else(|error| Failure::new(Reason::StreamCut, format!("the response could not be sent: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_which_fails_is_reported_with_its_own_reason() {
        let damaged = Failure::new(Reason::RepositoryDamaged, "a part is lost");
        assert_eq!(failed(io::Error::other(damaged.clone())), damaged);
        let gone = failed(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(gone.reason, Reason::StreamCut);
    }
}
