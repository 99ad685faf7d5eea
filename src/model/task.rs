//! What a run is told to do: written by the controller into the Job, read by the runner. Holds no secret and no command
//! line; the runner reads the command from the pod's annotation or the Restore itself.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ArchiveRestore, BackendConfig, Connection, DataPart, Retention, SnapshotIdentity, SourceName};

/// Where a run's pod finds what it needs; the Job builder mounts it there, the runner reads it.
pub mod mounts {
    /// Environment variable that holds the [`super::Task`] as JSON.
    pub const TASK_VARIABLE: &str = "STOWAWAY_TASK";
    /// Environment variable that names another folder than `/` in front of all of these, for a run outside of a pod.
    pub const ROOT_VARIABLE: &str = "STOWAWAY_ROOT";
    /// Folder of the password's Secret.
    pub const PASSWORD_FOLDER: &str = "/run/stowaway/password";
    /// File with the password in it.
    pub const PASSWORD_FILE: &str = "password";
    /// Folder of the store's credentials; the files' names are [`super::Credential::file`]'s.
    pub const CREDENTIALS_FOLDER: &str = "/run/stowaway/store";
    /// Where the volume of a `volume` backend is mounted.
    pub const REPOSITORY_FOLDER: &str = "/repository";
    /// Folder of the credentials of an archive's store; the files' names are the same.
    pub const ARCHIVE_CREDENTIALS_FOLDER: &str = "/run/stowaway/archive";
    /// Where the volume of an archive's `volume` place is mounted.
    pub const ARCHIVE_FOLDER: &str = "/archive";
    /// Where the claim of [`super::TaskKind::RestoreVolume`] is mounted.
    pub const TARGET_FOLDER: &str = "/target";
    /// Settings of the C library's allocator (mallopt(3)): it makes eight arenas a core, and keeps freed memory in each. Two
    /// are enough.
    pub const ALLOCATOR: [(&str, &str); 1] = [("MALLOC_ARENA_MAX", "2")];
    /// The same for what stores, which beside that gives back what is as long as a long chunk at once. That halves its peak,
    /// and costs it next to nothing, since it uses most of its buffers again. Checks and restores would take a third more CPU time.
    pub const STORING_ALLOCATOR: [(&str, &str); 2] = [ALLOCATOR[0], ("MALLOC_MMAP_THRESHOLD_", "1048576")];
    /// What a run may use of memory, whatever the size of the data; with [`ALLOCATOR`] and [`WORK_CPUS`].
    pub const WORK_MEMORY: &str = "192Mi";
    /// CPU limit of a run. It works on as many chunks at once as it sees CPUs, so that without one a node with many
    /// of them would need more memory.
    pub const WORK_CPUS: &str = "2";
    /// Capabilities of a root that restores: to give files to any owner, to write into folders of any owner, to set modes and
    /// times of what is not its own, to keep the bit by which a folder hands its group on, to make devices, and to give
    /// programs their capabilities. Pod Security `baseline` allows all of them.
    pub const RIGHTS_TO_RESTORE: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"];
    /// Where the claim is mounted that a run backs up.
    pub const DATA_FOLDER: &str = "/data";
    /// The node of that claim if it is a block device.
    pub const DATA_DEVICE: &str = "/dev/stowaway-data";
    /// The node of the claim of [`super::TaskKind::RestoreVolume`] if it is a block device.
    pub const TARGET_DEVICE: &str = "/dev/stowaway-target";
    /// Where the report goes (Kubernetes' default termination message path).
    pub const TERMINATION_MESSAGE: &str = "/dev/termination-log";
}

