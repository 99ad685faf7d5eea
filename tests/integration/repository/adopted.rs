//! Repositories which other tools filled by restic: Stowaway lists and restores their snapshots, found by the host and
//! path which each tool sets.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::{
    restic::{Restic, both, newest},
    torture::assert_same_below,
    *,
};

const DUMP: &str = "CREATE TABLE barrels (litres int);\n";

/// Tool, host, path of the snapshot, restic's working directory with the argument of `restic backup`, and a file in the
/// folder.
type Foreign = (&'static str, &'static str, &'static str, (&'static str, &'static str), &'static str);

const FOLDERS: [Foreign; 3] = [
    // K8up in all versions: the namespace is the host, and the claim is in the path.
    ("K8up", "shop", "/data/cask", ("/", "/data/cask"), "deep/life"),
    // VolSync's mover runs in the volume's folder:
    // <https://github.com/backube/volsync/blob/main/mover-restic/entry.sh>. The content of this folder looks like its
    // own parent directory.
    ("VolSync", "volsync", "/data", ("/data", "."), "data/life"),
    // Stash uses its host name by default, and mounts the volume where the app does.
    ("Stash", "host-0", "/source/data", ("/", "/source/data"), "deep/life"),
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

/// Backs up a path with this root and working directory, as the tool's container would.
fn back_up_as(restic: &Restic, repository: &Path, root: &Path, host: &str, (within, path): (&str, &str)) {
    let script = "mkdir host && mount --rbind / host && exec unshare --root . --wd \"$@\"";
    // A symbolic link would be resolved inside the new root.
    let inside = |path: &Path| format!("/host{}", path.canonicalize().unwrap().display());
    let done = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", script, "sh"])
        .args([within, &inside(restic.path()), "--no-cache", "backup", "--host", host, path])
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
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("repository");
        restic.ok(&at, &["init"]);
        let mut dump = restic.command(&at);
        dump.args(["backup", "--host", "shop", "--stdin", "--stdin-filename", "/shop-postgres.sql"]);
        let mut child = dump.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), DUMP.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        for (tool, host, path, arguments, file) in FOLDERS {
            // restic stores the absolute path, so it runs in another root in order that the path does not contain the
            // test's folder.
            let root = dir.path().join(format!("root-of-{tool}"));
            let inner = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(inner.join(file).parent().unwrap()).unwrap();
            fs::write(inner.join(file), tool).unwrap();
            back_up_as(&restic, &at, &root, host, arguments);
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
        for (tool, host, path, _, file) in FOLDERS {
            let target = dir.path().join(tool);
            fs::create_dir(&target).unwrap();
            let restored = repository.restore_folder(id_of(host, path), path, &target, Arc::default()).await.unwrap();
            assert_eq!(restored.files, 1, "{tool}");
            assert_eq!(fs::read_to_string(target.join(file)).unwrap().trim(), tool);
        }
        repository.close().await;
        newest().check(&at);
    }
}

/// Backs up a relative path. Returns the snapshot's id and its path.
fn back_up_in(restic: &Restic, repository: &Path, folder: &Path, path: &str) -> (String, String) {
    let mut backup = restic.command(repository);
    let done = backup.current_dir(folder).args(["backup", path]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all = restic.json(repository, &["snapshots", "--json"]);
    let newest = all.as_array().unwrap().iter().max_by_key(|one| one["time"].as_str().unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (text(&newest["id"]), text(&newest["paths"][0]))
}

#[tokio::test]
async fn snapshot_of_a_relative_path_comes_back_as_the_folder_that_it_was() {
    for restic in both() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("repository");
        restic.ok(&at, &["init"]);
        let folder_of = |name: &str, files: &[&str]| {
            let folder = dir.path().canonicalize().unwrap().join(name);
            for file in files {
                fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
                fs::write(folder.join(file), file).unwrap();
            }
            folder
        };
        let volume = folder_of("volume", &["life", "deep/life"]);
        // One of the entries has the same name as its folder.
        let more = folder_of("other", &["other/life", "life"]);
        let snapshots = [
            (back_up_in(&restic, &at, &volume, "."), &volume),
            (back_up_in(&restic, &at, &more, "."), &more),
            (back_up_in(&restic, &at, volume.parent().unwrap(), "volume"), &volume),
            (back_up_in(&restic, &at, dir.path(), volume.to_str().unwrap()), &volume),
        ];
        let repository = stowaway::repository::open(folder(&at), never()).await.unwrap();
        for (number, ((id, path), expected)) in snapshots.iter().enumerate() {
            assert_eq!(path, expected.to_str().unwrap());
            let target = dir.path().join(format!("restored-{number}"));
            fs::create_dir(&target).unwrap();
            repository.restore_folder(id, path, &target, Arc::default()).await.unwrap();
            assert_same_below(expected, &target);
        }
        repository.close().await;
    }
}
