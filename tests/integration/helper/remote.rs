//! One helper and three pipes to it, as a container runtime gives to an exec; and our side of the protocol, step by step.
//!
//! It must not know what is tested.

use std::{path::PathBuf, process::Stdio, sync::LazyLock};

use stowaway::seal::sealed::{
    Answer, Frame, FrameDecoder, FrameEncoder, LONGEST_LINE, Opener, Outcome, Sealer, Trailer, Window, hello,
    parse_answer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{Container, DEADLINE, child_of, is_root, nonce, words};

/// The helper as it ships, built once.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/helper/build");
        let built = std::process::Command::new(script).env("CARGO", env!("CARGO")).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        String::from_utf8(built.stdout).unwrap().trim().to_owned()
    });
    &PROGRAM
}

pub struct Remote {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    frames: FrameDecoder,
    pub ours: FrameEncoder,
    /// Acknowledges data only when nothing else comes any more.
    pub slow: bool,
    /// Bytes of data on the wire that were acknowledged by [`Remote::acknowledge`].
    acknowledged: u64,
}

impl Remote {
    /// Starts a helper with these options.
    pub fn start(container: &Container, options: &[&str], command: &[String]) -> Self {
        let line = [words(&["helper"]), words(options), words(&["--"]), command.to_vec()].concat();
        let line = container.shell_within(&[program()], &line);
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().unwrap(),
            stderr: child.stderr.take().unwrap(),
            child,
            frames: FrameDecoder::new(&nonce()),
            ours: FrameEncoder::new(&nonce()),
            slow: false,
            acknowledged: 0,
        }
    }

    /// Starts one that says that it is ready.
    pub async fn ready(container: &Container, options: &[&str], command: &[String]) -> Self {
        let mut remote = Self::start(container, options, command);
        remote.send(&hello(&nonce())).await;
        assert_eq!(remote.answer().await, Some(Answer::Ready));
        remote
    }

    /// Its first line, if it is an answer.
    pub async fn answer(&mut self) -> Option<Answer> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < LONGEST_LINE && !line.ends_with(b"\n") {
            let read = timeout(DEADLINE, self.stdout.read(&mut byte)).await.expect("no answer").unwrap();
            if read == 0 {
                return None;
            }
            line.push(byte[0]);
        }
        parse_answer(&nonce(), line.strip_suffix(b"\n")?)
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // A helper that is gone shows in what it says.
        let _ = self.stdin.as_mut().unwrap().write_all(bytes).await;
    }

    pub async fn say(&mut self, frame: Frame) {
        let mut wire = Vec::new();
        self.ours.encode(&frame, &mut wire);
        self.send(&wire).await;
    }

    /// What it says next; nothing at its end.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut buffer = vec![0; 65_536];
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Some(frame);
            }
            match timeout(DEADLINE, self.stdout.read(&mut buffer)).await.expect("no word for too long").unwrap() {
                0 => return None,
                length => self.frames.push(&buffer[..length]),
            }
        }
    }

    /// The next frame that is of this kind; others are passed over.
    pub async fn until(&mut self, mut is_it: impl FnMut(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.frame().await.expect("it ended too early");
            if is_it(&frame) {
                return frame;
            }
        }
    }

    /// Acknowledges so many bytes more.
    pub async fn acknowledge(&mut self, bytes: u64) {
        self.acknowledged += bytes;
        self.say(Frame::Acknowledge(self.acknowledged)).await;
    }

    /// Reads a dump to its trailer, which must be true.
    pub async fn dump(&mut self) -> (Vec<u8>, Trailer) {
        let mut opener = Opener::new(Window::DUMP).unwrap();
        let mut data = Vec::new();
        let mut wire = 0;
        let mut buffer = vec![0; 65_536];
        loop {
            match self.frame().await.expect("it ended too early") {
                Frame::Data(payload) => {
                    wire += payload.len() as u64;
                    opener.take(payload).unwrap();
                    loop {
                        match opener.pull(&mut buffer).unwrap() {
                            0 => break,
                            length => data.extend_from_slice(&buffer[..length]),
                        }
                    }
                    if let Some(consumed) = opener.due().filter(|_| !self.slow) {
                        self.say(Frame::Acknowledge(consumed)).await;
                    }
                }
                Frame::Trailer(trailer) => {
                    opener.verify(&trailer).unwrap();
                    return (data, trailer);
                }
                Frame::Heartbeat if self.slow => self.say(Frame::Acknowledge(wire)).await,
                Frame::Heartbeat => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The exit status of its process, once it is gone.
    pub async fn exit(&mut self) -> Option<i32> {
        timeout(DEADLINE, self.child.wait()).await.expect("it lives on").unwrap().code()
    }

    /// Closes our side of everything, as a lost connection does, and waits until it is gone.
    pub async fn cut(self) -> Option<i32> {
        let Self { mut child, stdin, stdout, stderr, .. } = self;
        drop((stdin, stdout, stderr));
        timeout(DEADLINE, child.wait()).await.expect("it lives on").unwrap().code()
    }

    /// What `/proc` of this machine says of the helper itself; in a restore, of its process that holds.
    pub fn process(&self) -> PathBuf {
        let pid = self.child.id().unwrap();
        // nsenter forks, everything else replaces itself.
        if is_root() { format!("/proc/{}", child_of(pid)).into() } else { format!("/proc/{pid}").into() }
    }

    /// The same of a restore's process that speaks with us and has the command.
    pub fn worker(&self) -> PathBuf {
        let holder = self.process();
        let pid = holder.file_name().unwrap().to_str().unwrap().parse().unwrap();
        format!("/proc/{}", child_of(pid)).into()
    }
}

/// The wire of a whole restore up to its trailer: what a runner sends after the helper's word that it is ready.
pub fn sealed(data: &[u8]) -> (Vec<u8>, Sealer) {
    let mut sealer = Sealer::new(&nonce(), Window { bytes: u64::MAX, ..Window::RESTORE }).unwrap();
    let mut wire = Vec::new();
    sealer.push(data, &mut wire).unwrap();
    sealer.finish(Outcome::Exited(0), &mut wire).unwrap();
    (wire, sealer)
}
