//! Restores a stored device onto a device. The restore overwrites the device directly, because there is no room beside
//! the present content. Whether it may be overwritten is decided before the first byte is written, and the written data
//! is read back from the disk and compared.

use std::{io, os::unix::fs::FileExt, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::previous_content;
use crate::{
    model::{Failure, Proof, Reason, RunReport, VolumeRestore},
    repository::{Progress, Repository, RepositoryError, SnapshotSummary, StoredFile},
    runner::{
        device::{BLOCK_BYTES, Device, ZEROS, store_device},
        select_snapshot::choose_readable,
    },
    stream::StreamItem,
};

/// Restores the device. If it may be overwritten, a safety snapshot of its content is stored first.
pub(super) async fn restore(
    repository: &Repository,
    run: &VolumeRestore,
    path: &Path,
    safety: &mut Vec<String>,
    cancel: &CancellationToken,
) -> Result<RunReport, Failure> {
    if !run.paths.is_empty() || !run.folder.is_empty() {
        let message = "the target is a block device, which is restored as a whole: request neither paths nor a folder";
        return Err(Failure::new(Reason::InvalidRequest, message));
    }
    let list = repository.list_snapshots().await?;
    let chosen = choose_readable(&list, &run.from, repository, Timestamp::now())?;
    let snapshot = chosen.snapshot;
    let short = &snapshot.id[..8];
    let size = open(repository, snapshot).await?.size;
    let device = Device::to_write(path)?;
    if size > device.size {
        let message = format!(
            "snapshot {short} has {size} bytes and the target's device has {}: nothing was changed; use a claim of at \
             least that size",
            device.size
        );
        return Err(Failure::new(Reason::TargetUnwritable, message));
    }
    let device = Arc::new(device);
    if let Some(identity) = &run.overwrite {
        info!("storing the content of the device in a safety snapshot");
        let progress = Arc::<Progress>::default();
        let stored = store_device(repository, identity, Device::to_read(path)?, (None, progress)).await?;
        info!(snapshot = stored.snapshot, "the present content is stored as snapshot {}", &stored.snapshot[..8]);
        safety.push(stored.snapshot);
    } else {
        check_blank(&device, cancel).await?;
    }
    info!(snapshot = snapshot.id, "writing snapshot {short} of {}", snapshot.time);
    let (pieces, writing, cancel) = (open(repository, snapshot).await?.pieces, Arc::clone(&device), cancel.clone());
    let is_blank = run.overwrite.is_none();
    let written = spawn_blocking(move || write(&writing, (pieces, size), is_blank, &cancel)).await;
    written.map_err(|panic| Failure::new(Reason::InternalError, panic.to_string()))??;
    let mut message =
        format!("snapshot {short} of {:.0}, a device of {size} bytes, read back and compared", snapshot.time);
    message += &previous_content(safety);
    let snapshot = Some(snapshot.id.clone());
    let report = RunReport { message, bytes: size, proof: Proof::Sealed, snapshot, ..RunReport::done(Duration::ZERO) };
    Ok(chosen.report(report))
}

/// Opens the stored device.
async fn open(repository: &Repository, snapshot: &SnapshotSummary) -> Result<StoredFile, Failure> {
    repository.read_file(&snapshot.id, &snapshot.identity.path).await.map_err(|error| match error {
        RepositoryError::FileNotFound { .. } => {
            let message = format!(
                "snapshot {} contains files, but the target is a block device: nothing was changed; restore it into a \
                 claim of volumeMode Filesystem",
                &snapshot.id[..8]
            );
            Failure::new(Reason::InvalidRequest, message)
        }
        error => error.into(),
    })
}

/// Fails if the device contains data. The whole device is read, because no part of it proves anything about another
/// part.
async fn check_blank(device: &Arc<Device>, cancel: &CancellationToken) -> Result<(), Failure> {
    info!("checking whether the device is blank");
    let (device, cancel) = (Arc::clone(device), cancel.clone());
    let checked = spawn_blocking(move || {
        let mut is_blank = true;
        let checked = device.read(device.size, |bytes| {
            is_blank = *bytes == ZEROS[..bytes.len()];
            is_blank && !cancel.is_cancelled()
        });
        if cancel.is_cancelled() {
            return Err(cancelled("checked; nothing was changed"));
        }
        checked.map(|()| is_blank).map_err(|error| unwritable("read", &error))
    });
    if checked.await.map_err(|panic| Failure::new(Reason::InternalError, panic.to_string()))?? {
        return Ok(());
    }
    let message = "the target's device is not blank, and nothing was changed; allow overwriting it \
                   (spec.to.claim.overwrite), which first stores a snapshot of its content";
    Err(Failure::new(Reason::TargetNotEmpty, message))
}

/// Writes the stream, which has `size` bytes, and zeros after it, and reads everything back. On a blank device zeros
/// are not written.
fn write(
    device: &Device,
    (mut pieces, size): (mpsc::Receiver<StreamItem>, u64),
    is_blank: bool,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let put = |bytes: &[u8], at: u64| {
        if is_blank && *bytes == ZEROS[..bytes.len()] {
            return Ok(());
        }
        device.file.write_all_at(bytes, at).map_err(|error| unwritable("write", &error))
    };
    let mut hash = Sha256::default();
    let mut at = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(cancelled("written; it holds a part of the snapshot"));
        }
        match pieces.blocking_recv() {
            Some(StreamItem::Data(bytes)) => {
                hash.update(&bytes);
                for block in bytes.chunks(BLOCK_BYTES) {
                    put(block, at)?;
                    at += block.len() as u64;
                }
            }
            Some(StreamItem::End(_)) if at == size => break,
            Some(StreamItem::End(_)) => {
                let message = format!(
                    "the stored device ended after {at} bytes, and should have {size}; the device holds a part of the snapshot"
                );
                return Err(Failure::new(Reason::RepositoryDamaged, message));
            }
            Some(StreamItem::Broken(failure)) => {
                let message = format!("{}; the device holds a part of the snapshot", failure.message);
                return Err(Failure { message, ..failure });
            }
            None => return Err(Failure::new(Reason::InternalError, "the stored device ended without an end marker")),
        }
    }
    while at < device.size {
        if cancel.is_cancelled() {
            return Err(cancelled("written; all of the snapshot is on it, and not yet compared"));
        }
        let most = usize::try_from(device.size - at).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        put(&ZEROS[..most], at)?;
        at += most as u64;
    }
    device.file.sync_all().map_err(|error| unwritable("make durable what is on", &error))?;
    compare(device, size, &hash.finalize(), cancel)
}

