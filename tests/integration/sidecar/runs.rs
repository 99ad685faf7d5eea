//! The outcomes of runs: they are stored, fail, are cut, are killed and are found again, and are never reported as
//! successful without a snapshot.

use std::{cell::Cell, os::unix::fs::PermissionsExt, path::Path};

use jiff::{SignedDuration, Timestamp};
use stowaway::{
    exec::Session,
    model::{Proof, Reason, Task, TaskKind, Verdict},
    runner::sidecar::{SidecarOutcome, drive},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::pod::{Pod, SOURCE, kill, kill_all, lives, path, sidecar_run};
use crate::{
    helper::noise,
    repository::collect,
    shell::{DEADLINE, OpenFolder, container::eventually, strings},
};

/// A command which records that it ran and its process id, and then waits until the file `gate` exists.
fn waits_for(folder: &OpenFolder, gate: &Path) -> Vec<String> {
    let script = format!(
        "echo run >>{}; echo $$ >{}; echo begun >&2; while ! [ -e {} ]; do sleep 0.05; done; echo content",
        folder.file("runs").display(),
        folder.file("pid").display(),
        gate.display()
    );
    strings(&["sh", "-c", &script])
}

fn count(folder: &OpenFolder) -> usize {
    std::fs::read_to_string(folder.file("runs")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn command_is_stored_through_the_socket_and_comes_back_by_it() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let data = noise(10_000_000);
    let (from, to) = (folder.file("from"), folder.file("to"));
    std::fs::write(&from, &data).unwrap();
    let report = pod.backup("first", &strings(&["cat", &path(&from)])).await;
    assert_eq!((report.verdict, report.proof, report.bytes), (Verdict::Succeeded, Proof::Sealed, 10_000_000));
    assert!(pod.run_sockets().is_empty());
    let repository = pod.repository().await;
    let file = repository.read_file(&report.snapshot.unwrap(), "/orchard-press.bin").await.unwrap();
    assert!(collect(file).await == data);
    repository.close().await;

    let command = strings(&["sh", "-c", "cat >\"$0\"; echo restored; echo and reported so >&2", &path(&to)]);
    let Ok(SidecarOutcome::Report(report)) = pod.drive("undo", &pod.restore_task(), Some(&command)).await else {
        panic!()
    };
    assert_eq!((report.verdict, report.proof), (Verdict::Succeeded, Proof::Sealed), "{}", report.message);
    assert!(std::fs::read(&to).unwrap() == data);
    for line in ["restored", "and reported so", "storing as /orchard-press.bin", "run first has ended: report"] {
        assert!(pod.log().contains(line), "{line}: {}", pod.log());
    }
}

#[tokio::test]
async fn failing_command_is_the_runs_failure_and_leaves_no_snapshot() {
    let pod = Pod::start().await;
    for (id, script, reason, exit_code) in [
        ("a", "printf half; echo the reason >&2; exit 7", Reason::CommandFailed, Some(7)),
        ("b", "printf half; kill -9 $$", Reason::CommandKilled, Some(137)),
        ("c", "exit 0", Reason::EmptyStream, None),
    ] {
        let report = pod.backup(id, &strings(&["sh", "-c", script])).await;
        assert_eq!((report.verdict, report.reason), (Verdict::Failed, reason), "{}", report.message);
        assert!(exit_code.is_none() || report.exit_code == exit_code);
        assert!(id != "a" || report.stderr_tail.contains("the reason"), "{report:?}");
    }
    let report = pod.backup("d", &strings(&["no-such-program"])).await;
    assert_eq!(report.reason, Reason::CommandNotFound);
    assert_eq!(pod.snapshots().await.len(), 0);
}

#[tokio::test]
async fn sidecar_whose_clock_is_behind_the_controllers_runs_nothing() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let created = Timestamp::now() + SignedDuration::from_hours(2 * 365 * 24);
    let command = strings(&["sh", "-c", "echo run >>\"$0\"; echo content", &path(&folder.file("runs"))]);
    for (id, task) in [("late-1", pod.backup_task("late")), ("late-2", pod.volume_task("harvest", "late"))] {
        let command = matches!(task.kind, TaskKind::Backup { .. }).then_some(&command[..]);
        let task = Task { not_before: Some(created), ..task };
        let driven = pod.drive(id, &task, command).await;
        let Ok(SidecarOutcome::Report(report)) = driven else { panic!("{driven:?}") };
        assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::ClockBehind), "{}", report.message);
        for part in [format!("{created:.0}"), "pod orchard/mill-0".to_owned()] {
            assert!(report.message.contains(&part), "{part}: {}", report.message);
        }
        eventually(|| pod.children().is_empty()).await;
    }
    assert_eq!((count(&folder), pod.snapshots().await.len()), (0, 0));
}

