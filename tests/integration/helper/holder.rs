//! Restores in which one of the helper's two processes is killed. Whichever process dies, and whenever, the command
//! must not take its death for the end of the input.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use stowaway::seal::sealed::{Fault, Frame, Sealer};
use tokio::process::Command;

use super::{
    Container, OpenFolder, Remote, at_once, by, eventually, is_alive, is_root, launches, noise,
    remote::sealed,
    restore::{SIZE, begin, committing, send_sealed},
    strings,
};

/// How far a restore has progressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Point {
    /// The command waits for its input.
    Begun,
    /// The command has read part of the input.
    Half,
    /// The whole input is verified, and GO has not been sent.
    Verified,
}

const POINTS: [Point; 3] = [Point::Begun, Point::Half, Point::Verified];

/// All launches, and two in which several processes read, or a process which the helper did not start.
fn all_launches() -> impl Iterator<Item = &'static str> {
    launches().chain(["double fork", "gunzip"])
}

fn command(launch: &str, script: &str) -> Vec<String> {
    match launch {
        // Outside of the session, and its parent exits at once.
        "double fork" => {
            strings(&["sh", "-c", "exec 5<&0; (setsid sh -c \"$0\" <&5 5<&- &); exec 5<&-; sleep 1000", script])
        }
        "gunzip" => strings(&["sh", "-c", &format!("gunzip | sh -c '{script}'")]),
        _ => by(launch, script),
    }
}

/// The data which the command commits. gunzip gets more, because it reads a quarter of a mebibyte before it writes.
fn data(launch: &str) -> Vec<u8> {
    noise(if launch == "gunzip" { 5 * SIZE } else { SIZE })
}

/// The input from which the command produces [`data`].
async fn input(launch: &str) -> Vec<u8> {
    if launch != "gunzip" {
        return data(launch);
    }
    let folder = OpenFolder::new();
    let file = folder.file("data");
    fs::write(&file, data(launch)).unwrap();
    Command::new("gzip").arg("-c").arg(file).output().await.unwrap().stdout
}

/// Runs a restore up to this point. Returns the process id of the command's last process as well.
async fn restore_at(
    point: Point,
    launch: &str,
    folder: &OpenFolder,
    container: &Container,
) -> (Remote, Sealer, String) {
    let mut remote = begin(container, &[], &command(launch, &committing(folder.path()))).await;
    let pid = folder.pid().await;
    let (wire, sealer) = sealed(&input(launch).await);
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

/// The processes with write access to the pipe on this process's stdin, as folders in `/proc`.
fn writers(reader: &Path) -> BTreeSet<PathBuf> {
    let pipe = fs::read_link(reader.join("fd/0")).unwrap();
    assert!(pipe.to_str().unwrap().starts_with("pipe:"), "{}", pipe.display());
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let writes = |process: &PathBuf| {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        descriptors.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == pipe)).any(|entry| {
            let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
            // The flags are octal; 1 is O_WRONLY.
            flags.ends_with('1')
        })
    };
    processes.filter(writes).collect()
}

#[tokio::test]
async fn killed_worker_commits_nothing() {
    let cases = all_launches().flat_map(|launch| POINTS.map(|point| (launch, point, true)));
    let quick = POINTS.map(|point| ("plain", point, false));
    at_once(cases.chain(quick), async |(launch, point, stopped)| {
        let case = format!("{launch}, {point:?}, {stopped}");
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let (mut remote, _, pid) = restore_at(point, launch, &folder, &container).await;
        let (holder, worker) = (remote.process(), remote.worker());
        // The parent of the stopped holder stops as well, and must be continued with it.
        let outside = PathBuf::from(format!("/proc/{}", remote.child.id().unwrap()));
        if stopped {
            signal("-STOP", &[&holder]).await;
        }
        kill(&worker).await;
        signal("-CONT", &[&holder, &outside]).await;
        assert_eq!(remote.exit().await, Some(125), "{case}");
        assert!(!container.lives(&pid), "{case}: still alive");
        assert!(!folder.file("committed").exists(), "{case}: committed");
    })
    .await;
}

#[tokio::test]
async fn killed_holder_commits_nothing() {
    at_once(all_launches().flat_map(|launch| POINTS.map(|point| (launch, point))), async |(launch, point)| {
        let case = format!("{launch}, {point:?}");
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let (mut remote, _, pid) = restore_at(point, launch, &folder, &container).await;
        let (holder, worker) = (remote.process(), remote.worker());
        kill(&holder).await;
        let fault = remote.until(|frame| matches!(frame, Frame::Fault(_))).await;
        assert_eq!(fault, Frame::Fault(Fault::Internal), "{case}");
        eventually(|| !is_alive(&worker)).await;
        assert!(!container.lives(&pid), "{case}: still alive");
        assert!(!folder.file("committed").exists(), "{case}: committed");
        // No process reaps the worker here. Elsewhere process 1 does, and may be a server which takes any status but 1
        // for a crash.
        if is_root() {
            let stat = fs::read_to_string(worker.join("stat")).unwrap();
            assert_eq!(stat.trim().rsplit(' ').next(), Some("256"), "{case}: exit status 1 as wait(2) has it");
        }
    })
    .await;
}

