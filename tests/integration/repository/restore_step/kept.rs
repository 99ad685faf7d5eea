//! Metadata which the step restores, metadata without which it does not start an app, and files in a volume which it
//! does not trust; and a volume that it leaves as it is.

use super::*;
use crate::repository::system_calls::{ON_NFS, can_inject, failing};

#[tokio::test]
async fn files_that_would_belong_to_another_user_hold_the_app_up_and_leave_nothing() {
    assert!(is_root(), "this test gives up being root");
    let (pod, repository) = Pod::new().await;
    fs::write(pod.source().join("file"), "of root").unwrap();
    fs::write(pod.source().join("other"), "of another user").unwrap();
    std::os::unix::fs::chown(pod.source().join("other"), Some(7), Some(8)).unwrap();
    store_folder(&repository, &pod.source()).await;
    repository.close().await;
    let own = Command::new("chown").args(["-R", "65532"]).arg(pod.dir.path()).status().unwrap();
    assert!(own.success());
    let output = pod.run_by(&["--reuid", "65532", "--regid", "65532", "--clear-groups"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    let report = pod.report();
    assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::MetadataNotKept), "{}", report.message);
    assert!(
        report.message.contains("file: its owner 0:0") && report.message.contains("stowaway restore"),
        "{}",
        report.message
    );
    assert_eq!(names_in(&pod.volume()), Vec::<std::ffi::OsString>::new());
}

#[tokio::test]
async fn files_of_one_user_become_those_of_the_user_that_the_namespace_gives_its_pods() {
    assert!(is_root(), "this test gives up being root");
    let (pod, repository) = Pod::new().await;
    fs::write(pod.source().join("file"), "of the app").unwrap();
    let own = |path: &Path, user: &str| {
        assert!(Command::new("chown").args(["-R", user]).arg(path).status().unwrap().success());
    };
    own(&pod.source(), "7:8");
    store_folder(&repository, &pod.source()).await;
    repository.close().await;
    own(pod.dir.path(), "65532:65532");
    let output = pod.run_by(&["--reuid", "65532", "--regid", "65532", "--clear-groups"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(pod.report().message.contains("file: its owner 7:8"), "{}", pod.report().message);
    let log = String::from_utf8_lossy(&output.stdout);
    let line = log.lines().find(|line| line.contains("not restored of file: its owner 7:8"));
    assert!(line.is_some_and(|line| line.contains("INFO")), "the app needs no other owner: {log}");
    let file = fs::metadata(pod.volume().join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (65_532, 65_532));
}

#[tokio::test]
async fn system_attribute_that_cannot_be_set_is_named_and_does_not_block_the_app() {
    assert!(is_root(), "this test gives up being root");
    let (pod, repository) = Pod::new().await;
    fs::write(pod.source().join("file"), "data").unwrap();
    // Only a privileged user may set this attribute.
    xattr::set(pod.source().join("file"), "security.capability", &{
        [&0x0200_0001_u32.to_le_bytes()[..], &(1_u32 << 10).to_le_bytes(), &[0; 12]].concat()
    })
    .unwrap();
    store_folder(&repository, &pod.source()).await;
    repository.close().await;
    let output = pod.run_by(&["--inh-caps=-all", "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let message = pod.report().message;
    assert!(message.contains("file: its attribute security.capability"), "{message}");
    assert_eq!(fs::read(pod.volume().join("file")).unwrap(), b"data");
}

#[tokio::test]
async fn root_of_the_step_keeps_what_a_root_of_a_restore_keeps() {
    use std::os::unix::fs::PermissionsExt;
    assert!(is_root(), "this test gives up rights");
    let (pod, repository) = Pod::new().await;
    let shared = pod.source().join("shared");
    fs::create_dir(&shared).unwrap();
    std::os::unix::fs::chown(&shared, Some(0), Some(33)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o2775)).unwrap();
    fill(&pod.source());
    let stored = store_folder(&repository, &pod.source()).await;
    repository.close().await;
    let rights = mounts::RIGHTS_TO_RESTORE.join(",+").to_lowercase();
    let output = pod.run_by(&["--clear-groups", "--inh-caps=-all", &format!("--bounding-set=-all,+{rights}")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(pod.report().snapshot, Some(stored.snapshot));
    assert_eq!(fs::metadata(pod.volume().join("shared")).unwrap().mode() & 0o7777, 0o2775);
    let time = fs::metadata(pod.source()).unwrap().modified().unwrap();
    fs::File::open(pod.volume()).unwrap().set_modified(time).unwrap();
    assert_same(&pod.source(), &pod.volume());
}

#[tokio::test]
async fn entry_that_a_storage_system_puts_into_a_new_volume_is_no_data() {
    let apps =
        [".snapshots/mine", ".snapshot/index.db", "@Recycle/old", ".snapshot/daily.0/file", ".zfs/snapshot/x/file"];
    // Data of the app counts as data, whatever its name. The file system of this volume creates no snapshots.
    for name in apps {
        let pod = Pod::with_snapshot().await;
        let path = pod.volume().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "the app's").unwrap();
        assert_eq!(pod.succeeds().snapshot, None, "{name}");
        assert_eq!(fs::read(path).unwrap(), b"the app's");
    }
    if !can_inject() {
        return;
    }
    for name in [".snapshot/daily.0", ".zfs/snapshot"] {
        let pod = Pod::with_snapshot().await;
        fs::create_dir_all(pod.volume().join(name)).unwrap();
        let step = pod.command("data=pvc/claim");
        let mut command = failing(ON_NFS, step.get_program());
        command.args(step.get_args()).env_clear();
        command.envs(step.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(pod.report().snapshot.is_some(), "{name}");
        assert!(pod.volume().join("folder-1").is_dir());
    }
}

#[tokio::test]
async fn mark_that_another_user_made_moves_nothing_and_gives_nothing_away() {
    assert!(is_root(), "this test gives files to another user");
    let pod = Pod::with_snapshot().await;
    let (part, mark) = (pod.volume().join(".stowaway-restore.part"), pod.volume().join(".stowaway-restore.whole"));
    let forged = r#"{"snapshot":"00","own":{"mode":511,"uid":1000,"gid":1000,"size":0,"links":0}}"#;
    let forge = || {
        fs::write(&mark, forged).unwrap();
        std::os::unix::fs::chown(&mark, Some(1000), Some(1000)).unwrap();
    };
    // Together with a folder of a restore, the mark may belong to a real restore, so a user has to check it.
    fs::create_dir(&part).unwrap();
    fs::write(part.join("planted"), "planted").unwrap();
    forge();
    let (output, report) = pod.run();
    assert_eq!(output.status.code(), Some(1), "{}", report.message);
    assert!(report.message.contains(".stowaway-restore.whole"), "{}", report.message);
    assert!(!pod.volume().join("planted").exists() && part.join("planted").exists());
    assert_eq!(fs::metadata(pod.volume()).unwrap().uid(), 0);
    // Without such a folder the mark is ignored: the volume is filled, or left to the app.
    fs::remove_dir_all(&part).unwrap();
    assert!(pod.succeeds().snapshot.is_some());
    forge();
    assert_eq!(pod.succeeds().snapshot, None);
    pod.is_restored();
}

#[tokio::test]
async fn volume_of_no_claim_is_left_as_it_is() {
    let (pod, repository) = Pod::new().await;
    repository.close().await;
    let output = pod.command("data").output().unwrap();
    assert!(output.status.success());
    assert!(pod.report().message.contains("belongs to no claim"), "{}", pod.report().message);
}
