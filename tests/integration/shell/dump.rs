//! The shell form of a dump under real shells: the bytes, the outcome, and that no process is left behind.

use stowaway::seal::{HELD_OPEN, UnsealError, dump_command};
use tokio::{process::Command, time::timeout};

use super::{Container, DEADLINE, OpenFolder, Remote, SHELLS, Shell, at_once, by, nonce, shells_and_launches, strings};

fn start(container: &Container, shell: Shell, command: &[String]) -> Remote {
    Remote::start(container, shell, &dump_command(command).unwrap())
}

/// Runs a command to its acknowledged end. Returns the data, the status, and the exit status of the remote shell.
async fn run(container: &Container, shell: Shell, command: &[String]) -> (Vec<u8>, u16, Option<i32>) {
    let mut remote = start(container, shell, command);
    remote.send(&nonce().line()).await;
    let data = remote.read().await;
    let status = remote.unsealer.finish().unwrap();
    // A heartbeat is not an acknowledgement.
    remote.send(b"\n\n").await;
    assert_eq!(remote.child.try_wait().unwrap(), None, "it did not wait for the acknowledgement");
    remote.send(&nonce().line()).await;
    let exit = timeout(DEADLINE, remote.child.wait()).await.unwrap().unwrap();
    (data, status, exit.code())
}

#[tokio::test]
async fn failing_commands_report_how_they_failed() {
    at_once(SHELLS, async |shell| {
        let container = Container::start().await;
        for (script, status) in
            [("printf half; exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143), ("exit 255", 255)]
        {
            let (data, reported, exit) = run(&container, shell, &strings(&["sh", "-c", script])).await;
            assert_eq!((reported, exit), (status, Some(i32::from(status))), "{shell:?} {script}");
            assert_eq!(data, if status == 7 { &b"half"[..] } else { b"" });
        }
        assert_eq!(run(&container, shell, &strings(&["no-such-program"])).await.1, 127, "{shell:?}");
        assert_eq!(run(&container, shell, &strings(&["/etc/passwd"])).await.1, 126, "{shell:?}");
    })
    .await;
}

#[tokio::test]
async fn bytes_come_out_as_they_went_in() {
    let folder = OpenFolder::new();
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let every: Vec<u8> = (0..=255).chain(bytes).collect();
    let file = folder.file("data");
    std::fs::write(&file, &every).unwrap();
    at_once(SHELLS, async |shell| {
        let container = Container::start().await;
        let (data, status, _) = run(&container, shell, &strings(&["cat", file.to_str().unwrap()])).await;
        assert!(data == every && status == 0, "{shell:?}: {} bytes, {status}", data.len());
        // The echo built into a shell would change these arguments.
        let (data, ..) = run(&container, shell, &strings(&["echo", "-e", r"a\tb\c", "  two  blanks"])).await;
        let real = std::process::Command::new("/bin/echo").args(["-e", r"a\tb\c", "  two  blanks"]).output().unwrap();
        assert_eq!(data, real.stdout, "{shell:?}");
        assert_eq!(run(&container, shell, &strings(&["true"])).await, (vec![], 0, Some(0)), "{shell:?}");
    })
    .await;
}

#[tokio::test]
async fn command_does_not_inherit_the_stdin_of_the_exec() {
    at_once(SHELLS, async |shell| {
        let command = strings(&["sh", "-c", "cat; echo read"]);
        let (data, status, _) = run(&Container::start().await, shell, &command).await;
        assert_eq!((&data[..], status), (&b"read\n"[..], 0), "{shell:?}");
    })
    .await;
}

#[tokio::test]
async fn trailer_of_another_nonce_is_data() {
    at_once(SHELLS, async |shell| {
        let look_alike = "00c0ffee00c0ffee00c0ffee00c0fff00\n";
        let command = strings(&["printf", "%s", look_alike]);
        let (data, status, _) = run(&Container::start().await, shell, &command).await;
        assert_eq!((&data[..], status), (look_alike.as_bytes(), 0), "{shell:?}");
    })
    .await;
}

#[tokio::test]
async fn stdout_that_is_held_open_after_the_end_is_never_called_whole() {
    let scripts = [
        "sleep 1000 & echo $! >PID; echo early",
        "(while sleep 0.05; do echo late; done) & echo $! >PID; echo early",
        "/usr/bin/setsid sleep 1000 & echo $! >PID",
        // stdout is held open by another descriptor than 1.
        "exec 5>&1; sleep 1000 >/dev/null & echo $! >PID",
    ];
    let cases = SHELLS.iter().flat_map(|shell| scripts.map(|script| (*shell, script)));
    at_once(cases, async |(shell, script)| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = script.replace("PID", folder.file("pid").to_str().unwrap());
        let mut remote = start(&container, shell, &strings(&["sh", "-c", &script]));
        remote.send(&nonce().line()).await;
        let pid = folder.pid().await;
        match remote.try_read().await {
            Ok(_) => assert_eq!(remote.unsealer.exit_status(), Some(HELD_OPEN), "{shell:?} {script}"),
            // The child has written behind the trailer before the trailer was read.
            Err(error) => assert!(matches!(error, UnsealError::Contradicted { .. }), "{shell:?} {script}: {error}"),
        }
        // The client closes the connection without an acknowledgement.
        remote.cut().await;
        container.wait_for_end(&pid).await;
    })
    .await;
}

#[tokio::test]
async fn background_child_that_ends_soon_after_the_command_belongs_to_the_stream() {
    at_once(SHELLS, async |shell| {
        for (script, all, status) in [
            ("(sleep 0.2; echo late) & echo early", "early\nlate\n", 0),
            // The background process does not hold stdout or stderr.
            ("sleep 1000 >/dev/null 2>&1 & echo early", "early\n", 0),
            ("sleep 1000 & exit 7", "", 7),
        ] {
            let container = Container::start().await;
            let mut remote = start(&container, shell, &strings(&["sh", "-c", script]));
            remote.send(&nonce().line()).await;
            let data = remote.read().await;
            let text = String::from_utf8(data).unwrap();
            assert_eq!((&text[..], remote.unsealer.exit_status()), (all, Some(status)), "{shell:?} {script}");
            remote.cut().await;
        }
    })
    .await;
}

#[tokio::test]
async fn cut_ends_the_command_wherever_it_went() {
    at_once(shells_and_launches(), async |(shell, launch)| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("echo $$ >{}; while :; do sleep 1000; done", folder.file("pid").display());
        let mut remote = start(&container, shell, &by(launch, &script));
        remote.send(&nonce().line()).await;
        remote.ready().await;
        let pid = folder.pid().await;
        assert!(container.lives(&pid), "{shell:?}, {launch}");
        remote.cut().await;
        container.wait_for_end(&pid).await;
    })
    .await;
}

