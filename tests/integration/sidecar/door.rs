//! The socket of a run: who comes in, and that a stream which is cut on its way is never whole.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use stowaway::{
    cluster::exec::{Control, DumpEnd, Limits, Lines, dump_over_socket, feed_over_socket},
    model::{Failure, Proof, Reason},
    runner::sidecar::Door,
    seal::{sealed::Event, socket_command},
    stream::{End, Piece, pieces},
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
        words,
    },
};

/// A door in a folder of its own, and what it announced.
struct House {
    folder: OpenFolder,
    announced: watch::Receiver<Option<(String, PathBuf)>>,
    events: Arc<Mutex<Vec<Event>>>,
    door: Door,
    control: Control,
    lines: tokio::sync::mpsc::Receiver<stowaway::cluster::exec::Line>,
}

impl House {
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
        let (lines, said) = Lines::new();
        let control =
            Control { limits: Limits::default(), cancel: CancellationToken::new(), lines, progress: Arc::default() };
        let door = Door::new(folder.path().to_owned(), Arc::new(announce));
        Self { folder, announced, events, door, control, lines: said }
    }

    async fn announced(&self) -> (String, PathBuf) {
        let mut announced = self.announced.clone();
        timeout(DEADLINE, announced.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap()
    }

    /// A helper whose word did not get through would be waited for.
    fn give_up_unless_connected(&self) {
        if !self.events.lock().unwrap().contains(&Event::Connected) {
            self.control.cancel.cancel();
        }
    }

    /// Takes a dump; gives its outcome, and the data if there was an end.
    async fn dump(&self) -> (Result<DumpEnd, Failure>, Option<Vec<u8>>) {
        let (sender, mut receiver) = pieces();
        let receiving = async {
            let mut data = Vec::new();
            while let Some(piece) = receiver.recv().await {
                match piece {
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    Piece::End(_) => return Some(data),
                    Piece::Broken(_) => return None,
                }
            }
            None
        };
        let dumping = async {
            let dumped = dump_over_socket(self.door.helper(&self.control), &self.control, &sender).await;
            drop(sender);
            dumped
        };
        timeout(DEADLINE, async { tokio::join!(dumping, receiving) }).await.expect("a hang")
    }
}

