//! Dumps by the helper: the bytes, the outcome, and that no process is left behind.

use std::process::Stdio;

use stowaway::seal::sealed::{Answer, Fault, Frame, MAX_LINE, Outcome, Window, hello};
use tokio::{io::AsyncReadExt, process::Command};

use super::{Container, OpenFolder, Remote, at_once, by, launches, noise, nonce, strings};

async fn run(container: &Container, command: &[String]) -> (Vec<u8>, Outcome, Option<i32>) {
    let mut remote = Remote::ready(container, &[], command).await;
    let (data, trailer) = remote.dump().await;
    assert_eq!(remote.child.try_wait().unwrap(), None, "it did not wait for the acknowledgement");
    remote.send_frame(Frame::Heartbeat).await;
    remote.send_frame(Frame::Done).await;
    (data, trailer.outcome, remote.exit().await)
}

#[tokio::test]
async fn bytes_come_out_as_they_went_in() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    for length in [0, 1, 65_536, 65_537, 3_000_001, 20_000_000] {
        let file = folder.file("data");
        std::fs::write(&file, noise(length)).unwrap();
        let (data, outcome, exit) = run(&container, &strings(&["cat", file.to_str().unwrap()])).await;
        assert!(data == noise(length), "{length}: {} bytes", data.len());
        assert_eq!((outcome, exit), (Outcome::Exited(0), Some(0)));
    }
}

#[tokio::test]
async fn failing_commands_report_how_they_failed() {
    let container = Container::start().await;
    for (script, outcome) in [
        ("printf half; exit 7", Outcome::Exited(7)),
        ("exit 255", Outcome::Exited(255)),
        ("printf half; kill -9 $$", Outcome::Killed(9)),
        ("kill -15 $$", Outcome::Killed(15)),
    ] {
        let (data, reported, exit) = run(&container, &strings(&["sh", "-c", script])).await;
        let status = match outcome {
            Outcome::Exited(status) => i32::from(status),
            Outcome::Killed(signal) => 128 + i32::from(signal),
            Outcome::InputLeft => unreachable!(),
        };
        assert_eq!((reported, exit), (outcome, Some(status)), "{script}");
        assert_eq!(data, if script.contains("half") { &b"half"[..] } else { b"" });
    }
    assert_eq!(run(&container, &strings(&["no-such-program"])).await.1, Outcome::Exited(127));
    assert_eq!(run(&container, &strings(&["/etc/passwd"])).await.1, Outcome::Exited(126));
}

#[tokio::test]
async fn command_inherits_no_stdin_and_no_other_descriptor_of_the_helper() {
    let container = Container::start().await;
    let script = "cat; readlink /proc/self/fd/0; ls /proc/self/fd";
    let (data, ..) = run(&container, &strings(&["sh", "-c", script])).await;
    let line = container.shell_within(&["sh"], &strings(&["sh", "-c", script]));
    let plain = Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output().await.unwrap();
    assert_eq!(String::from_utf8(data).unwrap(), String::from_utf8(plain.stdout).unwrap());
}

#[tokio::test]
async fn nothing_runs_without_a_hello_of_our_version() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let ran = folder.file("ran");
    let later = format!("stowaway 2 {}\n", nonce().as_str());
    let long = "x".repeat(MAX_LINE * 2);
    for (greeting, answer) in
        [(&later[..], Some(Answer::Speaks(1))), ("ls\n", None), (&long, None), ("", None), ("stowaway 1", None)]
    {
        for options in [&[][..], &["--restore"]] {
            let mut remote = Remote::start(&container, options, &strings(&["touch", ran.to_str().unwrap()]));
            remote.send(greeting.as_bytes()).await;
            remote.stdin = None;
            assert_eq!(remote.answer().await, answer, "{greeting:?}");
            assert_eq!(remote.exit().await, Some(125), "{greeting:?}");
            assert!(!ran.exists(), "{greeting:?}");
        }
    }
}

#[tokio::test]
async fn cut_ends_the_command_wherever_it_went() {
    at_once(launches(), async |launch| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("echo $$ >{}; while :; do sleep 1000; done", folder.file("pid").display());
        let remote = Remote::ready(&container, &[], &by(launch, &script)).await;
        let pid = folder.pid().await;
        assert!(container.lives(&pid), "{launch}");
        remote.cut().await;
        assert!(!container.lives(&pid), "{launch}: still alive");
    })
    .await;
}

