//! Restores of which one of the helper's two processes is killed: whichever it is, and whenever, the command must not take
//! that for the end of its input.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use stowaway::seal::sealed::{Fault, Frame, Sealer};
use tokio::process::Command;

use super::{
    Container, OpenFolder, Remote, at_once, by, detours, eventually, is_alive, is_root, noise,
    remote::sealed,
    restore::{SIZE, begin, committing, say},
    words,
};

/// How far a restore has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Point {
    /// The command waits for its input.
    Begun,
    /// It has read some of it.
    Half,
    /// All is verified, and the word to go is not said.
    Verified,
}

const POINTS: [Point; 3] = [Point::Begun, Point::Half, Point::Verified];

/// The ways of a command in which more than one process reads, or others than those that were started.
fn ways() -> impl Iterator<Item = &'static str> {
    detours().chain(["double fork", "gunzip"])
}

fn command(way: &str, script: &str) -> Vec<String> {
    match way {
        // Out of the session, its parent gone at once.
        "double fork" => {
            words(&["sh", "-c", "exec 5<&0; (setsid sh -c \"$0\" <&5 5<&- &); exec 5<&-; sleep 1000", script])
        }
        "gunzip" => words(&["sh", "-c", &format!("gunzip | sh -c '{script}'")]),
        _ => by(way, script),
    }
}

/// What the command of that way is to commit. More for gunzip, which reads a quarter of a mebibyte before it writes.
fn data(way: &str) -> Vec<u8> {
    noise(if way == "gunzip" { 5 * SIZE } else { SIZE })
}

/// That as its input.
async fn input(way: &str) -> Vec<u8> {
    if way != "gunzip" {
        return data(way);
    }
    let folder = OpenFolder::new();
    let file = folder.file("data");
    fs::write(&file, data(way)).unwrap();
    Command::new("gzip").arg("-c").arg(file).output().await.unwrap().stdout
}

/// A restore that has come to that point, and the number of the command's last process.
async fn restore_at(point: Point, way: &str, folder: &OpenFolder, container: &Container) -> (Remote, Sealer, String) {
    let mut remote = begin(container, &[], &command(way, &committing(folder.path()))).await;
    let pid = folder.pid().await;
    let (wire, sealer) = sealed(&input(way).await);
    match point {
        Point::Begun => {}
        Point::Half => {
            remote.send(&wire[..wire.len() / 4 * 3]).await;
            eventually(|| fs::metadata(folder.file("read")).is_ok_and(|read| read.len() > 0)).await;
        }
        Point::Verified => {
            remote.send(&wire).await;
            remote.until(|frame| *frame == Frame::Got).await;
        }
    }
    (remote, sealer, pid)
}

async fn signal(signal: &str, processes: &[&Path]) {
    let numbers = processes.iter().map(|process| process.file_name().unwrap());
    Command::new("kill").arg(signal).args(numbers).stderr(Stdio::null()).status().await.unwrap();
}

async fn kill(process: &Path) {
    signal("-KILL", &[process]).await;
    eventually(|| !is_alive(process)).await;
}

/// Who can write to what this process has as stdin, by their folders in `/proc`.
fn writers(reader: &Path) -> BTreeSet<PathBuf> {
    let pipe = fs::read_link(reader.join("fd/0")).unwrap();
    assert!(pipe.to_str().unwrap().starts_with("pipe:"), "{}", pipe.display());
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let writes = |process: &PathBuf| {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        descriptors.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == pipe)).any(|entry| {
            let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
            // Octal, and 1 is O_WRONLY.
            flags.ends_with('1')
        })
    };
    processes.filter(writes).collect()
}

#[tokio::test]
async fn killed_worker_commits_nothing() {
    let cases = ways().flat_map(|way| POINTS.map(|point| (way, point, true)));
    let quick = POINTS.map(|point| ("plain", point, false));
    at_once(cases.chain(quick), async |(way, point, stopped)| {
        let case = format!("{way}, {point:?}, {stopped}");
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let (mut remote, _, pid) = restore_at(point, way, &folder, &container).await;
        let (holder, worker) = (remote.process(), remote.worker());
        // Whoever waits for the holder stops with it, and goes on with it.
        let outside = PathBuf::from(format!("/proc/{}", remote.child.id().unwrap()));
        if stopped {
            signal("-STOP", &[&holder]).await;
        }
        kill(&worker).await;
        signal("-CONT", &[&holder, &outside]).await;
        assert_eq!(remote.exit().await, Some(125), "{case}");
        assert!(!container.lives(&pid), "{case}: it lives on");
        assert!(!folder.file("committed").exists(), "{case}: committed");
    })
    .await;
}

#[tokio::test]
async fn killed_holder_commits_nothing() {
    at_once(ways().flat_map(|way| POINTS.map(|point| (way, point))), async |(way, point)| {
        let case = format!("{way}, {point:?}");
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let (mut remote, _, pid) = restore_at(point, way, &folder, &container).await;
        let (holder, worker) = (remote.process(), remote.worker());
        kill(&holder).await;
        let fault = remote.until(|frame| matches!(frame, Frame::Fault(_))).await;
        assert_eq!(fault, Frame::Fault(Fault::Internal), "{case}");
        eventually(|| !is_alive(&worker)).await;
        assert!(!container.lives(&pid), "{case}: it lives on");
        assert!(!folder.file("committed").exists(), "{case}: committed");
        // Here nobody reaps it: process 1 does so elsewhere, and may be a server that takes other words than 1 for a crash.
        if is_root() {
            let stat = fs::read_to_string(worker.join("stat")).unwrap();
            assert_eq!(stat.trim().rsplit(' ').next(), Some("256"), "{case}: exit status 1 as wait(2) has it");
        }
    })
    .await;
}

