//! The Job's side of a run in a sidecar: begins it, sends the helper, tells its log as its own, and takes its report, over
//! small execs that may break at any time.
//!
//! It must not know what reaches the pod. An exec's end proves nothing: only a report that names its own digest ends a run
//! well. To go another way is safe as long as no helper came: until then nothing ran.

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
    cluster::exec::{Heard, Session, talk},
    model::{
        Failure, Reason, SourceReport, Task,
        injected::{CONTROL_SOCKET, HELPER_IN_IMAGE},
    },
    runner::story,
    seal::sealed::{Event, Reply, Request, Told, report_digest},
};

/// How often a sidecar that works on something else is asked again.
const ASKED_EVERY: Duration = Duration::from_secs(5);
/// How long a command waits for it, before it goes the other way.
const BUSY_FOR: Duration = Duration::from_mins(10);
/// How often a supervisor that does not answer is asked again.
const ATTEMPTS: u32 = 5;
/// How often in a row the API server may refuse to let a run be watched.
const REFUSALS: u32 = 20;
/// The pauses between two attempts to reach a run; later ones are as long as the last.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 15];
/// How long a run that was cancelled may take to report: the runner itself has ten seconds.
const REPORTS_WITHIN: Duration = Duration::from_secs(9);

/// What is to be done in the sidecar.
pub struct Errand<'a> {
    /// The run's name; another attempt has another one.
    pub id: &'a str,
    /// What it does; two runs of the same key are one.
    pub key: &'a str,
    /// The task.
    pub task: &'a Task,
    /// Who brings the stream; nothing for a volume.
    pub helper: Option<HelperCommand>,
    /// When it is given up.
    pub limit: Duration,
}

/// How it went.
#[derive(Debug)]
pub enum Driven {
    /// The run ended, and this is its report.
    Report(Box<SourceReport>),
    /// Nothing ran in the app's containers, for this reason; another way may follow.
    NotUsed(String),
}

/// Does the errand. `sidecar` and `app` start a command line in the sidecar's and in the app's container.
pub async fn drive(
    errand: Errand<'_>,
    sidecar: impl AsyncFn(&[String]) -> Result<Session, Failure>,
    app: impl AsyncFn(&[String]) -> Result<Session, Failure>,
    cancel: &CancellationToken,
) -> Result<Driven, Failure> {
    if let Some(helper) = &errand.helper {
        helper.check()?;
    }
    let deadline = Instant::now() + errand.limit;
    let job = Driver { errand, sidecar, app, id: RefCell::default() };
    let mut driving = pin!(job.drive());
    let failure = tokio::select! {
        biased;
        driven = &mut driving => return driven,
        () = cancel.cancelled() => Failure::new(Reason::Cancelled, "the run was cancelled"),
        () = sleep_until(deadline) => {
            let message = format!("the run did not end within {:?}", job.errand.limit);
            Failure::new(Reason::Timeout, message)
        }
    };
    // It may end well in this very moment, and its last lines are worth hearing.
    let ending = async { tokio::join!(job.cancel(), &mut driving).1 };
    match timeout(REPORTS_WITHIN, ending).await {
        Ok(Ok(Driven::Report(report))) if report.reason != Reason::Cancelled => Ok(Driven::Report(report)),
        Ok(Ok(Driven::Report(report))) => {
            Ok(Driven::Report(Box::new(SourceReport { reason: failure.reason, message: failure.message, ..*report })))
        }
        _ => Err(failure),
    }
}

struct Driver<'a, Sidecar, App> {
    errand: Errand<'a>,
    sidecar: Sidecar,
    app: App,
    /// The name of the run that is under way.
    id: RefCell<Option<String>>,
}

/// How an attempt to watch ended.
enum Watched {
    /// With the run.
    Over(Result<Box<SourceReport>, Failure>),
    /// Before that.
    Cut(Failure),
}

