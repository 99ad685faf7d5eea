//! The output of the supervisor, line by line, and its cost.

use std::process::Stdio;

use stowaway::seal::sealed::{Event, WatchLine};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::pod::{Pod, kill, lives, path};
use crate::{
    helper::remote::program,
    repository::PASSWORD,
    shell::{DEADLINE, OpenFolder, container::eventually, strings},
};

const MEBIBYTE: u64 = 1024 * 1024;

/// Starts a supervisor whose runs execute a script.
async fn supervise(folder: &OpenFolder, script: &str) -> Child {
    supervise_in_a_hurry(folder, script, "10").await
}

async fn supervise_in_a_hurry(folder: &OpenFolder, script: &str, hurry: &str) -> Child {
    let socket = folder.file("socket");
    let child = Command::new(program())
        .args(["supervise", &path(&socket), "--hurry", hurry, "--", "sh", "-c", script])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually(|| std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    child
}

fn client(folder: &OpenFolder, request: &[&str]) -> Child {
    let mut command = Command::new(program());
    command.arg("ask").arg(folder.file("socket")).args(request);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

/// The answer to a request whose second line is `task`.
async fn answer(folder: &OpenFolder, request: &[&str], task: &str) -> String {
    let mut client = client(folder, request);
    let mut stdin = client.stdin.take().unwrap();
    // A client which was rejected does not read its input.
    let _result = stdin.write_all(format!("{task}\n").as_bytes()).await;
    let line = next(&mut BufReader::new(client.stdout.take().unwrap()).lines()).await.unwrap_or_default();
    drop(stdin);
    timeout(DEADLINE, client.wait()).await.expect("still alive").unwrap();
    line
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    timeout(DEADLINE, lines.next_line()).await.expect("no output before the deadline").unwrap()
}

/// Receives at most this many events, beginning with this number.
async fn watch(folder: &OpenFolder, id: &str, from: u64, most: usize) -> Vec<(u64, Event)> {
    let mut client = client(folder, &["watch", id, &from.to_string()]);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut events = Vec::new();
    while events.len() < most
        && let Some(line) = next(&mut lines).await
    {
        match WatchLine::parse(&line) {
            Some(WatchLine::Event(number, event)) => events.push((number, event)),
            Some(WatchLine::Heartbeat) => {}
            None => panic!("{line:?}"),
        }
    }
    // Ends as a broken connection does.
    client.kill().await.unwrap();
    events
}

#[tokio::test]
async fn watcher_that_comes_back_misses_and_doubles_nothing() {
    let folder = OpenFolder::new();
    let script = "read -r task; echo \"got $task\" >&2; echo ready 00 /s; i=0; while [ $i -lt 60 ]; do echo $i >&2; \
        i=$((i+1)); sleep 0.02; done; echo connected; sleep 0.1; echo report 00 '{}'";
    let _supervisor = supervise(&folder, script).await;
    assert_eq!(answer(&folder, &["start", "a", "k"], "the task").await, "started a");
    let mut events: Vec<(u64, Event)> = Vec::new();
    while events.last().is_none_or(|(_, event)| !event.is_last()) {
        let from = events.last().map_or(1, |(number, _)| number + 1);
        events.extend(watch(&folder, "a", from, 7).await);
    }
    let numbers: Vec<u64> = events.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=64).collect::<Vec<u64>>());
    assert!(
        events.contains(&(1, Event::Log("got the task".to_owned())))
            || events.contains(&(2, Event::Log("got the task".to_owned())))
    );
    assert_eq!(events.iter().filter(|(_, event)| matches!(event, Event::Log(_))).count(), 61);
    // A client which watches after the helper has connected does not receive the token.
    let again = watch(&folder, "a", 1, usize::MAX).await;
    assert!(again.iter().any(|(_, event)| *event == Event::Passed));
    assert!(!again.iter().any(|(_, event)| matches!(event, Event::Ready { .. })));
}

