//! The runner's side of sealed streams: with the real helper, with recorded output of a helper on a connection which is
//! cut, and into a repository.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use stowaway::{
    exec::{
        Control, DumpEnd, Dumped, ExecStatus, FeedEnd, Limits, Lines, Output, Session, local_session, protocol,
        protocol::Greeting,
    },
    model::{Failure, Proof, Reason, SourceName, Verdict, WantedSnapshot},
    repository::Progress,
    runner::{self, BackupInput, BackupRun, RestoreOutput, RestoreRun},
    seal::{
        ExecMode,
        sealed::{Answer, Fault, Frame, FrameEncoder, Outcome, Sealer, Window},
    },
    stream::{End, StreamItem, pieces},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{DEADLINE, OpenFolder, at_once, noise, nonce, remote::program, strings};
use crate::repository::{identity, new_repository};

fn control() -> Control {
    Control {
        limits: Limits::default(),
        cancel: CancellationToken::new(),
        lines: Lines::new().0,
        progress: Arc::default(),
    }
}

fn mode() -> ExecMode {
    ExecMode::Helper(program().to_owned())
}

/// Runs a dump over a session. Returns its outcome, and the data if the stream ended properly.
async fn dump(session: Session) -> (Result<Option<DumpEnd>, Failure>, Option<Vec<u8>>) {
    let (sender, mut receiver) = pieces();
    let receiving = tokio::spawn(async move {
        let mut data = Vec::new();
        while let Some(piece) = receiver.recv().await {
            match piece {
                StreamItem::Data(bytes) => data.extend_from_slice(&bytes),
                StreamItem::End(end) => {
                    assert_eq!(end.bytes, data.len() as u64);
                    return Some(data);
                }
                StreamItem::Broken(_) => return None,
            }
        }
        None
    });
    let control = control();
    let dumping = async {
        match protocol::greet(session, &nonce(), &control).await? {
            Greeting::Ready(helper) => protocol::dump_sealed(helper, &control, &sender).await.map(Some),
            Greeting::NothingRan { .. } => Ok(None),
        }
    };
    let outcome = timeout(DEADLINE, dumping).await.expect("timed out");
    drop(sender);
    (outcome, receiving.await.unwrap())
}

/// A dump whose remote side sends these bytes, and then `last`.
async fn dump_of(wire: &[u8], last: Option<Output>) -> (Result<Option<DumpEnd>, Failure>, Option<Vec<u8>>) {
    let (session, mut carrier) = Session::new();
    let wire = wire.to_vec();
    let playing = tokio::spawn(async move {
        let listening = tokio::spawn(async move { while carrier.input.recv().await.is_some() {} });
        for chunk in wire.chunks(5000) {
            let _ = carrier.output.send(Ok(Output::Stdout(Bytes::copy_from_slice(chunk)))).await;
        }
        if let Some(last) = last {
            let _ = carrier.output.send(Ok(last)).await;
        }
        drop(carrier.output);
        let _ = listening.await;
    });
    let outcome = dump(session).await;
    playing.await.unwrap();
    outcome
}

/// What a helper sends in a successful dump.
fn whole_dump(data: &[u8], outcome: Outcome) -> Vec<u8> {
    let mut wire = Answer::Ready.line(&nonce()).to_vec();
    let mut sealer = Sealer::new(&nonce(), Window::DUMP).unwrap();
    for part in data.chunks(4000) {
        sealer.push(part, &mut wire).unwrap();
        sealer.flush(&mut wire).unwrap();
        sealer.encode(&Frame::Heartbeat, &mut wire);
    }
    sealer.finish(outcome, &mut wire).unwrap();
    wire
}

fn exited(code: i32) -> Option<Output> {
    Some(Output::Status(ExecStatus::Exited(code)))
}

#[tokio::test]
async fn dump_that_is_cut_at_any_offset_is_never_whole() {
    let wire = whole_dump(&noise(20_000), Outcome::Exited(0));
    let answer = Answer::Ready.line(&nonce()).len();
    at_once((0..wire.len()).step_by(13).chain(wire.len() - 120..wire.len()), async |end| {
        // Only the trailer counts, whether the connection ends with a success or not.
        for last in [None, exited(0)] {
            let is_good = last.is_some();
            let (outcome, data) = dump_of(&wire[..end], last).await;
            assert_eq!(data, None, "cut at {end}");
            match outcome {
                Ok(None) => assert!(end < answer && is_good, "cut at {end}"),
                outcome => assert_eq!(outcome.unwrap_err().reason, Reason::StreamCut, "cut at {end}"),
            }
        }
    })
    .await;
    let (outcome, data) = dump_of(&wire, exited(0)).await;
    assert_eq!(outcome.unwrap(), Some(DumpEnd { proof: Proof::Sealed, bytes: 20_000, exit_code: 0 }));
    assert_eq!(data, Some(noise(20_000)));
}