/// A helper for that socket, as another user where we may.
async fn helper(token: &str, socket: &Path, restore: bool, command: &[String]) -> Child {
    let user = if is_root() { words(&["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]) } else { vec![] };
    let line = [user, socket_command(program(), &path(socket), restore, command).unwrap()].concat();
    let mut child =
        Command::new(&line[0]).args(&line[1..]).stdin(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    // The exec ends as soon as the word was said, as by an API server that goes away.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{token}\n").as_bytes()).await.unwrap();
    child
}

#[tokio::test]
async fn only_the_word_opens_and_only_once() {
    let house = House::new();
    let script = "echo said on stderr >&2; echo content";
    let knocking = async {
        let (token, socket) = house.announced().await;
        let name = socket.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.len() == 32 && !name.contains(&token) && token.len() == 32);
        // Somebody who says nothing stands in nobody's way.
        let silent = UnixStream::connect(&socket).await.unwrap();
        let near = format!("{}{}", &token[..31], if token.ends_with('0') { '1' } else { '0' });
        for wrong in [near, "0".repeat(32), "x".repeat(5000), "\n".repeat(40), format!(" {token}")] {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            let _ = stream.write_all(format!("{wrong}\n").as_bytes()).await;
            let mut answer = Vec::new();
            let _reset = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it stays open");
            assert_eq!(answer, b"", "{wrong:?}");
        }
        let mut helper = helper(&token, &socket, false, &words(&["sh", "-c", script])).await;
        eventually(|| !socket.exists()).await;
        // A second one finds no door, and starts nothing.
        let mut second =
            self::helper(&token, &socket, false, &words(&["touch", &path(&house.folder.file("ran"))])).await;
        assert_eq!(timeout(DEADLINE, second.wait()).await.unwrap().unwrap().code(), Some(125));
        assert_eq!(timeout(DEADLINE, helper.wait()).await.unwrap().unwrap().code(), Some(0));
        drop(silent);
    };
    let ((outcome, data), ()) = tokio::join!(house.dump(), knocking);
    assert_eq!(outcome, Ok(DumpEnd { proof: Proof::Sealed, bytes: 8, exit_code: 0 }));
    assert_eq!(data.unwrap(), b"content\n");
    assert!(!house.folder.file("ran").exists());
    let House { events, control, mut lines, .. } = house;
    assert!(matches!(&events.lock().unwrap()[..], [Event::Ready { .. }, Event::Connected]));
    assert_eq!(control.lines.tail(), "said on stderr\n");
    assert_eq!(lines.recv().await.unwrap().text, "said on stderr");
}

#[tokio::test]
async fn end_of_the_socket_ends_the_command_and_the_end_of_stdin_does_not() {
    let house = House::new();
    let script = format!("echo $$ >{}; while :; do sleep 1; done", house.folder.file("pid").display());
    let (pid, mut helper) = {
        let mut dumping = std::pin::pin!(house.dump());
        let begun = async {
            let (token, socket) = house.announced().await;
            let helper = helper(&token, &socket, false, &words(&["sh", "-c", &script])).await;
            (house.folder.pid().await, helper)
        };
        let begun = tokio::select! { dumped = &mut dumping => panic!("{dumped:?}"), begun = begun => begun };
        // Its stdin ended long ago.
        tokio::select! {
            dumped = &mut dumping => panic!("{dumped:?}"),
            () = tokio::time::sleep(Duration::from_millis(200)) => assert!(lives(&begun.0)),
        }
        begun
    };
    // The side of the sidecar is gone.
    timeout(DEADLINE, helper.wait()).await.unwrap().unwrap();
    assert!(!lives(&pid));
}

#[tokio::test]
async fn cancelled_dump_ends_the_command_and_says_why() {
    let house = House::new();
    let script = format!("echo $$ >{}; while :; do sleep 1; done", house.folder.file("pid").display());
    let cancelling = async {
        let (token, socket) = house.announced().await;
        let helper = helper(&token, &socket, false, &words(&["sh", "-c", &script])).await;
        let pid = house.folder.pid().await;
        house.control.cancel.cancel();
        (pid, helper)
    };
    let ((outcome, data), (pid, _helper)) = tokio::join!(house.dump(), cancelling);
    assert_eq!((outcome.unwrap_err().reason, data), (Reason::Cancelled, None));
    // One that does not end at once is ended by the helper alone.
    eventually(|| !lives(&pid)).await;
}

/// Lets so many bytes pass in one direction, and then cuts both.
async fn cut_after(bytes: u64, of_helper: bool, listener: UnixListener, socket: PathBuf) -> u64 {
    let (helper, _) = listener.accept().await.unwrap();
    let ours = UnixStream::connect(socket).await.unwrap();
    let (from_helper, to_helper) = helper.into_split();
    let (from_us, to_us) = ours.into_split();
    let limit = |is_cut: bool| if is_cut { bytes } else { u64::MAX };
    let (mut from_helper, mut to_us) = (from_helper.take(limit(of_helper)), to_us);
    let (mut from_us, mut to_helper) = (from_us.take(limit(!of_helper)), to_helper);
    let (up, down) = (copy(&mut from_helper, &mut to_us), copy(&mut from_us, &mut to_helper));
    // Whichever ends first takes the other one with it.
    tokio::select! { passed = up => passed.unwrap_or(0), passed = down => passed.unwrap_or(0) }
}

/// A dump through a proxy; whether it was green, how many bytes passed, and whether anything of the command is left.
async fn cut_dump(data: &Path, bytes: u64, of_helper: bool) -> (bool, u64) {
    let house = House::new();
    let place = house.folder.file("proxy");
    let proxying = async {
        let (token, socket) = house.announced().await;
        let listener = UnixListener::bind(&place).unwrap();
        std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let mut helper = helper(&token, &place, false, &words(&["cat", &path(data)])).await;
        let passed = cut_after(bytes, of_helper, listener, socket).await;
        timeout(DEADLINE, helper.wait()).await.expect("it lives on").unwrap();
        house.give_up_unless_connected();
        passed
    };
    let ((outcome, got), passed) = tokio::join!(house.dump(), proxying);
    if let Ok(end) = &outcome {
        assert_eq!(end.proof, Proof::Sealed);
        assert!(got.as_deref() == Some(&std::fs::read(data).unwrap()[..]), "a false green after {bytes} bytes");
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
        assert!(!cut_dump(&file, offset, true).await.0, "green although cut after {offset} of {whole} bytes");
    })
    .await;
    // What we say: without our last word the helper does not matter any more, since its trailer was here.
    at_once((0..200).step_by(9), async |offset| {
        let _may_be_green = cut_dump(&file, offset, false).await;
    })
    .await;
}

#[tokio::test]
async fn restore_that_is_cut_on_its_socket_commits_nothing() {
    let data = noise(200_000);
    at_once((0..200_000).step_by(9973), async |offset| {
        let house = House::new();
        let place = house.folder.file("proxy");
        let committed = house.folder.file("committed");
        let (sender, receiver) = pieces();
        let sending = async {
            for piece in data.chunks(65_536) {
                let _ = sender.send(Piece::Data(bytes::Bytes::copy_from_slice(piece))).await;
            }
            let _ = sender.send(Piece::End(End { proof: Proof::Sealed, bytes: data.len() as u64 })).await;
        };
        let proxying = async {
            let (token, socket) = house.announced().await;
            let listener = UnixListener::bind(&place).unwrap();
            std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
            let command = words(&["sh", "-c", "cat >/dev/null; echo >\"$0\"", &path(&committed)]);
            let mut helper = helper(&token, &place, true, &command).await;
            cut_after(offset, false, listener, socket).await;
            timeout(DEADLINE, helper.wait()).await.expect("it lives on").unwrap();
            house.give_up_unless_connected();
        };
        let feeding = feed_over_socket(house.door.helper(&house.control), data.len() as u64, receiver, &house.control);
        let (fed, (), ()) =
            timeout(DEADLINE, async { tokio::join!(feeding, sending, proxying) }).await.expect("a hang");
        assert!(fed.is_err() && !committed.exists(), "cut after {offset} bytes: {fed:?}");
    })
    .await;
}
