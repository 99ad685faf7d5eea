//! What must hold on every kind of store, tried on a real server of each: a repository goes to and fro between restic and
//! us, and what fails is told as what it is.

use std::time::Duration;

use stowaway::{
    model::{BackendConfig, Credential, Reason, Secret},
    repository::{Patience, PruneRules, RepositoryError, create, open, open_exclusively, open_or_create},
};

use super::{
    servers::{Kind, Server},
    *,
};

/// Makes a test of each of these functions on each store: restic runs beside what serves it.
macro_rules! on_every_store {
    ($($store:ident: $kind:ident),+; $tests:tt) => {
        $(mod $store { on_every_store!(@tests $kind $tests); })+
    };
    (@tests $kind:ident [$($test:ident),+ $(,)?]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Server::start(super::Kind::$kind).await).await;
            }
        )+
    };
}

on_every_store!(folder: Folder, s3: S3, other_s3: OtherS3, azure: Azure, gcs: Gcs, rest: Rest, sftp: Sftp; [
    what_we_write_is_checked_and_restored_by_restic,
    what_restic_writes_is_read_and_extended_by_us,
    racing_creations_leave_one_repository,
    place_without_repository_is_told_by_the_store_itself,
    listing_of_more_files_than_one_answer_holds_is_whole,
]);

mod remote {
    on_every_store!(s3: S3, azure: Azure, rest: Rest, sftp: Sftp, sftp_password: SftpPassword, sftp_prompt: SftpPrompt; [
        wrong_credentials_are_told_with_what_to_do,
    ]);
    on_every_store!(s3_gone: S3, azure_gone: Azure, gcs_gone: Gcs, rest_gone: Rest, sftp_gone: Sftp; [
        store_that_went_away_is_unavailable_and_works_again,
    ]);
    on_every_store!(sftp_by_password: SftpPassword, sftp_by_prompt: SftpPrompt; [
        what_we_write_is_checked_and_restored_by_restic,
    ]);
    use super::*;
}

/// Gives up soon, so that a test of a dead store does not take a minute.
fn impatient(access: &Access) -> Access {
    let patience =
        Patience { request: Duration::from_secs(5), retries: Duration::from_secs(2), outage: Duration::from_secs(2) };
    Access { patience, ..access.clone() }
}

async fn what_we_write_is_checked_and_restored_by_restic(server: Server) {
    // More than one pack, and a file whose name needs escaping somewhere.
    let data = [noise(20 << 20, 1), vec![7; 3 << 20]].concat();
    let repository = open_or_create(server.access.clone(), never()).await.unwrap();
    let stored = store(&repository, "/a/b c+ü.sql", &data).await;
    let read = repository.read_file(&stored.snapshot, "/a/b c+ü.sql").await.unwrap();
    assert!(collect(read).await == data);
    repository.close().await;
    let error = create(server.access.clone(), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::AlreadyExists { .. }), "{error}");
    for restic in server.restics() {
        restic.check(Path::new(&server.url));
        assert!(restic.ok(Path::new(&server.url), &["dump", &stored.snapshot, "/a/b c+ü.sql"]) == data, "{restic:?}");
        let target = tempfile::tempdir().unwrap();
        let arguments = ["restore", &stored.snapshot, "--target", target.path().to_str().unwrap(), "--verify"];
        restic.ok(Path::new(&server.url), &arguments);
        assert!(std::fs::read(target.path().join("a/b c+ü.sql")).unwrap() == data, "{restic:?}");
    }
}

async fn what_restic_writes_is_read_and_extended_by_us(server: Server) {
    let place = Path::new(&server.url);
    let data = noise(5 << 20, 2);
    let [oldest, middle, newest] = server.restics();
    oldest.ok(place, &["init"]);
    oldest.backup_stdin(place, "theirs.sql", &data);
    let repository = open(server.access.clone(), never()).await.unwrap();
    let theirs = repository.snapshots().await.unwrap().remove(0);
    assert!(collect(repository.read_file(&theirs.id, "/theirs.sql").await.unwrap()).await == data);
    let ours = store(&repository, "/ours.sql", &data).await;
    assert!(ours.added_bytes < 4096, "their chunks are found again: {ours:?}");
    middle.backup_stdin(place, "middle.sql", &noise(1 << 20, 4));
    // Both at the same time.
    newest.backup_stdin(place, "more.sql", &noise(1 << 20, 3));
    let refused = newest.run(place, &["prune"]);
    assert!(!refused.status.success(), "our lock is honoured");
    assert_eq!(repository.snapshots().await.unwrap().len(), 4);
    repository.close().await;
    newest.ok(place, &["forget", "--keep-last", "1", "--prune"]);
    newest.check(place);
    let repository = open(server.access.clone(), never()).await.unwrap();
    let kept = repository.snapshots().await.unwrap();
    for snapshot in &kept {
        collect(repository.read_file(&snapshot.id, &snapshot.identity.path).await.unwrap()).await;
    }
    // Of each host and path one.
    assert_eq!(kept.len(), 4);
}

