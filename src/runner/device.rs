//! Backs up a raw block device as a stream of its bytes in order, and holds the access to devices which restores use,
//! too.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::{
    fs::{Advice, Mode, OFlags, fadvise, open},
    io::Errno,
};
use tokio::task::spawn_blocking;
use tracing::info;

use super::{
    VolumeRun,
    backup::{adopt, warn_of_later},
    clock, limit, shrunken,
    story::{log_progress, noted, with_lacking},
};
use crate::{
    model::{Failure, Proof, Reason, RunReport, SnapshotIdentity, Verdict, milliseconds},
    repository::{DeviceRules, Progress, Repository, StoreRules, Stored},
    stream::{End, StreamItem, StreamSender, pieces},
};

/// The size of a read or write.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;
/// Zeros to compare with and to write.
pub(super) static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// An open device. A regular file works as well.
#[derive(Debug)]
pub(super) struct Device {
    pub file: File,
    /// Its length in bytes.
    pub size: u64,
}

impl Device {
    /// Opens the device for reading.
    pub fn to_read(path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let message = format!(
                "the claim's device cannot be opened ({error}): its device node belongs to root, so the run must be \
                 root (spec.runnerPod.securityContext.runAsUser: 0), or the nodes' container runtime must give \
                 devices to the pod's user (device_ownership_from_security_context)"
            );
            Failure::new(Reason::SourceUnreadable, message)
        };
        Self::open(path, OFlags::RDONLY).map_err(failed)
    }

    /// Opens the device for writing. Fails if something else on the node uses it exclusively, such as a mounted file
    /// system.
    pub fn to_write(path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
                let message = "something on the node uses the claim's device, for example as a file system which is \
                               mounted there; nothing was changed";
                return Failure::new(Reason::TargetInUse, message);
            }
            let message = format!(
                "the claim's device cannot be opened for writing ({error}): its device node belongs to root, so the \
                 run must be root (spec.runnerPod.securityContext.runAsUser: 0), or the nodes' container runtime must \
                 give devices to the pod's user (device_ownership_from_security_context)"
            );
            Failure::new(Reason::TargetUnwritable, message)
        };
        Self::open(path, OFlags::RDWR | OFlags::EXCL).map_err(failed)
    }

    fn open(path: &Path, flags: OFlags) -> io::Result<Self> {
        let mut file = File::from(open(path, flags | OFlags::CLOEXEC, Mode::empty())?);
        // The metadata of a device contains no length.
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, size })
    }

    /// Reads the first `length` bytes in order, from the disk and not from the page cache, and passes them to `each`
    /// until `each` returns false.
    pub fn read(&self, length: u64, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        // Reading works without these hints, too.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        let _ = fadvise(&self.file, 0, None, Advice::Sequential);
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut at = 0;
        while at < length {
            let most = usize::try_from(length - at).unwrap_or(usize::MAX).min(BLOCK_BYTES);
            match self.file.read_at(&mut buffer[..most], at) {
                Ok(0) => {
                    return Err(io::Error::other(format!(
                        "it ends at {at} bytes, but reported a size of {}",
                        self.size
                    )));
                }
                Ok(read) => {
                    at += read as u64;
                    if !each(&buffer[..read]) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("at {at} bytes: {error}"))),
            }
        }
        Ok(())
    }
}

/// Runs one backup of a device. Every outcome is a report.
pub async fn backup_device(
    repository: &Repository,
    run: VolumeRun,
    device: &Path,
    progress: Arc<Progress>,
) -> RunReport {
    let started = Instant::now();
    let storing = store(repository, &run, device, progress);
    let result = tokio::select! {
        biased;
        result = storing => result,
        () = limit::over(run.timeout) => {
            let message = format!(
                "the device took longer than its timeout of {:?}: raise it; what was written is kept for the next run",
                run.timeout.unwrap_or_default()
            );
            Err(Failure::new(Reason::Timeout, message))
        }
    };
    let mut report = result.unwrap_or_else(|failure| RunReport::failed(failure, started.elapsed()));
    report.duration_milliseconds = milliseconds(started.elapsed());
    report
}