#[tokio::test]
async fn cut_in_mid_stream_ends_the_command() {
    at_once(SHELLS, async |shell| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("echo $$ >{}; exec cat /dev/zero", folder.file("pid").display());
        for bytes in [1, 4096, 70_000, 1_000_003] {
            let mut remote = start(&container, shell, &strings(&["sh", "-c", &script]));
            remote.send(&nonce().line()).await;
            remote.read_until(|_, data| data.len() >= bytes).await;
            let pid = folder.pid().await;
            remote.cut().await;
            container.wait_for_end(&pid).await;
        }
    })
    .await;
}

#[tokio::test]
async fn command_that_ignores_term_is_killed() {
    at_once(SHELLS, async |shell| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("trap '' TERM HUP; echo $$ >{}; while :; do sleep 1; done", folder.file("pid").display());
        let mut remote = start(&container, shell, &strings(&["/usr/bin/setsid", "-w", "sh", "-c", &script]));
        remote.send(&nonce().line()).await;
        let pid = folder.pid().await;
        remote.stdin = None;
        remote.read().await;
        // A cancel is distinguished from a loss, because the canceller receives the status of the command.
        assert_eq!(remote.unsealer.exit_status(), Some(137), "{shell:?}");
        assert!(!container.lives(&pid));
        remote.cut().await;
    })
    .await;
}

#[tokio::test]
async fn daemon_that_holds_our_stdout_is_ended_by_a_cut() {
    at_once(SHELLS, async |shell| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let pid = folder.file("pid");
        let script = format!("(setsid sh -c \"echo \\$\\$ >{}; sleep 1000\" &); sleep 1000", pid.display());
        let mut remote = start(&container, shell, &strings(&["/usr/bin/setsid", "-w", "sh", "-c", &script]));
        remote.send(&nonce().line()).await;
        let daemon = folder.pid().await;
        remote.cut().await;
        container.wait_for_end(&daemon).await;
    })
    .await;
}

#[tokio::test]
async fn shell_that_is_not_its_groups_leader_refuses_before_it_is_ready() {
    at_once(SHELLS, async |shell| {
        let line = dump_command(&strings(&["echo", "ran"])).unwrap();
        let within = Command::new("sh")
            .args(["-c", "printf '%032d\\n' 0 | \"$@\"; echo $?", "sh"])
            .args(Container::start().await.shell_within(shell, &line))
            .output()
            .await
            .unwrap();
        assert_eq!(String::from_utf8(within.stdout).unwrap(), "125\n", "{shell:?}");
    })
    .await;
}

#[tokio::test]
async fn remote_shell_ends_although_its_full_stdout_has_no_reader() {
    at_once(SHELLS, async |shell| {
        let container = Container::start().await;
        // The command fills the pipe, so that there is no room for the trailer either.
        let mut remote = start(&container, shell, &strings(&["sh", "-c", "trap '' TERM; yes"]));
        remote.send(&nonce().line()).await;
        remote.ready().await;
        remote.stdin.take();
        let exit = timeout(DEADLINE, remote.child.wait()).await;
        assert!(exit.is_ok(), "{shell:?}: it waits for a reader for ever");
    })
    .await;
}
