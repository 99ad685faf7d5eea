//! The log of a run, which `kubectl logs job/NAME` shows: lines of the command, the progress of a stream, and the
//! verdict. No secret and no command line is logged here.

use std::{convert::Infallible, io::Write, time::Duration};

use indicatif::BinaryBytes;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::progress;
use crate::{
    annotations::{KeyId, own_key},
    exec::Line,
    model::{Proof, Reason, RunProgress, RunReport, Verdict},
    repository::{Lacking, StoreWait},
};

/// The interval of progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Logs every few seconds how many bytes have passed, of how many if that is known, and at which rate, or that the run
/// waits for the store. Never completes; the caller drops it.
pub async fn log_progress(
    total_bytes: Option<u64>,
    bytes_so_far: impl Fn() -> u64,
    store_wait: impl Fn() -> Option<StoreWait>,
) -> Infallible {
    let mut ticks = interval(PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let (mut last, mut last_at) = (0, Instant::now());
    loop {
        ticks.tick().await;
        let bytes = bytes_so_far();
        let per_second = rate(bytes.saturating_sub(last), last_at.elapsed());
        (last, last_at) = (bytes, Instant::now());
        let now = RunProgress { bytes, total_bytes, bytes_per_second: per_second };
        progress::keep(now);
        let text = progress_text(&now, store_wait().as_ref());
        info!(bytes, bytes_per_second = per_second, "{text}");
    }
}

/// A line of progress. If no byte moves and the store is unreachable, the line states the wait instead of a rate.
fn progress_text(now: &RunProgress, store_wait: Option<&StoreWait>) -> String {
    let share = now.percentage().map_or_else(String::new, |percentage| format!(" ({percentage}%)"));
    let bytes = BinaryBytes(now.bytes);
    match store_wait {
        Some(wait) if now.bytes_per_second == 0 => format!("{bytes} so far{share}, {wait}"),
        _ => format!("{bytes} so far{share}, {}/s", BinaryBytes(now.bytes_per_second)),
    }
}

/// Bytes per second, rounded down. An elapsed time below a millisecond counts as a millisecond.
pub fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let milliseconds = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

/// Logs the lines of the command. Ends when all senders of lines are dropped.
pub async fn log_lines(mut lines: mpsc::Receiver<Line>) {
    while let Some(line) = lines.recv().await {
        info!(command = true, "| {}", line.text);
    }
}

/// Prints a line of a sidecar run's log unchanged, because the line has its own time and level.
pub fn print_line(line: &str) {
    let _gone = writeln!(std::io::stdout(), "{line}");
}

/// Waits briefly until the remaining lines are logged, so that the verdict follows them.
pub async fn finish_lines(logging: JoinHandle<()>) {
    if tokio::time::timeout(Duration::from_secs(1), logging).await.is_err() {
        warn!("the last lines of the command's output are missing in this log");
    }
}

/// Logs the result of a run: proof, snapshot, verdict and reason. A run which only looked up a snapshot has proven and
/// restored nothing, so its log has no verdict.
pub fn log_verdict(report: &RunReport) {
    if let Some(text) = lookup_text(report) {
        info!(snapshot = report.snapshot, "{text}");
        return;
    }
    let elapsed = Duration::from_millis(report.duration_milliseconds);
    if let Some(snapshot) = &report.snapshot {
        info!(
            snapshot,
            digest = report.digest.as_deref().unwrap_or_default(),
            proof = %report.proof,
            "snapshot {} holds {}, proof {}", &snapshot[..snapshot.len().min(8)], BinaryBytes(report.bytes), report.proof
        );
    }
    let (verdict, reason, bytes) = (report.verdict, report.reason, report.bytes);
    let summary = format!(
        "verdict {verdict}: {reason}{}{} ({} in {:.1} s)",
        if report.message.is_empty() { "" } else { ": " },
        report.message,
        BinaryBytes(bytes),
        elapsed.as_secs_f64(),
    );
    if verdict == Verdict::Succeeded {
        info!(%verdict, %reason, bytes, "{summary}");
    } else {
        warn!(%verdict, %reason, bytes, exit_code = report.exit_code, "{summary}");
    }
}

/// The result of a run which looked up a snapshot for a Restore. `None` for any other run.
fn lookup_text(report: &RunReport) -> Option<String> {
    let (snapshot, lookup) = (report.snapshot.as_deref()?, report.lookup.as_ref()?);
    let size = lookup.bytes.map_or_else(String::new, |bytes| format!(" ({})", BinaryBytes(bytes)));
    Some(format!(
        "snapshot {}{size} was found, and this Job has restored nothing: the second Job of the Restore restores it",
        &snapshot[..snapshot.floor_char_boundary(8)]
    ))
}

/// Appends to the message which data of earlier runs the repository lacked, if any.
pub fn with_lacking(message: String, lacking: &Lacking) -> String {
    match (lacking.is_nothing(), message.is_empty()) {
        (true, _) => message,
        (false, true) => lacking.to_string(),
        (false, false) => format!("{message}; {lacking}"),
    }
}

/// The exit status of the runner's process: 0 only for green.
pub fn exit_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Succeeded => 0,
        Verdict::Failed => 1,
        Verdict::Unproven | Verdict::Incomplete | Verdict::Suspect => 3,
    }
}