#[tokio::test]
async fn requests_are_answered_whatever_they_are() {
    let folder = OpenFolder::new();
    let mut supervisor = supervise(&folder, "cat >/dev/null").await;
    assert_eq!(answer(&folder, &["watch", "x", "1"], "").await, "unknown");
    assert_eq!(answer(&folder, &["cancel", "x"], "").await, "unknown");
    for request in [&["nonsense"][..], &["start", "a"], &["watch", "a", "b"], &["start", "a b", "", "c"]] {
        assert_eq!(answer(&folder, request, "").await, "", "{request:?}");
    }
    assert_eq!(answer(&folder, &["start", "a", "k"], &"x".repeat(100_000)).await, "");
    assert_eq!(answer(&folder, &["start", "a", "k"], &"x".repeat(30_000)).await, "started a");
    assert_eq!(answer(&folder, &["start", "a", "k"], "").await, "attached a");
    let of_another = "refused another run with the name a was executed here";
    assert_eq!(answer(&folder, &["start", "a", "other"], "").await, of_another);
    assert_eq!(answer(&folder, &["start", "b", "k"], "").await, "attached a");
    assert_eq!(answer(&folder, &["start", "b", "other"], "").await, "busy a k");
    assert_eq!(answer(&folder, &["cancel", "a"], "").await, "cancelled");
    let events = watch(&folder, "a", 1, usize::MAX).await;
    assert!(
        matches!(&events[..], [(1, Event::Lost(why))] if why.contains("status 0 after it was cancelled")),
        "{events:?}"
    );
    assert_eq!(answer(&folder, &["start", "a", "other"], "").await, of_another);
    // Many idle connections do not block a request for long.
    let idle: Vec<_> =
        (0..40).map(|_| std::os::unix::net::UnixStream::connect(folder.file("socket")).unwrap()).collect();
    let answered = async { while answer(&folder, &["cancel", "x"], "").await != "unknown" {} };
    timeout(DEADLINE, answered).await.expect("no other client is answered");
    drop(idle);
    assert!(supervisor.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn run_that_does_not_end_on_cancel_is_killed() {
    let folder = OpenFolder::new();
    let script = "trap '' TERM; echo begun >&2; while :; do sleep 1; done";
    let _supervisor = supervise(&folder, script).await;
    assert_eq!(answer(&folder, &["start", "a", "k"], "").await, "started a");
    assert_eq!(answer(&folder, &["cancel", "a"], "").await, "cancelled");
    let events = watch(&folder, "a", 2, usize::MAX).await;
    let [(2, Event::Lost(why))] = &events[..] else { panic!("{events:?}") };
    assert!(why.contains("signal 9") && why.contains("did not end after it was cancelled"), "{why}");
}

#[tokio::test]
async fn run_without_a_watcher_is_ended() {
    let folder = OpenFolder::new();
    let script = format!("echo $$ >{}; exec cat", folder.file("pid").display());
    let _supervisor = supervise_in_a_hurry(&folder, &script, "300").await;
    assert_eq!(answer(&folder, &["start", "a", "k"], "").await, "started a");
    let pid = folder.pid().await;
    eventually(|| !lives(&pid)).await;
    let events = watch(&folder, "a", 1, usize::MAX).await;
    assert!(matches!(events.last(), Some((_, Event::Lost(why))) if why.contains("cancelled")), "{events:?}");
}

#[tokio::test]
async fn supervisor_ends_on_sigterm_and_removes_its_socket() {
    let folder = OpenFolder::new();
    let mut supervisor = supervise(&folder, "echo begun >&2; cat >/dev/null; echo 'report 00 {}'").await;
    assert_eq!(answer(&folder, &["start", "a", "k"], "").await, "started a");
    let mut client = client(&folder, &["watch", "a", "1"]);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(next(&mut lines).await.unwrap(), "1 log begun");
    kill("-TERM", &supervisor.id().unwrap().to_string()).await;
    assert_eq!(next(&mut lines).await.unwrap(), "2 report 00 {}");
    assert_eq!(timeout(DEADLINE, supervisor.wait()).await.unwrap().unwrap().code(), Some(0));
    assert!(!folder.file("socket").exists());
    assert_eq!(answer(&folder, &["start", "a", "k"], "").await, "nobody");
}

#[tokio::test]
async fn idle_sidecar_needs_little_memory() {
    let pod = Pod::start().await;
    let memory = |what: &str| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pod.supervisor())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    };
    let before = memory("VmRSS:");
    for run in 0..3 {
        let report = pod.backup(&format!("run-{run}"), &strings(&["sh", "-c", "seq 100000 >&2; echo x"])).await;
        assert_eq!(report.bytes, 2);
    }
    let (after, peak) = (memory("VmRSS:"), memory("VmHWM:"));
    println!(
        "memory of an idle sidecar: {} KiB; after three runs with long logs {} KiB, at most {} KiB",
        before / 1024,
        after / 1024,
        peak / 1024
    );
    assert!(before <= 8 * MEBIBYTE && after <= 8 * MEBIBYTE && peak <= 8 * MEBIBYTE);
}

#[tokio::test]
async fn no_secret_is_in_a_command_line_or_a_log() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let gate = folder.file("gate");
    let script = format!(
        "echo $$ >{}; while ! [ -e {} ]; do sleep 0.05; done; echo x",
        folder.file("pid").display(),
        gate.display()
    );
    let command = strings(&["sh", "-c", &script, "canary-of-the-command"]);
    let task = pod.backup_task("evening");
    let looking = async {
        let mut client = pod.client(&["watch", "a", "1"]).spawn().unwrap();
        let mut token = None;
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        while token.is_none() {
            match next(&mut lines).await.as_deref().and_then(WatchLine::parse) {
                Some(WatchLine::Event(_, Event::Ready { token: received, .. })) => token = Some(received),
                Some(WatchLine::Event(_, Event::Passed)) => break,
                Some(_) => {}
                None => {
                    // The watch was requested before the run began.
                    client = pod.client(&["watch", "a", "1"]).spawn().unwrap();
                    lines = BufReader::new(client.stdout.take().unwrap()).lines();
                }
            }
        }
        folder.pid().await;
        let mut seen = String::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            seen.push_str(&String::from_utf8_lossy(&line).replace('\0', " "));
            seen.push('\n');
        }
        std::fs::write(&gate, "").unwrap();
        (token, seen)
    };
    let (driven, (token, seen)) = tokio::join!(pod.drive("a", &task, Some(&command)), looking);
    driven.unwrap();
    assert!(seen.contains("canary-of-the-command"), "the command itself was not seen");
    let log = pod.log();
    if let Some(token) = token {
        assert!(!seen.contains(&token) && !log.contains(&token));
    } else {
        eprintln!("the helper was faster than the test");
    }
    assert!(!seen.lines().any(|line| line.contains("sidecar-run") && line.contains("canary")));
    assert!(!seen.contains(PASSWORD) && !log.contains(PASSWORD) && !log.contains("canary-of-the-command"));
    let mut rest = String::new();
    let mut client = pod.client(&["watch", "a", "1"]).spawn().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    let reading = async {
        let mut buffer = [0; 4096];
        while let Ok(length) = stdout.read(&mut buffer).await
            && length > 0
        {
            rest.push_str(&String::from_utf8_lossy(&buffer[..length]));
            if rest.contains(" report ") {
                break;
            }
        }
    };
    timeout(DEADLINE, reading).await.unwrap();
    assert!(!rest.contains("ready ") && !rest.contains(PASSWORD) && !rest.contains("canary"), "{rest}");
}