/// One run, as JSON in the environment variable `STOWAWAY_TASK`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    /// Where the repository is.
    pub backend: BackendConfig,
    /// How its store is spoken to. Password and credentials come as files, see `runner::settings`.
    #[serde(default, skip_serializing_if = "Connection::is_plain")]
    pub connection: Connection,
    /// The cluster's id: UID of the namespace kube-system. A run's locks name it; empty where there is no cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// The id of the repository, 64 hex digits, once it was opened. A run does nothing in a repository of another id. Any is
    /// taken when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// What to do.
    pub kind: TaskKind,
    /// What log and report say beside how it went. It stays with the run: a sidecar is not given it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What a run does.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum TaskKind {
    /// Opens the repository, creating it when there is none.
    Init,
    /// Opens the repository, and never creates one.
    Open {
        /// Another id that it may have: that which a person accepts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted: Option<String>,
    },
    /// Dumps one command source.
    Backup {
        /// Whose command, in which container.
        target: TargetCommand,
        /// Its name.
        source: SourceName,
        /// How the snapshot is labelled. Its path gives way to the one that the source's own history has, and to
        /// `alternative_path` when another source's history holds it.
        identity: SnapshotIdentity,
        /// The path when another source was first to claim `identity.path`.
        alternative_path: String,
        /// End the command after this long.
        timeout: Option<Duration>,
        /// End it when no byte moved for this long.
        idle_timeout: Option<Duration>,
        /// Store a stream of 0 bytes.
        allow_empty: bool,
        /// Call a run without proof green.
        accept_unproven: bool,
        /// Store a stream of a known format without the end of that format.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skip_format_check: bool,
    },
    /// Stores one volume of a pod, as its sidecar sees it.
    BackupVolume {
        /// Whose claim.
        target: TargetVolume,
        /// Its name.
        source: SourceName,
        /// How the snapshot is labelled.
        identity: SnapshotIdentity,
        /// What is left out; see [`Excludes`](super::Excludes).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
        /// Whether the volume may be empty, or much smaller than its last good snapshot.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        accept_shrunken: bool,
        /// Give up after this long.
        timeout: Option<Duration>,
    },
    /// Stores one claim, which is mounted at [`mounts::DATA_FOLDER`], or is the device [`mounts::DATA_DEVICE`].
    BackupClaim {
        /// Name of the `PersistentVolumeClaim`.
        claim: String,
        /// Whether it is a block device, which is stored as one file.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        device: bool,
        /// Its name as a source.
        source: SourceName,
        /// How the snapshot is labelled.
        identity: SnapshotIdentity,
        /// What is left out; see [`Excludes`](super::Excludes).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
        /// Whether the volume may be empty, or much smaller than its last good snapshot.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        accept_shrunken: bool,
        /// Give up after this long.
        timeout: Option<Duration>,
    },
    /// Streams one stored file into a command's stdin.
    Restore {
        /// Name of the Restore object in the run's namespace: a command of its author's own is read from there.
        restore: String,
        /// Into which pod and container.
        target: TargetCommand,
        /// Whose snapshot.
        source: SourceName,
        /// Which one; the newest proven one of the source when empty. A prefix of at least 8 hex digits will do.
        snapshot: Option<String>,
        /// The newest that is not younger than this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        as_of: Option<Timestamp>,
        /// Of which host, which is the namespace; when empty, of the run's own, and of any if the snapshot is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// End the command after this long.
        timeout: Option<Duration>,
        /// End it when no byte moved for this long.
        idle_timeout: Option<Duration>,
    },
    /// Restores a volume, or a stored file, into the claim at [`mounts::TARGET_FOLDER`], or a stored device onto
    /// [`mounts::TARGET_DEVICE`].
    RestoreVolume(VolumeRestore),
    /// Makes an archive of a volume, or of a stored file, in another store.
    RestoreArchive(Box<ArchiveRestore>),
    /// Looks up a snapshot: which one it is, and how many bytes it has.
    FindSnapshot(WantedSnapshot),
    /// Packs anew what is needed in part once the retention is carried out: beside others that read and write, and ahead of
    /// [`TaskKind::Prune`], which keeps them off.
    Repack {
        /// As that of the prune.
        #[serde(default, skip_serializing_if = "Retention::is_empty")]
        retention: Retention,
        /// As that of the prune.
        time_zone: String,
    },
    /// Forgets the snapshots that the retention drops, then removes what no snapshot needs: in one exclusive opening.
    Prune {
        /// Which snapshots stay; all when it is empty.
        #[serde(default, skip_serializing_if = "Retention::is_empty")]
        retention: Retention,
        /// IANA name of the time zone whose hours and days the retention counts.
        time_zone: String,
        /// Bytes that were packed anew for this, so that the store has them twice.
        repacked_bytes: u64,
    },
    /// Looks at all indexes, snapshots and trees, and reads one part of the data byte by byte.
    Check {
        /// Which part.
        part: DataPart,
    },
    /// Waits for the CLI's questions (`snapshots`, `ls`, `dump`), which come by exec.
    Answer {
        /// Ends after this long.
        timeout: Duration,
    },
}

impl Task {
    /// The same task, which restores the snapshots of its own cluster first.
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
    /// Whether the run execs in a pod.
    pub fn execs(&self) -> bool {
        matches!(self, Self::Backup { .. } | Self::BackupVolume { .. } | Self::Restore { .. })
    }
}

/// Which snapshot of which source.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WantedSnapshot {
    /// Whose.
    pub source: SourceName,
    /// Its id, or at least the first 8 hex digits; the newest proven one of the source when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The newest that is not younger than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Only those of this host, which is the namespace; those of all when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Id of the cluster whose snapshots come first; those of all clusters count alike when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

/// How a volume is restored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeRestore {
    /// From which snapshot.
    pub from: WantedSnapshot,
    /// Only these paths, relative to the volume's own folder; all of it when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Into this folder of the target, relative to it; into itself when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// How the snapshot is labelled that is made of a target with something in it; without a label, such a target is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<SnapshotIdentity>,
    /// Whether the target is a block device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub device: bool,
    /// Give up after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// A container of one very pod, and which of its annotated commands is meant.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetCommand {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its UID: a pod of the same name that came later is another one.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// The name of a named command (`backupcommand.<name>`), or none for the plain one.
    pub command: Option<String>,
}

/// A claim, and one very pod whose sidecar has it mounted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetVolume {
    /// Namespace of the pod, and of the claim.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Its UID: a pod of the same name that came later is another one.
    pub pod_uid: String,
    /// Name of the `PersistentVolumeClaim`.
    pub claim: String,
}
