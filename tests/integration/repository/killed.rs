//! Prune and check, killed while they run: restic finds no error, the next prune succeeds, and no lock is left.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use super::{prune::store_folder, restic::newest, *};

/// How many times the prune is killed.
const KILLS: usize = 12;

/// The program with this repository, as the user of this process.
fn command(repository: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stowaway"));
    command
        .env_clear()
        .envs([("RESTIC_PASSWORD", PASSWORD), ("USER", "tester")])
        .args(arguments)
        .arg("--repository")
        .arg(repository)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(repository: &Path, arguments: &[&str]) -> Output {
    command(repository, arguments).output().unwrap()
}

/// Standard output of a call which must succeed.
fn ok(repository: &Path, arguments: &[&str]) -> String {
    let output = run(repository, arguments);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

fn all_files(repository: &Path) -> BTreeSet<PathBuf> {
    ["data", "index", "locks"].iter().flat_map(|folder| files_in_while_they_change(&repository.join(folder))).collect()
}

/// The files which exist at some moment of the listing.
fn files_in_while_they_change(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files_in_while_they_change(&path),
            // The name of a file which is still being written begins with a dot.
            _ if entry.file_name().to_string_lossy().starts_with('.') => Vec::new(),
            path => vec![path],
        })
        .collect()
}

