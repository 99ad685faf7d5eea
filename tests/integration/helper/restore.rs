//! Restores by the helper. A command commits when it sees the end of its input, so it must never see an unintended end,
//! however it was launched.

use std::path::Path;

use stowaway::seal::sealed::{Fault, Frame, Outcome, Sealer, Window};
use tokio::{io::AsyncReadExt, process::Command};

use super::{Container, OpenFolder, Remote, at_once, by, eventually, launches, noise, nonce, remote::sealed, strings};

/// More bytes than the pipes hold, in several frames.
pub const SIZE: usize = 200_003;

/// A command which commits its input when it sees the end.
pub fn committing(folder: &Path) -> String {
    let folder = folder.display();
    format!("cd {folder}; rm -f read; echo $$ >pid; cat >read; mv read committed")
}

pub async fn begin(container: &Container, options: &[&str], command: &[String]) -> Remote {
    Remote::ready(container, &[&["--restore"], options].concat(), command).await
}

pub async fn send_sealed(remote: &mut Remote, sealer: &mut Sealer, frame: Frame) {
    let mut wire = Vec::new();
    sealer.encode(&frame, &mut wire);
    remote.send(&wire).await;
}

/// Offsets to cut the wire at: around the borders of the frames, and between them.
fn offsets(wire: &[u8]) -> Vec<usize> {
    let mut offsets: Vec<usize> = (0..wire.len()).step_by(wire.len() / 12).collect();
    let mut at = 0;
    while at < wire.len() {
        let next = at + 17 + u32::from_be_bytes(wire[at + 1..at + 5].try_into().unwrap()) as usize;
        offsets.extend([at + 1, at + 16, at + 17, next - 1, next]);
        at = next;
    }
    offsets
}

#[tokio::test]
async fn cut_at_any_offset_commits_nothing_and_ends_the_command() {
    let (wire, _) = sealed(&noise(SIZE));
    let offsets = offsets(&wire);
    assert!(offsets.len() >= 30);
    let cases = offsets.iter().map(|offset| ("plain", *offset));
    let last = wire.len();
    let others = launches().flat_map(|launch| [0, 1, 70_000, last - 1, last].map(|offset| (launch, offset)));
    at_once(cases.chain(others), async |(launch, offset)| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let mut remote = begin(&container, &[], &by(launch, &committing(folder.path()))).await;
        let pid = folder.pid().await;
        remote.send(&wire[..offset]).await;
        remote.cut().await;
        assert!(!container.lives(&pid), "{launch}, cut at {offset}: still alive");
        assert!(!folder.file("committed").exists(), "{launch}, cut at {offset}: committed");
    })
    .await;
}

#[tokio::test]
async fn damaged_frame_commits_nothing() {
    let (wire, _) = sealed(&noise(SIZE));
    at_once(offsets(&wire), async |offset| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let mut damaged = wire.clone();
        let offset = offset.min(wire.len() - 1);
        damaged[offset] ^= 1;
        let mut remote = begin(&container, &[], &by("plain", &committing(folder.path()))).await;
        let pid = folder.pid().await;
        remote.send(&damaged).await;
        remote.stdin = None;
        let fault = remote.until(|frame| matches!(frame, Frame::Fault(_) | Frame::Got)).await;
        assert!(matches!(fault, Frame::Fault(Fault::Corrupt | Fault::Cancelled)), "{offset}: {fault:?}");
        assert_eq!(remote.frame().await, None);
        assert!(!container.lives(&pid) && !folder.file("committed").exists(), "flipped at {offset}");
    })
    .await;
}

#[tokio::test]
async fn missing_or_early_go_commits_nothing() {
    at_once(launches(), async |launch| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        for early in [false, true] {
            let mut remote = begin(&container, &[], &by(launch, &committing(folder.path()))).await;
            let pid = folder.pid().await;
            if early {
                remote.send_frame(Frame::Go).await;
            } else {
                let (wire, mut sealer) = sealed(&noise(SIZE));
                remote.send(&wire).await;
                remote.until(|frame| *frame == Frame::Got).await;
                send_sealed(&mut remote, &mut sealer, Frame::Heartbeat).await;
            }
            remote.cut().await;
            assert!(!container.lives(&pid) && !folder.file("committed").exists(), "{launch}, {early}: committed");
        }
    })
    .await;
}

