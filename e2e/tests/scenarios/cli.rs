//! The CLI, as a user or a script uses it: in the cluster, as a plugin of kubectl, and without a cluster.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stowaway_e2e::{
    Kind, Namespace, Restic, S3, Sequence, Workload, in_namespace, process, runs::ensure_contains, sequence, workload,
};

const DUMP: Sequence = Sequence::new(Kind::Every, 3, 5_000_003);

fn exits(what: &str, output: &Output, code: i32) -> Result<()> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "{what}: {} and not {code}\nstdout: {}\nstderr: {}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(())
}

fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).context("stdout is not one JSON document")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_in_the_cluster_with_json_and_stable_exit_codes() -> Result<()> {
    in_namespace("cli", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        let pods = [
            Workload::dumping(namespace, "good", &DUMP).annotate("stowaway.dev/file-extension", ".bin"),
            Workload::toolbox(namespace, "bad", "emit --bytes 1k --stderr-bytes 128 --exit 7"),
            Workload::new(namespace, "bare", "shell-less")
                .container("bare")
                .annotate(workload::INJECT, "none")
                .annotate(workload::COMMAND, &DUMP.command()),
        ];
        workload::start_all(namespace, &pods).await?;
        let run = |arguments: &[&str]| process::output(&mut namespace.stowaway(arguments)?);
        let backup = |name: &str, app: &str| {
            let selector = format!("app={app}");
            run(&["backup", "--name", name, "--wait", "--retry-limit", "0", "-l", &selector, "-o", "json"])
        };
        let good = backup("good", "good")?;
        exits("a green backup", &good, 0)?;
        let id =
            json(&good)?["status"]["sources"][0]["snapshot"].as_str().context("no snapshot in the JSON")?.to_owned();
        let bad = backup("bad", "bad")?;
        exits("a failed backup", &bad, 1)?;
        ensure!(json(&bad)?["status"]["sources"][0]["exitCode"] == 7, "no exit code in the JSON");
        exits("an unproven backup", &backup("bare", "bare")?, 3)?;
        exits("a name that is taken", &run(&["backup", "--name", "good"])?, 2)?;
        exits("an unknown option", &run(&["backup", "--everything"])?, 2)?;

        let listed = run(&["snapshots", "-o", "json", "--source", "pod/good/main"])?;
        exits("snapshots", &listed, 0)?;
        let listed = json(&listed)?;
        ensure!(listed.as_array().is_some_and(|all| all.len() == 1) && listed[0]["id"] == id.as_str(), "{listed}");
        let files = run(&["ls", &id[..8], "-o", "json"])?;
        exits("ls", &files, 0)?;
        let path = format!("/{}-main.bin", namespace.name);
        ensure_contains("ls", &json(&files)?.to_string(), &[&path, &DUMP.bytes.to_string()])?;
        let dumped = run(&["dump", &id[..8]])?;
        exits("dump", &dumped, 0)?;
        ensure!(sequence::digest(&dumped.stdout) == DUMP.digest(), "dump returns other bytes");
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let closed = process::output(namespace.stowaway(&["dump", &id[..8]])?.stdout(writer))?;
        exits("a dump whose reader has ended", &closed, 141)?;
        exits("dump of nothing", &run(&["dump", "00000000"])?, 1)?;

        let check = format!("{} --check", DUMP.command());
        let restore = |name: &str, command: &[&str]| {
            let arguments = ["restore", "--name", name, "--source", "pod/good/main", "--wait", "-o", "json", "--"];
            run(&[&arguments[..], command].concat())
        };
        let restored = restore("good", &check.split(' ').collect::<Vec<_>>())?;
        exits("a green restore", &restored, 0)?;
        ensure!(json(&restored)?["status"]["verdict"] == "Succeeded", "{:?}", json(&restored)?["status"]);
        exits("a failed restore", &restore("bad", &["sh", "-c", "cat >/dev/null; exit 3"])?, 1)?;

        let logs = run(&["logs", "bad"])?;
        exits("logs", &logs, 0)?;
        ensure_contains(
            "the log",
            &String::from_utf8_lossy(&logs.stdout),
            &["pod/bad/main", "INSERT INTO stowage", "CommandFailed"],
        )?;
        // `restore/` is needed, because a Backup has the same name.
        let of_restore = run(&["logs", "restore/bad", "-o", "json"])?;
        exits("logs of a Restore", &of_restore, 0)?;
        let lines = String::from_utf8_lossy(&of_restore.stdout).into_owned();
        ensure!(lines.lines().all(|line| line.contains(r#""kind":"restore""#)), "{lines}");
        exits("logs of nothing", &run(&["logs", "nothing"])?, 2)?;

        // Runs `stowaway` as a plugin of kubectl.
        let folder = tempfile::tempdir()?;
        symlink(process::stowaway()?, folder.path().join("kubectl-stowaway"))?;
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
        let mut plugin = namespace.command(process::program("kubectl"));
        let plugged = process::output(plugin.env("PATH", path).args(["stowaway", "snapshots", "-n", &namespace.name]))?;
        exits("kubectl stowaway", &plugged, 0)?;
        ensure_contains(
            "kubectl stowaway snapshots",
            &String::from_utf8_lossy(&plugged.stdout),
            &[&id[..8], "pod/good/main"],
        )
    })
    .await
}

/// Runs `stowaway` without a cluster, on a repository that restic's environment variables specify.
fn local(repository: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(process::stowaway()?);
    command.env_remove("KUBECONFIG").env("RESTIC_REPOSITORY", repository).env("RESTIC_PASSWORD", "local");
    process::output(command.args(arguments))
}

#[test]
fn the_same_commands_work_without_a_cluster_and_a_failed_dump_leaves_no_snapshot() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let repository = folder.path().join("repository");
    let restic = Restic::folder(&repository, "local");
    let emit = process::program("emit").display().to_string();
    let options = ["backup", "--init", "--source", "job/shop/emit", "--stdin-filename", "dump.bin", "-o", "json", "--"];
    let back_up = |more: &[&str]| {
        let command = DUMP.command();
        let arguments: Vec<&str> = command.split(' ').skip(1).collect();
        local(&repository, &[&options[..], &[&emit], &arguments, more].concat())
    };
    exits("a failing command", &back_up(&["--exit", "4"])?, 1)?;
    ensure!(restic.snapshots()?.is_empty(), "a failed command left a snapshot");
    let missing = local(&repository, &["backup", "--", "no-such-program"])?;
    exits("a command that does not exist", &missing, 1)?;
    exits("no command at all", &local(&repository, &["backup"])?, 2)?;

    let stored = back_up(&[])?;
    exits("a green backup", &stored, 0)?;
    ensure!(json(&stored)?["digest"] == DUMP.digest().as_str(), "{:?}", json(&stored)?);
    let snapshots = restic.snapshots()?;
    let [snapshot] = snapshots.as_slice() else { anyhow::bail!("{} snapshots", snapshots.len()) };
    for program in stowaway_e2e::restic::RESTICS {
        ensure!(restic.dump(program, snapshot)?.0 == DUMP.digest(), "{program} dumps other bytes");
        restic.check(program, true)?;
    }
    let listed = local(&repository, &["snapshots", "-o", "json"])?;
    exits("snapshots", &listed, 0)?;
    ensure!(json(&listed)?[0]["id"] == snapshot.id.as_str(), "{:?}", json(&listed)?);
    exits("ls", &local(&repository, &["ls", &snapshot.id[..8]])?, 0)?;
    let dumped = local(&repository, &["dump", &snapshot.id[..8], "/dump.bin"])?;
    ensure!(sequence::digest(&dumped.stdout) == DUMP.digest(), "dump returns other bytes");

    let restored = folder.path().join("restored");
    let script = format!("cat >{}", restored.display());
    let restore =
        |command: &[&str]| local(&repository, &[&["restore", "--source", "job/shop/emit", "--"], command].concat());
    exits("a green restore", &restore(&["sh", "-c", &script])?, 0)?;
    ensure!(sequence::digest(&std::fs::read(&restored)?) == DUMP.digest(), "restore returns other bytes");
    exits("a failing restore", &restore(&["sh", "-c", "cat >/dev/null; exit 5"])?, 1)?;

    let logged = local(&repository, &["--log-format", "json", "backup", "--", &emit, "--bytes", "1", "--exit", "4"])?;
    exits("a failing command, logged as JSON", &logged, 1)?;
    for line in String::from_utf8_lossy(&logged.stderr).lines().filter(|line| !line.starts_with("error: ")) {
        let event: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        ensure!(["timestamp", "level", "message"].iter().all(|field| event[field].is_string()), "{line}");
    }

    let mut wrong = Command::new(process::stowaway()?);
    wrong.env("RESTIC_REPOSITORY", &repository).env("RESTIC_PASSWORD", "wrong").arg("snapshots");
    let refused = process::output(&mut wrong)?;
    exits("a wrong password", &refused, 1)?;
    ensure_contains("a wrong password", &String::from_utf8_lossy(&refused.stderr), &["password"])
}