/// Kills the program once it has changed this many files. Returns false if it ended before.
fn kill_after(mut child: Child, repository: &Path, before: &BTreeSet<PathBuf>, changes: usize) -> bool {
    let killed = loop {
        if all_files(repository).symmetric_difference(before).count() >= changes {
            break true;
        }
        if child.try_wait().unwrap().is_some() {
            break false;
        }
        std::thread::yield_now();
    };
    child.kill().unwrap();
    child.wait().unwrap();
    killed
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

/// A repository in which much must be removed and repacked.
async fn to_prune(dir: &Path) -> PathBuf {
    let (path, source) = (dir.join("repository"), dir.join("source"));
    let repository = new_repository(&path).await;
    let mut ids = Vec::new();
    for state in 0..3 {
        for number in 0..60_u64 {
            fs::create_dir_all(source.join((number % 5).to_string())).unwrap();
            let seed = if number % 3 == 0 { number } else { 1000 * state + number };
            fs::write(source.join((number % 5).to_string()).join(number.to_string()), noise(300_000, seed)).unwrap();
        }
        ids.push(store_folder(&repository, &source).await);
    }
    for number in 0..20 {
        store(&repository, "/db.sql", &noise(1000, number)).await;
    }
    repository.close().await;
    ok(&path, &["forget", &ids[0], &ids[1]]);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_prune_leaves_a_sound_repository_that_the_next_one_prunes() {
    let dir = tempfile::tempdir().unwrap();
    let begun = to_prune(dir.path()).await;
    let changes = {
        let path = dir.path().join("whole");
        copy(&begun, &path);
        let before = all_files(&path);
        ok(&path, &["prune", "--max-unused", "0"]);
        newest().check(&path);
        all_files(&path).symmetric_difference(&before).count()
    };
    assert!(changes > KILLS, "{changes}");
    for kill in 0..KILLS {
        let path = dir.path().join(kill.to_string());
        copy(&begun, &path);
        let before = all_files(&path);
        let child = command(&path, &["prune", "--max-unused", "0"]).spawn().unwrap();
        kill_after(child, &path, &before, 1 + kill * changes / KILLS);
        newest().check_without_lock(&path);
        ok(&path, &["prune", "--max-unused", "0"]);
        assert!(locks_in(&path).is_empty(), "{kill}: a lock is left");
        newest().check(&path);
        let stdout = ok(&path, &["check", "--read-data"]);
        assert!(stdout.contains("no problems found") && stdout.contains(" 0 unreferenced packs"), "{kill}: {stdout}");
        fs::remove_dir_all(&path).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_check_blocks_no_other_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = to_prune(dir.path()).await;
    let before = all_files(&path);
    let child = command(&path, &["check", "--read-data"]).spawn().unwrap();
    assert!(kill_after(child, &path, &before, 1), "it has a lock while it reads");
    assert!(!newest().run(&path, &["prune"]).status.success(), "restic cannot know that it is dead");
    let stdout = ok(&path, &["prune"]);
    assert!(stdout.contains("freed"), "{stdout}");
    newest().check(&path);
}

/// The files which a writer of Stowaway has not finished.
fn unfinished(repository: &Path) -> BTreeSet<PathBuf> {
    let is_unfinished = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with('.') && path.extension() == Some("part".as_ref())
    };
    files_in(repository, "").into_iter().filter(is_unfinished).collect()
}

/// Kills writers until one of them leaves an unfinished pack.
fn leave_a_pack(path: &Path) {
    let data = path.join("data");
    let has_part = || {
        let folders = fs::read_dir(&data).into_iter().flatten().flatten();
        let mut names = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
        names.any(|entry| entry.file_name().to_string_lossy().starts_with('.'))
    };
    for _ in 0..50 {
        let mut writer = command(path, &["backup"]);
        writer.args(["--stdin-filename", "noise", "--", "head", "-c", "60000000", "/dev/urandom"]);
        let mut writer = writer.env("PATH", "/usr/bin:/bin").spawn().unwrap();
        while !has_part() {
            assert!(writer.try_wait().unwrap().is_none(), "it wrote no pack");
            std::thread::yield_now();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        if has_part() {
            return;
        }
    }
    panic!("no writer left anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_removes_what_killed_writers_left_unfinished_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repository");
    let repository = new_repository(&path).await;
    let stored = store(&repository, "/db.sql", &noise(100_000, 1)).await;
    repository.close().await;
    leave_a_pack(&path);
    let (hash, chance) = ("ab".repeat(32), "0123456789abcdef");
    let part = format!(".{hash}-{chance}.part");
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(7);
    let put = |file: &str, is_old: bool| {
        let file = path.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "unfinished").unwrap();
        if is_old {
            fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        }
        file
    };
    let mut removed: Vec<PathBuf> =
        ["index", "snapshots", "data/ab", "data/00"].map(|at| put(&format!("{at}/{part}"), false)).into();
    removed.extend(["locks", "keys"].map(|at| put(&format!("{at}/{part}"), true)));
    removed.push(put(&format!(".config-{chance}.part"), true));
    let mut stays = vec![
        // The writer of a young file may still be running, and will wait for the prune's lock.
        put(&format!("locks/{part}").replace("ab", "cd"), false),
        put(&format!("keys/{part}").replace("ab", "cd"), false),
        put(&format!(".config-{}.part", chance.replace('0', "f")), false),
        // Temporary files of restic, and names which no program writes.
        put(&format!("data/ab/{hash}-tmp-1234567890"), true),
        put(&format!("data/ab/.{hash}.part"), true),
        put(&format!("data/.{hash}-{chance}.part"), true),
        put(&format!("data/ab/.notes-{chance}.part"), true),
        put(&format!("index/.{hash}-{chance}x.part"), true),
        put(&format!("other/{part}"), true),
    ];
    let link = path.join(format!("index/.{}-{chance}.part", "ef".repeat(32)));
    std::os::unix::fs::symlink(&stays[0], &link).unwrap();
    stays.push(link);

    ok(&path, &["prune", "--dry-run"]);
    assert!(removed.iter().all(|file| file.exists()), "a dry run removes nothing");
    let stdout = ok(&path, &["prune"]);
    let left: Vec<&PathBuf> = removed.iter().filter(|file| file.exists()).collect();
    assert!(left.is_empty(), "{left:?}: {stdout}");
    assert!(stays.iter().all(|file| fs::symlink_metadata(file).is_ok()), "{stays:?}");
    let known: BTreeSet<PathBuf> = stays.into_iter().collect();
    assert!(unfinished(&path).is_subset(&known), "{:?}", unfinished(&path));
    newest().check_without_lock(&path);
    assert!(newest().ok(&path, &["dump", &stored.snapshot, "/db.sql"]) == noise(100_000, 1));
}