/// The test keeps reading the helper's stdout, because a cut connection would close stdout as well and the helper would
/// notice that.
#[tokio::test]
async fn end_of_stdin_alone_is_the_cancel() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let script = format!("echo $$ >{}; sleep 1000", folder.file("pid").display());
    for options in [&["--hurry", "20"][..], &["--hurry", "20", "--restore"]] {
        let mut remote = Remote::ready(&container, options, &strings(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        remote.stdin = None;
        let fault = remote.until(|frame| matches!(frame, Frame::Fault(_))).await;
        assert_eq!(fault, Frame::Fault(Fault::Cancelled), "{options:?}");
        assert!(!container.lives(&pid), "{options:?}: still alive");
        assert_ne!(remote.exit().await, Some(0), "{options:?}");
    }
}

#[tokio::test]
async fn cut_in_mid_stream_ends_the_command() {
    let folder = OpenFolder::new();
    let script = format!("echo $$ >{}; exec cat /dev/urandom", folder.file("pid").display());
    let container = Container::start().await;
    for bytes in [1, 100, 4096, 70_000, 1_000_003, 9_000_000] {
        let mut remote = Remote::ready(&container, &[], &strings(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        let mut left = bytes;
        let mut buffer = [0; 4096];
        // Nothing is acknowledged, so the window is full before the last of these sizes.
        while left > 0 && bytes < 8_000_000 {
            left -= remote.stdout.read(&mut buffer[..left.min(4096)]).await.unwrap();
        }
        remote.cut().await;
        assert!(!container.lives(&pid), "{bytes}");
    }
}

#[tokio::test]
async fn command_that_ignores_term_is_killed() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let script = format!("trap '' TERM HUP; echo $$ >{}; while :; do sleep 1; done", folder.file("pid").display());
    let command = strings(&["/usr/bin/setsid", "-w", "sh", "-c", &script]);
    let mut remote = Remote::ready(&container, &["--hurry", "20"], &command).await;
    let pid = folder.pid().await;
    remote.stdin = None;
    // A cancel is distinguished from a loss, because the canceller receives the frame that the command has ended.
    let ended = remote.until(|frame| matches!(frame, Frame::Ended(_))).await;
    // setsid either reports the death of its child or is killed itself. Which of them happens depends on whether its
    // child has a child at that moment.
    assert!(matches!(ended, Frame::Ended(Outcome::Killed(9) | Outcome::Exited(137))), "{ended:?}");
    assert!(!container.lives(&pid));
    assert_eq!(remote.frame().await, Some(Frame::Fault(Fault::Cancelled)));
    assert_eq!(remote.frame().await, None);
}

#[tokio::test]
async fn daemon_that_left_is_ended_by_a_cut() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let pid = folder.file("pid");
    let script = format!("(setsid sh -c \"echo \\$\\$ >{}; sleep 1000\" &); sleep 1000", pid.display());
    let remote = Remote::ready(&container, &[], &strings(&["sh", "-c", &script])).await;
    let daemon = folder.pid().await;
    remote.cut().await;
    assert!(!container.lives(&daemon));
}

#[tokio::test]
async fn silent_peer_is_treated_as_lost() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let script = format!("echo $$ >{}; sleep 1000", folder.file("pid").display());
    let mut remote = Remote::ready(&container, &["--hurry", "100"], &strings(&["sh", "-c", &script])).await;
    let pid = folder.pid().await;
    remote.until(|frame| *frame == Frame::Heartbeat).await;
    assert_eq!(remote.until(|frame| matches!(frame, Frame::Fault(_))).await, Frame::Fault(Fault::Silence));
    assert!(!container.lives(&pid));
    assert_eq!(remote.frame().await, None);
}

#[tokio::test]
async fn full_stdout_without_a_reader_does_not_block_the_end() {
    let container = Container::start().await;
    let mut remote =
        Remote::ready(&container, &["--hurry", "20"], &strings(&["sh", "-c", "trap '' TERM; cat /dev/urandom"])).await;
    remote.stdin.take();
    remote.exit().await;
}

#[tokio::test]
async fn window_closes_without_acknowledgements_and_opens_with_them() {
    let container = Container::start().await;
    let options = &["--hurry", "100"];
    let mut remote = Remote::ready(&container, options, &strings(&["head", "-c", "20000000", "/dev/urandom"])).await;
    let mut bytes = 0;
    // A heartbeat is sent only when there is nothing else to send.
    while let Some(frame) = remote.frame().await {
        match frame {
            Frame::Data(data) => bytes += data.len() as u64,
            Frame::Heartbeat if bytes >= Window::DUMP.bytes => break,
            Frame::Heartbeat => remote.send_frame(Frame::Heartbeat).await,
            other => panic!("{other:?}"),
        }
    }
    assert!(bytes < Window::DUMP.bytes + 1024 * 1024, "{bytes}");
    remote.send_frame(Frame::Acknowledge(bytes)).await;
    remote.until(|frame| matches!(frame, Frame::Data(_))).await;
    remote.cut().await;
}

#[tokio::test]
async fn command_that_ended_while_the_window_was_closed_loses_nothing() {
    let all = noise(Window::DUMP.bytes as usize + 12 * 32_768);
    let container = Container::start().await;
    // Some of these sizes leave the last bytes in the pipe. The time until the bytes are read does not count as stdout
    // held open.
    for length in (0..12).map(|n| all.len() - n * 32_768) {
        let folder = OpenFolder::new();
        let file = folder.file("data");
        std::fs::write(&file, &all[..length]).unwrap();
        let command = strings(&["cat", file.to_str().unwrap()]);
        let mut remote = Remote::ready(&container, &["--hurry", "20"], &command).await;
        remote.slow = true;
        let (data, trailer) = remote.dump().await;
        assert!(data == all[..length], "{} of {length} bytes", data.len());
        assert_eq!(trailer.outcome, Outcome::Exited(0));
        remote.cut().await;
    }
}

