//! A Restore as an archive in a store: the check of the request, and the task of its Job. What the store contains is
//! checked by the run itself.

use super::{
    RestoreTarget, Start,
    claim::{check_paths, refused, wanted_snapshot},
    target::StartError,
};
use crate::{
    api::{Restore, RestoreArchive, VolumeBackend, backend_config, connection},
    model::{ArchiveRestore, Reason, TaskKind, wrong_archive_name},
};

/// The Job of the Restore. An error is always permanent.
pub(super) fn start(restore: &Restore, to: &RestoreArchive) -> Result<Start, StartError> {
    check_paths(restore)?;
    let invalid = |message: String| refused(Reason::InvalidRequest, message);
    if let Some((name, wrong)) = to.name.as_ref().and_then(|name| Some((name, wrong_archive_name(name)?))) {
        return Err(invalid(format!("spec.to.archive.name {wrong}; it is {name:?}")));
    }
    let backend = backend_config(to).ok_or_else(|| {
        invalid("spec.to.archive names no store: create a Restore with s3, azure, gcs, sftp or volume".to_owned())
    })?;
    let task = TaskKind::RestoreArchive(Box::new(ArchiveRestore {
        from: wanted_snapshot(restore, None),
        paths: restore.spec.from.paths.clone(),
        format: to.format,
        name: to.name.clone(),
        overwrite: to.overwrite,
        backend,
        volume: to.volume.as_ref().map(VolumeBackend::name).unwrap_or_default(),
        connection: connection(to),
        timeout: restore.spec.timeout.map(Into::into),
    }));
    Ok(Start { attempt: 1, task, target: Some(RestoreTarget::Archive(Box::new(to.clone()))) })
}
