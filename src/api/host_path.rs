//! The directories of a node that no store may be in, because the node itself executes or trusts their files. A store
//! there would let its author, or the holder of a stolen token of the controller, control the node.
//!
//! No list can be complete: a link on the node may lead from another directory into one of these.

/// Directories that a store must neither be in nor contain, each with a slash at its end: of the operating system, of
/// the container runtime, of Kubernetes, and of the volumes of other pods.
pub const NODE_FOLDERS: [&str; 39] = [
    "/bin/",
    "/boot/",
    "/dev/",
    "/etc/",
    "/lib/",
    "/lib32/",
    "/lib64/",
    "/opt/bin/",
    "/opt/cni/",
    "/opt/local-path-provisioner/",
    "/proc/",
    "/root/",
    "/run/",
    "/sbin/",
    "/snap/",
    "/sys/",
    "/usr/",
    "/var/lib/calico/",
    "/var/lib/cloud/",
    "/var/lib/cni/",
    "/var/lib/containerd/",
    "/var/lib/containers/",
    "/var/lib/cri-dockerd/",
    "/var/lib/crio/",
    "/var/lib/docker/",
    "/var/lib/dpkg/",
    "/var/lib/etcd/",
    "/var/lib/k0s/",
    "/var/lib/kube-proxy/",
    "/var/lib/kubelet/",
    "/var/lib/rancher/",
    "/var/lib/rpm/",
    "/var/lib/systemd/",
    "/var/local-path-provisioner/",
    "/var/lock/",
    "/var/log/",
    "/var/run/",
    "/var/snap/",
    "/var/spool/",
];

/// A path from the root, of directories whose names do not begin with a dot: neither `.` and `..`, nor directories of
/// settings and keys, such as `.ssh`. An expression for regular expressions of RE2 and of Rust.
pub const HOST_PATH_PATTERN: &str = "^(/[^/.][^/]*)+/?$";

/// The types of a `hostPath` volume that are directories.
pub const HOST_PATH_TYPES: [&str; 3] = ["", "Directory", "DirectoryOrCreate"];

/// Why no store may be in this directory of a node; `None` if a store may be there.
pub fn host_path_problem(path: &str) -> Option<String> {
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let names: Vec<&str> = match trimmed.strip_prefix('/') {
        Some(relative) => relative.split('/').collect(),
        None => return Some("has to be an absolute path of a directory, and not /".to_owned()),
    };
    if names.iter().any(|name| name.is_empty() || name.starts_with('.')) {
        return Some("has to be an absolute path of directories whose names do not begin with '.'".to_owned());
    }
    if matches!(names[..], ["home"] | ["home", _]) {
        return Some("contains the settings and keys of a user: name a directory below".to_owned());
    }
    let path = format!("{trimmed}/");
    let folder = NODE_FOLDERS.iter().find(|folder| path.starts_with(**folder) || folder.starts_with(&path))?;
    let relation = if path.starts_with(*folder) { "is in" } else { "contains" };
    Some(format!("{relation} {folder}, whose files the node itself uses: name another directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_is_in_no_directory_that_the_node_itself_uses() {
        for path in [
            "",
            "/",
            "//",
            "relative",
            "/etc",
            "/etc/",
            "/etc/cron.d",
            "/var",
            "/var/",
            "/var/lib",
            "/var/lib/kubelet/pods",
            "/var/lib/rancher/k3s/server/db",
            "/run/containerd",
            "/opt",
            "/home",
            "/home/mill",
            "/home/mill/",
            "/home/mill/.ssh",
            "/srv/../etc",
            "/srv/./x",
            "/srv//x",
            "/srv/x//",
        ] {
            assert!(host_path_problem(path).is_some(), "{path} is admitted");
        }
        for path in
            ["/srv", "/srv/backups/", "/etcetera", "/var/lib/stowaway", "/var/backups", "/opt/mill", "/home/mill/casks"]
        {
            assert_eq!(host_path_problem(path), None, "{path}");
        }
    }

    #[test]
    fn every_directory_of_the_node_is_listed_as_it_is_compared() {
        for folder in NODE_FOLDERS {
            assert!(folder.starts_with('/') && folder.ends_with('/') && !folder.contains("//"), "{folder}");
        }
    }
}
