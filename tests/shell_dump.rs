//! The dump form under real shells: what comes out, how it ends, and that nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod shell_support;

use shell_support::{DEADLINE, Remote, SHELLS, detours, is_gone, line_of, lives, nonce, open_folder, words};
use stowaway::seal::dump_command;
use tokio::time::timeout;

fn start(shell: &[&str], command: &[String]) -> Remote {
    Remote::start(shell, &dump_command(command).unwrap())
}

/// Runs a command to its acknowledged end; gives data, status, and the remote shell's own exit status.
async fn run(shell: &[&str], command: &[String]) -> (Vec<u8>, u16, Option<i32>) {
    let mut remote = start(shell, command);
    remote.send(&nonce().line()).await;
    let data = remote.read().await;
    let status = remote.unsealer.finish().unwrap();
    // Heartbeats do not acknowledge.
    remote.send(b"\n\n").await;
    assert_eq!(remote.child.try_wait().unwrap(), None, "it did not wait for the acknowledgement");
    remote.send(&nonce().line()).await;
    let exit = timeout(DEADLINE, remote.child.wait()).await.unwrap().unwrap();
    (data, status, exit.code())
}

#[tokio::test]
async fn failing_commands_say_how_they_failed() {
    for shell in SHELLS {
        for (script, status) in
            [("printf half; exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143), ("exit 255", 255)]
        {
            let (data, said, exit) = run(shell, &words(&["sh", "-c", script])).await;
            assert_eq!((said, exit), (status, Some(i32::from(status))), "{shell:?} {script}");
            assert_eq!(data, if status == 7 { &b"half"[..] } else { b"" });
        }
        assert_eq!(run(shell, &words(&["no-such-program"])).await.1, 127, "{shell:?}");
        assert_eq!(run(shell, &words(&["/etc/passwd"])).await.1, 126, "{shell:?}");
    }
}

#[tokio::test]
async fn bytes_come_out_as_they_went_in() {
    let folder = open_folder();
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let every: Vec<u8> = (0..=255).chain(bytes).collect();
    let file = folder.path().join("data");
    std::fs::write(&file, &every).unwrap();
    for shell in SHELLS {
        let (data, status, _) = run(shell, &words(&["cat", file.to_str().unwrap()])).await;
        assert!(data == every && status == 0, "{shell:?}: {} bytes, {status}", data.len());
        // A shell's own echo would change these.
        let (data, ..) = run(shell, &words(&["echo", "-e", r"a\tb\c", "  two  blanks"])).await;
        let real = std::process::Command::new("/bin/echo").args(["-e", r"a\tb\c", "  two  blanks"]).output().unwrap();
        assert_eq!(data, real.stdout, "{shell:?}");
        assert_eq!(run(shell, &words(&["true"])).await, (vec![], 0, Some(0)), "{shell:?}");
    }
}

#[tokio::test]
async fn command_finds_no_stdin_of_ours() {
    for shell in SHELLS {
        let (data, status, _) = run(shell, &words(&["sh", "-c", "cat; echo read"])).await;
        assert_eq!((&data[..], status), (&b"read\n"[..], 0), "{shell:?}");
    }
}

#[tokio::test]
async fn trailer_of_another_nonce_is_data() {
    for shell in SHELLS {
        let look_alike = "00c0ffee00c0ffee00c0ffee00c0fff00\n";
        let (data, status, _) = run(shell, &words(&["printf", "%s", look_alike])).await;
        assert_eq!((&data[..], status), (look_alike.as_bytes(), 0), "{shell:?}");
    }
}

#[tokio::test]
async fn background_child_that_writes_after_the_end_contradicts_it() {
    for shell in SHELLS {
        let folder = open_folder();
        let gate = folder.path().join("gate");
        let script = "mkfifo \"$0\"; (read -r _ <\"$0\"; echo late) & exit 0";
        let mut remote = start(shell, &words(&["sh", "-c", script, gate.to_str().unwrap()]));
        remote.send(&nonce().line()).await;
        remote.read().await;
        assert_eq!(remote.unsealer.exit_status(), Some(0));
        tokio::fs::write(&gate, "\n").await.unwrap();
        let mut buffer = [0; 16];
        let length = tokio::io::AsyncReadExt::read(&mut remote.stdout, &mut buffer).await.unwrap();
        remote.unsealer.push(&buffer[..length]).unwrap_err();
        remote.cut().await;
    }
}

#[tokio::test]
async fn cut_ends_the_command_wherever_it_went() {
    for shell in SHELLS {
        let folder = open_folder();
        let pid = folder.path().join("pid");
        let script = format!("echo $$ >{}; while :; do sleep 1000; done", pid.display());
        for (detour, command) in detours(&script) {
            let _ = std::fs::remove_file(&pid);
            let mut remote = start(shell, &command);
            remote.send(&nonce().line()).await;
            remote.ready().await;
            let command_pid = line_of(&pid).await;
            assert!(lives(&command_pid));
            remote.cut().await;
            is_gone(&command_pid).await;
            eprintln!("{shell:?}, {detour}: gone");
        }
    }
}

#[tokio::test]
async fn cut_in_mid_stream_ends_the_command() {
    for shell in SHELLS {
        for bytes in [1, 4096, 70_000, 1_000_003] {
            let folder = open_folder();
            let pid = folder.path().join("pid");
            let script = format!("echo $$ >{}; exec cat /dev/zero", pid.display());
            let mut remote = start(shell, &words(&["sh", "-c", &script]));
            remote.send(&nonce().line()).await;
            remote.read_until(|_, data| data.len() >= bytes).await;
            let command_pid = line_of(&pid).await;
            remote.cut().await;
            is_gone(&command_pid).await;
        }
    }
}

#[tokio::test]
async fn command_that_ignores_term_is_killed() {
    for shell in SHELLS {
        let folder = open_folder();
        let pid = folder.path().join("pid");
        let script = format!("trap '' TERM HUP; echo $$ >{}; while :; do sleep 1; done", pid.display());
        let mut remote = start(shell, &words(&["/usr/bin/setsid", "-w", "sh", "-c", &script]));
        remote.send(&nonce().line()).await;
        let command_pid = line_of(&pid).await;
        remote.stdin = None;
        remote.read().await;
        // Told apart from a loss: whoever cancelled hears that the command is gone.
        assert_eq!(remote.unsealer.exit_status(), Some(137), "{shell:?}");
        assert!(!lives(&command_pid));
        remote.cut().await;
    }
}

#[tokio::test]
async fn daemon_that_holds_our_stdout_is_ended_by_a_cut() {
    for shell in SHELLS {
        let folder = open_folder();
        let pid = folder.path().join("pid");
        let script = format!("(setsid sh -c \"echo \\$\\$ >{}; sleep 1000\" &); sleep 1000", pid.display());
        let mut remote = start(shell, &words(&["/usr/bin/setsid", "-w", "sh", "-c", &script]));
        remote.send(&nonce().line()).await;
        let daemon = line_of(&pid).await;
        remote.cut().await;
        is_gone(&daemon).await;
    }
}

#[tokio::test]
async fn shell_that_is_not_its_groups_leader_refuses_before_it_is_ready() {
    for shell in SHELLS {
        let line = dump_command(&words(&["echo", "ran"])).unwrap();
        let within = std::process::Command::new("sh")
            .args(["-c", "printf '%032d\\n' 0 | \"$@\"; echo $?", "sh"])
            .args(shell_support::in_shell(shell, &line))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(within.stdout).unwrap(), "125\n", "{shell:?}");
    }
}

#[tokio::test]
async fn remote_shell_does_not_stay_when_nobody_reads_its_full_stdout() {
    for shell in SHELLS {
        // Fills the pipe, so that not even the trailer finds room.
        let mut remote = start(shell, &words(&["sh", "-c", "trap '' TERM; yes"]));
        remote.send(&nonce().line()).await;
        remote.ready().await;
        remote.stdin.take();
        let exit = timeout(DEADLINE, remote.child.wait()).await;
        assert!(exit.is_ok(), "{shell:?}: it waits for a reader for ever");
    }
}
