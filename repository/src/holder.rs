//! The owner that Stowaway writes into its lock files and key files.

/// The owner that a lock file names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LockHolder {
    /// The host name, or a pod's name.
    pub host: String,
    /// The user, or another text that identifies the holder, such as `pod UID ...`.
    pub user: String,
}

impl LockHolder {
    /// Returns the holder for this process. The user includes the PID namespace and the boot, because PIDs of another
    /// namespace or boot are unrelated, so that a missing PID proves nothing. If the system does not provide both, the
    /// user includes a random number, so that this process never judges another holder.
    pub fn of_this_process(host: String, user: &str) -> Self {
        let namespace = std::fs::read_link("/proc/self/ns/pid").ok().map(|link| link.to_string_lossy().into_owned());
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let numbering = match (namespace, boot.as_deref().and_then(|boot| boot.trim().get(..BOOT_DIGITS))) {
            (Some(namespace), Some(boot)) => format!("{namespace} boot {boot}"),
            _ => format!("unknown processes {:016x}", rand::random::<u64>()),
        };
        Self { host, user: format!("{user} [{numbering}]") }
    }
}

/// How many digits of the boot's random id are used.
const BOOT_DIGITS: usize = 8;
