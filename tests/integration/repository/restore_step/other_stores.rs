//! The restore step with a store which contains another repository, or which refuses writes.

use super::{
    super::fake_s3::{FakeS3, Fault},
    *,
};

#[tokio::test]
async fn step_with_the_id_of_an_earlier_repository_names_what_to_do_once_another_one_is_accepted() {
    let pod = Pod::with_snapshot().await;
    let step = pod.command("data=pvc/claim").env(injected::REPOSITORY_ID_VARIABLE, "ab".repeat(32)).output().unwrap();
    let stdout = String::from_utf8_lossy(&step.stdout).into_owned() + &String::from_utf8_lossy(&step.stderr);
    assert!(!step.status.success(), "{stdout}");
    assert!(stdout.contains("stowaway.dev/accept-repository") && stdout.contains("delete this pod"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_may_only_be_read_fills_a_volume_and_the_report_names_the_missing_lock() {
    let s3 = FakeS3::start().await;
    let (mut pod, unused) = Pod::new().await;
    unused.close().await;
    let repository = create(s3.access(), never()).await.unwrap();
    fs::write(pod.source().join("file"), "content").unwrap();
    store_folder(&repository, &pod.source()).await;
    repository.close().await;
    let OpenOptions { backend, connection, .. } = s3.access();
    for credential in &connection.credentials {
        pod.give(mounts::CREDENTIALS_FOLDER, credential.file(), "x");
    }
    (pod.backend, pod.connection) = (backend, connection);
    s3.fail("PUT", "locks/", Fault::Status(403), usize::MAX);
    let report = pod.succeeds();
    assert!(report.message.contains("without a lock"), "{}", report.message);
    assert_eq!(fs::read(pod.volume().join("file")).unwrap(), b"content");
}
