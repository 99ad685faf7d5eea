//! Sessions without a cluster: with a process of this machine, or with a helper at a Unix socket.

use std::{io, process::Stdio, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    process::Command,
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

/// A session with the process at the other end of the socket. It does not report the exit status of that process.
pub fn socket_session(stream: UnixStream) -> Session {
    let (session, carrier) = Session::new();
    let (from, to) = stream.into_split();
    let mut tasks = JoinSet::new();
    // The task which writes drops its side when the input ends, so that the other side sees the end of the socket.
    tasks.spawn(write(to, carrier.input));
    tasks.spawn(read(from, Arc::new(carrier.output), Output::Stdout));
    session.carried_by(tasks)
}

async fn write(mut to: impl AsyncWrite + Unpin, mut input: mpsc::Receiver<Input>) {
    while let Some(Input::Data(data)) = input.recv().await {
        if to.write_all(&data).await.is_err() {
            return;
        }
    }
}

async fn read(mut from: impl AsyncRead + Unpin, output: Arc<Sender>, wrap: fn(Bytes) -> Output) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        let output_or_cut = match from.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => Ok(wrap(buffer.split().freeze())),
            Err(error) => Err(SessionCut(format!("the connection to the helper broke: {error}"))),
        };
        if output.send(output_or_cut).await.is_err() {
            return;
        }
    }
}
