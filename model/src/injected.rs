//! Names and paths of everything that the webhook injects into a pod, which other components rely on.

/// The volume with the helper program, and the init container that copies the program there.
pub const HELPER_VOLUME: &str = "stowaway-helper";
/// Mount path of that volume in the containers of commands, where it is read-only.
pub const HELPER_MOUNT: &str = "/stowaway";
/// The helper program in those containers.
pub const HELPER_PROGRAM: &str = "/stowaway/stowaway-helper";
/// The helper program in Stowaway's image. `HELPER_IN_IMAGE install HELPER_PROGRAM` copies it.
pub const HELPER_IN_IMAGE: &str = "/usr/local/bin/stowaway-helper";

/// The first argument of the sidecar's program.
pub const SIDECAR_ROLE: &str = "sidecar";
pub const SIDECAR_CONTAINER: &str = "stowaway-sidecar";
/// The init container that restores into empty volumes.
pub const RESTORE_CONTAINER: &str = "stowaway-restore";
/// The directory in the sidecar and the restore step under which the pod's volumes are mounted by name.
pub const VOLUMES_FOLDER: &str = "/stowaway-volumes";

/// Environment variable of the sidecar and the restore step: the location of the repository, a [`super::BackendConfig`]
/// as JSON.
pub const BACKEND_VARIABLE: &str = "STOWAWAY_BACKEND";
/// Environment variable with the connection settings of the store, a [`super::Connection`] as JSON; absent if all are
/// defaults.
pub const CONNECTION_VARIABLE: &str = "STOWAWAY_CONNECTION";
/// Environment variable of the restore step: the cluster's id, which its locks contain; absent until a Repository
/// reports it.
pub const CLUSTER_VARIABLE: &str = "STOWAWAY_CLUSTER";
/// Environment variable of the restore step: the id that the repository must have, 64 hex digits; absent until a
/// Repository reports it.
pub const REPOSITORY_ID_VARIABLE: &str = "STOWAWAY_REPOSITORY_ID";
/// The prefix of the restore step's own entries in a volume, which backups exclude.
pub const RESTORE_PREFIX: &str = ".stowaway-restore";
/// The entries which show that a restore has not ended: the directory that it restores into, the marker that the
/// directory is complete, and the same marker before it takes effect.
pub const RESTORE_MARKS: [&str; 3] =
    [".stowaway-restore.part", ".stowaway-restore.whole", ".stowaway-restore.whole.new"];
/// The file that a restore locks while it works on a volume.
pub const RESTORE_LOCK: &str = ".stowaway-restore.lock";

/// The socket on which the sidecar's supervisor listens for requests, which arrive through short execs.
pub const CONTROL_SOCKET: &str = "/tmp/stowaway-sidecar.socket";
/// The volume with the sidecar's sockets for helpers.
pub const SOCKET_VOLUME: &str = "stowaway-socket";
/// Mount path of that volume in the sidecar and in the containers of commands.
pub const SOCKET_MOUNT: &str = "/stowaway-socket";
/// The volume with the password and the credentials of the store, only for the sidecar and the restore step.
pub const STORE_VOLUME: &str = "stowaway-store";
/// Mount path of that volume, with the same files as in the pods of runs, see [`super::mounts`]. The location of the
/// repository is in [`BACKEND_VARIABLE`].
pub const STORE_MOUNT: &str = "/run/stowaway";
/// The volume that a repository is on, only for the sidecar and the restore step. It is mounted as in the pods of runs.
pub const REPOSITORY_VOLUME: &str = "stowaway-repository";
/// The volume for temporary files of the sidecar and the restore step, whose root file systems are read-only.
pub const SCRATCH_VOLUME: &str = "stowaway-scratch";
pub const SCRATCH_MOUNT: &str = "/tmp";

/// The prefix of volumes with a command's Secrets.
pub const SECRET_VOLUME_PREFIX: &str = "stowaway-secret-";
/// The directory in the containers of commands under which those Secrets are mounted by name.
pub const SECRETS_FOLDER: &str = "/stowaway-secrets";
