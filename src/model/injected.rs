//! What the webhook puts into a pod and others rely on: names and places.
//!
//! Pure data. It must not know who puts them there, nor who reads them.

/// The volume with the helper program in it, and the init container that copies it there.
pub const HELPER_VOLUME: &str = "stowaway-helper";
/// Where the containers of the commands find that volume, which they cannot write to.
pub const HELPER_MOUNT: &str = "/stowaway";
/// The helper program in those containers.
pub const HELPER_PROGRAM: &str = "/stowaway/stowaway-helper";
/// The helper program in our image. `HELPER_IN_IMAGE install HELPER_PROGRAM` copies it.
pub const HELPER_IN_IMAGE: &str = "/usr/local/bin/stowaway-helper";

/// What the sidecar's program is started as.
pub const SIDECAR_ROLE: &str = "sidecar";
/// The sidecar.
pub const SIDECAR_CONTAINER: &str = "stowaway-sidecar";
/// The init container that fills empty volumes.
pub const RESTORE_CONTAINER: &str = "stowaway-restore";
/// Where sidecar and restore step find the pod's volumes, each in a folder of its name.
pub const VOLUMES_FOLDER: &str = "/stowaway-volumes";

/// Environment variable of sidecar and restore step: where the repository is, a [`super::BackendConfig`] as JSON.
pub const BACKEND_VARIABLE: &str = "STOWAWAY_BACKEND";
/// Environment variable with how its store is spoken to, a [`super::Connection`] as JSON; absent when there is nothing to
/// say.
pub const CONNECTION_VARIABLE: &str = "STOWAWAY_CONNECTION";
/// Environment variable of the restore step: the cluster's id, which its locks name; absent as long as no Repository says it.
pub const CLUSTER_VARIABLE: &str = "STOWAWAY_CLUSTER";
/// Environment variable of the restore step: the id of the repository, 64 hex digits, which it must have; absent as long as
/// no Repository says it.
pub const REPOSITORY_ID_VARIABLE: &str = "STOWAWAY_REPOSITORY_ID";
/// What the names of the restore step's own entries in a volume begin with; backups leave them out.
pub const RESTORE_PREFIX: &str = ".stowaway-restore";
/// The entries which show that a restore has not ended: the folder that it restores into, the mark that all is in that
/// folder, and the same before it counts.
pub const RESTORE_MARKS: [&str; 3] =
    [".stowaway-restore.part", ".stowaway-restore.whole", ".stowaway-restore.whole.new"];
/// The file that a restore locks as long as it works on a volume.
pub const RESTORE_LOCK: &str = ".stowaway-restore.lock";

/// Where the sidecar's supervisor listens for requests, which come by small execs.
pub const CONTROL_SOCKET: &str = "/tmp/stowaway-sidecar.socket";
/// The volume with the sidecar's sockets for helpers in it.
pub const SOCKET_VOLUME: &str = "stowaway-socket";
/// Where sidecar and helper find that volume.
pub const SOCKET_MOUNT: &str = "/stowaway-socket";
/// The volume with password and credentials of the store, for sidecar and restore step alone.
pub const STORE_VOLUME: &str = "stowaway-store";
/// Where it is mounted: as the pods of runs have it, see [`super::mounts`]. Where the repository is stands in
/// [`BACKEND_VARIABLE`].
pub const STORE_MOUNT: &str = "/run/stowaway";
/// The volume that a repository is on, for sidecar and restore step alone, mounted as the pods of runs have it.
pub const REPOSITORY_VOLUME: &str = "stowaway-repository";
/// The volume for temporary files of sidecar and restore step, whose own file systems cannot be written to.
pub const SCRATCH_VOLUME: &str = "stowaway-scratch";
/// Where it is mounted.
pub const SCRATCH_MOUNT: &str = "/tmp";

/// What the names of volumes with the command's Secrets begin with.
pub const SECRET_VOLUME_PREFIX: &str = "stowaway-secret-";
/// Where the containers of the commands find those Secrets, each in a folder of its name.
pub const SECRETS_FOLDER: &str = "/stowaway-secrets";