impl<Sidecar, App> Driver<'_, Sidecar, App>
where
    Sidecar: AsyncFn(&[String]) -> Result<Session, Failure>,
    App: AsyncFn(&[String]) -> Result<Session, Failure>,
{
    async fn drive(&self) -> Result<Driven, Failure> {
        match self.begin().await? {
            Begun::NotUsed(why) => Ok(Driven::NotUsed(why)),
            Begun::Run(id) => {
                *self.id.borrow_mut() = Some(id.clone());
                self.follow(&id).await
            }
        }
    }

    /// Asks for the run until it is there, or will not be. Asking twice begins one.
    async fn begin(&self) -> Result<Begun, Failure> {
        let Errand { id, key, task, helper, .. } = &self.errand;
        let assignment = Assignment { id: (*id).to_owned(), task: (*task).clone() };
        let mut said = serde_json::to_vec(&assignment)
            .map_err(|error| Failure::new(Reason::InternalError, format!("the task cannot be written: {error}")))?;
        said.push(b'\n');
        let said = Bytes::from(said);
        let request = Request::Start { id: (*id).to_owned(), key: (*key).to_owned() };
        let mut since = None;
        let mut unanswered = 0;
        loop {
            let why = match self.ask(&request, said.clone()).await {
                Ok(Some(Reply::Started(id))) => {
                    info!("run {id} begins in the pod's sidecar");
                    return Ok(Begun::Run(id));
                }
                Ok(Some(Reply::Attached(id))) => {
                    info!("run {id} is under way in the pod's sidecar; it is watched from here on");
                    return Ok(Begun::Run(id));
                }
                Ok(Some(Reply::Busy { id: other, key: theirs })) => {
                    let since = since.get_or_insert_with(|| {
                        info!("the sidecar works on {theirs} (run {other}); waiting for it");
                        Instant::now()
                    });
                    // The same source must not be dumped twice at once.
                    if helper.is_some() && since.elapsed() >= BUSY_FOR && source_of(&theirs) != source_of(key) {
                        return Ok(Begun::NotUsed(format!("it still works on {theirs}")));
                    }
                    sleep(ASKED_EVERY).await;
                    continue;
                }
                Ok(Some(Reply::Refused(why))) => return Ok(Begun::NotUsed(why)),
                Ok(Some(Reply::Nobody)) => Absence::Gone("no supervisor listens in it".to_owned()),
                Ok(_) => Absence::Unknown("it did not answer".to_owned()),
                Err(failure) if failure.reason == Reason::PodGone => Absence::Gone(failure.message),
                Err(failure) if failure.reason == Reason::StreamCut => {
                    // As long as the API server is not there, nothing else would get through, either.
                    warn!("the sidecar was not reached: {}", failure.message);
                    sleep(pause(unanswered)).await;
                    unanswered = (unanswered + 1).min(ATTEMPTS - 1);
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            unanswered += 1;
            if unanswered >= ATTEMPTS {
                return match why {
                    // Its runs are gone with it.
                    Absence::Gone(why) => Ok(Begun::NotUsed(why)),
                    Absence::Unknown(why) => {
                        Err(Failure::new(Reason::StreamCut, format!("the sidecar cannot be asked for a run: {why}")))
                    }
                };
            }
            sleep(pause(unanswered)).await;
        }
    }

    /// One request, and its answer if there was one.
    async fn ask(&self, request: &Request, said: Bytes) -> Result<Option<Reply>, Failure> {
        let session = (self.sidecar)(&line(request)).await?;
        let heard = talk(session, said, |line| match Reply::parse(line) {
            Some(reply) => ControlFlow::Break(reply),
            None => ControlFlow::Continue(()),
        });
        match heard.await? {
            Heard::Enough(reply) => Ok(Some(reply)),
            Heard::Ended { status, stderr } => {
                warn!("the sidecar did not answer: {status} {stderr}");
                Ok(None)
            }
        }
    }

    async fn cancel(&self) {
        let id = self.id.borrow().clone();
        let request = Request::Cancel { id: id.unwrap_or_else(|| self.errand.id.to_owned()) };
        for attempt in 0..ATTEMPTS {
            match self.ask(&request, Bytes::new()).await {
                Ok(Some(_)) => return,
                Ok(None) => {}
                Err(failure) => warn!("the run could not be told to end: {}", failure.message),
            }
            sleep(pause(attempt)).await;
        }
    }

    /// Until the run has ended.
    async fn follow(&self, id: &str) -> Result<Driven, Failure> {
        let (awaited, door) = watch::channel(None);
        let (connected, is_connected) = watch::channel(false);
        let mut watching = pin!(self.watch(id, &awaited, &connected));
        let why = match &self.errand.helper {
            None => return watching.await.map(Driven::Report),
            Some(helper) => {
                tokio::select! {
                    biased;
                    report = &mut watching => return report.map(|report| judge(report, *connected.borrow())),
                    why = helper.send(&self.app, door, is_connected) => why,
                }
            }
        };
        warn!("the helper cannot come to the sidecar: {why}");
        let report = tokio::join!(self.cancel(), watching).1?;
        if *connected.borrow() {
            return Ok(Driven::Report(report));
        }
        Ok(Driven::NotUsed(format!("the pod's helper cannot come to it: {why}")))
    }

    async fn watch(
        &self,
        id: &str,
        awaited: &watch::Sender<Option<Awaited>>,
        connected: &watch::Sender<bool>,
    ) -> Result<Box<SourceReport>, Failure> {
        let next = Cell::new(1);
        let mut in_vain = 0;
        loop {
            let before = next.get();
            let failure = match self.watch_once(id, &next, awaited, connected).await {
                Ok(Watched::Over(end)) => return end,
                Ok(Watched::Cut(failure)) | Err(failure) => failure,
            };
            in_vain = if next.get() > before { 0 } else { in_vain + 1 };
            let limit = match failure.reason {
                // The API server comes back, and the run waits for it.
                Reason::StreamCut => u32::MAX,
                // The container is gone, and the run with it; one that is made anew does not know it.
                Reason::PodGone => ATTEMPTS,
                _ => REFUSALS,
            };
            if in_vain >= limit {
                return Err(lost(id, &failure.message, connected));
            }
            let (wait, why) = (pause(in_vain), failure.message);
            warn!("run {id} is not watched any more ({why}); it is looked for again in {} s", wait.as_secs());
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
        let heard = talk(session, Bytes::new(), |line| {
            let (number, event) = match (Told::parse(line), Reply::parse(line)) {
                (Some(Told::Event(number, event)), _) if number >= next.get() => (number, event),
                (Some(_), _) => return ControlFlow::Continue(()),
                (None, Some(Reply::Unknown)) => {
                    return ControlFlow::Break(Watched::Over(Err(lost(
                        id,
                        "the sidecar does not know it any more; its container was perhaps ended and started anew, as \
                         happens when memory runs out (see kubectl describe pod)",
                        connected,
                    ))));
                }
                (None, Some(Reply::Nobody)) => {
                    return ControlFlow::Break(cut(Reason::PodGone, "no supervisor listens in the sidecar"));
                }
                (None, _) => {
                    return ControlFlow::Break(cut(Reason::ExecRefused, "it answers in words that are none of ours"));
                }
            };
            if number > next.get() {
                warn!("{} lines of the sidecar's log are missing here", number - next.get());
            }
            let end = match event {
                Event::Log(text) => {
                    story::tell_line(&text);
                    None
                }
                Event::Ready { token, socket } => {
                    let _nobody_waits = awaited.send(Some(Awaited { token, socket }));
                    None
                }
                Event::Connected => {
                    let _nobody_waits = connected.send(true);
                    None
                }
                Event::Passed => None,
                Event::Report { digest, text } => match sealed_report(id, &digest, &text) {
                    Some(report) => Some(Watched::Over(Ok(report))),
                    // It is told again from this number on.
                    None => return ControlFlow::Break(cut(Reason::ExecRefused, "its report came damaged")),
                },
                Event::Lost(why) => Some(Watched::Over(Err(lost(id, &why, connected)))),
            };
            next.set(number + 1);
            end.map_or(ControlFlow::Continue(()), ControlFlow::Break)
        });
        Ok(match heard.await? {
            Heard::Enough(watched) => watched,
            Heard::Ended { status, stderr } => cut(Reason::ExecRefused, &format!("{status} {stderr}")),
        })
    }
}

/// What the report of a run means that no helper came to: what only the sidecar lacks, the Job may have.
fn judge(report: Box<SourceReport>, connected: bool) -> Driven {
    if !connected && matches!(report.reason, Reason::SecretMissing | Reason::StreamCut) {
        return Driven::NotUsed(report.message);
    }
    Driven::Report(report)
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
    /// It is not there.
    Gone(String),
    /// Nobody knows.
    Unknown(String),
}

/// The report, if it is whole and of this run.
fn sealed_report(id: &str, digest: &str, text: &str) -> Option<Box<SourceReport>> {
    if report_digest(id, text) != digest {
        return None;
    }
    serde_json::from_str(text).ok().map(Box::new)
}

fn lost(id: &str, why: &str, connected: &watch::Sender<bool>) -> Failure {
    let effect = if *connected.borrow() { "; what it did is not known" } else { "" };
    Failure::new(Reason::ResultLost, format!("run {id} in the sidecar left no report: {why}{effect}"))
}

/// The command line that asks the supervisor, in the sidecar's container.
fn line(request: &Request) -> Vec<String> {
    let mut line = vec![HELPER_IN_IMAGE.to_owned(), "ask".to_owned(), CONTROL_SOCKET.to_owned()];
    line.extend(request.words());
    line
}

/// Which source a key is about: what stands behind the Backup's UID.
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
        let report = SourceReport::failed(Failure::new(Reason::CommandFailed, "the press broke"), Duration::ZERO);
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
    fn only_what_ran_nowhere_goes_another_way() {
        let report = |reason| Box::new(SourceReport::failed(Failure::new(reason, ""), Duration::ZERO));
        for reason in [Reason::SecretMissing, Reason::StreamCut] {
            assert!(matches!(judge(report(reason), false), Driven::NotUsed(_)));
            assert!(matches!(judge(report(reason), true), Driven::Report(_)));
        }
        for reason in [Reason::WrongPassword, Reason::Cancelled, Reason::StoreUnavailable] {
            assert!(matches!(judge(report(reason), false), Driven::Report(_)));
        }
        assert_eq!(source_of("uid/pvc/x"), "pvc/x");
    }
}