async fn racing_creations_leave_one_repository(server: Server) {
    let racers: Vec<_> = (0..6).map(|_| tokio::spawn(open_or_create(server.access.clone(), never()))).collect();
    for racer in racers {
        let repository = racer.await.unwrap().unwrap();
        store(&repository, "/db.sql", b"data").await;
        repository.close().await;
    }
    let repository = open(server.access.clone(), never()).await.unwrap();
    assert_eq!(repository.snapshots().await.unwrap().len(), 6);
    repository.close().await;
    if matches!(server.access.backend, BackendConfig::S3(_)) {
        // This server looks whether the config is there, and replaces it then: measured with six at once on a busy machine.
        // A rival's key may stay, which restic stumbles over, and we do not.
        return;
    }
    for restic in server.restics() {
        restic.check(Path::new(&server.url));
    }
}

async fn place_without_repository_is_told_by_the_store_itself(server: Server) {
    let error = open(impatient(&server.access), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NotFound { .. }), "{error}");
    let mut elsewhere = impatient(&server.access);
    let missing = "missing".to_owned();
    match &mut elsewhere.backend {
        BackendConfig::S3(config) => config.bucket = missing,
        BackendConfig::Azure(config) => config.container = missing,
        BackendConfig::Gcs(config) => config.bucket = missing,
        // Folders are made.
        BackendConfig::Rest(_) | BackendConfig::Sftp(_) | BackendConfig::Folder { .. } => return,
    }
    let error = open_or_create(elsewhere, never()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable, "a bucket that is missing is no new repository: {error}");
}

async fn listing_of_more_files_than_one_answer_holds_is_whole(server: Server) {
    // One answer of Azure holds 5,000, one of the other clouds 1,000, one of an SSH server some of a folder.
    let many = if matches!(server.access.backend, BackendConfig::Azure(_)) { 5_010 } else { 1_050 };
    let repository = create(server.access.clone(), never()).await.unwrap();
    store(&repository, "/db.sql", b"data").await;
    repository.close().await;
    servers::put_unknown_packs(&server.access, many).await;
    let repository = open_exclusively(server.access.clone(), never()).await.unwrap();
    let planned = repository.prune(&PruneRules { dry_run: true, ..PruneRules::default() }).await.unwrap();
    assert_eq!((planned.packs_removed, planned.freed_bytes()), (many as u64, 8 * many as u64));
}

async fn wrong_credentials_are_told_with_what_to_do(server: Server) {
    create(server.access.clone(), never()).await.unwrap().close().await;
    let mut stranger = server.access.clone();
    for (credential, value) in &mut stranger.credentials {
        match credential {
            Credential::S3SecretAccessKey | Credential::RestPassword | Credential::SftpPassword => {
                *value = Secret::new("wrong".to_owned());
            }
            Credential::AzureAccountKey => *value = Secret::new("d3Jvbmc=".to_owned()),
            Credential::SftpPrivateKey => *value = Secret::new(servers::new_ssh_key()),
            _ => {}
        }
    }
    for error in [
        open(stranger.clone(), never()).await.unwrap_err(),
        open_or_create(stranger.clone(), never()).await.unwrap_err(),
    ] {
        assert!(matches!(error, RepositoryError::AccessDenied { .. }), "{error}");
        assert!(error.to_string().contains("check the credentials"), "{error}");
        assert!(!error.to_string().contains("but by"), "what is taken is not what was wrong: {error}");
        for text in [error.to_string(), format!("{error:?}"), format!("{stranger:?}")] {
            for secret in ["wrong", "d3Jvbmc=", "PRIVATE KEY", PASSWORD] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}

async fn store_that_went_away_is_unavailable_and_works_again(mut server: Server) {
    let repository = create(impatient(&server.access), never()).await.unwrap();
    store(&repository, "/db.sql", b"data").await;
    server.running.as_mut().unwrap().stop();
    for error in [
        store_pieces(&repository, "/db.sql", whole(b"more")).await.unwrap_err(),
        repository.snapshots().await.unwrap_err(),
        open(impatient(&server.access), never()).await.unwrap_err(),
        open_or_create(impatient(&server.access), never()).await.unwrap_err(),
    ] {
        assert!(matches!(error, RepositoryError::StoreUnavailable { .. }), "{error}");
    }
    server.running.as_mut().unwrap().start_again();
    // The same repository, on a new connection.
    store(&repository, "/db.sql", b"again").await;
    assert_eq!(repository.snapshots().await.unwrap().len(), 2);
}
