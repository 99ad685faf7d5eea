//! The remote side of the dump form for a process of Stowaway: proves a stream without any shell.

use tokio::io::{self, AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Nonce;

/// Longer lines do not belong to the protocol.
const LONGEST_LINE: u64 = 256;
const PIECE: usize = 64 * 1024;

/// Why the content was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The first line on stdin is not a nonce.
    #[error("no nonce was received on stdin: this command is run by the stowaway CLI, and not by users")]
    NoNonce,
    /// The client ended the connection, or cancelled by closing stdin.
    #[error("the client ended the exchange before it had acknowledged the response")]
    NotAcknowledged,
    /// The content could not be read, or stdout not be written.
    #[error("could not send the response: {0}")]
    Io(#[from] io::Error),
}

/// Reads the nonce from `input`, copies `content` to `output` between `ready` and the trailer, and waits for the
/// acknowledgement. `status` is called after the last byte and returns the exit status for the trailer.
///
/// If `content` cannot be read to its end, no trailer is sent, so that the client does not take the content for
/// complete. End of file on `input` cancels.
pub async fn answer(
    mut input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    mut content: impl AsyncRead + Unpin,
    status: impl FnOnce() -> u8,
) -> Result<(), AnswerError> {
    let nonce = read_line(&mut input).await?.as_deref().and_then(Nonce::parse).ok_or(AnswerError::NoNonce)?;
    let send = async {
        output.write_all(&nonce.ready()).await?;
        output.flush().await?;
        let mut buffer = vec![0; PIECE];
        loop {
            match content.read(&mut buffer).await? {
                0 => break,
                length => output.write_all(&buffer[..length]).await?,
            }
        }
        output.write_all(nonce.trailer(u16::from(status())).as_bytes()).await?;
        output.flush().await
    };
    let acknowledged = acknowledgement(&mut input, &nonce);
    tokio::pin!(send, acknowledged);
    // The acknowledgement follows the trailer. If it arrives first, the client has received everything, and only the
    // local write has not returned yet. An end of input before that means that the client has disconnected.
    let early = tokio::select! {
        result = &mut send => {
            result?;
            None
        }
        received = &mut acknowledged => Some(received?),
    };
    let is_acknowledged = match early {
        Some(received) => received,
        None => acknowledged.await?,
    };
    if is_acknowledged { Ok(()) } else { Err(AnswerError::NotAcknowledged) }
}

/// Whether the nonce arrived before the end of `input`. Other lines are heartbeats.
async fn acknowledgement(input: &mut (impl AsyncBufRead + Unpin), nonce: &Nonce) -> io::Result<bool> {
    while let Some(line) = read_line(input).await? {
        if line == nonce.as_str() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The next line without its newline. `None` at the end of file, or for a line which is too long or not UTF-8.
async fn read_line(input: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    Ok(line.strip_suffix(b"\n").and_then(|line| String::from_utf8(line.to_vec()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Unsealer;

    #[tokio::test]
    async fn answer_is_proven_and_stays_until_acknowledged() {
        let nonce = Nonce::new(1);
        let (client, server) = io::duplex(64);
        let (server_input, server_output) = io::split(server);
        let content = vec![0_u8; 5000];
        let answering =
            tokio::spawn(
                async move { answer(io::BufReader::new(server_input), server_output, &content[..], || 3).await },
            );
        let (mut from, mut to) = io::split(client);
        to.write_all(&nonce.line()).await.unwrap();
        let mut unsealer = Unsealer::new(&nonce);
        let mut buffer = [0; 100];
        while unsealer.exit_status().is_none() {
            let length = from.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "it left before the acknowledgement");
            unsealer.push(&buffer[..length]).unwrap();
        }
        assert_eq!((unsealer.exit_status(), unsealer.bytes()), (Some(3), 5000));
        assert!(!answering.is_finished());
        to.write_all(b"\n").await.unwrap();
        to.write_all(&nonce.line()).await.unwrap();
        answering.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn closed_input_cancels_an_answer() {
        let input = &b"00000000000000000000000000000001\n"[..];
        let (content, _kept_open) = io::duplex(8);
        let end = answer(input, io::sink(), content, || 0).await;
        assert!(matches!(end, Err(AnswerError::NotAcknowledged)), "{end:?}");
        let end = answer(&b"hello\n"[..], io::sink(), io::empty(), || 0).await;
        assert!(matches!(end, Err(AnswerError::NoNonce)), "{end:?}");
    }

    #[tokio::test]
    async fn content_that_breaks_gets_no_trailer() {
        let input = io::BufReader::new(io::join(&b"00000000000000000000000000000001\n"[..], io::sink()));
        let broken = tokio_util::io::StreamReader::new(futures::stream::iter([
            Ok(&b"half"[..]),
            Err(io::Error::other("store gone")),
        ]));
        let mut output = Vec::new();
        let _ = answer(input, &mut output, broken, || 0).await;
        assert!(!output.ends_with(b"\n"), "{output:?}");
    }
}
