//! The CLI with repository locations in restic's notation and with restic's environment variables.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use stowaway::model::{BackendConfig, Credential};

use super::{
    servers::{Kind, Server},
    torture::folder_in,
    *,
};

/// Runs the program with these environment variables only.
pub fn stowaway(environment: &[(String, String)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stowaway"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("RESTIC_PASSWORD", PASSWORD)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(arguments)
        .output()
        .unwrap()
}

/// Backs up, lists and restores; then restic finds no error.
pub fn backs_up_and_restores(location: &str, environment: &[(String, String)], server: &Server) {
    let stderr = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let made = stowaway(environment, &["backup", "--repository", location, "--init", "--", "echo", "barrels"]);
    assert!(made.status.success(), "{location}: {}", stderr(&made));
    let listed = stowaway(environment, &["snapshots", "--repository", location, "--output", "json"]);
    let snapshots: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = snapshots[0]["id"].as_str().unwrap();
    let dumped = stowaway(environment, &["dump", "--repository", location, id]);
    assert_eq!(String::from_utf8_lossy(&dumped.stdout), "barrels\n", "{location}: {}", stderr(&dumped));
    for restic in server.restics() {
        restic.check(Path::new(&server.url));
    }
}

pub fn and(environment: &[(String, String)], more: &[(&str, &str)]) -> Vec<(String, String)> {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    environment.iter().cloned().chain(more).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locations_of_restic_are_used_with_its_own_variables() {
    for kind in [Kind::Folder, Kind::S3, Kind::Azure, Kind::Gcs] {
        let server = Server::start(kind).await;
        backs_up_and_restores(&server.url, &server.environment, &server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_and_password_of_a_rest_server_come_by_the_environment_or_in_the_url() {
    let server = Server::start(Kind::Rest).await;
    let BackendConfig::Rest(config) = &server.access.backend else { unreachable!() };
    let location = format!("rest:{}/", config.url);
    let login = and(&[], &[("RESTIC_REST_USERNAME", "miller"), ("RESTIC_REST_PASSWORD", "hush-hush")]);
    backs_up_and_restores(&location, &login, &server);
    // The credentials in the URL take precedence, and are never printed.
    let others = and(&[], &[("RESTIC_REST_USERNAME", "miller"), ("RESTIC_REST_PASSWORD", "wrong")]);
    backs_up_and_restores(&server.url, &others, &server);
    let denied = stowaway(&[], &["snapshots", "--repository", &server.url.replace("hush-hush", "hush%2Dhushed")]);
    assert!(!denied.status.success());
    let shown = String::from_utf8_lossy(&[denied.stdout, denied.stderr].concat()).into_owned();
    assert!(!shown.contains("hush") && shown.contains("check the credentials"), "{shown}");
    // A user name without a password is an error, and does not mean anonymous access.
    let half = stowaway(&login[..1], &["snapshots", "--repository", &location]);
    assert_eq!(half.status.code(), Some(2), "{}", String::from_utf8_lossy(&half.stderr));
}

#[tokio::test]
async fn closed_reader_ends_the_program_without_a_message() {
    let location = tempfile::tempdir().unwrap();
    let repository = location.path().join("repository");
    let repository = repository.to_str().unwrap();
    let made = stowaway(&[], &["backup", "--repository", repository, "--init", "--", "echo", "barrels"]);
    assert!(made.status.success());
    for verb in [&["snapshots"][..], &["snapshots", "-o", "json"], &["dump"], &["completions"]] {
        let listed = stowaway(&[], &["snapshots", "--repository", repository, "-o", "json"]);
        let id = serde_json::from_slice::<serde_json::Value>(&listed.stdout).unwrap()[0]["id"].clone();
        let more = match verb[0] {
            "completions" => vec!["bash"],
            "dump" => vec!["--repository", repository, id.as_str().unwrap()],
            _ => vec!["--repository", repository],
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = Command::new(env!("CARGO_BIN_EXE_stowaway"))
            .env("RESTIC_PASSWORD", PASSWORD)
            .args([verb, &more].concat())
            .stdout(writer)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        let is_of_the_log = |line: &str| line.contains(" INFO ");
        assert!(ended.status.code() == Some(141) && stderr.lines().all(is_of_the_log), "{verb:?}: {stderr}");
    }
}

#[tokio::test]
async fn file_is_dumped_by_its_listed_path_and_by_that_within_the_volume() {
    let location = tempfile::tempdir().unwrap();
    let at = location.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(location.path(), "source");
    fs::create_dir(source.join("config")).unwrap();
    fs::write(source.join("config/app.ini"), "stored").unwrap();
    let id = super::folders::store_folder(&repository, &source).await.snapshot;
    repository.close().await;
    let dump = |path: &str| stowaway(&[], &["dump", "--repository", at.to_str().unwrap(), &id, path]);
    for path in ["/data/claim/config/app.ini", "config/app.ini", "/config/app.ini", "data/claim/config/app.ini"] {
        let dumped = dump(path);
        assert_eq!(dumped.stdout, b"stored", "{path}: {}", String::from_utf8_lossy(&dumped.stderr));
    }
    let missing = dump("config/other.ini");
    let stderr = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(missing.status.code() == Some(1) && stderr.contains("/data/claim/config/other.ini"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_server_is_known_by_the_users_own_files() {
    let server = Server::start(Kind::Sftp).await;
    let BackendConfig::Sftp(config) = &server.access.backend else { unreachable!() };
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".ssh");
    fs::create_dir(&folder).unwrap();
    let location = format!("sftp://{}@{}:{}/{}", config.user, config.host, config.port, config.path);
    let environment = and(&[], &[("HOME", home.path().to_str().unwrap())]);
    let given = |credential| server.access.credentials[&credential].expose().to_owned();
    fs::write(folder.join("id_ed25519"), given(Credential::SftpPrivateKey) + "\n").unwrap();
    let unknown = stowaway(&environment, &["backup", "--repository", &location, "--init", "--", "echo"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("known_hosts"));
    let line = format!("[{}]:{} {}", config.host, config.port, given(Credential::HostKeys));
    fs::write(folder.join("known_hosts"), line).unwrap();
    backs_up_and_restores(&location, &environment, &server);
}
