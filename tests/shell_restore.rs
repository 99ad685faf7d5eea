//! The restore form under real shells: a command commits at the end of its input, and must never see one that was not
//! meant, whichever way it was started.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
#![allow(
    clippy::unnecessary_wraps,
    clippy::large_stack_arrays,
    clippy::cast_possible_truncation,
    reason = "known sizes"
)]

mod shell_support;

use std::path::Path;

use shell_support::{
    DEADLINE, Remote, SHELLS, detours, eventually, is_gone, is_root, line_of, nonce, open_folder, words,
};
use stowaway::seal::{INPUT_LEFT, Marker, restore_command};
use tokio::{io::AsyncReadExt, time::timeout};

/// More than the pipes between us hold, and no multiple of a block.
const SIZE: usize = 200_003;

fn data() -> Vec<u8> {
    (0..SIZE).map(|n| (n % 251) as u8).collect()
}

fn start(shell: &[&str], command: &[String]) -> Remote {
    Remote::start(shell, &restore_command(command).unwrap())
}

/// A command that commits what it read when it sees the end, or when a part of it dies before the rest.
fn committing(folder: &Path) -> String {
    let folder = folder.display();
    format!("cd {folder}; rm -f read; echo $$ >pid; cat >read; mv read committed")
}

async fn got(remote: &mut Remote) {
    let mut marker = Marker::got(&nonce());
    let mut buffer = [0; 4096];
    while !marker.is_seen() {
        let length = timeout(DEADLINE, remote.stderr.read(&mut buffer)).await.expect("no got").unwrap();
        assert_ne!(length, 0, "its stderr ended before got");
        marker.push(&buffer[..length]);
    }
}

async fn begin(shell: &[&str], command: &[String], size: usize) -> Remote {
    let mut remote = start(shell, command);
    remote.send(&nonce().line_with_size(size as u64)).await;
    remote.ready().await;
    remote
}

#[tokio::test]
async fn cut_at_any_offset_commits_nothing_and_ends_the_command() {
    for shell in SHELLS {
        let folder = open_folder();
        for (detour, command) in detours(&committing(folder.path())) {
            for offset in [0, 1, 65_537, SIZE - 1, SIZE] {
                let _ = std::fs::remove_file(folder.path().join("pid"));
                let mut remote = begin(shell, &command, SIZE).await;
                let pid = line_of(&folder.path().join("pid")).await;
                remote.send(&data()[..offset]).await;
                remote.cut().await;
                is_gone(&pid).await;
                assert!(!folder.path().join("committed").exists(), "{shell:?}, {detour}, cut at {offset}: committed");
            }
        }
    }
}

#[tokio::test]
async fn missing_or_wrong_word_to_go_commits_nothing() {
    for shell in SHELLS {
        let folder = open_folder();
        for (detour, command) in detours(&committing(folder.path())) {
            for word in ["", "\n", "00c0ffee00c0ffee00c0ffee00c0ffef\n", "00c0ffee00c0ffee00c0ffee00c0ffee"] {
                let _ = std::fs::remove_file(folder.path().join("pid"));
                let mut remote = begin(shell, &command, SIZE).await;
                let pid = line_of(&folder.path().join("pid")).await;
                remote.send(&data()).await;
                got(&mut remote).await;
                remote.send(word.as_bytes()).await;
                remote.cut().await;
                is_gone(&pid).await;
                assert!(!folder.path().join("committed").exists(), "{shell:?}, {detour}, word {word:?}: committed");
            }
        }
    }
}

#[tokio::test]
async fn daemon_that_left_commits_nothing_at_a_cut() {
    for shell in SHELLS {
        for rest in ["sleep 1000", "exit 0", "exit 3"] {
            let folder = open_folder();
            // Out of the session, its parent gone at once.
            let script = format!("exec 5<&0; (setsid sh -c \"$0\" <&5 &); {rest}");
            let command = words(&["/usr/bin/setsid", "-w", "sh", "-c", &script, &committing(folder.path())]);
            let mut remote = begin(shell, &command, SIZE).await;
            let pid = line_of(&folder.path().join("pid")).await;
            remote.send(&data()[..4000]).await;
            remote.cut().await;
            is_gone(&pid).await;
            assert!(!folder.path().join("committed").exists(), "{shell:?}, {rest}: committed");
        }
    }
}

#[tokio::test]
async fn pipe_stays_open_for_a_strangers_process_that_cannot_be_looked_into() {
    if !is_root() {
        return;
    }
    for shell in SHELLS {
        let folder = open_folder();
        let script = "exec 5<&0; (setsid setpriv --reuid nobody --clear-groups sh -c \"$0\" <&5 &); sleep 1000";
        let command = words(&["/usr/bin/setsid", "-w", "sh", "-c", script, &committing(folder.path())]);
        let mut remote = begin(shell, &command, SIZE).await;
        let pid = line_of(&folder.path().join("pid")).await;
        let read = folder.path().join("read");
        remote.send(&data()[..100_000]).await;
        eventually(|| std::fs::metadata(&read).is_ok_and(|read| read.len() > 0)).await;
        let shell_pid = remote.child.id().unwrap();
        let ending = tokio::spawn(remote.cut());
        // Its family is killed, and still it holds on: whoever is left might commit.
        let family = format!("/proc/{shell_pid}/task/{shell_pid}/children");
        let children = || std::fs::read_to_string(&family).unwrap_or_default().split_whitespace().count();
        eventually(|| children() <= 1).await;
        assert!(shell_support::lives(&pid) && !ending.is_finished(), "{shell:?}");
        assert!(!folder.path().join("committed").exists(), "{shell:?}: committed");
        // Once that is gone, too, it lets go.
        for process in [&pid, &child_of(&pid)] {
            std::process::Command::new("kill").args(["-9", process]).output().unwrap();
        }
        ending.await.unwrap();
        assert!(!folder.path().join("committed").exists(), "{shell:?}: committed");
    }
}