#[tokio::test]
async fn daemon_that_left_commits_nothing_at_a_cut() {
    at_once(["sleep 1000", "exit 0", "exit 3"], async |rest| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        // Outside of the session, and its parent exits at once.
        let script = format!("exec 5<&0; (setsid sh -c \"$0\" <&5 &); {rest}");
        let command = strings(&["/usr/bin/setsid", "-w", "sh", "-c", &script, &committing(folder.path())]);
        let mut remote = begin(&container, &[], &command).await;
        let pid = if rest == "exit 3" { None } else { Some(folder.pid().await) };
        remote.send(&sealed(&noise(SIZE)).0[..70_000]).await;
        remote.cut().await;
        assert!(pid.is_none_or(|pid| !container.lives(&pid)), "{rest}: still alive");
        assert!(!folder.file("committed").exists(), "{rest}: committed");
    })
    .await;
}

#[tokio::test]
async fn helper_that_receives_a_signal_commits_nothing() {
    at_once(["-TERM", "-HUP", "-INT", "-QUIT"], async |signal| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let mut remote = begin(&container, &[], &by("plain", &committing(folder.path()))).await;
        let pid = folder.pid().await;
        let helper = remote.process().file_name().unwrap().to_owned();
        Command::new("kill").arg(signal).arg(helper).status().await.unwrap();
        assert_eq!(
            remote.until(|frame| matches!(frame, Frame::Fault(_))).await,
            Frame::Fault(Fault::Cancelled),
            "{signal}"
        );
        assert!(!container.lives(&pid) && !folder.file("committed").exists(), "{signal}");
        remote.cut().await;
    })
    .await;
}

#[tokio::test]
async fn silent_peer_is_treated_as_lost_and_nothing_is_committed() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let mut remote = begin(&container, &["--hurry", "100"], &by("plain", &committing(folder.path()))).await;
    let pid = folder.pid().await;
    let fault = remote.until(|frame| matches!(frame, Frame::Fault(_))).await;
    assert_eq!(fault, Frame::Fault(Fault::Silence));
    assert!(!container.lives(&pid) && !folder.file("committed").exists());
}

#[tokio::test]
async fn whole_input_is_committed_after_go() {
    at_once(launches(), async |launch| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let committed = folder.file("committed");
        let (wire, mut sealer) = sealed(&noise(SIZE));
        let mut remote = begin(&container, &[], &by(launch, &committing(folder.path()))).await;
        remote.send(&wire).await;
        remote.until(|frame| *frame == Frame::Got).await;
        assert!(!committed.exists(), "{launch}: committed without GO");
        send_sealed(&mut remote, &mut sealer, Frame::Go).await;
        let ended = remote.until(|frame| matches!(frame, Frame::Ended(_))).await;
        assert_eq!(ended, Frame::Ended(Outcome::Exited(0)), "{launch}");
        assert!(std::fs::read(&committed).unwrap() == noise(SIZE), "{launch}: other bytes");
        assert_eq!(remote.child.try_wait().unwrap(), None, "it did not wait for the acknowledgement");
        send_sealed(&mut remote, &mut sealer, Frame::Done).await;
        assert_eq!(remote.exit().await, Some(0), "{launch}");
    })
    .await;
}

#[tokio::test]
async fn command_that_stops_reading_keeps_its_status() {
    let container = Container::start().await;
    for (script, size, outcome) in [
        ("head -c 10 >/dev/null; exit 3", SIZE, Outcome::Exited(3)),
        ("exit 3", 1, Outcome::Exited(3)),
        ("head -c 10 >/dev/null", SIZE, Outcome::InputLeft),
        ("exit 0", 1, Outcome::InputLeft),
        ("exec <&-; exit 5", SIZE, Outcome::Exited(5)),
        ("kill -9 $$", SIZE, Outcome::Killed(9)),
        ("sleep 1000 & exit 4", SIZE, Outcome::Exited(4)),
    ] {
        let mut remote = begin(&container, &[], &strings(&["sh", "-c", script])).await;
        let (wire, mut sealer) = sealed(&noise(size));
        remote.send(&wire).await;
        let ended = remote.until(|frame| matches!(frame, Frame::Ended(_))).await;
        assert_eq!(ended, Frame::Ended(outcome), "{script}");
        send_sealed(&mut remote, &mut sealer, Frame::Done).await;
        remote.exit().await;
    }
    let mut remote = begin(&container, &[], &strings(&["no-such-program"])).await;
    assert_eq!(remote.frame().await, Some(Frame::Ended(Outcome::Exited(127))));
    remote.cut().await;
}

