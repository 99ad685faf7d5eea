//! The judgement of a run by its Job, which is the same for Backups, Restores, and the opening and maintenance of a
//! Repository.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::{JobState, ObservedJob, failure, job_state};
use crate::{
    model::{Reason, RunProgress, RunReport},
    plan::{actions::Actions, text::until},
};

/// How often a run with a Job is reconciled if no watch reports a change.
pub(in crate::plan) const RUNNING_REQUEUE: Duration = Duration::from_mins(1);

/// A run which has a Job, or had one.
#[derive(Debug)]
pub(in crate::plan) enum JobRun {
    /// The Job was created and never started, or a user suspended it.
    Suspended,
    Starting {
        /// Why the pod does not run yet; empty if the cause is not known.
        hint: String,
    },
    Running {
        progress: Option<RunProgress>,
    },
    /// The Job was deleted before its end was observed.
    Lost(Box<RunReport>),
    Ended(Box<RunReport>),
}

/// A claim without a volume, which delays the start of the pod that mounts it.
pub(in crate::plan) struct MissingVolume {
    pub message: String,
    /// When the start fails, if a volume may take longer than the start of a pod.
    pub deadline: Option<Timestamp>,
}

/// Judges the run whose Job has this name, and plans what each kind of run needs for that: the next reconcile while the
/// run is not over, and the end of a Job whose pod does not start.
pub(in crate::plan) fn job_run(
    jobs: &[ObservedJob],
    name: &str,
    volume: Option<MissingVolume>,
    actions: &mut Actions,
    now: Timestamp,
) -> JobRun {
    let Some(observed) = jobs.iter().find(|observed| observed.job.name_any() == name) else {
        return JobRun::Lost(failure(Reason::ResultLost, format!("Job {name} was deleted before it ended")));
    };
    match job_state(observed, now) {
        JobState::Suspended => JobRun::Suspended,
        JobState::Starting { deadline, hint } => {
            actions.requeue_within(until(deadline, now));
            JobRun::Starting { hint: volume.map_or(hint, |volume| volume.message) }
        }
        JobState::Running => {
            actions.requeue_within(RUNNING_REQUEUE);
            JobRun::Running { progress: observed.progress.map(RunProgress::capped) }
        }
        JobState::Ended(report) => JobRun::Ended(report),
        JobState::Stuck(mut report) => match volume {
            Some(MissingVolume { message, deadline: Some(deadline) })
                if now < deadline && report.reason == Reason::PodNotStarted =>
            {
                actions.requeue_within(until(deadline, now));
                JobRun::Starting { hint: message }
            }
            volume => {
                actions.end.push(name.to_owned());
                if let Some(volume) = volume {
                    report.message = format!("{}; {}", report.message, volume.message);
                }
                JobRun::Ended(report)
            }
        },
    }
}
