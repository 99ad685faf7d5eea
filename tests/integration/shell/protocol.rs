//! The dump and restore loops of exec with a fake remote side and with real local shells: the pieces which they pass
//! on, and the outcome which they report.

mod websocket;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use stowaway::{
    exec::{Control, DumpEnd, Dumped, ExecStatus, FeedEnd, Limits, Lines, Session, local_session, protocol},
    model::{Failure, Proof, Reason},
    seal::{dump_command, restore_command},
    stream::{End, StreamItem, pieces},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fake_carrier::{
    Step::{self, Emit, Expect, Stall},
    cut, got, play, ready, status, stderr, stdout, trailer,
};
use super::{DEADLINE, OpenFolder, SHELLS, nonce, strings};

fn control() -> Control {
    Control {
        limits: Limits::default(),
        cancel: CancellationToken::new(),
        lines: Lines::new().0,
        progress: Arc::default(),
    }
}

#[derive(Debug, PartialEq)]
enum Handed {
    End(Vec<u8>, End),
    Broken(Reason),
    Nothing,
}

/// Runs a dump over a session. Returns its outcome, and what the receiver of the pieces got.
async fn dump_over(session: Session, control: &Control) -> (Result<Dumped, Failure>, Handed) {
    let (sender, mut receiver) = pieces();
    let receiving = tokio::spawn(async move {
        let mut data = Vec::new();
        while let Some(piece) = receiver.recv().await {
            match piece {
                StreamItem::Data(bytes) => {
                    assert!(bytes.len() <= 64 * 1024);
                    data.extend_from_slice(&bytes);
                }
                StreamItem::End(end) => return Handed::End(data, end),
                StreamItem::Broken(failure) => return Handed::Broken(failure.reason),
            }
        }
        Handed::Nothing
    });
    let outcome = timeout(DEADLINE, protocol::dump(session, &nonce(), control, &sender)).await.expect("timed out");
    drop(sender);
    (outcome, receiving.await.unwrap())
}

async fn fake_dump(steps: Vec<Step>) -> (Result<Dumped, Failure>, Handed) {
    let (session, carrier) = Session::new();
    let playing = tokio::spawn(play(carrier, steps));
    let outcome = dump_over(session, &control()).await;
    playing.await.unwrap();
    outcome
}

/// The steps of a successful dump.
fn good_dump() -> Vec<Step> {
    let acknowledgement = nonce().line();
    vec![
        Expect(nonce().line()),
        Emit(ready()),
        Emit(stderr("NOTICE: begins\n")),
        Emit(stdout(vec![7; 100_000])),
        Emit(stdout("the rest")),
        Emit(trailer(0)),
        Expect(acknowledgement),
        Emit(status(ExecStatus::Exited(0))),
    ]
}

#[tokio::test]
async fn dump_that_is_cut_at_any_step_before_its_trailer_is_cut() {
    for at in 1..6 {
        for last in [Some(cut()), None, Some(status(ExecStatus::Exited(0))), Some(status(ExecStatus::Exited(1)))] {
            let is_no_shell = at == 1 && matches!(last, Some(Ok(_)));
            let mut steps: Vec<Step> = good_dump().into_iter().take(at).collect();
            steps.extend(last.map(Emit));
            let (outcome, handed) = fake_dump(steps).await;
            if is_no_shell {
                assert!(matches!(outcome, Ok(Dumped::NoShell { .. })), "{outcome:?}");
                assert_eq!(handed, Handed::Nothing);
            } else {
                assert_eq!(outcome.unwrap_err().reason, Reason::StreamCut, "{at}");
                assert_eq!(handed, Handed::Broken(Reason::StreamCut), "{at}");
            }
        }
    }
}

#[tokio::test]
async fn dump_with_a_trailer_is_whole_whatever_becomes_of_the_connection() {
    for last in [Emit(status(ExecStatus::Exited(0))), Emit(cut()), Stall] {
        let mut steps: Vec<Step> = good_dump().into_iter().take(7).collect();
        steps.push(last);
        let (outcome, handed) = fake_dump(steps).await;
        let end = DumpEnd { proof: Proof::Acknowledged, bytes: 100_008, exit_code: 0 };
        assert_eq!(outcome, Ok(Dumped::Whole(end)));
        let data = [&[7; 100_000][..], b"the rest"].concat();
        assert_eq!(handed, Handed::End(data, End { proof: Proof::Acknowledged, bytes: 100_008 }));
    }
}

#[tokio::test]
async fn output_that_contradicts_the_trailer_fails_the_dump() {
    for last in [status(ExecStatus::Exited(1)), status(ExecStatus::Refused("lost".into())), stdout("x")] {
        let mut steps: Vec<Step> = good_dump().into_iter().take(7).collect();
        steps.push(Emit(last));
        let (outcome, handed) = fake_dump(steps).await;
        assert_eq!(outcome.unwrap_err().reason, Reason::StreamContradicted);
        assert_eq!(handed, Handed::Broken(Reason::StreamContradicted));
    }
}

#[tokio::test]
async fn commands_failure_is_the_dumps_failure() {
    for (exit, reason) in [(7, Reason::CommandFailed), (127, Reason::CommandNotFound), (137, Reason::CommandKilled)] {
        let mut steps: Vec<Step> = good_dump().into_iter().take(5).collect();
        steps.extend([Emit(trailer(exit)), Emit(status(ExecStatus::Exited(i32::from(exit))))]);
        let (outcome, handed) = fake_dump(steps).await;
        let failure = outcome.unwrap_err();
        assert_eq!((failure.reason, failure.exit_code), (reason, Some(i32::from(exit))));
        assert_eq!(handed, Handed::Broken(reason));
    }
}

#[tokio::test]
async fn limits_and_cancel_close_the_remote_stdin() {
    let short = Some(Duration::from_millis(50));
    for (limits, reason) in [
        (Limits { timeout: short, idle_timeout: None }, Reason::Timeout),
        (Limits { timeout: None, idle_timeout: short }, Reason::IdleTimeout),
        (Limits::default(), Reason::Cancelled),
    ] {
        let (session, carrier) = Session::new();
        let mut steps: Vec<Step> = good_dump().into_iter().take(4).collect();
        steps.push(Stall);
        let playing = tokio::spawn(play(carrier, steps));
        let control = Control { limits, ..control() };
        if reason == Reason::Cancelled {
            control.cancel.cancel();
        }
        let (outcome, _) = dump_over(session, &control).await;
        assert_eq!(outcome.unwrap_err().reason, reason);
        assert!(playing.await.unwrap(), "{reason}: the remote stdin was not closed");
    }
}

/// Longer than the idle timeout of these tests.
const OUTAGE: Duration = Duration::from_millis(500);

fn soon_idle() -> Control {
    let limits = Limits { timeout: None, idle_timeout: Some(Duration::from_millis(100)) };
    Control { limits, ..control() }
}

#[tokio::test]
async fn time_in_which_the_repository_takes_no_bytes_is_not_the_commands_idleness() {
    let (session, carrier) = Session::new();
    let (sender, mut receiver) = pieces();
    let mut steps: Vec<Step> = good_dump().into_iter().take(4).collect();
    // More than the channel to the repository holds.
    steps.extend((0..40).map(|_| Emit(stdout(vec![b'x'; 64 * 1024]))));
    steps.push(Stall);
    tokio::spawn(play(carrier, steps));
    let (nonce, control) = (nonce(), soon_idle());
    let dumping = protocol::dump(session, &nonce, &control, &sender);
    let storing = async {
        while sender.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(OUTAGE).await;
        let mut bytes = 0;
        loop {
            match receiver.recv().await.unwrap() {
                StreamItem::Data(data) => bytes += data.len(),
                StreamItem::End(_) => panic!("it has no end"),
                // In the end the command itself stalls, which counts as idle.
                StreamItem::Broken(failure) => return (bytes, failure.reason),
            }
        }
    };
    let (outcome, (bytes, reason)) = tokio::join!(dumping, storing);
    assert_eq!(outcome.unwrap_err().reason, Reason::IdleTimeout);
    assert!(bytes >= 40 * 64 * 1024, "{bytes} bytes, and then {reason}");
}

#[tokio::test]
async fn time_in_which_the_repository_gives_no_bytes_is_not_the_commands_idleness() {
    let (session, carrier) = Session::new();
    let (sender, receiver) = pieces();
    tokio::spawn(play(carrier, good_feed()));
    tokio::spawn(async move {
        tokio::time::sleep(OUTAGE).await;
        sender.send(StreamItem::Data(Bytes::from_static(INPUT))).await.unwrap();
        let end = End { proof: Proof::Sealed, bytes: INPUT.len() as u64 };
        sender.send(StreamItem::End(end)).await.unwrap();
    });
    let fed = protocol::feed(session, &nonce(), INPUT.len() as u64, receiver, &soon_idle()).await;
    assert!(fed.is_ok(), "{fed:?}");
}

#[tokio::test]
async fn receiver_that_gives_up_ends_the_dump() {
    let (session, carrier) = Session::new();
    let mut steps: Vec<Step> = good_dump().into_iter().take(5).collect();
    steps.push(Stall);
    let playing = tokio::spawn(play(carrier, steps));
    let (sender, receiver) = pieces();
    drop(receiver);
    let outcome = protocol::dump(session, &nonce(), &control(), &sender).await;
    assert_eq!(outcome.unwrap_err().reason, Reason::InternalError);
    assert!(playing.await.unwrap());
}

#[tokio::test]
async fn plain_dump_needs_a_good_status_and_is_never_proven() {
    for (last, expected) in [
        (Some(status(ExecStatus::Exited(0))), Ok(DumpEnd { proof: Proof::None, bytes: 4, exit_code: 0 })),
        (Some(status(ExecStatus::Exited(2))), Err(Reason::CommandFailed)),
        (Some(status(ExecStatus::Refused("no such file".into()))), Err(Reason::ExecRefused)),
        (Some(cut()), Err(Reason::StreamCut)),
        (None, Err(Reason::StreamCut)),
    ] {
        let (session, carrier) = Session::new();
        let steps = [Emit(stdout("data"))].into_iter().chain(last.map(Emit)).collect();
        tokio::spawn(play(carrier, steps));
        let (sender, _receiver) = pieces();
        let outcome = protocol::dump_plain(session, &control(), &sender).await;
        assert_eq!(outcome.map_err(|failure| failure.reason), expected);
    }
}

const INPUT: &[u8] = b"twelve bytes";

fn good_feed() -> Vec<Step> {
    vec![
        Expect(nonce().line_with_size(INPUT.len() as u64)),
        Emit(ready()),
        Emit(stdout("BEGIN\n")),
        Expect(Bytes::from_static(INPUT)),
        Emit(got()),
        Expect(nonce().line()),
        Emit(trailer(0)),
        Expect(nonce().line()),
        Emit(status(ExecStatus::Exited(0))),
    ]
}

fn good_input() -> Vec<StreamItem> {
    let end = End { proof: Proof::Acknowledged, bytes: INPUT.len() as u64 };
    vec![
        StreamItem::Data(Bytes::from_static(&INPUT[..5])),
        StreamItem::Data(Bytes::from_static(&INPUT[5..])),
        StreamItem::End(end),
    ]
}

async fn feed_over(
    session: Session,
    size: usize,
    input: Vec<StreamItem>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    let (sender, receiver) = pieces();
    let sending = tokio::spawn(async move {
        for piece in input {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    let outcome = timeout(DEADLINE, protocol::feed(session, &nonce(), size as u64, receiver, control)).await;
    sending.await.unwrap();
    outcome.expect("timed out")
}

/// Runs a restore against these steps. Returns the outcome, and whether the runner closed stdin.
async fn fake_feed(steps: Vec<Step>, input: Vec<StreamItem>) -> (Result<FeedEnd, Reason>, bool) {
    let (session, carrier) = Session::new();
    let playing = tokio::spawn(play(carrier, steps));
    let outcome = feed_over(session, INPUT.len(), input, &control()).await;
    (outcome.map_err(|failure| failure.reason), playing.await.unwrap())
}

#[tokio::test]
async fn restore_is_a_success_only_with_its_trailer_after_go() {
    assert_eq!(fake_feed(good_feed(), good_input()).await.0, Ok(FeedEnd { exit_code: 0, proof: Proof::Acknowledged }));
    for at in 1..6 {
        for last in [Some(cut()), None, Some(status(ExecStatus::Exited(0)))] {
            let is_refused = at == 1 && matches!(last, Some(Ok(_)));
            // GO is expected in step 6. Before it, nothing can have been committed.
            let expected = if is_refused { Reason::UnsafeTarget } else { Reason::StreamCut };
            let mut steps: Vec<Step> = good_feed().into_iter().take(at).collect();
            let is_after_got = at == 5;
            steps.extend(last.map(Emit));
            let reason = fake_feed(steps, good_input()).await.0.unwrap_err();
            // Whether GO was sent before the connection was cut is a race. If it was, the outcome is unknown.
            assert!(reason == expected || is_after_got && reason == Reason::OutcomeUnknown, "{at}: {reason}");
        }
    }
    for last in [Some(cut()), None, Some(status(ExecStatus::Exited(0)))] {
        let steps = good_feed().into_iter().take(6).chain(last.map(Emit)).collect();
        assert_eq!(fake_feed(steps, good_input()).await.0, Err(Reason::OutcomeUnknown));
    }
}

#[tokio::test]
async fn restore_sends_no_go_unless_its_input_was_whole() {
    let data = || StreamItem::Data(Bytes::from_static(INPUT));
    let end = |bytes| StreamItem::End(End { proof: Proof::Acknowledged, bytes });
    let store = || StreamItem::Broken(Failure::new(Reason::StoreUnavailable, "the store is gone"));
    for (input, reason) in [
        (vec![data()], Reason::StreamCut),
        (vec![data(), store()], Reason::StoreUnavailable),
        (vec![store()], Reason::StoreUnavailable),
        (vec![end(12)], Reason::StreamContradicted),
        (vec![data(), end(11)], Reason::StreamContradicted),
        (vec![data(), StreamItem::Data(Bytes::from_static(b"x")), end(13)], Reason::StreamContradicted),
        (vec![], Reason::StreamCut),
    ] {
        let steps = vec![Expect(nonce().line_with_size(12)), Emit(ready()), Emit(got()), Stall];
        // `play` ignores input during a stall, but a runner which sent GO would not close stdin.
        let (outcome, closed) = fake_feed(steps, input).await;
        assert_eq!((outcome, closed), (Err(reason), true));
    }
}

#[tokio::test]
async fn trailer_before_go_is_never_a_success() {
    for (exit, reason) in [
        (0, Reason::InputNotConsumed),
        (256, Reason::InputNotConsumed),
        (3, Reason::CommandFailed),
        (127, Reason::CommandNotFound),
    ] {
        for at in [2, 4] {
            let mut steps: Vec<Step> = good_feed().into_iter().take(at).collect();
            steps.extend([Emit(trailer(exit)), Stall]);
            let (outcome, closed) = fake_feed(steps, good_input()).await;
            assert_eq!((outcome, closed), (Err(reason), true), "{exit} at {at}");
        }
    }
}

#[tokio::test]
async fn trailer_in_one_piece_with_ready_is_read() {
    let both = || Emit(stdout(format!("{} ready\n{}", nonce().as_str(), nonce().trailer(127))));
    let steps = vec![Expect(nonce().line_with_size(12)), both(), Stall];
    assert_eq!(fake_feed(steps, good_input()).await, (Err(Reason::CommandNotFound), true));
    let steps = vec![Expect(nonce().line()), both(), Expect(nonce().line()), Emit(status(ExecStatus::Exited(127)))];
    assert_eq!(fake_dump(steps).await.1, Handed::Broken(Reason::CommandNotFound));
}

#[tokio::test]
async fn failing_restore_command_keeps_its_status() {
    let mut steps: Vec<Step> = good_feed().into_iter().take(6).collect();
    steps.extend([Emit(trailer(3)), Emit(status(ExecStatus::Exited(3)))]);
    assert_eq!(fake_feed(steps, good_input()).await.0, Err(Reason::CommandFailed));
}

#[tokio::test]
async fn both_loops_run_over_real_shells() {
    for shell in SHELLS {
        let folder = OpenFolder::new();
        let file = folder.file("restored");
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let line = restore_command(&strings(&["tee", file.to_str().unwrap()])).unwrap();
        let session = local_session(&[strings(shell), line[1..].to_vec()].concat()).unwrap();
        let mut input: Vec<StreamItem> =
            data.chunks(65_536).map(|chunk| StreamItem::Data(Bytes::copy_from_slice(chunk))).collect();
        input.push(StreamItem::End(End { proof: Proof::Acknowledged, bytes: data.len() as u64 }));
        // tee writes as much to its stdout as it reads, so a runner which does not read while it sends would deadlock.
        assert_eq!(
            feed_over(session, data.len(), input, &control()).await,
            Ok(FeedEnd { exit_code: 0, proof: Proof::Acknowledged }),
            "{shell:?}"
        );
        assert!(std::fs::read(&file).unwrap() == data, "{shell:?}");

        let line = dump_command(&strings(&["cat", file.to_str().unwrap()])).unwrap();
        let session = local_session(&[strings(shell), line[1..].to_vec()].concat()).unwrap();
        let (_, handed) = dump_over(session, &control()).await;
        let end = End { proof: Proof::Acknowledged, bytes: data.len() as u64 };
        assert!(handed == Handed::End(data, end), "{shell:?}");
    }
}

#[tokio::test]
async fn restore_whose_input_breaks_changes_nothing() {
    for shell in SHELLS {
        let folder = OpenFolder::new();
        let script = format!("cd {}; cat >read; mv read committed", folder.path().display());
        let line = restore_command(&strings(&["sh", "-c", &script])).unwrap();
        let session = local_session(&[strings(shell), line[1..].to_vec()].concat()).unwrap();
        let broken = StreamItem::Broken(Failure::new(Reason::RepositoryDamaged, "a pack is damaged"));
        let input = vec![StreamItem::Data(Bytes::from(vec![1; 100_000])), broken];
        let outcome = feed_over(session, 200_000, input, &control()).await;
        assert_eq!(outcome.unwrap_err().reason, Reason::RepositoryDamaged);
        assert!(!folder.file("committed").exists(), "{shell:?}");
    }
}

#[tokio::test]
async fn slow_store_makes_the_remote_command_wait() {
    let (session, carrier) = Session::new();
    let (sender, mut receiver) = pieces();
    let dumping = tokio::spawn(async move { protocol::dump(session, &nonce(), &control(), &sender).await });
    carrier.output.send(ready()).await.unwrap();
    let mut sent = 0;
    // No piece is received, so the channels of 16 pieces and of a few frames limit what is sent.
    while timeout(Duration::from_millis(200), carrier.output.send(stdout(vec![0; 65_536]))).await.is_ok() {
        sent += 1;
        assert!(sent < 30, "the sender never waits");
    }
    carrier.output.try_send(cut()).unwrap_err();
    while let Some(StreamItem::Data(_)) = receiver.recv().await {
        if carrier.output.is_closed() || carrier.output.try_send(cut()).is_ok() {
            break;
        }
    }
    drop((carrier, receiver));
    assert!(dumping.await.unwrap().is_err());
}