#[tokio::test]
async fn two_starts_of_one_run_are_one_run() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let gate = folder.file("gate");
    let command = waits_for(&folder, &gate);
    let task = pod.backup_task("evening");
    let open = async {
        folder.pid().await;
        std::fs::write(&gate, "").unwrap();
    };
    // The third drive is another attempt of the same run, by another Job.
    let (one, two, three, ()) = tokio::join!(
        pod.drive("evening-1", &task, Some(&command)),
        pod.drive("evening-1", &task, Some(&command)),
        pod.drive("evening-2", &task, Some(&command)),
        open
    );
    for driven in [one, two, three] {
        let Ok(SidecarOutcome::Report(report)) = driven else { panic!("{driven:?}") };
        assert_eq!((report.verdict, report.proof), (Verdict::Succeeded, Proof::Sealed), "{}", report.message);
    }
    assert_eq!((count(&folder), pod.snapshots().await.len()), (1, 1));
}

#[tokio::test]
async fn run_outlives_its_job_and_the_next_attempt_finds_it() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let gate = folder.file("gate");
    let command = waits_for(&folder, &gate);
    let task = pod.backup_task("evening");
    tokio::select! {
        driven = pod.drive("evening-1", &task, Some(&command)) => panic!("{driven:?}"),
        _ = folder.pid() => {}
    }
    // The execs of the first attempt have ended by now, and the helper depends on the socket only.
    let open = async { std::fs::write(&gate, "").unwrap() };
    let (driven, ()) = tokio::join!(pod.drive("evening-2", &task, Some(&command)), open);
    let Ok(SidecarOutcome::Report(report)) = driven else { panic!("{driven:?}") };
    assert_eq!((report.verdict, report.proof, count(&folder)), (Verdict::Succeeded, Proof::Sealed, 1));
    // An attempt after the end of the run adopts the stored snapshot.
    eventually(|| pod.children().is_empty()).await;
    let Ok(SidecarOutcome::Report(report)) = pod.drive("evening-3", &task, Some(&command)).await else { panic!() };
    assert_eq!((report.verdict, report.reason, count(&folder)), (Verdict::Succeeded, Reason::Adopted, 1));
}

#[tokio::test]
async fn lost_connections_are_reestablished() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let gate = folder.file("gate");
    let command = waits_for(&folder, &gate);
    let task = pod.backup_task("evening");
    let (starts, watches) = (Cell::new(0), Cell::new(0));
    let sidecar = async |line: &[String]| {
        let count = if line[3] == "watch" { &watches } else { &starts };
        count.set(count.get() + 1);
        match (line[3].as_str(), count.get()) {
            // The request never arrives.
            (_, 1) => Ok(Session::new().0),
            // The request arrives, and the answer is lost.
            ("start", 2) => pod.cut_exec(line, "true"),
            // The helper is started, and then the connection breaks.
            ("watch", 2) => pod.cut_exec(line, "sed -u '/ ready /q'"),
            ("watch", 3) => {
                folder.pid().await;
                std::fs::write(&gate, "").unwrap();
                pod.exec(line)
            }
            _ => pod.exec(line),
        }
    };
    let app = async |line: &[String]| Pod::exec_in_app(line);
    let cancel = CancellationToken::new();
    let driven =
        timeout(DEADLINE, drive(sidecar_run("x", &task, Some(&command)), sidecar, app, &cancel)).await.unwrap();
    let Ok(SidecarOutcome::Report(report)) = driven else { panic!("{driven:?}") };
    assert_eq!((report.verdict, report.proof, count(&folder)), (Verdict::Succeeded, Proof::Sealed, 1));
}

#[tokio::test]
async fn killed_run_is_lost_and_the_sidecar_stays() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let command = waits_for(&folder, Path::new("/no/such/gate"));
    let task = pod.backup_task("evening");
    let killing = async {
        let pid = folder.pid().await;
        kill("-9", &pod.child().await).await;
        eventually(|| !lives(&pid)).await;
    };
    let (driven, ()) = tokio::join!(pod.drive("a", &task, Some(&command)), killing);
    let failure = driven.unwrap_err();
    assert_eq!(failure.reason, Reason::ResultLost);
    assert!(failure.message.contains("memory"), "{failure}");
    assert_eq!(pod.backup("b", &strings(&["echo", "x"])).await.verdict, Verdict::Succeeded);
    assert_eq!(pod.snapshots().await.len(), 1);
}

