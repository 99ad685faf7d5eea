//! Examines a repository as a whole: whether it can be opened, whether its content is complete, which locks it has, and
//! how many keys. `advice` interprets the findings. Nothing is changed except that locks of dead processes are removed,
//! as at every opening.

mod advice;
mod injected;
mod object;

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::advice::{Observed, diagnose, interrupted};
pub use self::{
    advice::{Complaint, Diagnosis, Weight, unopened},
    injected::add_pods,
    object::add_object,
};
use super::job::with_repository_to_read;
use crate::{
    model::{DataPart, Failure, Reason},
    repository::{OpenOptions, Repository},
};

/// The limit for a store that was never reached. A user waits for the report, and the cause is usually permanent,
/// such as a wrong host name.
const RETRIES: Duration = Duration::from_secs(10);

/// Examines a repository, and reads a subset of its packs byte by byte if requested. A repository which cannot be
/// opened, or of which the examination fails, is a diagnosis as well.
///
/// Errors: the examination was cancelled.
pub async fn examine(
    mut access: OpenOptions,
    cancel: &CancellationToken,
    data: Option<DataPart>,
) -> Result<Diagnosis, Failure> {
    access.timeouts.retries = RETRIES;
    let mut is_open = false;
    let examined = with_repository_to_read(access, cancel, async |repository| {
        is_open = true;
        observe(repository, data).await
    });
    match examined.await {
        Ok(observed) => Ok(diagnose(&observed, Timestamp::now())),
        Err(failure) if failure.reason == Reason::Cancelled => Err(failure),
        Err(failure) if is_open => Ok(interrupted(&failure)),
        Err(failure) => Ok(unopened(&failure)),
    }
}

async fn observe(repository: &Repository, data: Option<DataPart>) -> Result<Observed, Failure> {
    let (locks, unreadable) = repository.other_locks().await?;
    for lock in unreadable {
        tracing::warn!("{lock}; `stowaway unlock` removes it once it is 30 minutes old");
    }
    // An unreadable snapshot file is a finding of the check, and then the list of snapshots would be incomplete.
    let check = repository.check(data).await?;
    let snapshots = if check.is_sound() { repository.snapshots().await? } else { Vec::new() };
    let location = repository.location().to_owned();
    let is_read_only = repository.lock_note().is_some();
    Ok(Observed { location, format: repository.format_version(), is_read_only, locks, check, snapshots })
}