/// The half of the pipeline which writes to stdout or stderr would die of the broken pipe, and its death would end the
/// input of the other half.
#[tokio::test]
async fn killed_worker_commits_nothing_of_a_pipeline_that_talks() {
    at_once(["stdout", "stderr"], async |talking| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let committing = committing(folder.path());
        let to = if talking == "stdout" { 3 } else { 2 };
        let script = format!("{{ {{ yes >&{to}; exit 0; }} | sh -c '{committing}'; }} 3>&1");
        let mut remote = begin(&container, &[], &strings(&["sh", "-c", &script])).await;
        let pid = folder.pid().await;
        let (holder, worker) = (remote.process(), remote.worker());
        let outside = PathBuf::from(format!("/proc/{}", remote.child.id().unwrap()));
        signal("-STOP", &[&holder]).await;
        kill(&worker).await;
        signal("-CONT", &[&holder, &outside]).await;
        assert_eq!(remote.exit().await, Some(125), "{talking}");
        assert!(!container.lives(&pid), "{talking}: still alive");
        assert!(!folder.file("committed").exists(), "{talking}: committed");
    })
    .await;
}

#[tokio::test]
async fn only_the_two_processes_hold_the_commands_input() {
    // In a pipeline the last process reads from another process of the pipeline.
    at_once(all_launches().filter(|launch| !["pipeline", "gunzip"].contains(launch)), async |launch| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("echo $$ >{}; read -r _", folder.file("pid").display());
        let mut remote = begin(&container, &[], &command(launch, &script)).await;
        let pid = folder.pid().await;
        let reader = container.process(&pid);
        let both = BTreeSet::from([remote.process(), remote.worker()]);
        assert_eq!(writers(&reader), both, "{launch}");
        let (wire, mut sealer) = sealed(b"abc");
        remote.send(&wire).await;
        remote.until(|frame| *frame == Frame::Got).await;
        assert_eq!(writers(&reader), both, "{launch}: before GO");
        send_sealed(&mut remote, &mut sealer, Frame::Go).await;
        container.wait_for_end(&pid).await;
        remote.cut().await;
    })
    .await;
}

#[tokio::test]
async fn command_inherits_only_its_three_descriptors() {
    let container = Container::start().await;
    let list = strings(&["sh", "-c", "ls /proc/self/fd"]);
    let line = container.shell_within(&["sh"], &list);
    let plain = Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output().await.unwrap();
    let mut remote = begin(&container, &[], &list).await;
    let frame = remote.until(|frame| matches!(frame, Frame::Stdout(_))).await;
    assert_eq!(frame, Frame::Stdout(plain.stdout.into()));
    remote.cut().await;
}

#[tokio::test]
async fn death_after_go_leaves_all_or_nothing() {
    let cases = [true, false].into_iter().flat_map(|holder| all_launches().map(move |launch| (holder, launch)));
    at_once(cases, async |(is_holder, launch)| {
        let case = format!("{launch}, {}", if is_holder { "holder" } else { "worker" });
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let (mut remote, mut sealer, pid) = restore_at(Point::Verified, launch, &folder, &container).await;
        let (holder, worker) = (remote.process(), remote.worker());
        send_sealed(&mut remote, &mut sealer, Frame::Go).await;
        kill(if is_holder { &holder } else { &worker }).await;
        eventually(|| !is_alive(&holder) && !is_alive(&worker) && !container.lives(&pid)).await;
        let committed = fs::read(folder.file("committed")).unwrap_or_else(|_| data(launch));
        assert!(committed == data(launch), "{case}: {} bytes", committed.len());
    })
    .await;
}

/// The first half of the pipeline keeps what it has read, so only its death could end the input of the other half.
#[tokio::test]
async fn death_after_go_does_not_end_one_half_of_a_pipeline() {
    at_once(["holder", "worker", "cancel"], async |victim| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("{{ head -c 1000; cat >/dev/null; sleep 1000; }} | sh -c '{}'", committing(folder.path()));
        let mut remote = begin(&container, &[], &strings(&["sh", "-c", &script])).await;
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
        send_sealed(&mut remote, &mut sealer, Frame::Go).await;
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