#[tokio::test]
async fn dump_that_is_damaged_anywhere_is_never_whole() {
    let wire = whole_dump(&noise(20_000), Outcome::Exited(0));
    let answer = Answer::Ready.line(&nonce()).len();
    at_once((answer..wire.len()).step_by(7), async |at| {
        let mut damaged = wire.clone();
        damaged[at] ^= 0x20;
        let (outcome, data) = dump_of(&damaged, exited(0)).await;
        assert!(outcome.is_err() && data.is_none(), "flipped at {at}");
    })
    .await;
}

#[tokio::test]
async fn output_that_contradicts_the_trailer_fails_the_dump() {
    let wire = whole_dump(b"data", Outcome::Exited(0));
    for last in [exited(1), Some(Output::Status(ExecStatus::Refused("lost".into())))] {
        assert_eq!(dump_of(&wire, last).await.0.unwrap_err().reason, Reason::StreamContradicted);
    }
    for more in [&wire[60..], b"x".repeat(200).as_slice()] {
        assert_eq!(dump_of(&[&wire, more].concat(), None).await.0.unwrap_err().reason, Reason::StreamContradicted);
    }
}

#[tokio::test]
async fn commands_failure_is_the_dumps_failure() {
    for (outcome, exit, reason) in [
        (Outcome::Exited(7), 7, Reason::CommandFailed),
        (Outcome::Exited(127), 127, Reason::CommandNotFound),
        (Outcome::Killed(9), 137, Reason::CommandKilled),
    ] {
        let (failed, data) = dump_of(&whole_dump(b"half", outcome), exited(exit)).await;
        let failure = failed.unwrap_err();
        assert_eq!((failure.reason, failure.exit_code, data), (reason, Some(exit), None));
    }
}

#[tokio::test]
async fn helper_that_gives_up_reports_why() {
    for (fault, reason) in [
        (Fault::Cancelled, Reason::StreamCut),
        (Fault::Silence, Reason::StreamCut),
        (Fault::Corrupt, Reason::StreamContradicted),
        (Fault::Continued, Reason::StreamContradicted),
        (Fault::HeldOpen, Reason::OutputHeldOpen),
    ] {
        let mut wire = Answer::Ready.line(&nonce()).to_vec();
        FrameEncoder::new(&nonce()).encode(&Frame::Fault(fault), &mut wire);
        assert_eq!(dump_of(&wire, None).await.0.unwrap_err().reason, reason);
    }
}

#[tokio::test]
async fn missing_ready_answer_means_that_nothing_ran() {
    let other = Answer::Speaks(9).line(&nonce());
    for answer in [&other[..], b"", b"sh: 1: not found\n", &[0; 300]] {
        assert_eq!(dump_of(answer, exited(125)).await, (Ok(None), None));
    }
}

