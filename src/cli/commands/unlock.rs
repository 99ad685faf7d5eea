//! `stowaway unlock` of a repository given by path or URL.

use tokio_util::sync::CancellationToken;

use crate::cli::{CliError, args::UnlockArguments, output::print_line, reach::access};
use crate::{
    repository::{self, Unlock, Unlocked},
    runner::within_grace,
};

/// `stowaway unlock`
pub async fn run(arguments: &UnlockArguments) -> Result<u8, CliError> {
    let access = access(&arguments.location)?;
    let which = if arguments.all { Unlock::All } else { Unlock::Dead };
    let cancel = CancellationToken::new();
    let removing = async { Ok(repository::remove_locks(access, cancel.clone(), which).await?) };
    let Unlocked { removed, removed_unreadable, kept_unreadable, failed } = within_grace(&cancel, removing).await?;
    for lock in &removed {
        print_line(&format!("removed the lock of {lock}, last refreshed {:.0}", lock.refreshed))?;
    }
    for lock in &removed_unreadable {
        print_line(&format!("removed {lock}"))?;
    }
    for lock in &kept_unreadable {
        print_line(&format!("kept {lock}: its client may still run; --all removes it"))?;
    }
    for failure in &failed {
        print_line(&format!("not removed: {failure}"))?;
    }
    print_line(&format!("{} locks removed", removed.len() + removed_unreadable.len()))?;
    Ok(u8::from(!failed.is_empty()))
}
