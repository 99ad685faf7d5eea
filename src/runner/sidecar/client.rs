//! The Job's side of a run in a sidecar: starts the run, starts the helper, copies the run's log to its own, and
//! receives the report, over short execs which may break at any time.
//!
//! The end of an exec proves nothing: only a report with a valid digest ends a run well. A fallback to another mode is
//! safe until a helper has connected, because until then nothing ran.

use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Assignment, HelperCommand, helper::Awaited};
use crate::{
    exec::{ExchangeOutcome, Session, exchange_lines},
    model::{
        Failure, Reason, RunReport, Task,
        injected::{CONTROL_SOCKET, HELPER_IN_IMAGE},
    },
    runner::story,
    seal::sealed::{Event, Reply, Request, WatchLine, report_digest},
};

/// The interval of requests to a sidecar which is busy with another run.
const RETRY_EVERY: Duration = Duration::from_secs(5);
/// The time for which a command waits for a busy sidecar before the fallback is used.
const BUSY_FOR: Duration = Duration::from_mins(10);
/// The number of times that a request to a supervisor which does not answer is repeated.
const ATTEMPTS: u32 = 5;
/// The number of times in a row that the API server may reject the watching of a run.
const REFUSALS: u32 = 20;
/// The pauses in seconds between two attempts to reach a run. Later pauses are as long as the last one.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 15];
/// The time that a cancelled run may take to report. The runner itself has ten seconds.
const REPORTS_WITHIN: Duration = Duration::from_secs(9);

/// A run which is to be executed in the sidecar.
pub struct SidecarRun<'a> {
    /// The run's name. Each attempt has its own name.
    pub id: &'a str,
    /// The key of the run. Two runs with the same key are the same run.
    pub key: &'a str,
    /// The task.
    pub task: &'a Task,
    /// The helper which sends the stream; `None` for a volume.
    pub helper: Option<HelperCommand>,
    /// The time that the run may take.
    pub limit: Duration,
}

/// The outcome of a run in the sidecar.
#[derive(Debug)]
pub enum SidecarOutcome {
    /// The run ended with this report.
    Report(Box<RunReport>),
    /// Nothing ran in the app's containers, for this reason. Another mode may follow.
    NotUsed(String),
}

/// Executes the run. `sidecar` and `app` start a command line in the sidecar's and in the app's container.
pub async fn drive(
    run: SidecarRun<'_>,
    sidecar: impl AsyncFn(&[String]) -> Result<Session, Failure>,
    app: impl AsyncFn(&[String]) -> Result<Session, Failure>,
    cancel: &CancellationToken,
) -> Result<SidecarOutcome, Failure> {
    if let Some(helper) = &run.helper {
        helper.check()?;
    }
    let deadline = Instant::now() + run.limit;
    let job = Driver { run, sidecar, app, id: RefCell::default() };
    let mut driving = pin!(job.drive());
    let failure = tokio::select! {
        biased;
        outcome = &mut driving => return outcome,
        () = cancel.cancelled() => Failure::new(Reason::Cancelled, "the run was cancelled"),
        () = sleep_until(deadline) => {
            let message = format!("the run did not end within {:?}", job.run.limit);
            Failure::new(Reason::Timeout, message)
        }
    };
    // The run may end well at this moment, and its last lines are of interest.
    let ending = async { tokio::join!(job.cancel(), &mut driving).1 };
    match timeout(REPORTS_WITHIN, ending).await {
        Ok(Ok(SidecarOutcome::Report(report))) if report.reason != Reason::Cancelled => {
            Ok(SidecarOutcome::Report(report))
        }
        Ok(Ok(SidecarOutcome::Report(report))) => Ok(SidecarOutcome::Report(Box::new(RunReport {
            reason: failure.reason,
            message: failure.message,
            ..*report
        }))),
        _ => Err(failure),
    }
}

struct Driver<'a, Sidecar, App> {
    run: SidecarRun<'a>,
    sidecar: Sidecar,
    app: App,
    /// The name of the run in progress.
    id: RefCell<Option<String>>,
}

/// The end of an attempt to watch the run.
enum Watched {
    /// The run has ended.
    Over(Result<Box<RunReport>, Failure>),
    /// The connection ended before the run.
    Cut(Failure),
}