async fn feed(command: &[String], data: &[u8], sent: Vec<StreamItem>) -> Result<FeedEnd, Reason> {
    let (sender, receiver) = pieces();
    let sending = tokio::spawn(async move {
        for piece in sent {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    let (control, mode) = (control(), mode());
    let feeding = runner::local::feed(&mode, command, data.len() as u64, receiver, &control);
    let outcome = timeout(DEADLINE, feeding).await.expect("timed out");
    sending.await.unwrap();
    outcome.map_err(|failure| failure.reason)
}

fn whole(data: &[u8]) -> Vec<StreamItem> {
    let pieces = data.chunks(65_536).map(|chunk| StreamItem::Data(Bytes::copy_from_slice(chunk)));
    pieces.chain([StreamItem::End(End { proof: Proof::Sealed, bytes: data.len() as u64 })]).collect()
}

#[tokio::test]
async fn both_loops_run_over_the_real_helper() {
    let folder = OpenFolder::new();
    let file = folder.file("restored");
    for data in [noise(30_000_000), vec![7; 30_000_000], vec![]] {
        // tee writes as much to its stdout as it reads, so a runner which does not read while it sends would deadlock.
        let command = strings(&["tee", file.to_str().unwrap()]);
        assert_eq!(feed(&command, &data, whole(&data)).await, Ok(FeedEnd { exit_code: 0, proof: Proof::Sealed }));
        assert!(std::fs::read(&file).unwrap() == data);

        let line = mode().dump_command(&strings(&["cat", file.to_str().unwrap()])).unwrap();
        let (outcome, dumped) = dump(local_session(&line).unwrap()).await;
        let end = DumpEnd { proof: Proof::Sealed, bytes: data.len() as u64, exit_code: 0 };
        assert_eq!(outcome, Ok(Some(end)));
        assert!(dumped == Some(data));
    }
}

#[tokio::test]
async fn restore_commits_nothing_unless_its_input_was_whole() {
    let data = noise(300_000);
    let pieces = |bytes: usize| -> Vec<StreamItem> { whole(&data[..bytes]).into_iter().take(bytes / 65_536).collect() };
    let end = |bytes| StreamItem::End(End { proof: Proof::Sealed, bytes });
    let store = || StreamItem::Broken(Failure::new(Reason::StoreUnavailable, "the store is gone"));
    let with = |mut sent: Vec<StreamItem>, last: StreamItem| {
        sent.push(last);
        sent
    };
    for (sent, reason) in [
        (pieces(200_000), Reason::StreamCut),
        (vec![], Reason::StreamCut),
        (with(pieces(200_000), store()), Reason::StoreUnavailable),
        (with(pieces(200_000), end(300_000)), Reason::StreamContradicted),
        (with(whole(&data)[..5].iter().filter_map(clone).collect(), end(299_999)), Reason::StreamContradicted),
    ] {
        let folder = OpenFolder::new();
        let committed = folder.file("committed");
        let command = strings(&["sh", "-c", "cat >/dev/null; echo >\"$0\"", committed.to_str().unwrap()]);
        assert_eq!(feed(&command, &data, sent).await, Err(reason));
        assert!(!committed.exists(), "{reason}");
    }
}

#[tokio::test]
async fn cancelled_restore_ends_its_command_and_commits_nothing() {
    let folder = OpenFolder::new();
    let (begun, committed) = (folder.file("pid"), folder.file("committed"));
    let script = format!("echo $$ >{}; cat >/dev/null; echo >{}", begun.display(), committed.display());
    let command = strings(&["sh", "-c", &script]);
    let (sender, receiver) = pieces();
    let (control, mode) = (control(), mode());
    let cancelling = async {
        sender.send(StreamItem::Data(Bytes::from(noise(1_000_000)))).await.unwrap();
        let pid = folder.pid().await;
        control.cancel.cancel();
        pid
    };
    let feeding = runner::local::feed(&mode, &command, 3_000_000, receiver, &control);
    let (fed, pid) = timeout(DEADLINE, async { tokio::join!(feeding, cancelling) }).await.expect("timed out");
    assert_eq!(fed.unwrap_err().reason, Reason::Cancelled);
    assert!(!Path::new("/proc").join(pid).exists() && !committed.exists());
}

fn clone(piece: &StreamItem) -> Option<StreamItem> {
    match piece {
        StreamItem::Data(data) => Some(StreamItem::Data(data.clone())),
        _ => None,
    }
}

#[tokio::test]
async fn failing_restore_command_keeps_its_status() {
    let data = noise(3_000_000);
    for (script, reason) in [
        ("exit 3", Reason::CommandFailed),
        ("head -c 10 >/dev/null", Reason::InputNotConsumed),
        ("cat >/dev/null; exit 3", Reason::CommandFailed),
        ("kill -9 $$", Reason::CommandKilled),
    ] {
        assert_eq!(feed(&strings(&["sh", "-c", script]), &data, whole(&data)).await, Err(reason), "{script}");
    }
    assert_eq!(feed(&strings(&["no-such-program"]), &data, whole(&data)).await, Err(Reason::CommandNotFound));
}

#[tokio::test]
async fn shell_follows_where_no_helper_answers() {
    // Both programs are no helper, and neither runs the command.
    for program in ["true", "cat"] {
        let mode = ExecMode::Helper(program.to_owned());
        let (sender, mut receiver) = pieces();
        let receiving = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
        let dumped = runner::local::dump(&mode, &strings(&["echo", "x"]), &control(), &sender).await;
        assert_eq!(dumped, Ok(Dumped::Whole(DumpEnd { proof: Proof::Acknowledged, bytes: 2, exit_code: 0 })));
        drop(sender);
        receiving.await.unwrap();
        let (sender, receiver) = pieces();
        for piece in whole(b"abc") {
            sender.send(piece).await.unwrap();
        }
        let fed = runner::local::feed(&mode, &strings(&["cat"]), 3, receiver, &control()).await;
        assert_eq!(fed, Ok(FeedEnd { exit_code: 0, proof: Proof::Acknowledged }));
    }
}

#[tokio::test]
async fn sealed_dump_is_stored_and_comes_back_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = OpenFolder::new();
    let (from, to) = (folder.file("from"), folder.file("to"));
    let data = noise(10_000_000);
    std::fs::write(&from, &data).unwrap();
    let repository = new_repository(dir.path()).await;
    let source: SourceName = "deployment/shop/db".parse().unwrap();
    let path = |file: &Path| file.to_str().unwrap().to_owned();
    let run = BackupRun {
        source: source.clone(),
        identity: identity("/db.bin"),
        alternative_path: "/other.bin".to_owned(),
        limits: Limits::default(),
        allow_empty: false,
        accept_unproven: false,
        skip_format_check: false,
    };
    let dump = BackupInput::Local(mode(), strings(&["cat", &path(&from)]));
    let never = CancellationToken::new;
    let report = runner::backup(&repository, run, dump, Arc::new(Progress::default()), never()).await;
    assert_eq!((report.verdict, report.proof, report.bytes), (Verdict::Succeeded, Proof::Sealed, 10_000_000));

    let from = WantedSnapshot { source, id: None, as_of: None, host: None, cluster: String::new() };
    let run = RestoreRun { from, limits: Limits::default() };
    let feed = RestoreOutput::Local(mode(), strings(&["dd", "status=none", &format!("of={}", path(&to))]));
    let report = runner::restore(&repository, run, feed, never()).await;
    assert_eq!((report.verdict, report.proof), (Verdict::Succeeded, Proof::Sealed), "{}", report.message);
    assert!(std::fs::read(&to).unwrap() == data);
    repository.close().await;
}