async fn store(
    repository: &Repository,
    run: &VolumeRun,
    device: &Path,
    progress: Arc<Progress>,
) -> Result<RunReport, Failure> {
    let identity = &run.identity;
    let history = repository.snapshots().await?;
    let later = warn_of_later(&history, identity, clock::now()?);
    if let Some(report) = adopt(repository, &history, identity, &[]).await? {
        return Ok(report);
    }
    let device = Device::to_read(device)?;
    let size = device.size;
    info!(path = identity.path, size, "storing a device of {size} bytes as {}", identity.path);
    let rules = DeviceRules { accept_shrunken: run.accept_shrunken };
    let Stored { snapshot, bytes, digest, proof, added_bytes, shrunken, lacking } =
        store_device(repository, identity, device, (Some(rules), progress)).await?;
    info!(bytes, added_bytes, "{bytes} bytes are stored");
    let message = identity.tag(SnapshotIdentity::POD).map_or_else(String::new, |pod| {
        format!(
            "read while pod {pod} had the device: data which it wrote meanwhile may be stored in part, so this is not \
                 a point-in-time image"
        )
    });
    let (verdict, reason, message) = match &shrunken {
        Some(shrunken) => {
            let source = identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&identity.path);
            let lost = shrunken::message(shrunken, &snapshot, source);
            let message = if message.is_empty() { lost } else { format!("{lost}; {message}") };
            let (verdict, reason) = shrunken::verdict(shrunken);
            (verdict, reason, message)
        }
        None => (Verdict::Succeeded, Reason::Completed, message),
    };
    let report = RunReport {
        verdict,
        reason,
        message: with_lacking(message, &lacking),
        bytes,
        digest: Some(digest),
        proof,
        snapshot: Some(snapshot),
        ..RunReport::done(Duration::ZERO)
    };
    Ok(noted(report, &later))
}

/// Stores the whole device as one file, and tags the snapshot as a device. With rules, the device is compared with its
/// last good snapshot.
pub(super) async fn store_device(
    repository: &Repository,
    identity: &SnapshotIdentity,
    device: Device,
    (rules, progress): (Option<DeviceRules>, Arc<Progress>),
) -> Result<Stored, Failure> {
    let rules = StoreRules { allow_empty: false, accept_unproven: false, time: clock::now()?, device: rules };
    let mut identity = identity.clone();
    identity.tags.push(SnapshotIdentity::DEVICE.to_owned());
    let size = device.size;
    let (sender, receiver) = pieces();
    // Ends when the receiver is dropped.
    let reading = spawn_blocking(move || send(&device, &sender));
    let storing = repository.store_stream(&identity, &rules, receiver, Arc::clone(&progress));
    let stored = tokio::select! {
        stored = storing => stored,
        never = log_progress(Some(size), || progress.bytes_read(), || repository.store_wait()) => match never {},
    };
    reading.await.map_err(|panic| Failure::new(Reason::InternalError, panic.to_string()))?;
    Ok(stored?)
}

/// Sends the device's bytes and the end of the stream. The end is proven without a protocol, because no network is
/// involved and every failed read is reported.
fn send(device: &Device, sender: &StreamSender) {
    let sent =
        device.read(device.size, |bytes| sender.blocking_send(StreamItem::Data(Bytes::copy_from_slice(bytes))).is_ok());
    let last = match sent {
        Ok(()) => StreamItem::End(End { proof: Proof::Sealed, bytes: device.size }),
        Err(error) => {
            let message = format!("the claim's device cannot be read: {error}; nothing of it is stored");
            StreamItem::Broken(Failure::new(Reason::SourceUnreadable, message))
        }
    };
    // A receiver which was dropped reports its own failure.
    let _gone = sender.blocking_send(last);
}