/// The verdict, reason and message of a stored stream, by its proof. The snapshot of a stream without proof has to be
/// stored with the same consent, so that a restore uses what a green run has stored.
pub fn verdict_of_proof(proof: Proof, accept_unproven: bool) -> (Verdict, Reason, String) {
    if proof == Proof::None {
        let message = "stored, but nothing proved the end of the stream (no sh in the container, and no helper)";
        let (verdict, message) = if accept_unproven {
            let key = own_key(KeyId::AcceptUnproven);
            (Verdict::Succeeded, format!("{message}, which is accepted ({key}), so restores use the snapshot"))
        } else {
            (Verdict::Unproven, message.to_owned())
        };
        (verdict, Reason::NotProven, message)
    } else {
        (Verdict::Succeeded, Reason::Completed, String::new())
    }
}

/// Appends the note of the task to the message of the report, if anything was stored.
pub fn noted(report: RunReport, note: &str) -> RunReport {
    if note.is_empty() || report.verdict == Verdict::Failed {
        return report;
    }
    info!("{note}");
    let message = if report.message.is_empty() { note.to_owned() } else { format!("{}; {note}", report.message) };
    RunReport { message, ..report }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::SnapshotLookup;

    #[test]
    fn note_is_appended_to_the_message_only_if_something_was_stored() {
        let stored = |message: &str| RunReport { message: message.to_owned(), ..RunReport::done(Duration::ZERO) };
        assert_eq!(noted(stored(""), "dumped is pod a").message, "dumped is pod a");
        assert_eq!(noted(stored("3 left out"), "dumped is pod a").message, "3 left out; dumped is pod a");
        assert_eq!(noted(stored("3 left out"), "").message, "3 left out");
        let failed = RunReport { verdict: Verdict::Failed, ..stored("refused") };
        assert_eq!(noted(failed, "dumped is pod a").message, "refused", "nothing was dumped");
    }

    #[test]
    fn run_that_only_looks_a_snapshot_up_is_logged_as_one_that_restored_nothing() {
        let lookup = SnapshotLookup { bytes: Some(3072), claim: None };
        let done = RunReport { snapshot: Some("ab".repeat(32)), ..RunReport::done(Duration::ZERO) };
        let found = lookup_text(&RunReport { lookup: Some(lookup), ..done.clone() }).unwrap();
        assert!(
            found.starts_with("snapshot abababab (3.00 KiB) was found, and this Job has restored nothing"),
            "{found}"
        );
        assert!(!found.contains("verdict") && !found.contains("proof"), "{found}");
        assert_eq!(lookup_text(&done), None, "a run which restores has a verdict");
    }

    #[test]
    fn stream_without_proof_is_green_only_with_consent_and_the_message_states_both() {
        let (verdict, reason, message) = verdict_of_proof(Proof::None, true);
        assert_eq!((verdict, reason), (Verdict::Succeeded, Reason::NotProven));
        assert!(message.contains("nothing proved") && message.contains("stowaway.dev/accept-unproven"), "{message}");
        let (verdict, _, message) = verdict_of_proof(Proof::None, false);
        assert!(verdict == Verdict::Unproven && !message.contains("accepted"), "{message}");
        assert_eq!(verdict_of_proof(Proof::Marker, true).2, "");
    }

    #[test]
    fn progress_without_a_moving_byte_names_the_store_that_is_waited_for() {
        let wait = StoreWait { since: Timestamp::UNIX_EPOCH, lasts: Duration::from_secs(93), why: "status 503".into() };
        let waits = "3.00 KiB so far, waiting for the store for 93 s, since 1970-01-01T00:00:00Z: status 503";
        let at = |bytes_per_second, total_bytes| RunProgress { bytes: 3072, total_bytes, bytes_per_second };
        assert_eq!(progress_text(&at(0, None), Some(&wait)), waits);
        assert_eq!(progress_text(&at(1024, None), Some(&wait)), "3.00 KiB so far, 1.00 KiB/s");
        assert_eq!(progress_text(&at(0, Some(6144)), None), "3.00 KiB so far (50%), 0 B/s");
    }
}
