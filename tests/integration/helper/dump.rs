//! Dumps by the helper: what comes out, how it ends, and that nothing is left behind.

use std::process::Stdio;

use stowaway::seal::sealed::{Answer, Fault, Frame, LONGEST_LINE, Outcome, Window, hello};
use tokio::{io::AsyncReadExt, process::Command};

use super::{Container, OpenFolder, Remote, at_once, by, detours, noise, nonce, words};

async fn run(container: &Container, command: &[String]) -> (Vec<u8>, Outcome, Option<i32>) {
    let mut remote = Remote::ready(container, &[], command).await;
    let (data, trailer) = remote.dump().await;
    assert_eq!(remote.child.try_wait().unwrap(), None, "it did not wait for the acknowledgement");
    remote.say(Frame::Heartbeat).await;
    remote.say(Frame::Done).await;
    (data, trailer.outcome, remote.exit().await)
}

#[tokio::test]
async fn bytes_come_out_as_they_went_in() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    for length in [0, 1, 65_536, 65_537, 3_000_001, 20_000_000] {
        let file = folder.file("data");
        std::fs::write(&file, noise(length)).unwrap();
        let (data, outcome, exit) = run(&container, &words(&["cat", file.to_str().unwrap()])).await;
        assert!(data == noise(length), "{length}: {} bytes", data.len());
        assert_eq!((outcome, exit), (Outcome::Exited(0), Some(0)));
    }
}

#[tokio::test]
async fn failing_commands_say_how_they_failed() {
    let container = Container::start().await;
    for (script, outcome) in [
        ("printf half; exit 7", Outcome::Exited(7)),
        ("exit 255", Outcome::Exited(255)),
        ("printf half; kill -9 $$", Outcome::Killed(9)),
        ("kill -15 $$", Outcome::Killed(15)),
    ] {
        let (data, said, exit) = run(&container, &words(&["sh", "-c", script])).await;
        let status = match outcome {
            Outcome::Exited(status) => i32::from(status),
            Outcome::Killed(signal) => 128 + i32::from(signal),
            Outcome::InputLeft => unreachable!(),
        };
        assert_eq!((said, exit), (outcome, Some(status)), "{script}");
        assert_eq!(data, if script.contains("half") { &b"half"[..] } else { b"" });
    }
    assert_eq!(run(&container, &words(&["no-such-program"])).await.1, Outcome::Exited(127));
    assert_eq!(run(&container, &words(&["/etc/passwd"])).await.1, Outcome::Exited(126));
}

#[tokio::test]
async fn command_finds_no_stdin_and_no_other_descriptor_of_ours() {
    let container = Container::start().await;
    let script = "cat; readlink /proc/self/fd/0; ls /proc/self/fd";
    let (data, ..) = run(&container, &words(&["sh", "-c", script])).await;
    let line = container.shell_within(&["sh"], &words(&["sh", "-c", script]));
    let plain = Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output().await.unwrap();
    assert_eq!(String::from_utf8(data).unwrap(), String::from_utf8(plain.stdout).unwrap());
}

#[tokio::test]
async fn nothing_runs_without_a_hello_of_our_version() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let ran = folder.file("ran");
    let later = format!("stowaway 2 {}\n", nonce().as_str());
    let long = "x".repeat(LONGEST_LINE * 2);
    for (said, answer) in
        [(&later[..], Some(Answer::Speaks(1))), ("ls\n", None), (&long, None), ("", None), ("stowaway 1", None)]
    {
        for options in [&[][..], &["--restore"]] {
            let mut remote = Remote::start(&container, options, &words(&["touch", ran.to_str().unwrap()]));
            remote.send(said.as_bytes()).await;
            remote.stdin = None;
            assert_eq!(remote.answer().await, answer, "{said:?}");
            assert_eq!(remote.exit().await, Some(125), "{said:?}");
            assert!(!ran.exists(), "{said:?}");
        }
    }
}

#[tokio::test]
async fn cut_ends_the_command_wherever_it_went() {
    at_once(detours(), async |detour| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("echo $$ >{}; while :; do sleep 1000; done", folder.file("pid").display());
        let remote = Remote::ready(&container, &[], &by(detour, &script)).await;
        let pid = folder.pid().await;
        assert!(container.lives(&pid), "{detour}");
        remote.cut().await;
        assert!(!container.lives(&pid), "{detour}: it lives on");
    })
    .await;
}

