//! The socket of a run: which connections it accepts, and that a stream which is cut in transit is never reported as
//! complete.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use stowaway::{
    exec::{Control, DumpEnd, Limits, Lines, dump_over_socket, feed_over_socket},
    model::{Failure, Proof, Reason},
    runner::sidecar::RunSocket,
    seal::{sealed::Event, socket_command},
    stream::{End, StreamItem, pieces},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{UnixListener, UnixStream},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::pod::{lives, path};
use crate::{
    at_once,
    helper::{noise, remote::program},
    shell::{
        DEADLINE, OpenFolder,
        container::{eventually, is_root},
        strings,
    },
};

/// A run's socket in a folder of its own, and the events which it announced.
struct Fixture {
    folder: OpenFolder,
    announced: watch::Receiver<Option<(String, PathBuf)>>,
    events: Arc<Mutex<Vec<Event>>>,
    door: RunSocket,
    control: Control,
    lines: tokio::sync::mpsc::Receiver<stowaway::exec::Line>,
}

impl Fixture {
    fn new() -> Self {
        let folder = OpenFolder::new();
        let (sender, announced) = watch::channel(None);
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let kept = events.clone();
        let announce = move |event: &Event| {
            kept.lock().unwrap().push(event.clone());
            if let Event::Ready { token, socket } = event {
                let _ = sender.send(Some((token.clone(), socket.into())));
            }
        };
        let (lines, received) = Lines::new();
        let control =
            Control { limits: Limits::default(), cancel: CancellationToken::new(), lines, progress: Arc::default() };
        let door = RunSocket::new(folder.path().to_owned(), Arc::new(announce));
        Self { folder, announced, events, door, control, lines: received }
    }

