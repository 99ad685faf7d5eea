//! What the supervisor tells, line by line, and what it costs.

use std::process::Stdio;

use stowaway::seal::sealed::{Event, Told};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::pod::{Pod, kill, lives, path};
use crate::{
    helper::remote::program,
    repository::PASSWORD,
    shell::{DEADLINE, OpenFolder, container::eventually, words},
};

const MEBIBYTE: u64 = 1024 * 1024;

/// A supervisor whose runs are a script.
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

fn ask(folder: &OpenFolder, request: &[&str]) -> Child {
    let mut command = Command::new(program());
    command.arg("ask").arg(folder.file("socket")).args(request);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

/// The answer to a request with this second line.
async fn answer(folder: &OpenFolder, request: &[&str], task: &str) -> String {
    let mut asking = ask(folder, request);
    let mut stdin = asking.stdin.take().unwrap();
    // One that was turned away takes nothing.
    let _gone = stdin.write_all(format!("{task}\n").as_bytes()).await;
    let line = next(&mut BufReader::new(asking.stdout.take().unwrap()).lines()).await.unwrap_or_default();
    drop(stdin);
    timeout(DEADLINE, asking.wait()).await.expect("it lives on").unwrap();
    line
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    timeout(DEADLINE, lines.next_line()).await.expect("no word for too long").unwrap()
}

/// Events from this number on, at most so many.
async fn watch(folder: &OpenFolder, id: &str, from: u64, most: usize) -> Vec<(u64, Event)> {
    let mut asking = ask(folder, &["watch", id, &from.to_string()]);
    let mut lines = BufReader::new(asking.stdout.take().unwrap()).lines();
    let mut events = Vec::new();
    while events.len() < most
        && let Some(line) = next(&mut lines).await
    {
        match Told::parse(&line) {
            Some(Told::Event(number, event)) => events.push((number, event)),
            Some(Told::Beat) => {}
            None => panic!("{line:?}"),
        }
    }
    // As a connection that breaks.
    asking.kill().await.unwrap();
    events
}

#[tokio::test]
async fn watcher_that_comes_back_misses_and_doubles_nothing() {
    let folder = OpenFolder::new();
    let script = "read -r task; echo \"got $task\" >&2; echo ready 00 /s; i=0; while [ $i -lt 60 ]; do echo $i >&2; \
        i=$((i+1)); sleep 0.02; done; echo connected; sleep 0.1; echo report 00 '{}'";
    let _supervisor = supervise(&folder, script).await;
    assert_eq!(answer(&folder, &["start", "a", "k"], "the task").await, "started a");
    let mut told: Vec<(u64, Event)> = Vec::new();
    while told.last().is_none_or(|(_, event)| !event.is_last()) {
        let from = told.last().map_or(1, |(number, _)| number + 1);
        told.extend(watch(&folder, "a", from, 7).await);
    }
    let numbers: Vec<u64> = told.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=64).collect::<Vec<u64>>());
    assert!(
        told.contains(&(1, Event::Log("got the task".to_owned())))
            || told.contains(&(2, Event::Log("got the task".to_owned())))
    );
    assert_eq!(told.iter().filter(|(_, event)| matches!(event, Event::Log(_))).count(), 61);
    // The word for the door is told to nobody who comes after the helper.
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
    let of_another = "refused a run of the name a did something else here";
    assert_eq!(answer(&folder, &["start", "a", "other"], "").await, of_another);
    assert_eq!(answer(&folder, &["start", "b", "k"], "").await, "attached a");
    assert_eq!(answer(&folder, &["start", "b", "other"], "").await, "busy a k");
    assert_eq!(answer(&folder, &["cancel", "a"], "").await, "cancelled");
    let told = watch(&folder, "a", 1, usize::MAX).await;
    assert!(
        matches!(&told[..], [(1, Event::Lost(why))] if why.contains("status 0 after it was told to end")),
        "{told:?}"
    );
    assert_eq!(answer(&folder, &["start", "a", "other"], "").await, of_another);
    // Many that ask for nothing keep nobody out for long.
    let idle: Vec<_> =
        (0..40).map(|_| std::os::unix::net::UnixStream::connect(folder.file("socket")).unwrap()).collect();
    let heard = async { while answer(&folder, &["cancel", "x"], "").await != "unknown" {} };
    timeout(DEADLINE, heard).await.expect("nobody else gets in");
    drop(idle);
    assert!(supervisor.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn run_that_does_not_end_when_told_to_is_killed() {
    let folder = OpenFolder::new();
    let script = "trap '' TERM; echo begun >&2; while :; do sleep 1; done";
    let _supervisor = supervise(&folder, script).await;
    assert_eq!(answer(&folder, &["start", "a", "k"], "").await, "started a");
    assert_eq!(answer(&folder, &["cancel", "a"], "").await, "cancelled");
    let told = watch(&folder, "a", 2, usize::MAX).await;
    let [(2, Event::Lost(why))] = &told[..] else { panic!("{told:?}") };
    assert!(why.contains("signal 9") && why.contains("did not end when told to"), "{why}");
}

#[tokio::test]
async fn run_that_nobody_watches_is_told_to_end() {
    let folder = OpenFolder::new();
    let script = format!("echo $$ >{}; exec cat", folder.file("pid").display());
    let _supervisor = supervise_in_a_hurry(&folder, &script, "300").await;
    assert_eq!(answer(&folder, &["start", "a", "k"], "").await, "started a");
    let pid = folder.pid().await;
    eventually(|| !lives(&pid)).await;
    let told = watch(&folder, "a", 1, usize::MAX).await;
    assert!(matches!(told.last(), Some((_, Event::Lost(why))) if why.contains("told to")), "{told:?}");
}

#[tokio::test]
async fn supervisor_that_is_asked_to_end_does_so_and_takes_its_socket_along() {
    let folder = OpenFolder::new();
    let mut supervisor = supervise(&folder, "echo begun >&2; cat >/dev/null; echo 'report 00 {}'").await;
    assert_eq!(answer(&folder, &["start", "a", "k"], "").await, "started a");
    let mut asking = ask(&folder, &["watch", "a", "1"]);
    let mut lines = BufReader::new(asking.stdout.take().unwrap()).lines();
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
        let report = pod.backup(&format!("run-{run}"), &words(&["sh", "-c", "seq 100000 >&2; echo x"])).await;
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
    let command = words(&["sh", "-c", &script, "canary-of-the-command"]);
    let task = pod.backup_task("evening");
    let looking = async {
        let mut asking = pod.ask(&["watch", "a", "1"]).spawn().unwrap();
        let mut token = None;
        let mut lines = BufReader::new(asking.stdout.take().unwrap()).lines();
        while token.is_none() {
            match next(&mut lines).await.as_deref().and_then(Told::parse) {
                Some(Told::Event(_, Event::Ready { token: told, .. })) => token = Some(told),
                Some(Told::Event(_, Event::Passed)) => break,
                Some(_) => {}
                None => {
                    // It came before the run began.
                    asking = pod.ask(&["watch", "a", "1"]).spawn().unwrap();
                    lines = BufReader::new(asking.stdout.take().unwrap()).lines();
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
    let mut asking = pod.ask(&["watch", "a", "1"]).spawn().unwrap();
    let mut stdout = asking.stdout.take().unwrap();
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