fn child_of(pid: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn whole_input_is_committed_after_the_word_to_go() {
    for shell in SHELLS {
        let folder = open_folder();
        for (detour, command) in detours(&committing(folder.path())) {
            let committed = folder.path().join("committed");
            let _ = std::fs::remove_file(&committed);
            let mut remote = begin(shell, &command, SIZE).await;
            remote.send(&data()).await;
            got(&mut remote).await;
            assert!(!committed.exists(), "{shell:?}, {detour}: committed without the word to go");
            remote.send(&nonce().line()).await;
            remote.read().await;
            assert_eq!(remote.unsealer.finish(), Ok(0), "{shell:?}, {detour}");
            assert!(std::fs::read(&committed).unwrap() == data(), "{shell:?}, {detour}: other bytes");
            assert_eq!(remote.child.try_wait().unwrap(), None, "it did not wait for the acknowledgement");
            remote.send(&nonce().line()).await;
            let exit = timeout(DEADLINE, remote.child.wait()).await.unwrap().unwrap();
            assert_eq!(exit.code(), Some(0), "{shell:?}, {detour}");
        }
    }
}

#[tokio::test]
async fn command_that_stops_reading_keeps_its_status() {
    for shell in SHELLS {
        for (script, size, status) in [
            ("head -c 10 >/dev/null; exit 3", SIZE, 3),
            ("exit 3", 1, 3),
            ("head -c 10 >/dev/null", SIZE, INPUT_LEFT),
            ("exit 0", 1, INPUT_LEFT),
            ("exec <&-; exit 5", SIZE, 5),
            ("kill -9 $$", SIZE, 137),
            ("no-such-program", SIZE, 127),
        ] {
            let mut remote = begin(shell, &words(&["sh", "-c", script]), size).await;
            let mut stdin = remote.stdin.take().unwrap();
            // Its stdin may be full for good: the status must come all the same. The first byte is NUL.
            let feeding = tokio::spawn(async move {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, &data()[..size]).await;
                stdin
            });
            remote.read().await;
            assert_eq!(remote.unsealer.finish(), Ok(status), "{shell:?} {script}");
            drop(timeout(DEADLINE, feeding).await.expect("its stdin is not drained").unwrap());
            timeout(DEADLINE, remote.child.wait()).await.expect("it lives on").unwrap();
        }
    }
}

#[tokio::test]
async fn command_that_read_all_may_end_before_it_sees_the_end() {
    for shell in SHELLS {
        let mut remote = begin(shell, &words(&["head", "-c", "5"]), 5).await;
        remote.send(b"\0\n\xff45").await;
        got(&mut remote).await;
        remote.send(&nonce().line()).await;
        assert_eq!((remote.read().await, remote.unsealer.finish()), (b"\0\n\xff45".to_vec(), Ok(0)), "{shell:?}");
        remote.cut().await;
    }
}

#[tokio::test]
async fn empty_input_is_an_input() {
    for shell in SHELLS {
        let mut remote = begin(shell, &words(&["sh", "-c", "cat; echo seen"]), 0).await;
        got(&mut remote).await;
        remote.send(&nonce().line()).await;
        assert_eq!((remote.read().await, remote.unsealer.finish()), (b"seen\n".to_vec(), Ok(0)), "{shell:?}");
        remote.cut().await;
    }
}

#[tokio::test]
async fn cancel_after_the_word_to_go_ends_the_command() {
    for shell in SHELLS {
        let folder = open_folder();
        let script = format!("cat >/dev/null; echo $$ >{}/pid; sleep 1000", folder.path().display());
        for (detour, command) in detours(&script) {
            let _ = std::fs::remove_file(folder.path().join("pid"));
            let mut remote = begin(shell, &command, 3).await;
            remote.send(b"abc").await;
            got(&mut remote).await;
            remote.send(&nonce().line()).await;
            let pid = line_of(&folder.path().join("pid")).await;
            remote.stdin = None;
            remote.read().await;
            let status = remote.unsealer.finish();
            assert!(matches!(status, Ok(1..)), "{shell:?}, {detour}: {status:?}");
            is_gone(&pid).await;
            remote.cut().await;
        }
    }
}

#[tokio::test]
async fn container_without_head_is_refused_before_anything_runs() {
    let folder = open_folder();
    for tool in ["sleep", "wc", "cat"] {
        std::os::unix::fs::symlink(format!("/usr/bin/{tool}"), folder.path().join(tool)).unwrap();
    }
    for shell in [&["/usr/bin/dash"][..], &["/usr/bin/bash", "--posix"]] {
        let path = format!("PATH={}", folder.path().display());
        let line = restore_command(&words(&["/usr/bin/touch", "ran"])).unwrap();
        let mut remote = Remote::start(&[&["/usr/bin/env", &path], shell].concat(), &line);
        remote.send(&nonce().line_with_size(1)).await;
        remote.read().await;
        assert!(!remote.unsealer.is_ready());
        let exit = timeout(DEADLINE, remote.child.wait()).await.unwrap().unwrap();
        assert_eq!(exit.code(), Some(125), "{shell:?}");
    }
}