#[tokio::test]
async fn killed_sidecar_takes_run_and_command_with_it() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let command = waits_for(&folder, Path::new("/no/such/gate"));
    let task = pod.backup_task("evening");
    let control = pod.root.file("tmp/stowaway-sidecar.socket");
    let (pid, child) = {
        let sidecar = async |line: &[String]| pod.exec(line);
        let app = async |line: &[String]| Pod::exec_in_app(line);
        let cancel = CancellationToken::new();
        let mut driving = std::pin::pin!(drive(sidecar_run("a", &task, Some(&command)), sidecar, app, &cancel));
        let begun = async { (folder.pid().await, pod.child().await) };
        let begun = tokio::select! { driven = &mut driving => panic!("{driven:?}"), begun = begun => begun };
        kill("-9", &pod.supervisor()).await;
        let failure = timeout(DEADLINE, driving).await.unwrap().unwrap_err();
        assert_eq!(failure.reason, Reason::ResultLost, "{failure}");
        begun
    };
    eventually(|| !lives(&pid) && !lives(&child)).await;
    assert!(control.exists());
    // A sidecar which the kubelet restarted knows no runs, and works.
    pod.start_sidecar().await;
    assert_eq!(pod.backup("b", &strings(&["echo", "x"])).await.verdict, Verdict::Succeeded);
}

/// When the memory of a container runs out, the kernel kills all of its processes at once (`memory.oom.group`), and the
/// kubelet restarts the container.
#[tokio::test]
async fn run_that_dies_with_its_container_is_lost_and_the_next_attempt_is_stored() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let command = waits_for(&folder, Path::new("/no/such/gate"));
    let task = pod.backup_task("evening");
    let dying = async {
        let pid = folder.pid().await;
        let (supervisor, child) = (pod.supervisor(), pod.child().await);
        kill_all(&[&supervisor, &child]).await;
        eventually(|| !lives(&supervisor) && !lives(&child)).await;
        pod.start_sidecar().await;
        pid
    };
    let (driven, pid) = tokio::join!(pod.drive("a", &task, Some(&command)), dying);
    let failure = driven.unwrap_err();
    assert_eq!(failure.reason, Reason::ResultLost, "{failure}");
    for part in ["run a ", "memory", "its effects are unknown"] {
        assert!(failure.message.contains(part), "{part}: {failure}");
    }
    // The command runs in another container, but ends with the run all the same.
    eventually(|| !lives(&pid)).await;
    assert_eq!(pod.snapshots().await.len(), 0);
    let Ok(SidecarOutcome::Report(report)) = pod.drive("b", &task, Some(&strings(&["echo", "x"]))).await else {
        panic!()
    };
    assert_eq!((report.verdict, report.proof), (Verdict::Succeeded, Proof::Sealed), "{}", report.message);
    assert_eq!(pod.snapshots().await.len(), 1);
}

#[tokio::test]
async fn killed_helper_fails_the_run() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let command = waits_for(&folder, Path::new("/no/such/gate"));
    let task = pod.backup_task("evening");
    let killing = async {
        let pid = folder.pid().await;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let helper = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned();
        kill("-9", &helper).await;
        kill("-9", &pid).await;
    };
    let (driven, ()) = tokio::join!(pod.drive("a", &task, Some(&command)), killing);
    let Ok(SidecarOutcome::Report(report)) = driven else { panic!("{driven:?}") };
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::StreamCut), "{}", report.message);
    assert_eq!(pod.snapshots().await.len(), 0);
}

#[tokio::test]
async fn cancelled_run_ends_its_command() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let command = waits_for(&folder, Path::new("/no/such/gate"));
    let (task, cancel) = (pod.backup_task("evening"), CancellationToken::new());
    let cancelling = async {
        let pid = folder.pid().await;
        cancel.cancel();
        pid
    };
    let (driven, pid) = tokio::join!(pod.drive_until("a", &task, Some(&command), &cancel), cancelling);
    // The run does not wait longer for a command which does not end than a Job can.
    let reason = match driven {
        Ok(SidecarOutcome::Report(report)) => report.reason,
        Err(failure) => failure.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason, Reason::Cancelled);
    eventually(|| !lives(&pid) && pod.children().is_empty()).await;
}

#[tokio::test]
async fn ended_sidecar_lets_its_run_report() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let command = waits_for(&folder, Path::new("/no/such/gate"));
    let task = pod.backup_task("evening");
    let supervisor = pod.supervisor();
    let ending = async {
        let pid = folder.pid().await;
        kill("-TERM", &supervisor).await;
        pid
    };
    let (driven, pid) = tokio::join!(pod.drive("a", &task, Some(&command)), ending);
    let Ok(SidecarOutcome::Report(report)) = driven else { panic!("{driven:?}") };
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::Cancelled), "{}", report.message);
    eventually(|| !lives(&pid)).await;
    assert_eq!(pod.exit_status().await, Some(0));
}