/// What writes there would die of the broken pipe, and its end would be the end of the other half's input.
#[tokio::test]
async fn killed_worker_commits_nothing_of_a_pipeline_that_talks() {
    at_once(["stdout", "stderr"], async |talking| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let committing = committing(folder.path());
        let to = if talking == "stdout" { 3 } else { 2 };
        let script = format!("{{ {{ yes >&{to}; exit 0; }} | sh -c '{committing}'; }} 3>&1");
        let mut remote = begin(&container, &[], &words(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        let (holder, worker) = (remote.process(), remote.worker());
        let outside = PathBuf::from(format!("/proc/{}", remote.child.id().unwrap()));
        signal("-STOP", &[&holder]).await;
        kill(&worker).await;
        signal("-CONT", &[&holder, &outside]).await;
        assert_eq!(remote.exit().await, Some(125), "{talking}");
        assert!(!container.lives(&pid), "{talking}: it lives on");
        assert!(!folder.file("committed").exists(), "{talking}: committed");
    })
    .await;
}

#[tokio::test]
async fn only_the_two_processes_hold_the_commands_input() {
    // In a pipeline the last process reads from another one.
    at_once(ways().filter(|way| !["pipeline", "gunzip"].contains(way)), async |way| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("echo $$ >{}; read -r _", folder.file("pid").display());
        let mut remote = begin(&container, &[], &command(way, &script)).await;
        let pid = folder.pid().await;
        let reader = container.process(&pid);
        let both = BTreeSet::from([remote.process(), remote.worker()]);
        assert_eq!(writers(&reader), both, "{way}");
        let (wire, mut sealer) = sealed(b"abc");
        remote.send(&wire).await;
        remote.until(|frame| *frame == Frame::Got).await;
        assert_eq!(writers(&reader), both, "{way}: before the word to go");
        say(&mut remote, &mut sealer, Frame::Go).await;
        container.is_gone(&pid).await;
        remote.cut().await;
    })
    .await;
}

#[tokio::test]
async fn command_has_no_descriptor_of_ours_but_its_three() {
    let container = Container::start().await;
    let list = words(&["sh", "-c", "ls /proc/self/fd"]);
    let line = container.shell_within(&["sh"], &list);
    let plain = Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output().await.unwrap();
    let mut remote = begin(&container, &[], &list).await;
    let said = remote.until(|frame| matches!(frame, Frame::Said(_))).await;
    assert_eq!(said, Frame::Said(plain.stdout.into()));
    remote.cut().await;
}

#[tokio::test]
async fn death_after_the_word_to_go_leaves_all_or_nothing() {
    let cases = [true, false].into_iter().flat_map(|holder| ways().map(move |way| (holder, way)));
    at_once(cases, async |(is_holder, way)| {
        let case = format!("{way}, {}", if is_holder { "holder" } else { "worker" });
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let (mut remote, mut sealer, pid) = restore_at(Point::Verified, way, &folder, &container).await;
        let (holder, worker) = (remote.process(), remote.worker());
        say(&mut remote, &mut sealer, Frame::Go).await;
        kill(if is_holder { &holder } else { &worker }).await;
        eventually(|| !is_alive(&holder) && !is_alive(&worker) && !container.lives(&pid)).await;
        let committed = fs::read(folder.file("committed")).unwrap_or_else(|_| data(way));
        assert!(committed == data(way), "{case}: {} bytes", committed.len());
    })
    .await;
}

/// The first half of the pipeline has not passed on what it has read, and never will: only its death ends the other's input.
#[tokio::test]
async fn death_after_the_word_to_go_does_not_end_one_half_of_a_pipeline() {
    at_once(["holder", "worker", "cancel"], async |victim| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("{{ head -c 1000; cat >/dev/null; sleep 1000; }} | sh -c '{}'", committing(folder.path()));
        let mut remote = begin(&container, &[], &words(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        let (holder, worker) = (remote.process(), remote.worker());
        let shell = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).find(|process| {
            let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(2).map(str::to_owned));
            parent.is_some_and(|parent| worker.ends_with(parent))
        });
        let shell = shell.expect("no command");
        let (wire, mut sealer) = sealed(&noise(SIZE));
        remote.send(&wire).await;
        remote.until(|frame| *frame == Frame::Got).await;
        say(&mut remote, &mut sealer, Frame::Go).await;
        eventually(|| writers(&shell).is_empty()).await;
        match victim {
            "holder" => kill(&holder).await,
            "worker" => kill(&worker).await,
            _ => remote.stdin = None,
        }
        eventually(|| !is_alive(&holder) && !is_alive(&worker)).await;
        assert!(!container.lives(&pid) && !folder.file("committed").exists(), "{victim}");
    })
    .await;
}
