//! Repositories that other tools have filled with restic are listed and restored from: each with the labels that the tool
//! gives, as its sources say.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::{
    restic::{Restic, both, newest},
    *,
};

const DUMP: &str = "CREATE TABLE barrels (litres int);\n";

/// Who wrote, as restic's host and path.
const FOLDERS: [(&str, &str, &str); 3] = [
    // K8up, all of its eras: the namespace, and the claim.
    ("K8up", "shop", "/data/cask"),
    // VolSync's mover is in the volume's folder: <https://github.com/backube/volsync/blob/main/mover-restic/entry.sh>.
    ("VolSync", "volsync", "/data"),
    // Stash names its host by default, and mounts where the app does.
    ("Stash", "host-0", "/source/data"),
];

fn stowaway(repository: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_stowaway"))
        .env("RESTIC_PASSWORD", PASSWORD)
        .args(arguments)
        .arg("--repository")
        .arg(repository)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Backs up a path of that root under its own name, as from within the tool's container.
fn back_up_as(restic: &Restic, repository: &Path, root: &Path, host: &str, path: &str) {
    let script = "mkdir host && mount --rbind / host && exec chroot . \"$@\"";
    // A link would lead into the root, and not out of it.
    let inside = |path: &Path| format!("/host{}", path.canonicalize().unwrap().display());
    let done = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", script, "sh"])
        .args([&inside(restic.path()), "--no-cache", "backup", "--host", host, path])
        .current_dir(root)
        .env("RESTIC_PASSWORD", PASSWORD)
        .env("TMPDIR", "/host/tmp")
        .env("RESTIC_REPOSITORY", inside(repository))
        .output()
        .unwrap();
    assert!(done.status.success(), "{path}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn snapshots_of_other_tools_are_listed_and_restored() {
    for restic in both() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().join("repository");
        restic.ok(&at, &["init"]);
        let mut dump = restic.command(&at);
        dump.args(["backup", "--host", "shop", "--stdin", "--stdin-filename", "/shop-postgres.sql"]);
        let mut child = dump.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), DUMP.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        for (tool, host, path) in FOLDERS {
            // Relative to a folder of this test restic stores the whole path, so it is told to be in another root.
            let root = place.path().join(format!("root-of-{tool}"));
            let inner = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(inner.join("deep")).unwrap();
            fs::write(inner.join("deep/life"), tool).unwrap();
            back_up_as(&restic, &at, &root, host, path);
        }
        let listed: serde_json::Value =
            serde_json::from_slice(&stowaway(&at, &["snapshots", "--output", "json"])).unwrap();
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), 4, "{listed:?}");
        let id_of = |host: &str, path: &str| {
            let is_it = |one: &&serde_json::Value| {
                one.to_string().contains(&format!("\"{host}\"")) && one.to_string().contains(&format!("\"{path}\""))
            };
            listed.iter().find(is_it).unwrap_or_else(|| panic!("{host} {path}: {listed:?}"))["id"].as_str().unwrap()
        };
        assert_eq!(stowaway(&at, &["dump", id_of("shop", "/shop-postgres.sql")]), DUMP.as_bytes());
        let repository = stowaway::repository::open(folder(&at), never()).await.unwrap();
        for (tool, host, path) in FOLDERS {
            let target = place.path().join(tool);
            fs::create_dir(&target).unwrap();
            let restored = repository.restore_folder(id_of(host, path), path, &target, Arc::default()).await.unwrap();
            assert_eq!(restored.files, 1, "{tool}");
            assert_eq!(fs::read_to_string(target.join("deep/life")).unwrap().trim(), tool);
        }
        repository.close().await;
        newest().check(&at);
    }
}
