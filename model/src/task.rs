//! The task of a run. The controller writes it into the Job, and the runner reads it. It contains no secret and no
//! command line, because the runner reads the command from the pod's annotation or from the Restore.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    ArchiveRestore, BackendConfig, Connection, DamagedPacks, DataPart, Retention, SnapshotIdentity, SourceName,
};

/// Paths and settings of a run's pod: the Job builder mounts everything there, and the runner reads it.
pub mod mounts {
    /// Environment variable with the [`super::Task`] as JSON.
    pub const TASK_VARIABLE: &str = "STOWAWAY_TASK";
    /// Environment variable with a directory that replaces `/` in front of all of these paths, for a run outside of a
    /// pod.
    pub const ROOT_VARIABLE: &str = "STOWAWAY_ROOT";
    /// Directory of the password's Secret.
    pub const PASSWORD_FOLDER: &str = "/run/stowaway/password";
    /// Name of the file with the password.
    pub const PASSWORD_FILE: &str = "password";
    /// Directory of the store's credentials; [`super::Credential::file`] returns the files' names.
    pub const CREDENTIALS_FOLDER: &str = "/run/stowaway/store";
    /// Mount path of a `volume` backend's volume.
    pub const REPOSITORY_FOLDER: &str = "/repository";
    /// Directory of the credentials of an archive's store, with the same file names.
    pub const ARCHIVE_CREDENTIALS_FOLDER: &str = "/run/stowaway/archive";
    /// Mount path of the volume of an archive's `volume` store.
    pub const ARCHIVE_FOLDER: &str = "/archive";
    /// Mount path of the claim of [`super::TaskKind::RestoreVolume`].
    pub const TARGET_FOLDER: &str = "/target";
    /// Settings of the C library's allocator (mallopt(3)). By default it creates eight arenas per core, and each keeps
    /// freed memory. Two are enough.
    pub const ALLOCATOR: [(&str, &str); 1] = [("MALLOC_ARENA_MAX", "2")];
    /// Settings of the allocator for backups. In addition, allocations as large as a long chunk are returned to the
    /// system at once. This halves the peak memory of a backup at almost no cost, because a backup reuses most of its
    /// buffers. Checks and restores would need a third more CPU time.
    pub const STORING_ALLOCATOR: [(&str, &str); 2] = [ALLOCATOR[0], ("MALLOC_MMAP_THRESHOLD_", "1048576")];
    /// The memory that a run may use, whatever the size of the data; with [`ALLOCATOR`] and [`WORK_CPUS`].
    pub const WORK_MEMORY: &str = "192Mi";
    /// CPU limit of a run. A run processes as many chunks at once as it has CPUs, so without a limit it would need more
    /// memory on a node with many CPUs.
    pub const WORK_CPUS: &str = "2";
    /// Capabilities of root in a run that restores: to give files to any owner, to write into directories of any owner,
    /// to set modes and times of other users' files, to keep the set-group-ID bit of directories, to create devices,
    /// and to set capabilities of programs. Pod Security `baseline` allows all of them.
    pub const RIGHTS_TO_RESTORE: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"];
    /// Mount path of the claim that a run backs up.
    pub const DATA_FOLDER: &str = "/data";
    /// The device node of that claim if it is a block device.
    pub const DATA_DEVICE: &str = "/dev/stowaway-data";
    /// The device node of the claim of [`super::TaskKind::RestoreVolume`] if it is a block device.
    pub const TARGET_DEVICE: &str = "/dev/stowaway-target";
    /// Path of the report (Kubernetes' default termination message path).
    pub const TERMINATION_MESSAGE: &str = "/dev/termination-log";
}

