//! A Restore as an archive: whether the request can be carried out at all, and what its run is told.
//!
//! It must not know what is at the place; the run itself looks.

use super::{
    RestoreTarget, Start,
    claim::{check_paths, refused, wanted},
    target::Missing,
};
use crate::{
    api::{Restore, RestoreArchive, backend_config, connection},
    model::{ArchiveRestore, Reason, TaskKind, wrong_archive_name},
};

/// The Job; an error is for good, whatever goes on in the namespace.
pub(super) fn start(restore: &Restore, to: &RestoreArchive) -> Result<Start, Missing> {
    check_paths(restore)?;
    let invalid = |message: String| refused(Reason::InvalidRequest, message);
    if let Some((name, wrong)) = to.name.as_ref().and_then(|name| Some((name, wrong_archive_name(name)?))) {
        return Err(invalid(format!("spec.to.archive.name {wrong}; it is {name:?}")));
    }
    let backend = backend_config(to).ok_or_else(|| {
        invalid("spec.to.archive names no place: s3, azure, gcs, sftp or volume; write another Restore".to_owned())
    })?;
    let task = TaskKind::RestoreArchive(Box::new(ArchiveRestore {
        from: wanted(restore, None),
        paths: restore.spec.from.paths.clone(),
        format: to.format,
        name: to.name.clone(),
        overwrite: to.overwrite,
        backend,
        connection: connection(to),
        timeout: restore.spec.timeout.map(Into::into),
    }));
    Ok(Start { attempt: 1, task, target: Some(RestoreTarget::Archive(Box::new(to.clone()))) })
}