/// Compares the content of the device with the written data, which is followed by zeros.
fn compare(device: &Device, length: u64, expected: &[u8], cancel: &CancellationToken) -> Result<(), Failure> {
    info!("reading the device back");
    let mut hash = Sha256::default();
    let (mut at, mut is_blank_behind) = (0, true);
    let read = device.read(device.size, |bytes| {
        let stored_length = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
        hash.update(&bytes[..stored_length]);
        is_blank_behind &= bytes[stored_length..] == ZEROS[..bytes.len() - stored_length];
        at += bytes.len() as u64;
        !cancel.is_cancelled()
    });
    read.map_err(|error| unwritable("read back", &error))?;
    if cancel.is_cancelled() {
        return Err(cancelled("compared; all of the snapshot is on it"));
    }
    if *hash.finalize() == *expected && is_blank_behind {
        return Ok(());
    }
    let message = "the device returns other data than was written to it: it is broken, or another process writes to it";
    Err(Failure::new(Reason::TargetUnwritable, message))
}

fn unwritable(action: &str, error: &io::Error) -> Failure {
    Failure::new(Reason::TargetUnwritable, format!("failed to {action} the target's device: {error}"))
}

fn cancelled(when: &str) -> Failure {
    Failure::new(Reason::Cancelled, format!("cancelled while the target's device was being {when}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::stream::{End, pieces};

    /// A file in the role of a device.
    fn device(content: &[u8]) -> (tempfile::TempDir, Device) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device");
        fs::write(&path, content).unwrap();
        let device = Device::to_write(&path).unwrap();
        (directory, device)
    }

    fn digest(content: &[u8]) -> Vec<u8> {
        Sha256::digest(content).to_vec()
    }

    #[test]
    fn device_which_returns_other_data_is_no_success() {
        let never = CancellationToken::new();
        let (_directory, written) = device(&[b"content".as_slice(), &[0; 100]].concat());
        assert!(compare(&written, 7, &digest(b"content"), &never).is_ok());
        assert_eq!(compare(&written, 7, &digest(b"another"), &never).unwrap_err().reason, Reason::TargetUnwritable);
        let (_directory, dirty) = device(&[b"content".as_slice(), &[0; 99], b"x"].concat());
        assert_eq!(compare(&dirty, 7, &digest(b"content"), &never).unwrap_err().reason, Reason::TargetUnwritable);
        assert!(compare(&dirty, 107, &digest(&[b"content".as_slice(), &[0; 99], b"x"].concat()), &never).is_ok());
    }

    #[tokio::test]
    async fn zeros_are_written_over_old_data_but_not_over_zeros() {
        for (is_blank, before, expected) in [(false, 7, 0), (true, 0, 0)] {
            let (directory, target) = device(&vec![before; 300_000]);
            let (sender, receiver) = pieces();
            let content = [vec![1; 70_000], vec![0; 140_000], vec![2; 5]].concat();
            for piece in content.chunks(60_000) {
                sender.try_send(StreamItem::Data(bytes::Bytes::copy_from_slice(piece))).unwrap();
            }
            sender.try_send(StreamItem::End(End { proof: Proof::Sealed, bytes: content.len() as u64 })).unwrap();
            let stream = (receiver, content.len() as u64);
            let written = spawn_blocking(move || write(&target, stream, is_blank, &CancellationToken::new())).await;
            written.unwrap().unwrap();
            let mut whole = content;
            whole.resize(300_000, expected);
            assert!(fs::read(directory.path().join("device")).unwrap() == whole, "{is_blank}");
        }
    }

    #[tokio::test]
    async fn stream_that_breaks_or_is_cancelled_is_no_success() {
        let broken = StreamItem::Broken(Failure::new(Reason::RepositoryDamaged, "a part is lost"));
        let early = StreamItem::End(End { proof: Proof::Sealed, bytes: 5 });
        for (last, is_cancelled, reason) in [
            (Some(early), false, Reason::RepositoryDamaged),
            (Some(broken), false, Reason::RepositoryDamaged),
            (None, false, Reason::InternalError),
            (None, true, Reason::Cancelled),
        ] {
            let (_directory, target) = device(&[0; 100]);
            let (sender, receiver) = pieces();
            sender.try_send(StreamItem::Data(bytes::Bytes::from_static(b"begin"))).unwrap();
            if let Some(last) = last {
                sender.try_send(last).unwrap();
            }
            drop(sender);
            let cancel = CancellationToken::new();
            if is_cancelled {
                cancel.cancel();
            }
            let written = spawn_blocking(move || write(&target, (receiver, 7), true, &cancel)).await.unwrap();
            assert_eq!(written.unwrap_err().reason, reason);
        }
    }
}