/// The task of one run, as JSON in the environment variable `STOWAWAY_TASK`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    pub backend: BackendConfig,
    /// Connection settings of the store. The password and the credentials are in files, see `runner::settings`.
    #[serde(default, skip_serializing_if = "Connection::is_plain")]
    pub connection: Connection,
    /// The cluster's id: the UID of the namespace kube-system. A run's locks contain it. Empty if there is no cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// The id that the repository must have, 64 hex digits; none until it was opened. A run does nothing in a
    /// repository with another id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// The packs that a check found damaged; only for a run that stores or removes data. The run relies on none of
    /// them.
    #[serde(default, skip_serializing_if = "DamagedPacks::is_empty")]
    pub damaged_packs: DamagedPacks,
    /// When the controller created the run, by the controller's clock. A run with a clock that is behind this time by
    /// more than [`CLOCK_TOLERANCE`](super::CLOCK_TOLERANCE) does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    pub kind: TaskKind,
    /// A note for the log and the report, in addition to the result. It is not sent to a sidecar.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The kind of a run, with its parameters.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum TaskKind {
    /// Opens the repository, and creates it if it does not exist.
    Init,
    /// Opens the repository, and never creates one.
    Open {
        /// Another id that the repository may have, because a user accepts it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted: Option<String>,
    },
    /// Dumps one command source.
    Backup {
        /// The container and the command.
        target: TargetCommand,
        source: SourceName,
        /// The labels of the snapshot. Its path is replaced with the path in the source's own history, and with
        /// `alternative_path` if another source's history has it.
        identity: SnapshotIdentity,
        /// The path if another source has claimed `identity.path` before.
        alternative_path: String,
        /// End the command after this duration.
        timeout: Option<Duration>,
        /// End the command when no byte was transferred for this duration.
        idle_timeout: Option<Duration>,
        /// Store a stream of 0 bytes.
        allow_empty: bool,
        /// Accept a run without proof as green.
        accept_unproven: bool,
        /// Store a stream of a known format even if the end of that format is missing.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skip_format_check: bool,
    },
    /// Stores one volume of a pod through its sidecar.
    BackupVolume {
        /// The claim and the pod.
        target: TargetVolume,
        source: SourceName,
        /// The labels of the snapshot.
        identity: SnapshotIdentity,
        /// Exclude patterns; see [`Excludes`](super::Excludes).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
        /// Whether the volume may be empty, or much smaller than its last good snapshot.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        accept_shrunken: bool,
        /// Give up after this duration.
        timeout: Option<Duration>,
    },
    /// Stores one claim, which is mounted at [`mounts::DATA_FOLDER`], or is the device [`mounts::DATA_DEVICE`].
    BackupClaim {
        /// Name of the `PersistentVolumeClaim`.
        claim: String,
        /// Whether it is a block device, which is stored as one file.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        device: bool,
        /// Name of the claim as a source.
        source: SourceName,
        /// The labels of the snapshot.
        identity: SnapshotIdentity,
        /// Exclude patterns; see [`Excludes`](super::Excludes).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
        /// Whether the volume may be empty, or much smaller than its last good snapshot.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        accept_shrunken: bool,
        /// Give up after this duration.
        timeout: Option<Duration>,
    },
    /// Streams one stored file into a command's stdin.
    Restore {
        /// Name of the Restore in the run's namespace. If its author sets a command, the run reads the command from
        /// there.
        restore: String,
        /// The pod and the container.
        target: TargetCommand,
        source: SourceName,
        /// Id of the snapshot, or a prefix of at least 8 hex digits; the newest proven snapshot of the source when
        /// absent.
        snapshot: Option<String>,
        /// Only snapshots that were made at this time or earlier.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        as_of: Option<Timestamp>,
        /// Host of the snapshot, which is the namespace. When absent, the run's own namespace, or any host if
        /// `snapshot` is set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// End the command after this duration.
        timeout: Option<Duration>,
        /// End the command when no byte was transferred for this duration.
        idle_timeout: Option<Duration>,
    },
    /// Restores a volume, or a stored file, into the claim at [`mounts::TARGET_FOLDER`], or a stored device onto
    /// [`mounts::TARGET_DEVICE`].
    RestoreVolume(VolumeRestore),
    /// Writes an archive of a volume, or of a stored file, into another store.
    RestoreArchive(Box<ArchiveRestore>),
    /// Looks up a snapshot: its id, and its size in bytes.
    FindSnapshot(WantedSnapshot),
    /// Repacks partly used packs under a shared lock, so that the following [`TaskKind::Prune`] holds its exclusive
    /// lock only briefly.
    Repack {
        /// The retention of the prune.
        #[serde(default, skip_serializing_if = "Retention::is_empty")]
        retention: Retention,
        /// The time zone of the prune.
        time_zone: String,
    },
    /// Forgets the snapshots that the retention drops, and then removes data which no snapshot needs, under one
    /// exclusive lock.
    Prune {
        /// Which snapshots are kept; all when it is empty.
        #[serde(default, skip_serializing_if = "Retention::is_empty")]
        retention: Retention,
        /// IANA name of the time zone whose hours and days the retention counts.
        time_zone: String,
        /// Bytes that were repacked for this prune, so that the store has them twice.
        repacked_bytes: u64,
    },
    /// Checks all indexes, snapshots and trees, and reads one part of the data.
    Check { part: DataPart },
    /// Waits for queries of the CLI (`snapshots`, `ls`, `dump`), which arrive through exec.
    Answer {
        /// Ends after this duration.
        timeout: Duration,
    },
}

