//! A helper process with the three pipes which a container runtime gives to an exec, and the runner's side of the
//! protocol, step by step.

use std::{path::PathBuf, process::Stdio, sync::LazyLock};

use stowaway::seal::sealed::{
    Answer, Frame, FrameDecoder, FrameEncoder, MAX_LINE, Opener, Outcome, Sealer, Trailer, Window, hello, parse_answer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{Container, DEADLINE, child_of, is_root, nonce, strings};

/// The path of the helper as it is shipped, built once.
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
    pub encoder: FrameEncoder,
    /// Acknowledges data only when the helper sends nothing else.
    pub slow: bool,
    /// Bytes of data on the wire which [`Remote::acknowledge`] has acknowledged.
    acknowledged: u64,
}

impl Remote {
    /// Starts a helper with these options.
    pub fn start(container: &Container, options: &[&str], command: &[String]) -> Self {
        let line = [strings(&["helper"]), strings(options), strings(&["--"]), command.to_vec()].concat();
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
            encoder: FrameEncoder::new(&nonce()),
            slow: false,
            acknowledged: 0,
        }
    }

    /// Starts a helper and waits until it answers that it is ready.
    pub async fn ready(container: &Container, options: &[&str], command: &[String]) -> Self {
        let mut remote = Self::start(container, options, command);
        remote.send(&hello(&nonce())).await;
        assert_eq!(remote.answer().await, Some(Answer::Ready));
        remote
    }

    /// The helper's first line, if it is a valid answer.
    pub async fn answer(&mut self) -> Option<Answer> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < MAX_LINE && !line.ends_with(b"\n") {
            let read = timeout(DEADLINE, self.stdout.read(&mut byte)).await.expect("no answer").unwrap();
            if read == 0 {
                return None;
            }
            line.push(byte[0]);
        }
        parse_answer(&nonce(), line.strip_suffix(b"\n")?)
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // If the helper has ended, its output shows it.
        let _ = self.stdin.as_mut().unwrap().write_all(bytes).await;
    }

    pub async fn send_frame(&mut self, frame: Frame) {
        let mut wire = Vec::new();
        self.encoder.encode(&frame, &mut wire);
        self.send(&wire).await;
    }

    /// The next frame from the helper, or `None` at the end of its stdout.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut buffer = vec![0; 65_536];
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Some(frame);
            }
            match timeout(DEADLINE, self.stdout.read(&mut buffer))
                .await
                .expect("no output before the deadline")
                .unwrap()
            {
                0 => return None,
                length => self.frames.push(&buffer[..length]),
            }
        }
    }

    /// The next frame which matches; skips all others.
    pub async fn until(&mut self, mut is_it: impl FnMut(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.frame().await.expect("ended too early");
            if is_it(&frame) {
                return frame;
            }
        }
    }

    /// Acknowledges this many further bytes.
    pub async fn acknowledge(&mut self, bytes: u64) {
        self.acknowledged += bytes;
        self.send_frame(Frame::Acknowledge(self.acknowledged)).await;
    }

    /// Reads a dump to its trailer, and verifies the trailer.
    pub async fn dump(&mut self) -> (Vec<u8>, Trailer) {
        let mut opener = Opener::new(Window::DUMP).unwrap();
        let mut data = Vec::new();
        let mut wire = 0;
        let mut buffer = vec![0; 65_536];
        loop {
            match self.frame().await.expect("ended too early") {
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
                        self.send_frame(Frame::Acknowledge(consumed)).await;
                    }
                }
                Frame::Trailer(trailer) => {
                    opener.verify(&trailer).unwrap();
                    return (data, trailer);
                }
                Frame::Heartbeat if self.slow => self.send_frame(Frame::Acknowledge(wire)).await,
                Frame::Heartbeat => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The exit status of the process, once it has ended.
    pub async fn exit(&mut self) -> Option<i32> {
        timeout(DEADLINE, self.child.wait()).await.expect("still alive").unwrap().code()
    }

    /// Closes all three pipes, as a lost connection does, and waits for the helper's end.
    pub async fn cut(self) -> Option<i32> {
        let Self { mut child, stdin, stdout, stderr, .. } = self;
        drop((stdin, stdout, stderr));
        timeout(DEADLINE, child.wait()).await.expect("still alive").unwrap().code()
    }

    /// The helper's folder in this machine's `/proc`. In a restore it is the process which holds the command's stdin
    /// open.
    pub fn process(&self) -> PathBuf {
        let pid = self.child.id().unwrap();
        // nsenter forks; all other programs of the command line replace themselves by exec.
        if is_root() { format!("/proc/{}", child_of(pid)).into() } else { format!("/proc/{pid}").into() }
    }

    /// The folder of the second process of a restore, which talks to the runner and owns the command.
    pub fn worker(&self) -> PathBuf {
        let holder = self.process();
        let pid = holder.file_name().unwrap().to_str().unwrap().parse().unwrap();
        format!("/proc/{}", child_of(pid)).into()
    }
}

/// The bytes of a whole restore up to its trailer, as a runner sends them after the helper's ready answer.
pub fn sealed(data: &[u8]) -> (Vec<u8>, Sealer) {
    let mut sealer = Sealer::new(&nonce(), Window { bytes: u64::MAX, ..Window::RESTORE }).unwrap();
    let mut wire = Vec::new();
    sealer.push(data, &mut wire).unwrap();
    sealer.finish(Outcome::Exited(0), &mut wire).unwrap();
    (wire, sealer)
}
