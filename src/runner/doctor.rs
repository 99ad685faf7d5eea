//! Looks at a repository as a whole: can it be opened, is it sound, who holds locks, how many keys are there.
//!
//! An edge: it looks, and `advice` says what that means. It changes nothing, but for locks of the dead, as every opening does.

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

/// Examines a repository; the bytes of one part of its packs, too, if any. That it cannot be opened is a diagnosis as well.
///
/// Errors: what kept it from looking once it was open, such as a store that does not answer any more.
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
    // A snapshot file that cannot be read is a finding of the check, and then there is no whole list of them.
    let check = repository.check(data).await?;
    let snapshots = if check.is_sound() { repository.snapshots().await? } else { Vec::new() };
    Ok(Observed { place: repository.place().to_owned(), format: repository.format_version(), locks, check, snapshots })
}