impl Task {
    /// The name of [`Task::not_before`] in JSON.
    pub const NOT_BEFORE: &str = "notBefore";

    /// The same task, which prefers the snapshots of its own cluster.
    #[must_use]
    pub fn preferring_own_cluster(mut self) -> Self {
        let from = match &mut self.kind {
            TaskKind::RestoreVolume(run) => Some(&mut run.from),
            TaskKind::RestoreArchive(run) => Some(&mut run.from),
            TaskKind::FindSnapshot(wanted) => Some(wanted),
            _ => None,
        };
        if let Some(from) = from {
            from.cluster.clone_from(&self.cluster);
        }
        self
    }
}

impl TaskKind {
    /// Whether the run stores data, or removes data.
    pub fn stores_or_removes(&self) -> bool {
        match self {
            Self::Backup { .. }
            | Self::BackupVolume { .. }
            | Self::BackupClaim { .. }
            | Self::Repack { .. }
            | Self::Prune { .. } => true,
            // Before it overwrites data, the run stores a safety snapshot.
            Self::RestoreVolume(run) => run.overwrite.is_some(),
            Self::Init
            | Self::Open { .. }
            | Self::Restore { .. }
            | Self::RestoreArchive(_)
            | Self::FindSnapshot(_)
            | Self::Check { .. }
            | Self::Answer { .. } => false,
        }
    }

    /// Whether a wrong clock changes the outcome, because the run dates a snapshot or selects snapshots by their times.
    pub fn depends_on_clock(&self) -> bool {
        match self {
            Self::Backup { .. }
            | Self::BackupVolume { .. }
            | Self::BackupClaim { .. }
            | Self::Restore { .. }
            | Self::RestoreVolume(_)
            | Self::RestoreArchive(_)
            | Self::FindSnapshot(_)
            | Self::Repack { .. }
            | Self::Prune { .. } => true,
            Self::Init | Self::Open { .. } | Self::Check { .. } | Self::Answer { .. } => false,
        }
    }

    /// Whether the run execs into a pod.
    pub fn execs(&self) -> bool {
        matches!(self, Self::Backup { .. } | Self::BackupVolume { .. } | Self::Restore { .. })
    }
}

/// A snapshot of a source.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WantedSnapshot {
    pub source: SourceName,
    /// Id of the snapshot, or at least its first 8 hex digits; the newest proven snapshot of the source when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only snapshots that were made at this time or earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Only snapshots of this host, which is the namespace; of any host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Id of the cluster whose snapshots are preferred. If it is empty, all clusters count alike.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

/// The parameters of restoring a volume.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeRestore {
    pub from: WantedSnapshot,
    /// Only these paths, relative to the root of the volume; everything when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// The target directory, relative to the target's root; the root when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// The labels of the snapshot that is made of a target which is not empty. Without labels, such a target is
    /// rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<SnapshotIdentity>,
    /// Whether the target is a block device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub device: bool,
    /// Give up after this duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// A container of one specific pod, and one of its annotated commands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetCommand {
    /// Namespace of the pod.
    pub namespace: String,
    pub pod: String,
    /// UID of the pod. A later pod with the same name is another pod.
    pub pod_uid: String,
    pub container: String,
    /// The name of a named command (`backupcommand.<name>`); none for the plain command.
    pub command: Option<String>,
}

/// A claim, and one specific pod whose sidecar has it mounted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetVolume {
    /// Namespace of the pod, and of the claim.
    pub namespace: String,
    pub pod: String,
    /// UID of the pod. A later pod with the same name is another pod.
    pub pod_uid: String,
    /// Name of the `PersistentVolumeClaim`.
    pub claim: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_the_controller_is_a_field_only_if_the_controller_has_set_it() {
        let task = |not_before| Task {
            backend: BackendConfig::Folder { path: "/repository".to_owned() },
            connection: Connection::default(),
            cluster: String::new(),
            repository_id: None,
            damaged_packs: DamagedPacks::default(),
            not_before,
            kind: TaskKind::Init,
            note: String::new(),
        };
        let written = |not_before| serde_json::to_value(task(not_before)).unwrap();
        assert_eq!(written(None).get(Task::NOT_BEFORE), None);
        let time = Timestamp::UNIX_EPOCH;
        assert_eq!(written(Some(time))[Task::NOT_BEFORE], "1970-01-01T00:00:00Z");
        assert_eq!(serde_json::from_value::<Task>(written(Some(time))).unwrap(), task(Some(time)));
        assert_eq!(serde_json::from_value::<Task>(written(None)).unwrap(), task(None));
    }
}
