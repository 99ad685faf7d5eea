//! The shell form of a restore under real shells. A command commits when it sees the end of its input, so it must never
//! see an unintended end, however it was launched.

use std::path::Path;

use stowaway::seal::{INPUT_LEFT, Marker, restore_command};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    Container, DEADLINE, OpenFolder, Remote, SHELLS, Shell, at_once, by, eventually, is_root, nonce,
    shells_and_launches, strings,
};

/// More than the pipes hold, and no multiple of a block size.
const SIZE: usize = 200_003;

fn data() -> Vec<u8> {
    (0..SIZE).map(|n| (n % 251) as u8).collect()
}

/// A command which commits its input when it sees the end. It also commits if its reading part dies before the rest.
fn committing(folder: &Path) -> String {
    let folder = folder.display();
    format!("cd {folder}; rm -f read; echo $$ >pid; cat >read; mv read committed")
}

async fn got(remote: &mut Remote) {
    let mut marker = Marker::got(&nonce());
    let mut buffer = [0; 4096];
    while !marker.is_seen() {
        let length = timeout(DEADLINE, remote.stderr.read(&mut buffer)).await.expect("no `got` line").unwrap();
        assert_ne!(length, 0, "its stderr ended before got");
        marker.push(&buffer[..length]);
    }
}

/// Starts the form, and sends the size of the input.
async fn begin(container: &Container, shell: Shell, command: &[String], size: usize) -> Remote {
    let mut remote = Remote::start(container, shell, &restore_command(command).unwrap());
    remote.send(&nonce().line_with_size(size as u64)).await;
    remote.ready().await;
    remote
}

#[tokio::test]
async fn cut_at_any_offset_commits_nothing_and_ends_the_command() {
    at_once(shells_and_launches(), async |(shell, launch)| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        for offset in [0, 1, 65_537, SIZE - 1, SIZE] {
            let mut remote = begin(&container, shell, &by(launch, &committing(folder.path())), SIZE).await;
            let pid = folder.pid().await;
            remote.send(&data()[..offset]).await;
            remote.cut().await;
            container.wait_for_end(&pid).await;
            assert!(!folder.file("committed").exists(), "{shell:?}, {launch}, cut at {offset}: committed");
        }
    })
    .await;
}

#[tokio::test]
async fn missing_or_wrong_go_commits_nothing() {
    at_once(shells_and_launches(), async |(shell, launch)| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        for message in ["", "\n", "00c0ffee00c0ffee00c0ffee00c0ffef\n", "00c0ffee00c0ffee00c0ffee00c0ffee"] {
            let mut remote = begin(&container, shell, &by(launch, &committing(folder.path())), SIZE).await;
            let pid = folder.pid().await;
            remote.send(&data()).await;
            got(&mut remote).await;
            remote.send(message.as_bytes()).await;
            remote.cut().await;
            container.wait_for_end(&pid).await;
            assert!(!folder.file("committed").exists(), "{shell:?}, {launch}, {message:?}: committed");
        }
    })
    .await;
}

#[tokio::test]
async fn daemon_that_left_commits_nothing_at_a_cut() {
    let rests = ["sleep 1000", "exit 0", "exit 3"];
    let cases = SHELLS.into_iter().flat_map(|shell| rests.map(|rest| (shell, rest)));
    at_once(cases, async |(shell, rest)| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        // Outside of the session, and its parent exits at once.
        let script = format!("exec 5<&0; (setsid sh -c \"$0\" <&5 &); {rest}");
        let command = strings(&["/usr/bin/setsid", "-w", "sh", "-c", &script, &committing(folder.path())]);
        let mut remote = begin(&container, shell, &command, SIZE).await;
        let pid = folder.pid().await;
        remote.send(&data()[..4000]).await;
        remote.cut().await;
        container.wait_for_end(&pid).await;
        assert!(!folder.file("committed").exists(), "{shell:?}, {rest}: committed");
    })
    .await;
}

#[tokio::test]
async fn pipe_stays_open_for_a_strangers_process_that_cannot_be_looked_into() {
    if !is_root() {
        return;
    }
    at_once(SHELLS, async |shell| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = "exec 5<&0; (setsid setpriv --reuid nobody --clear-groups sh -c \"$0\" <&5 &); sleep 1000";
        let command = strings(&["/usr/bin/setsid", "-w", "sh", "-c", script, &committing(folder.path())]);
        let mut remote = begin(&container, shell, &command, SIZE).await;
        let pid = folder.pid().await;
        let read = folder.file("read");
        remote.send(&data()[..100_000]).await;
        eventually(|| std::fs::metadata(&read).is_ok_and(|read| read.len() > 0)).await;
        let family = format!("/proc/{0}/task/{0}/children", remote.shell());
        let ending = tokio::spawn(remote.cut());
        // The command's processes are killed, but the shell still holds the pipe open, because the remaining process
        // might commit.
        let children = || std::fs::read_to_string(&family).unwrap_or_default().split_whitespace().count();
        eventually(|| children() <= 1).await;
        assert!(container.lives(&pid) && !ending.is_finished(), "{shell:?}");
        assert!(!folder.file("committed").exists(), "{shell:?}: committed");
        // Once that process has ended as well, the shell closes the pipe.
        let reader = std::fs::read_to_string(container.process(&pid).join(format!("task/{pid}/children"))).unwrap();
        for process in [&pid, reader.trim()] {
            container.kill(process).await;
        }
        ending.await.unwrap();
        assert!(!folder.file("committed").exists(), "{shell:?}: committed");
    })
    .await;
}

