//! A session with a process of this machine: the same protocol without a cluster.
//!
//! It must not know what runs over it.

use std::{io, process::Stdio, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, Command},
    sync::mpsc,
    task::JoinSet,
};

use super::{ExecStatus, Input, Output, Session, SessionCut};

const PIECE: usize = 32 * 1024;

type Sender = mpsc::Sender<Result<Output, SessionCut>>;

/// Starts a command line (from `seal::dump_command` or `seal::restore_command`) in a process group of its own.
pub fn local_session(line: &[String]) -> io::Result<Session> {
    let (program, arguments) = line.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let (session, carrier) = Session::new();
    let mut tasks = JoinSet::new();
    if let Some(stdin) = child.stdin.take() {
        tasks.spawn(write(stdin, carrier.input));
    }
    let output = Arc::new(carrier.output);
    let mut readers = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        readers.spawn(read(stdout, output.clone(), Output::Stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        readers.spawn(read(stderr, output.clone(), Output::Stderr));
    }
    tasks.spawn(async move {
        while readers.join_next().await.is_some() {}
        let status = match child.wait().await {
            Ok(status) => status.code().map_or_else(|| ExecStatus::Refused(status.to_string()), ExecStatus::Exited),
            Err(error) => ExecStatus::Refused(error.to_string()),
        };
        let _ = output.send(Ok(Output::Status(status))).await;
    });
    Ok(session.carried_by(tasks))
}

async fn write(stdin: ChildStdin, mut input: mpsc::Receiver<Input>) {
    let mut stdin = stdin;
    while let Some(Input::Data(data)) = input.recv().await {
        if stdin.write_all(&data).await.is_err() {
            return;
        }
    }
}

async fn read(mut from: impl AsyncRead + Unpin, output: Arc<Sender>, wrap: fn(Bytes) -> Output) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        let said = match from.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => Ok(wrap(buffer.split().freeze())),
            Err(error) => Err(SessionCut(format!("a pipe of the process broke: {error}"))),
        };
        if output.send(said).await.is_err() {
            return;
        }
    }
}