    async fn announced(&self) -> (String, PathBuf) {
        let mut announced = self.announced.clone();
        timeout(DEADLINE, announced.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap()
    }

    /// Cancels the run unless a helper connected, because the run would wait for a helper whose token did not arrive.
    fn give_up_unless_connected(&self) {
        if !self.events.lock().unwrap().contains(&Event::Connected) {
            self.control.cancel.cancel();
        }
    }

    /// Receives a dump. Returns its outcome, and the data if the stream ended properly.
    async fn dump(&self) -> (Result<DumpEnd, Failure>, Option<Vec<u8>>) {
        let (sender, mut receiver) = pieces();
        let receiving = async {
            let mut data = Vec::new();
            while let Some(piece) = receiver.recv().await {
                match piece {
                    StreamItem::Data(bytes) => data.extend_from_slice(&bytes),
                    StreamItem::End(_) => return Some(data),
                    StreamItem::Broken(_) => return None,
                }
            }
            None
        };
        let dumping = async {
            let dumped = dump_over_socket(self.door.helper(&self.control), &self.control, &sender).await;
            drop(sender);
            dumped
        };
        timeout(DEADLINE, async { tokio::join!(dumping, receiving) }).await.expect("timed out")
    }
}

/// A helper for this socket, as another user if the test runs as root.
async fn helper(token: &str, socket: &Path, restore: bool, command: &[String]) -> Child {
    let user =
        if is_root() { strings(&["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]) } else { vec![] };
    let line = [user, socket_command(program(), &path(socket), restore, command).unwrap()].concat();
    let mut child =
        Command::new(&line[0]).args(&line[1..]).stdin(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    // The exec ends as soon as the token was sent, as it does when the API server disconnects.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{token}\n").as_bytes()).await.unwrap();
    child
}

#[tokio::test]
async fn only_the_token_is_accepted_and_only_once() {
    let fixture = Fixture::new();
    let script = "echo printed on stderr >&2; echo content";
    let connecting = async {
        let (token, socket) = fixture.announced().await;
        let name = socket.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.len() == 32 && !name.contains(&token) && token.len() == 32);
        // A connection which sends nothing does not block others.
        let silent = UnixStream::connect(&socket).await.unwrap();
        let near = format!("{}{}", &token[..31], if token.ends_with('0') { '1' } else { '0' });
        for wrong in [near, "0".repeat(32), "x".repeat(5000), "\n".repeat(40), format!(" {token}")] {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            let _ = stream.write_all(format!("{wrong}\n").as_bytes()).await;
            let mut answer = Vec::new();
            let _reset = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the connection stays open");
            assert_eq!(answer, b"", "{wrong:?}");
        }
        let mut helper = helper(&token, &socket, false, &strings(&["sh", "-c", script])).await;
        eventually(|| !socket.exists()).await;
        // A second helper finds no socket, and starts nothing.
        let mut second =
            self::helper(&token, &socket, false, &strings(&["touch", &path(&fixture.folder.file("ran"))])).await;
        assert_eq!(timeout(DEADLINE, second.wait()).await.unwrap().unwrap().code(), Some(125));
        assert_eq!(timeout(DEADLINE, helper.wait()).await.unwrap().unwrap().code(), Some(0));
        drop(silent);
    };
    let ((outcome, data), ()) = tokio::join!(fixture.dump(), connecting);
    assert_eq!(outcome, Ok(DumpEnd { proof: Proof::Sealed, bytes: 8, exit_code: 0 }));
    assert_eq!(data.unwrap(), b"content\n");
    assert!(!fixture.folder.file("ran").exists());
    let Fixture { events, control, mut lines, .. } = fixture;
    assert!(matches!(&events.lock().unwrap()[..], [Event::Ready { .. }, Event::Connected]));
    assert_eq!(control.lines.tail(), "printed on stderr\n");
    assert_eq!(lines.recv().await.unwrap().text, "printed on stderr");
}

#[tokio::test]
async fn end_of_the_socket_ends_the_command_and_the_end_of_stdin_does_not() {
    let fixture = Fixture::new();
    let script = format!("echo $$ >{}; while :; do sleep 1; done", fixture.folder.file("pid").display());
    let (pid, mut helper) = {
        let mut dumping = std::pin::pin!(fixture.dump());
        let begun = async {
            let (token, socket) = fixture.announced().await;
            let helper = helper(&token, &socket, false, &strings(&["sh", "-c", &script])).await;
            (fixture.folder.pid().await, helper)
        };
        let begun = tokio::select! { dumped = &mut dumping => panic!("{dumped:?}"), begun = begun => begun };
        // The helper's stdin has ended before.
        tokio::select! {
            dumped = &mut dumping => panic!("{dumped:?}"),
            () = tokio::time::sleep(Duration::from_millis(200)) => assert!(lives(&begun.0)),
        }
        begun
    };
    // The sidecar's end of the socket is closed.
    timeout(DEADLINE, helper.wait()).await.unwrap().unwrap();
    assert!(!lives(&pid));
}

#[tokio::test]
async fn cancelled_dump_ends_the_command_and_reports_why() {
    let fixture = Fixture::new();
    let script = format!("echo $$ >{}; while :; do sleep 1; done", fixture.folder.file("pid").display());
    let cancelling = async {
        let (token, socket) = fixture.announced().await;
        let helper = helper(&token, &socket, false, &strings(&["sh", "-c", &script])).await;
        let pid = fixture.folder.pid().await;
        fixture.control.cancel.cancel();
        (pid, helper)
    };
    let ((outcome, data), (pid, _helper)) = tokio::join!(fixture.dump(), cancelling);
    assert_eq!((outcome.unwrap_err().reason, data), (Reason::Cancelled, None));
    // A command which does not end at once is killed by the helper.
    eventually(|| !lives(&pid)).await;
}

/// Passes this many bytes in one direction, and then cuts both.
async fn cut_after(bytes: u64, of_helper: bool, listener: UnixListener, socket: PathBuf) -> u64 {
    let (helper, _) = listener.accept().await.unwrap();
    let sidecar = UnixStream::connect(socket).await.unwrap();
    let (from_helper, to_helper) = helper.into_split();
    let (from_sidecar, to_sidecar) = sidecar.into_split();
    let limit = |is_cut: bool| if is_cut { bytes } else { u64::MAX };
    let (mut from_helper, mut to_sidecar) = (from_helper.take(limit(of_helper)), to_sidecar);
    let (mut from_sidecar, mut to_helper) = (from_sidecar.take(limit(!of_helper)), to_helper);
    let (up, down) = (copy(&mut from_helper, &mut to_sidecar), copy(&mut from_sidecar, &mut to_helper));
    // When one direction ends, the other is cut.
    tokio::select! { passed = up => passed.unwrap_or(0), passed = down => passed.unwrap_or(0) }
}

/// Runs a dump through a proxy which cuts it. Returns whether the dump succeeded, and how many bytes passed. A success
/// must contain all data.
async fn cut_dump(data: &Path, bytes: u64, of_helper: bool) -> (bool, u64) {
    let fixture = Fixture::new();
    let proxy_socket = fixture.folder.file("proxy");
    let proxying = async {
        let (token, socket) = fixture.announced().await;
        let listener = UnixListener::bind(&proxy_socket).unwrap();
        std::fs::set_permissions(&proxy_socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let mut helper = helper(&token, &proxy_socket, false, &strings(&["cat", &path(data)])).await;
        let passed = cut_after(bytes, of_helper, listener, socket).await;
        timeout(DEADLINE, helper.wait()).await.expect("still alive").unwrap();
        fixture.give_up_unless_connected();
        passed
    };
    let ((outcome, got), passed) = tokio::join!(fixture.dump(), proxying);
    if let Ok(end) = &outcome {
        assert_eq!(end.proof, Proof::Sealed);
        assert!(got.as_deref() == Some(&std::fs::read(data).unwrap()[..]), "a false success after {bytes} bytes");
    } else {
        assert_eq!(got, None);
    }
    (outcome.is_ok(), passed)
}

#[tokio::test]
async fn dump_that_is_cut_anywhere_on_its_socket_is_never_green() {
    let folder = OpenFolder::new();
    let file = folder.file("data");
    std::fs::write(&file, noise(100_000)).unwrap();
    let (green, whole) = cut_dump(&file, u64::MAX, true).await;
    assert!(green && whole > 100_000);
    let step = usize::try_from(whole / 120).unwrap();
    let near_the_end = (whole - 60..whole).step_by(4);
    let offsets = (0..whole).step_by(step).chain(near_the_end);
    at_once(offsets, async |offset| {
        assert!(!cut_dump(&file, offset, true).await.0, "success although cut after {offset} of {whole} bytes");
    })
    .await;
    // Cuts the other direction. The runner's last message may be lost, because the trailer has arrived before it.
    at_once((0..200).step_by(9), async |offset| {
        let _may_be_green = cut_dump(&file, offset, false).await;
    })
    .await;
}

#[tokio::test]
async fn restore_that_is_cut_on_its_socket_commits_nothing() {
    let data = noise(200_000);
    at_once((0..200_000).step_by(9973), async |offset| {
        let fixture = Fixture::new();
        let proxy_socket = fixture.folder.file("proxy");
        let committed = fixture.folder.file("committed");
        let (sender, receiver) = pieces();
        let sending = async {
            for piece in data.chunks(65_536) {
                let _ = sender.send(StreamItem::Data(bytes::Bytes::copy_from_slice(piece))).await;
            }
            let _ = sender.send(StreamItem::End(End { proof: Proof::Sealed, bytes: data.len() as u64 })).await;
        };
        let proxying = async {
            let (token, socket) = fixture.announced().await;
            let listener = UnixListener::bind(&proxy_socket).unwrap();
            std::fs::set_permissions(&proxy_socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
            let command = strings(&["sh", "-c", "cat >/dev/null; echo >\"$0\"", &path(&committed)]);
            let mut helper = helper(&token, &proxy_socket, true, &command).await;
            cut_after(offset, false, listener, socket).await;
            timeout(DEADLINE, helper.wait()).await.expect("still alive").unwrap();
            fixture.give_up_unless_connected();
        };
        let feeding =
            feed_over_socket(fixture.door.helper(&fixture.control), data.len() as u64, receiver, &fixture.control);
        let (fed, (), ()) =
            timeout(DEADLINE, async { tokio::join!(feeding, sending, proxying) }).await.expect("timed out");
        assert!(fed.is_err() && !committed.exists(), "cut after {offset} bytes: {fed:?}");
    })
    .await;
}