#[tokio::test]
async fn whole_input_is_committed_after_go() {
    at_once(shells_and_launches(), async |(shell, launch)| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let committed = folder.file("committed");
        let mut remote = begin(&container, shell, &by(launch, &committing(folder.path())), SIZE).await;
        remote.send(&data()).await;
        got(&mut remote).await;
        assert!(!committed.exists(), "{shell:?}, {launch}: committed without GO");
        remote.send(&nonce().line()).await;
        remote.read().await;
        assert_eq!(remote.unsealer.finish(), Ok(0), "{shell:?}, {launch}");
        assert!(std::fs::read(&committed).unwrap() == data(), "{shell:?}, {launch}: other bytes");
        assert_eq!(remote.child.try_wait().unwrap(), None, "it did not wait for the acknowledgement");
        remote.send(&nonce().line()).await;
        let exit = timeout(DEADLINE, remote.child.wait()).await.unwrap().unwrap();
        assert_eq!(exit.code(), Some(0), "{shell:?}, {launch}");
    })
    .await;
}

#[tokio::test]
async fn command_that_stops_reading_keeps_its_status() {
    at_once(SHELLS, async |shell| {
        let container = Container::start().await;
        for (script, size, status) in [
            ("head -c 10 >/dev/null; exit 3", SIZE, 3),
            ("exit 3", 1, 3),
            ("head -c 10 >/dev/null", SIZE, INPUT_LEFT),
            ("exit 0", 1, INPUT_LEFT),
            ("exec <&-; exit 5", SIZE, 5),
            ("kill -9 $$", SIZE, 137),
            ("no-such-program", SIZE, 127),
        ] {
            let mut remote = begin(&container, shell, &strings(&["sh", "-c", script]), size).await;
            let mut stdin = remote.stdin.take().unwrap();
            // The command's stdin may stay full, but the status must be reported all the same. The first byte is NUL.
            let feeding = tokio::spawn(async move {
                let _ = stdin.write_all(&data()[..size]).await;
                stdin
            });
            remote.read().await;
            assert_eq!(remote.unsealer.finish(), Ok(status), "{shell:?} {script}");
            drop(timeout(DEADLINE, feeding).await.expect("its stdin is not drained").unwrap());
            timeout(DEADLINE, remote.child.wait()).await.expect("still alive").unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn command_that_read_all_may_end_before_it_sees_the_end() {
    at_once(SHELLS, async |shell| {
        let container = Container::start().await;
        let mut remote = begin(&container, shell, &strings(&["head", "-c", "5"]), 5).await;
        remote.send(b"\0\n\xff45").await;
        got(&mut remote).await;
        remote.send(&nonce().line()).await;
        assert_eq!((remote.read().await, remote.unsealer.finish()), (b"\0\n\xff45".to_vec(), Ok(0)), "{shell:?}");
        remote.cut().await;
    })
    .await;
}

#[tokio::test]
async fn empty_input_is_an_input() {
    at_once(SHELLS, async |shell| {
        let container = Container::start().await;
        let mut remote = begin(&container, shell, &strings(&["sh", "-c", "cat; echo seen"]), 0).await;
        got(&mut remote).await;
        remote.send(&nonce().line()).await;
        assert_eq!((remote.read().await, remote.unsealer.finish()), (b"seen\n".to_vec(), Ok(0)), "{shell:?}");
        remote.cut().await;
    })
    .await;
}

#[tokio::test]
async fn cancel_after_go_ends_the_command() {
    at_once(shells_and_launches(), async |(shell, launch)| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("cat >/dev/null; echo $$ >{}; sleep 1000", folder.file("pid").display());
        let mut remote = begin(&container, shell, &by(launch, &script), 3).await;
        remote.send(b"abc").await;
        got(&mut remote).await;
        remote.send(&nonce().line()).await;
        let pid = folder.pid().await;
        remote.stdin = None;
        remote.read().await;
        let status = remote.unsealer.finish();
        assert!(matches!(status, Ok(1..)), "{shell:?}, {launch}: {status:?}");
        container.wait_for_end(&pid).await;
        remote.cut().await;
    })
    .await;
}

#[tokio::test]
async fn container_without_head_is_refused_before_anything_runs() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    for tool in ["sleep", "wc", "cat"] {
        std::os::unix::fs::symlink(format!("/usr/bin/{tool}"), folder.file(tool)).unwrap();
    }
    for shell in [&["/usr/bin/dash"][..], &["/usr/bin/bash", "--posix"]] {
        let path = format!("PATH={}", folder.path().display());
        let line = restore_command(&strings(&["/usr/bin/touch", "ran"])).unwrap();
        let mut remote = Remote::start(&container, &[&["/usr/bin/env", &path], shell].concat(), &line);
        remote.send(&nonce().line_with_size(1)).await;
        remote.read().await;
        assert!(!remote.unsealer.is_ready());
        let exit = timeout(DEADLINE, remote.child.wait()).await.unwrap().unwrap();
        assert_eq!(exit.code(), Some(125), "{shell:?}");
    }
}