impl<Sidecar, App> Driver<'_, Sidecar, App>
where
    Sidecar: AsyncFn(&[String]) -> Result<Session, Failure>,
    App: AsyncFn(&[String]) -> Result<Session, Failure>,
{
    async fn drive(&self) -> Result<SidecarOutcome, Failure> {
        match self.begin().await? {
            Begun::NotUsed(why) => Ok(SidecarOutcome::NotUsed(why)),
            Begun::Run(id) => {
                *self.id.borrow_mut() = Some(id.clone());
                self.follow(&id).await
            }
        }
    }

    /// Requests the run until it has started or is known not to start. A repeated request does not start a second run.
    async fn begin(&self) -> Result<Begun, Failure> {
        let SidecarRun { id, key, task, helper, .. } = &self.run;
        let assignment = Assignment { id: (*id).to_owned(), task: (*task).clone() };
        let mut line = serde_json::to_vec(&assignment)
            .map_err(|error| Failure::new(Reason::InternalError, format!("the task cannot be written: {error}")))?;
        line.push(b'\n');
        let line = Bytes::from(line);
        let request = Request::Start { id: (*id).to_owned(), key: (*key).to_owned() };
        let mut since = None;
        let mut unanswered = 0;
        loop {
            let why = match self.send_request(&request, line.clone()).await {
                Ok(Some(Reply::Started(id))) => {
                    info!("run {id} begins in the pod's sidecar");
                    return Ok(Begun::Run(id));
                }
                Ok(Some(Reply::Attached(id))) => {
                    info!("run {id} is in progress in the pod's sidecar and is watched from now on");
                    return Ok(Begun::Run(id));
                }
                Ok(Some(Reply::Busy { id: other, key: other_key })) => {
                    let since = since.get_or_insert_with(|| {
                        info!("the sidecar is busy with {other_key} (run {other}); waiting for it");
                        Instant::now()
                    });
                    // The same source must not be dumped twice at the same time.
                    if helper.is_some() && since.elapsed() >= BUSY_FOR && source_of(&other_key) != source_of(key) {
                        return Ok(Begun::NotUsed(format!("it is still busy with {other_key}")));
                    }
                    sleep(RETRY_EVERY).await;
                    continue;
                }
                Ok(Some(Reply::Refused(why))) => return Ok(Begun::NotUsed(why)),
                Ok(Some(Reply::NoSupervisor)) => Absence::Gone("no supervisor is listening in it".to_owned()),
                Ok(_) => Absence::Unknown("it did not answer".to_owned()),
                Err(failure) if failure.reason == Reason::PodGone => Absence::Gone(failure.message),
                Err(failure) if failure.reason == Reason::StreamCut => {
                    // While the API server cannot be reached, no other mode would succeed, either.
                    warn!("the sidecar could not be reached: {}", failure.message);
                    sleep(pause(unanswered)).await;
                    unanswered = (unanswered + 1).min(ATTEMPTS - 1);
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            unanswered += 1;
            if unanswered >= ATTEMPTS {
                return match why {
                    // The runs of a supervisor end with it.
                    Absence::Gone(why) => Ok(Begun::NotUsed(why)),
                    Absence::Unknown(why) => Err(Failure::new(
                        Reason::StreamCut,
                        format!("the run could not be requested from the sidecar: {why}"),
                    )),
                };
            }
            sleep(pause(unanswered)).await;
        }
    }

    /// Sends one request, and returns the reply if there was one.
    async fn send_request(&self, request: &Request, assignment: Bytes) -> Result<Option<Reply>, Failure> {
        let session = (self.sidecar)(&line(request)).await?;
        let exchange = exchange_lines(session, assignment, |line| match Reply::parse(line) {
            Some(reply) => ControlFlow::Break(reply),
            None => ControlFlow::Continue(()),
        });
        match exchange.await? {
            ExchangeOutcome::Complete(reply) => Ok(Some(reply)),
            ExchangeOutcome::RemoteEnded { status, stderr } => {
                warn!("the sidecar did not answer: {status} {stderr}");
                Ok(None)
            }
        }
    }

    async fn cancel(&self) {
        let id = self.id.borrow().clone();
        let request = Request::Cancel { id: id.unwrap_or_else(|| self.run.id.to_owned()) };
        for attempt in 0..ATTEMPTS {
            match self.send_request(&request, Bytes::new()).await {
                Ok(Some(_)) => return,
                Ok(None) => {}
                Err(failure) => warn!("the run could not be cancelled: {}", failure.message),
            }
            sleep(pause(attempt)).await;
        }
    }

    /// Watches the run until it has ended, and starts its helper.
    async fn follow(&self, id: &str) -> Result<SidecarOutcome, Failure> {
        let (awaited, announced) = watch::channel(None);
        let (connected, is_connected) = watch::channel(false);
        let mut watching = pin!(self.watch(id, &awaited, &connected));
        let why = match &self.run.helper {
            None => return watching.await.map(SidecarOutcome::Report),
            Some(helper) => {
                tokio::select! {
                    biased;
                    report = &mut watching => return report.map(|report| judge(report, *connected.borrow())),
                    why = helper.send(&self.app, announced, is_connected) => why,
                }
            }
        };
        warn!("the helper cannot connect to the sidecar: {why}");
        let report = tokio::join!(self.cancel(), watching).1?;
        if *connected.borrow() {
            return Ok(SidecarOutcome::Report(report));
        }
        Ok(SidecarOutcome::NotUsed(format!("the pod's helper cannot connect to it: {why}")))
    }

    async fn watch(
        &self,
        id: &str,
        awaited: &watch::Sender<Option<Awaited>>,
        connected: &watch::Sender<bool>,
    ) -> Result<Box<RunReport>, Failure> {
        let next = Cell::new(1);
        let mut attempts = 0;
        loop {
            let before = next.get();
            let failure = match self.watch_once(id, &next, awaited, connected).await {
                Ok(Watched::Over(end)) => return end,
                Ok(Watched::Cut(failure)) | Err(failure) => failure,
            };
            attempts = if next.get() > before { 0 } else { attempts + 1 };
            let limit = match failure.reason {
                // The API server will be reachable again, and the run waits until then.
                Reason::StreamCut => u32::MAX,
                // The container has ended, and the run with it. A restarted container does not know the run.
                Reason::PodGone => ATTEMPTS,
                _ => REFUSALS,
            };
            if attempts >= limit {
                return Err(lost(id, &failure.message, connected));
            }
            let (wait, why) = (pause(attempts), failure.message);
            warn!("the watch of run {id} broke ({why}); it is restarted in {} s", wait.as_secs());
            sleep(wait).await;
        }
    }

    async fn watch_once(
        &self,
        id: &str,
        next: &Cell<u64>,
        awaited: &watch::Sender<Option<Awaited>>,
        connected: &watch::Sender<bool>,
    ) -> Result<Watched, Failure> {
        let session = (self.sidecar)(&line(&Request::Watch { id: id.to_owned(), from: next.get() })).await?;
        let exchange = exchange_lines(session, Bytes::new(), |line| {
            let (number, event) = match (WatchLine::parse(line), Reply::parse(line)) {
                (Some(WatchLine::Event(number, event)), _) if number >= next.get() => (number, event),
                (Some(_), _) => return ControlFlow::Continue(()),
                (None, Some(Reply::Unknown)) => {
                    return ControlFlow::Break(Watched::Over(Err(lost(
                        id,
                        "the sidecar no longer knows it; its container may have been restarted, as happens when \
                         memory runs out (see kubectl describe pod)",
                        connected,
                    ))));
                }
                (None, Some(Reply::NoSupervisor)) => {
                    return ControlFlow::Break(cut(Reason::PodGone, "no supervisor is listening in the sidecar"));
                }
                (None, _) => {
                    return ControlFlow::Break(cut(Reason::ExecRefused, "its reply does not belong to the protocol"));
                }
            };
            if number > next.get() {
                warn!("{} lines of the sidecar's log are missing in this log", number - next.get());
            }
            let end = match event {
                Event::Log(text) => {
                    story::print_line(&text);
                    None
                }
                Event::Ready { token, socket } => {
                    let _receiver_dropped = awaited.send(Some(Awaited { token, socket }));
                    None
                }
                Event::Connected => {
                    let _receiver_dropped = connected.send(true);
                    None
                }
                Event::Passed => None,
                Event::Report { digest, text } => match sealed_report(id, &digest, &text) {
                    Some(report) => Some(Watched::Over(Ok(report))),
                    // The next watch receives it again, from this number on.
                    None => return ControlFlow::Break(cut(Reason::ExecRefused, "its report was damaged")),
                },
                Event::Lost(why) => Some(Watched::Over(Err(lost(id, &why, connected)))),
            };
            next.set(number + 1);
            end.map_or(ControlFlow::Continue(()), ControlFlow::Break)
        });
        Ok(match exchange.await? {
            ExchangeOutcome::Complete(watched) => watched,
            ExchangeOutcome::RemoteEnded { status, stderr } => cut(Reason::ExecRefused, &format!("{status} {stderr}")),
        })
    }
}

/// The outcome of a report without a connected helper: a resource which the sidecar lacks may be available to the Job.
fn judge(report: Box<RunReport>, connected: bool) -> SidecarOutcome {
    if !connected && matches!(report.reason, Reason::SecretMissing | Reason::StreamCut) {
        return SidecarOutcome::NotUsed(report.message);
    }
    SidecarOutcome::Report(report)
}

fn cut(reason: Reason, why: &str) -> Watched {
    Watched::Cut(Failure::new(reason, why))
}

enum Begun {
    Run(String),
    NotUsed(String),
}

/// Why a supervisor does not answer.
enum Absence {
    /// The supervisor does not exist.
    Gone(String),
    /// The reason is unknown.
    Unknown(String),
}

/// The report, if it is complete and belongs to this run.
fn sealed_report(id: &str, digest: &str, text: &str) -> Option<Box<RunReport>> {
    if report_digest(id, text) != digest {
        return None;
    }
    serde_json::from_str(text).ok().map(Box::new)
}

fn lost(id: &str, why: &str, connected: &watch::Sender<bool>) -> Failure {
    let effect = if *connected.borrow() { "; its effects are unknown" } else { "" };
    Failure::new(Reason::ResultLost, format!("run {id} in the sidecar left no report: {why}{effect}"))
}

/// The command line which sends the request to the supervisor, in the sidecar's container.
fn line(request: &Request) -> Vec<String> {
    let mut line = vec![HELPER_IN_IMAGE.to_owned(), "ask".to_owned(), CONTROL_SOCKET.to_owned()];
    line.extend(request.tokens());
    line
}

/// The source in a key: the part after the Backup's UID.
fn source_of(key: &str) -> &str {
    key.split_once('/').map_or(key, |(_, source)| source)
}

fn pause(attempt: u32) -> Duration {
    let last = PAUSES.len() - 1;
    Duration::from_secs(PAUSES[usize::try_from(attempt).unwrap_or(last).min(last)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_that_was_changed_shortened_or_is_of_another_run_is_none() {
        let report = RunReport::failed(Failure::new(Reason::CommandFailed, "the press broke"), Duration::ZERO);
        let text = report.to_termination_message();
        let digest = report_digest("a", &text);
        assert_eq!(*sealed_report("a", &digest, &text).unwrap(), report);
        let green = text.replace("Failed", "Succeeded");
        for (id, digest, text) in [
            ("b", &digest, &text),
            ("a", &digest, &green),
            ("a", &text, &text),
            ("a", &report_digest("a", ""), &String::new()),
        ] {
            assert!(sealed_report(id, digest, text).is_none(), "{id} {text}");
        }
    }

    #[test]
    fn fallback_is_used_only_if_nothing_ran() {
        let report = |reason| Box::new(RunReport::failed(Failure::new(reason, ""), Duration::ZERO));
        for reason in [Reason::SecretMissing, Reason::StreamCut] {
            assert!(matches!(judge(report(reason), false), SidecarOutcome::NotUsed(_)));
            assert!(matches!(judge(report(reason), true), SidecarOutcome::Report(_)));
        }
        for reason in [Reason::WrongPassword, Reason::Cancelled, Reason::StoreUnavailable] {
            assert!(matches!(judge(report(reason), false), SidecarOutcome::Report(_)));
        }
        assert_eq!(source_of("uid/pvc/x"), "pvc/x");
    }
}
