//! Examines a repository as a whole: whether it can be opened, whether its content is complete, which locks it has, and
//! how many keys. `advice` interprets the findings. Nothing is changed except that locks of dead processes are removed,
//! as at every opening.

mod advice;
mod injected;
mod object;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::advice::{Observed, diagnose, unopened};
pub use self::{
    advice::{Complaint, Diagnosis, Weight},
    injected::add_pods,
    object::add_object,
};
use super::job::with_repository;
use crate::{
    model::{DataPart, Failure},
    repository::{Access, Repository},
};

/// Examines a repository, and reads a subset of its packs byte by byte if requested. A repository which cannot be
/// opened is a diagnosis as well.
///
/// Errors: what prevented the examination after the repository was opened, such as a store which no longer responds.
pub async fn examine(access: Access, cancel: &CancellationToken, data: Option<DataPart>) -> Result<Diagnosis, Failure> {
    let mut is_open = false;
    let examined = with_repository(access, cancel, async |repository| {
        is_open = true;
        observe(repository, data).await
    });
    match examined.await {
        Ok(observed) => Ok(diagnose(&observed, Timestamp::now())),
        Err(failure) if is_open => Err(failure),
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
    Ok(Observed { location, format: repository.format_version(), locks, check, snapshots })
}