#[tokio::test]
async fn command_that_read_all_may_end_before_it_sees_the_end() {
    let container = Container::start().await;
    let data = b"\0\n\xff45";
    for pushes in [1, 5] {
        let mut remote = begin(&container, &[], &strings(&["head", "-c", "5"])).await;
        let mut wire = Vec::new();
        let mut sealer = Sealer::new(&nonce(), Window::RESTORE).unwrap();
        for part in data.chunks(5 / pushes) {
            sealer.push(part, &mut wire).unwrap();
            sealer.flush(&mut wire).unwrap();
        }
        remote.send(&wire).await;
        let frame = remote.until(|frame| matches!(frame, Frame::Stdout(_))).await;
        assert_eq!(frame, Frame::Stdout(data.to_vec().into()));
        // The end of the data arrives after the command has ended.
        let mut wire = Vec::new();
        sealer.finish(Outcome::Exited(0), &mut wire).unwrap();
        remote.send(&wire).await;
        remote.until(|frame| *frame == Frame::Got).await;
        send_sealed(&mut remote, &mut sealer, Frame::Go).await;
        assert_eq!(remote.until(|frame| matches!(frame, Frame::Ended(_))).await, Frame::Ended(Outcome::Exited(0)));
        remote.cut().await;
    }
}

#[tokio::test]
async fn empty_input_is_an_input() {
    let container = Container::start().await;
    let mut remote = begin(&container, &[], &strings(&["sh", "-c", "cat; echo seen"])).await;
    let (wire, mut sealer) = sealed(b"");
    remote.send(&wire).await;
    remote.until(|frame| *frame == Frame::Got).await;
    send_sealed(&mut remote, &mut sealer, Frame::Go).await;
    assert_eq!(remote.frame().await, Some(Frame::Stdout("seen\n".into())));
    assert_eq!(remote.frame().await, Some(Frame::Ended(Outcome::Exited(0))));
    remote.cut().await;
}

#[tokio::test]
async fn cancel_after_go_ends_the_command() {
    at_once(launches(), async |launch| {
        let folder = OpenFolder::new();
        let container = Container::start().await;
        let script = format!("cat >/dev/null; echo $$ >{}; sleep 1000", folder.file("pid").display());
        let mut remote = begin(&container, &[], &by(launch, &script)).await;
        let (wire, mut sealer) = sealed(b"abc");
        remote.send(&wire).await;
        remote.until(|frame| *frame == Frame::Got).await;
        send_sealed(&mut remote, &mut sealer, Frame::Go).await;
        let pid = folder.pid().await;
        remote.stdin = None;
        let ended = remote.until(|frame| matches!(frame, Frame::Ended(_))).await;
        assert!(!matches!(ended, Frame::Ended(Outcome::Exited(0))), "{launch}: {ended:?}");
        assert!(!container.lives(&pid), "{launch}");
        remote.cut().await;
    })
    .await;
}

#[tokio::test]
async fn command_that_talks_is_never_held_up() {
    let folder = OpenFolder::new();
    let container = Container::start().await;
    let done = folder.file("done");
    let script = format!("yes | head -c 3000000; yes | head -c 3000000 >&2; echo printed >{}; cat", done.display());
    let mut remote = begin(&container, &[], &strings(&["sh", "-c", &script])).await;
    // The test has read none of the output yet.
    eventually(|| done.exists()).await;
    let (wire, mut sealer) = sealed(b"abc");
    remote.send(&wire).await;
    let mut text = Vec::new();
    let mut buffer = [0; 16];
    while text.is_empty() {
        let length = remote.stderr.read(&mut buffer).await.unwrap();
        text.extend_from_slice(&buffer[..length]);
    }
    remote.until(|frame| *frame == Frame::Got).await;
    send_sealed(&mut remote, &mut sealer, Frame::Go).await;
    remote.until(|frame| *frame == Frame::Ended(Outcome::Exited(0))).await;
    remote.cut().await;
}
