//! What the helper costs the application's pod: a small static file, and little memory for a stream of any length.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use stowaway::seal::sealed::{Frame, Outcome};

use super::{
    Container, OpenFolder, Remote, noise,
    remote::{program, sealed},
    strings,
};

const MEBIBYTE: u64 = 1024 * 1024;

/// The peak resident memory of a process, in bytes.
fn peak(process: &Path) -> u64 {
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn text(length: usize) -> Vec<u8> {
    (0..)
        .flat_map(|n| format!("INSERT INTO stowage VALUES ({n:020}, 'starboard');\n").into_bytes())
        .take(length)
        .collect()
}

#[test]
fn file_is_small_and_static() {
    let file = std::fs::read(program()).unwrap();
    assert!(file.len() as u64 <= 2 * MEBIBYTE, "{} bytes", file.len());
    // A 64-bit ELF file. Each program header begins with its type; type 3 (PT_INTERP) would require a dynamic loader.
    let number =
        |at: usize, length: usize| file[at..at + length].iter().rev().fold(0, |n, b| n * 256 + usize::from(*b));
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    assert!((0..count).all(|header| number(headers + header * size, 4) != 3), "it needs a dynamic loader");
}

#[tokio::test]
async fn memory_is_bounded_while_64_mebibytes_pass() {
    let length = 64 * MEBIBYTE as usize;
    let container = Container::start().await;
    for (kind, data) in [("random", noise(length)), ("text", text(length))] {
        let folder = OpenFolder::new();
        let file = folder.file("data");
        std::fs::write(&file, &data).unwrap();
        let mut remote = Remote::ready(&container, &[], &strings(&["cat", file.to_str().unwrap()])).await;
        let (dumped, _) = remote.dump().await;
        assert!(dumped == data);
        let dump = peak(&remote.process());
        remote.send_frame(Frame::Done).await;
        remote.exit().await;

        // Half of the data arrives before the command reads any of it.
        let gate = folder.file("gate");
        let script = format!("mkfifo {0}; read -r _ <{0}; cmp - {1}", gate.display(), file.display());
        let mut remote = Remote::ready(&container, &["--restore"], &strings(&["sh", "-c", &script])).await;
        let (wire, mut sealer) = sealed(&data);
        let mut stdin = remote.stdin.take().unwrap();
        let window = wire.len().min(2_000_000);
        let rest = wire[window..].to_vec();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, &wire[..window]).await.unwrap();
        super::eventually(|| gate.exists()).await;
        tokio::fs::write(&gate, "\n").await.unwrap();
        let (read, mut acknowledged) = (rest.len(), 0_usize);
        let mut sent = 0;
        // Sends as far ahead as the window allows, and no further.
        loop {
            let room = (2_000_000 + acknowledged).saturating_sub(window + sent).min(read - sent);
            tokio::io::AsyncWriteExt::write_all(&mut stdin, &rest[sent..sent + room]).await.unwrap();
            sent += room;
            match remote.frame().await.unwrap() {
                Frame::Acknowledge(bytes) => acknowledged = bytes as usize,
                Frame::Got => break,
                Frame::Heartbeat => {}
                other => panic!("{other:?}"),
            }
        }
        let mut go = Vec::new();
        sealer.encode(&Frame::Go, &mut go);
        tokio::io::AsyncWriteExt::write_all(&mut stdin, &go).await.unwrap();
        let ended = remote.until(|frame| matches!(frame, Frame::Ended(_))).await;
        assert_eq!(ended, Frame::Ended(Outcome::Exited(0)), "{kind}");
        let restore = peak(&remote.process()) + peak(&remote.worker());
        println!("peak memory, {kind}: dump {} KiB, restore {} KiB", dump / 1024, restore / 1024);
        assert!(dump <= 8 * MEBIBYTE && restore <= 8 * MEBIBYTE, "{kind}: {dump}, {restore}");
        let mut done = Vec::new();
        sealer.encode(&Frame::Done, &mut done);
        tokio::io::AsyncWriteExt::write_all(&mut stdin, &done).await.unwrap();
        assert_eq!(remote.exit().await, Some(0));
    }
}

#[test]
fn helper_copies_itself_whole_however_often() {
    let folder = OpenFolder::new();
    let copy = folder.file("stowaway-helper");
    // A file which a killed attempt left behind.
    std::fs::write(folder.file("stowaway-helper.part"), "half").unwrap();
    for _ in 0..2 {
        let installed = Command::new(program()).arg("install").arg(&copy).status().unwrap();
        assert!(installed.success());
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(program()).unwrap());
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o555);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    let nowhere = Command::new(program()).args(["install", "/no/such/folder/x"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(125));
}