#[tokio::test]
async fn volume_is_stored_and_what_cannot_be_read_is_named() {
    let pod = Pod::start().await;
    let data = pod.root.file("stowaway-volumes/data");
    std::fs::write(data.join("apples"), "many").unwrap();
    let Ok(SidecarOutcome::Report(report)) = pod.drive("a", &pod.volume_task("harvest", "one"), None).await else {
        panic!()
    };
    assert_eq!((report.verdict, report.proof), (Verdict::Succeeded, Proof::Sealed), "{}", report.message);
    let snapshots = pod.snapshots().await;
    assert_eq!(
        (snapshots[0].identity.path.as_str(), snapshots[0].identity.host.as_str()),
        ("/data/harvest", "orchard")
    );
    // A claim of another pod is refused.
    let Ok(SidecarOutcome::Report(report)) = pod.drive("b", &pod.volume_task("other", "two"), None).await else {
        panic!()
    };
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::NotInjected));

    let Ok(SidecarOutcome::Report(report)) = pod.drive("c", &pod.volume_task("harvest", "one"), None).await else {
        panic!()
    };
    assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Adopted));
    std::fs::write(data.join("secret"), "").unwrap();
    std::fs::set_permissions(data.join("secret"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let Ok(SidecarOutcome::Report(report)) = pod.drive("d", &pod.volume_task("harvest", "three"), None).await else {
        panic!()
    };
    assert_eq!((report.verdict, report.reason), (Verdict::Incomplete, Reason::SourceUnreadable));
    assert!(report.message.contains("secret"), "{}", report.message);
}

#[tokio::test]
async fn wrong_password_and_other_repositories_are_reported_before_anything_runs() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let command = strings(&["touch", &path(&folder.file("ran"))]);
    pod.set_password("wrong");
    let report = pod.backup("a", &command).await;
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::WrongPassword));
    // A missing password may be available to the Job's own pod.
    pod.set_password("");
    let driven = pod.drive("b", &pod.backup_task("b"), Some(&command)).await;
    assert!(matches!(driven, Ok(SidecarOutcome::NotUsed(_))), "{driven:?}");
    let mut task = pod.backup_task("c");
    task.backend = stowaway::model::BackendConfig::Folder { path: path(folder.path()) };
    let Ok(SidecarOutcome::Report(report)) = pod.drive("c", &task, Some(&command)).await else { panic!() };
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::InvalidRequest));
    assert!(!folder.file("ran").exists());
}

#[tokio::test]
async fn fallback_follows_only_where_nothing_ran() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let task = pod.backup_task("evening");
    let command = strings(&["touch", &path(&folder.file("ran"))]);
    // The helper's exec fails, so the run is cancelled.
    let app = async |_: &[String]| Pod::exec_in_app(&strings(&["false"]));
    let sidecar = async |line: &[String]| pod.exec(line);
    let cancel = CancellationToken::new();
    let driving = drive(sidecar_run("a", &task, Some(&command)), sidecar, app, &cancel);
    let driven = timeout(DEADLINE, driving).await.unwrap();
    assert!(matches!(driven, Ok(SidecarOutcome::NotUsed(_))), "{driven:?}");
    eventually(|| pod.children().is_empty() && pod.run_sockets().is_empty()).await;

    let pod = Pod::without_sidecar().await;
    let driven = pod.drive("a", &task, Some(&command)).await;
    assert!(matches!(driven, Ok(SidecarOutcome::NotUsed(_))), "{driven:?}");
    assert!(!folder.file("ran").exists());
}

#[tokio::test]
async fn one_run_at_a_time_and_the_next_one_waits() {
    let (pod, folder) = (Pod::start().await, OpenFolder::new());
    let gate = folder.file("gate");
    let command = waits_for(&folder, &gate);
    let (task, other) = (pod.backup_task("evening"), pod.volume_task("harvest", "evening"));
    let next = async {
        folder.pid().await;
        let waiting = pod.drive("b", &other, None);
        let open = async {
            eventually(|| pod.children().len() == 1).await;
            std::fs::write(&gate, "").unwrap();
        };
        tokio::join!(waiting, open).0
    };
    let (one, two) = tokio::join!(pod.drive("a", &task, Some(&command)), next);
    for driven in [one, two] {
        let Ok(SidecarOutcome::Report(report)) = driven else { panic!("{driven:?}") };
        assert_eq!(report.verdict, Verdict::Succeeded, "{}", report.message);
    }
    assert_eq!(SOURCE, "deployment/mill/press");
}