#[tokio::test]
async fn stdout_that_is_held_open_after_the_end_is_never_sealed() {
    at_once(
        [
            // Silent; writing with pauses; writing without a pause; outside of the process group.
            "sleep 1000 & echo $! >PID; echo early",
            "(while sleep 0.05; do echo late; done) & echo $! >PID; echo early",
            "yes & echo $! >PID",
            "/usr/bin/setsid sleep 1000 & echo $! >PID",
        ],
        async |script| {
            let folder = OpenFolder::new();
            let container = Container::start().await;
            let script = script.replace("PID", folder.file("pid").to_str().unwrap());
            let mut remote = Remote::ready(&container, &["--hurry", "20"], &strings(&["sh", "-c", &script])).await;
            let pid = folder.pid().await;
            let mut ended = None;
            let fault = loop {
                match remote.frame().await.expect("ended too early") {
                    Frame::Trailer(trailer) => panic!("{script}: sealed as {trailer:?}"),
                    Frame::Data(data) => remote.acknowledge(data.len() as u64).await,
                    Frame::Ended(outcome) => ended = Some(outcome),
                    Frame::Fault(fault) => break fault,
                    _ => {}
                }
            };
            assert_eq!((fault, ended), (Fault::HeldOpen, Some(Outcome::Exited(0))), "{script}");
            let mut stderr = String::new();
            remote.stderr.read_to_string(&mut stderr).await.unwrap();
            assert!(stderr.contains(" still holds the command's stdout"), "{script}: {stderr}");
            assert!(!container.lives(&pid), "{script}: still alive");
            assert_ne!(remote.exit().await, Some(0), "{script}");
        },
    )
    .await;
}

#[tokio::test]
async fn background_child_that_ends_soon_after_the_command_belongs_to_the_stream() {
    let container = Container::start().await;
    let command = strings(&["sh", "-c", "(sleep 0.2; echo late) & echo early"]);
    let (data, outcome, _) = run(&container, &command).await;
    assert_eq!((&data[..], outcome), (&b"early\nlate\n"[..], Outcome::Exited(0)));
}

#[tokio::test]
async fn failed_command_reports_its_status_even_if_its_stdout_is_held_open() {
    let container = Container::start().await;
    let command = strings(&["sh", "-c", "sleep 1000 & exit 7"]);
    let mut remote = Remote::ready(&container, &["--hurry", "20"], &command).await;
    let (_, trailer) = remote.dump().await;
    assert_eq!(trailer.outcome, Outcome::Exited(7));
    remote.cut().await;
}

#[tokio::test]
async fn stderr_without_a_reader_is_dropped_and_its_end_kept() {
    let container = Container::start().await;
    let script =
        "i=0; while [ $i -lt 300 ]; do printf '%01000d\\n' $i >&2; i=$((i+1)); done; echo the end >&2; echo out";
    let mut remote = Remote::ready(&container, &[], &strings(&["sh", "-c", script])).await;
    let (data, _) = remote.dump().await;
    assert_eq!(data, b"out\n");
    let mut buffer = vec![0; 65_536];
    // First the content of the pipe, then what the helper kept.
    let mut text = String::new();
    while !text.contains("the end\n") {
        let length = remote.stderr.read(&mut buffer).await.unwrap();
        assert_ne!(length, 0, "the end is missing");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(text.contains("bytes of stderr were dropped") && text.len() < 200_000, "{}", text.len());
    remote.send_frame(Frame::Done).await;
    assert_eq!(remote.exit().await, Some(0));
}

#[tokio::test]
async fn frame_that_was_changed_ends_the_command() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let script = format!("echo $$ >{}; sleep 1000", folder.file("pid").display());
    let mut beat = Vec::new();
    stowaway::seal::sealed::FrameEncoder::new(&nonce()).encode(&Frame::Heartbeat, &mut beat);
    for byte in 0..beat.len() {
        let mut changed = beat.clone();
        changed[byte] ^= 4;
        let mut remote = Remote::ready(&container, &[], &strings(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        remote.send(&changed).await;
        remote.stdin.take();
        let fault = remote.until(|frame| matches!(frame, Frame::Fault(_))).await;
        assert!(matches!(fault, Frame::Fault(Fault::Corrupt | Fault::Cancelled)), "{fault:?}");
        assert!(!container.lives(&pid), "byte {byte}");
    }
    // A hello with another run's nonce is rejected as well, because the nonces differ.
    assert_ne!(hello(&nonce()), hello(&stowaway::seal::Nonce::new(1)));
}
