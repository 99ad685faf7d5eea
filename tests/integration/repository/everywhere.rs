//! Behavior which every kind of store must have, tested with a real server of each kind: restic and Stowaway use one
//! repository in turn, and each failure is reported with its cause.

use std::time::Duration;

use stowaway::{
    model::{BackendConfig, Credential, Reason, Secret},
    repository::{PruneRules, RepositoryError, Timeouts, create, open, open_exclusively, open_or_create},
};

use super::{
    servers::{Kind, Server},
    *,
};

/// Makes a test of each of these functions on each store.
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
    repository_that_stowaway_writes_is_checked_and_restored_by_restic,
    repository_that_restic_writes_is_read_and_extended_by_stowaway,
    racing_creations_leave_one_repository,
    location_without_a_repository_is_reported_by_the_store_itself,
    listing_of_more_files_than_one_answer_holds_is_whole,
]);

mod remote {
    on_every_store!(s3: S3, azure: Azure, rest: Rest, sftp: Sftp, sftp_password: SftpPassword, sftp_prompt: SftpPrompt; [
        wrong_credentials_are_reported_with_what_to_do,
    ]);
    on_every_store!(s3_stopped: S3, azure_stopped: Azure, gcs_stopped: Gcs, rest_stopped: Rest, sftp_stopped: Sftp; [
        store_that_went_away_is_unavailable_and_works_again,
    ]);
    on_every_store!(sftp_by_password: SftpPassword, sftp_by_prompt: SftpPrompt; [
        repository_that_stowaway_writes_is_checked_and_restored_by_restic,
    ]);
    use super::*;
}

/// Gives up soon, so that a test with a dead store does not take a minute.
fn impatient(access: &OpenOptions) -> OpenOptions {
    let timeouts =
        Timeouts { request: Duration::from_secs(5), retries: Duration::from_secs(2), outage: Duration::from_secs(2) };
    OpenOptions { timeouts, ..access.clone() }
}

async fn repository_that_stowaway_writes_is_checked_and_restored_by_restic(server: Server) {
    // More than one pack, and a path which some protocol must escape.
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

async fn repository_that_restic_writes_is_read_and_extended_by_stowaway(server: Server) {
    let location = Path::new(&server.url);
    let data = noise(5 << 20, 2);
    let [oldest, middle, newest] = server.restics();
    oldest.ok(location, &["init"]);
    oldest.backup_stdin(location, "restic.sql", &data);
    let repository = open(server.access.clone(), never()).await.unwrap();
    let by_restic = repository.snapshots().await.unwrap().remove(0);
    assert!(collect(repository.read_file(&by_restic.id, "/restic.sql").await.unwrap()).await == data);
    let by_stowaway = store(&repository, "/stowaway.sql", &data).await;
    assert!(by_stowaway.added_bytes < 4096, "restic's chunks are found again: {by_stowaway:?}");
    middle.backup_stdin(location, "middle.sql", &noise(1 << 20, 4));
    // Both programs use the repository at the same time.
    newest.backup_stdin(location, "more.sql", &noise(1 << 20, 3));
    let refused = newest.run(location, &["prune"]);
    assert!(!refused.status.success(), "Stowaway's lock is honoured");
    assert_eq!(repository.snapshots().await.unwrap().len(), 4);
    repository.close().await;
    newest.ok(location, &["forget", "--keep-last", "1", "--prune"]);
    newest.check(location);
    let repository = open(server.access.clone(), never()).await.unwrap();
    let kept = repository.snapshots().await.unwrap();
    for snapshot in &kept {
        collect(repository.read_file(&snapshot.id, &snapshot.identity.path).await.unwrap()).await;
    }
    // restic keeps one snapshot for each host and path.
    assert_eq!(kept.len(), 4);
}

async fn racing_creations_leave_one_repository(server: Server) {
    let racers: Vec<_> = (0..6).map(|_| tokio::spawn(open_or_create(server.access.clone(), never()))).collect();
    let mut opened = Vec::new();
    for racer in racers {
        opened.push(racer.await.unwrap());
    }
    for repository in opened {
        let repository = match repository {
            // The server of the S3 tests does not create a file atomically, see below. A process whose config was replaced
            // holds an unreadable lock for a moment, and the next attempt of the other process succeeds.
            Err(RepositoryError::Locked { .. }) if matches!(server.access.backend, BackendConfig::S3(_)) => {
                open(server.access.clone(), never()).await.unwrap()
            }
            opened => opened.unwrap(),
        };
        store(&repository, "/db.sql", b"data").await;
        repository.close().await;
    }
    let repository = open(server.access.clone(), never()).await.unwrap();
    assert_eq!(repository.snapshots().await.unwrap().len(), 6);
    repository.close().await;
    if matches!(server.access.backend, BackendConfig::S3(_)) {
        // This server checks whether the config exists and replaces it afterwards, so two of six concurrent creations
        // may both succeed on a busy machine. Then a key of another process may remain, at which restic fails and
        // Stowaway does not.
        return;
    }
    for restic in server.restics() {
        restic.check(Path::new(&server.url));
    }
}

async fn location_without_a_repository_is_reported_by_the_store_itself(server: Server) {
    let error = open(impatient(&server.access), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NotFound { .. }), "{error}");
    let mut elsewhere = impatient(&server.access);
    let missing = "missing".to_owned();
    match &mut elsewhere.backend {
        BackendConfig::S3(config) => config.bucket = missing,
        BackendConfig::Azure(config) => config.container = missing,
        BackendConfig::Gcs(config) => config.bucket = missing,
        // In these stores, missing folders are created.
        BackendConfig::Rest(_) | BackendConfig::Sftp(_) | BackendConfig::Folder { .. } => return,
    }
    let error = open_or_create(elsewhere, never()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable, "a bucket that is missing is no new repository: {error}");
}

async fn listing_of_more_files_than_one_answer_holds_is_whole(server: Server) {
    // One page of a listing holds 5,000 objects in Azure, 1,000 in the other clouds, and part of a folder on an SSH
    // server.
    let many = if matches!(server.access.backend, BackendConfig::Azure(_)) { 5_010 } else { 1_050 };
    let repository = create(server.access.clone(), never()).await.unwrap();
    store(&repository, "/db.sql", b"data").await;
    repository.close().await;
    servers::put_unknown_packs(&server.access, many).await;
    let repository = open_exclusively(server.access.clone(), never()).await.unwrap();
    let planned = repository.prune(&PruneRules { dry_run: true, ..PruneRules::default() }).await.unwrap();
    assert_eq!((planned.packs_removed, planned.freed_bytes()), (many as u64, 8 * many as u64));
}

async fn wrong_credentials_are_reported_with_what_to_do(server: Server) {
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
        assert!(!error.to_string().contains("but by"), "the method is not what was wrong: {error}");
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
    // The same repository object, on a new connection.
    store(&repository, "/db.sql", b"again").await;
    assert_eq!(repository.snapshots().await.unwrap().len(), 2);
}