/// Our side still reads what it says: a cut closes that, too, and would be noticed by it.
#[tokio::test]
async fn end_of_stdin_alone_is_the_cancel() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let script = format!("echo $$ >{}; sleep 1000", folder.file("pid").display());
    for options in [&["--hurry", "20"][..], &["--hurry", "20", "--restore"]] {
        let mut remote = Remote::ready(&container, options, &words(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        remote.stdin = None;
        let fault = remote.until(|frame| matches!(frame, Frame::Fault(_))).await;
        assert_eq!(fault, Frame::Fault(Fault::Cancelled), "{options:?}");
        assert!(!container.lives(&pid), "{options:?}: it lives on");
        assert_ne!(remote.exit().await, Some(0), "{options:?}");
    }
}

#[tokio::test]
async fn cut_in_mid_stream_ends_the_command() {
    let folder = OpenFolder::new();
    let script = format!("echo $$ >{}; exec cat /dev/urandom", folder.file("pid").display());
    let container = Container::start().await;
    for bytes in [1, 100, 4096, 70_000, 1_000_003, 9_000_000] {
        let mut remote = Remote::ready(&container, &[], &words(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        let mut left = bytes;
        let mut buffer = [0; 4096];
        // Unacknowledged, so that the window is closed before the last of these.
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
    let command = words(&["/usr/bin/setsid", "-w", "sh", "-c", &script]);
    let mut remote = Remote::ready(&container, &["--hurry", "20"], &command).await;
    let pid = folder.pid().await;
    remote.stdin = None;
    // Told apart from a loss: whoever cancelled hears that the command is gone.
    let ended = remote.until(|frame| matches!(frame, Frame::Ended(_))).await;
    // Whether setsid reports the death or shares it depends on whether its child had one of its own at that moment.
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
    let remote = Remote::ready(&container, &[], &words(&["sh", "-c", &script])).await;
    let daemon = folder.pid().await;
    remote.cut().await;
    assert!(!container.lives(&daemon));
}

#[tokio::test]
async fn silent_peer_is_taken_for_gone() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let script = format!("echo $$ >{}; sleep 1000", folder.file("pid").display());
    let mut remote = Remote::ready(&container, &["--hurry", "100"], &words(&["sh", "-c", &script])).await;
    let pid = folder.pid().await;
    remote.until(|frame| *frame == Frame::Heartbeat).await;
    assert_eq!(remote.until(|frame| matches!(frame, Frame::Fault(_))).await, Frame::Fault(Fault::Silence));
    assert!(!container.lives(&pid));
    assert_eq!(remote.frame().await, None);
}

#[tokio::test]
async fn full_stdout_that_nobody_reads_holds_nobody_up() {
    let container = Container::start().await;
    let mut remote =
        Remote::ready(&container, &["--hurry", "20"], &words(&["sh", "-c", "trap '' TERM; cat /dev/urandom"])).await;
    remote.stdin.take();
    remote.exit().await;
}

#[tokio::test]
async fn window_closes_without_acknowledgements_and_opens_with_them() {
    let container = Container::start().await;
    let options = &["--hurry", "100"];
    let mut remote = Remote::ready(&container, options, &words(&["head", "-c", "20000000", "/dev/urandom"])).await;
    let mut bytes = 0;
    // The first heartbeat comes when nothing else does.
    while let Some(frame) = remote.frame().await {
        match frame {
            Frame::Data(data) => bytes += data.len() as u64,
            Frame::Heartbeat if bytes >= Window::DUMP.bytes => break,
            Frame::Heartbeat => remote.say(Frame::Heartbeat).await,
            other => panic!("{other:?}"),
        }
    }
    assert!(bytes < Window::DUMP.bytes + 1024 * 1024, "{bytes}");
    remote.say(Frame::Acknowledge(bytes)).await;
    remote.until(|frame| matches!(frame, Frame::Data(_))).await;
    remote.cut().await;
}

#[tokio::test]
async fn command_that_ended_while_the_window_was_closed_loses_nothing() {
    let all = noise(Window::DUMP.bytes as usize + 12 * 32_768);
    let container = Container::start().await;
    // Some of these leave their last bytes in the pipe. The time until they are read does not count as held open.
    for length in (0..12).map(|n| all.len() - n * 32_768) {
        let folder = OpenFolder::new();
        let file = folder.file("data");
        std::fs::write(&file, &all[..length]).unwrap();
        let command = words(&["cat", file.to_str().unwrap()]);
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
            // Silent, writing with pauses, writing without a pause, and out of the group.
            "sleep 1000 & echo $! >PID; echo early",
            "(while sleep 0.05; do echo late; done) & echo $! >PID; echo early",
            "yes & echo $! >PID",
            "/usr/bin/setsid sleep 1000 & echo $! >PID",
        ],
        async |script| {
            let folder = OpenFolder::new();
            let container = Container::start().await;
            let script = script.replace("PID", folder.file("pid").to_str().unwrap());
            let mut remote = Remote::ready(&container, &["--hurry", "20"], &words(&["sh", "-c", &script])).await;
            let pid = folder.pid().await;
            let mut ended = None;
            let fault = loop {
                match remote.frame().await.expect("it ended too early") {
                    Frame::Trailer(trailer) => panic!("{script}: sealed as {trailer:?}"),
                    Frame::Data(data) => remote.acknowledge(data.len() as u64).await,
                    Frame::Ended(outcome) => ended = Some(outcome),
                    Frame::Fault(fault) => break fault,
                    _ => {}
                }
            };
            assert_eq!((fault, ended), (Fault::HeldOpen, Some(Outcome::Exited(0))), "{script}");
            let mut said = String::new();
            remote.stderr.read_to_string(&mut said).await.unwrap();
            assert!(said.contains(" still holds the command's stdout"), "{script}: {said}");
            assert!(!container.lives(&pid), "{script}: it lives on");
            assert_ne!(remote.exit().await, Some(0), "{script}");
        },
    )
    .await;
}

#[tokio::test]
async fn background_child_that_ends_soon_after_the_command_belongs_to_the_stream() {
    let container = Container::start().await;
    let command = words(&["sh", "-c", "(sleep 0.2; echo late) & echo early"]);
    let (data, outcome, _) = run(&container, &command).await;
    assert_eq!((&data[..], outcome), (&b"early\nlate\n"[..], Outcome::Exited(0)));
}

#[tokio::test]
async fn command_that_failed_says_so_whoever_holds_its_stdout() {
    let container = Container::start().await;
    let command = words(&["sh", "-c", "sleep 1000 & exit 7"]);
    let mut remote = Remote::ready(&container, &["--hurry", "20"], &command).await;
    let (_, trailer) = remote.dump().await;
    assert_eq!(trailer.outcome, Outcome::Exited(7));
    remote.cut().await;
}

#[tokio::test]
async fn stderr_that_nobody_reads_is_dropped_and_its_end_kept() {
    let container = Container::start().await;
    let script =
        "i=0; while [ $i -lt 300 ]; do printf '%01000d\\n' $i >&2; i=$((i+1)); done; echo the end >&2; echo out";
    let mut remote = Remote::ready(&container, &[], &words(&["sh", "-c", script])).await;
    let (data, _) = remote.dump().await;
    assert_eq!(data, b"out\n");
    let mut said = vec![0; 65_536];
    // What is in the pipe, and then what the helper kept.
    let mut text = String::new();
    while !text.contains("the end\n") {
        let length = remote.stderr.read(&mut said).await.unwrap();
        assert_ne!(length, 0, "the end is missing");
        text.push_str(&String::from_utf8_lossy(&said[..length]));
    }
    assert!(text.contains("bytes of stderr were dropped") && text.len() < 200_000, "{}", text.len());
    remote.say(Frame::Done).await;
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
        let mut remote = Remote::ready(&container, &[], &words(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        remote.send(&changed).await;
        remote.stdin.take();
        let fault = remote.until(|frame| matches!(frame, Frame::Fault(_))).await;
        assert!(matches!(fault, Frame::Fault(Fault::Corrupt | Fault::Cancelled)), "{fault:?}");
        assert!(!container.lives(&pid), "byte {byte}");
    }
    // And so does a hello of another run's nonce: its frames are none of ours.
    assert_ne!(hello(&nonce()), hello(&stowaway::seal::Nonce::new(1)));
}
