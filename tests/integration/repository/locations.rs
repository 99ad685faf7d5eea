//! Configurations of users: a region which is missing or wrong, a password file from any editor, and a proxy before the
//! store.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use stowaway::{
    model::{BackendConfig, S3Config},
    repository::{open, open_or_create},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use super::{
    archives::{Fixture, of, run},
    command_line::{and, backs_up_and_restores, stowaway},
    fake_s3::FakeS3,
    *,
};

fn in_region(access: &OpenOptions, region: &str) -> OpenOptions {
    let BackendConfig::S3(config) = &access.backend else { unreachable!() };
    let backend = BackendConfig::S3(S3Config { region: region.to_owned(), ..config.clone() });
    OpenOptions { backend, ..access.clone() }
}

#[tokio::test]
async fn region_that_the_store_names_in_its_refusal_is_used() {
    for in_header in [false, true] {
        let fake = FakeS3::start().await;
        fake.set_region("eu-central-1", in_header);
        let access = in_region(&fake.access(), "us-east-1");
        let repository = open_or_create(access.clone(), never()).await.unwrap();
        store(&repository, "/db.sql", b"data").await;
        repository.close().await;
        let repository = open(access, never()).await.unwrap();
        assert_eq!(repository.snapshots().await.unwrap().len(), 1, "in a header: {in_header}");
        repository.close().await;
    }
}

#[tokio::test]
async fn second_region_is_not_tried_when_the_store_names_others_again_and_again() {
    let fake = FakeS3::start().await;
    fake.set_region("eu-central-1", false);
    let repository = open_or_create(in_region(&fake.access(), "us-east-1"), never()).await.unwrap();
    fake.set_region("ap-south-1", false);
    let before = fake.requests("GET", "list-type");
    let error = repository.snapshots().await.unwrap_err();
    assert_eq!(error.reason(), stowaway::model::Reason::StoreUnavailable, "{error}");
    assert!(fake.requests("GET", "list-type") <= before + 2, "the request is not repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archive_is_made_in_a_bucket_of_a_region_that_was_not_configured() {
    let fake = FakeS3::start().await;
    fake.set_region("eu-central-1", false);
    let store = of(&in_region(&fake.access(), "us-east-1"));
    let fixture = Fixture::new(store).await;
    folders::store_folder(&fixture.repository, &fixture.source()).await;
    fixture.succeeds(&run()).await;
    assert!(!fake.keys(archives::NAME).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bucket_of_another_region_is_found_without_a_region_as_by_restic() {
    let server = servers::s3_in("eu-central-1");
    let nameless: Vec<_> =
        server.environment.iter().filter(|(name, _)| name != "AWS_DEFAULT_REGION").cloned().collect();
    backs_up_and_restores(&server.url, &nameless, &server);
    backs_up_and_restores(&server.url, &and(&nameless, &[("AWS_REGION", "somewhere-else-9")]), &server);
}

/// Password files as editors and shells write them.
fn password_files() -> Vec<(&'static str, Vec<u8>)> {
    let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        std::iter::once(0xfeff).chain("secr\u{e9}t \r\n".encode_utf16()).flat_map(bytes).collect()
    };
    vec![
        ("newline", b"secret\n".to_vec()),
        ("blank", b"secret \n".to_vec()),
        ("leading", b"\n\tsecret\r\n".to_vec()),
        ("utf8", b"\xef\xbb\xbfsecret\n".to_vec()),
        ("utf16le", utf16(u16::to_le_bytes)),
        ("utf16be", utf16(u16::to_be_bytes)),
    ]
}

#[test]
fn password_files_of_restic_and_stowaway_are_read_alike() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in password_files() {
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        let file = file.to_str().unwrap();
        for restic in restic::both() {
            let location = |maker: &str| folder.path().join(format!("{name}-{maker}"));
            let restic = |location: &Path, arguments: &[&str]| {
                let mut command = restic.command(location);
                command.env_remove("RESTIC_PASSWORD").args(["--password-file", file]).args(arguments);
                let output = command.output().unwrap();
                assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            };
            let stowaway = |location: &Path, verb: &[&str], rest: &[&str]| {
                let location = ["--repository", location.to_str().unwrap(), "--password-file", file];
                let output = stowaway(&[], &[verb, &location, rest].concat());
                assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8_lossy(&output.stderr).into_owned()
            };
            let [by_restic, by_stowaway] = ["restic", "stowaway"].map(location);
            restic(&by_restic, &["init"]);
            stowaway(&by_restic, &["snapshots"], &[]);
            stowaway(&by_stowaway, &["backup"], &["--init", "--", "echo", "barrels"]);
            restic(&by_stowaway, &["snapshots"]);
            fs::remove_dir_all(by_restic).unwrap();
            fs::remove_dir_all(by_stowaway).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repository_whose_password_was_made_with_white_space_still_opens() {
    let folder = tempfile::tempdir().unwrap();
    let location = folder.path().join("repository");
    let with_blank = OpenOptions { password: Secret::new("secret ".to_owned()), ..super::folder(&location) };
    create(with_blank, never()).await.unwrap().close().await;
    let file = folder.path().join("password");
    fs::write(&file, "secret \n").unwrap();
    let arguments =
        ["snapshots", "--repository", location.to_str().unwrap(), "--password-file", file.to_str().unwrap()];
    let output = stowaway(&[], &arguments);
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && shown.contains("stowaway key add"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    fs::write(&file, "secret\n").unwrap();
    assert!(!stowaway(&[], &arguments).status.success(), "the password differs");
}

/// A process which is killed on drop.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first line which a proxy receives from the program, when it opens the repository at this location.
async fn first_request_to_a_proxy(location: &str, variable: &str, more: &[(&str, &str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let _program = KillOnDrop(
        Command::new(env!("CARGO_BIN_EXE_stowaway"))
            .env_clear()
            .env("RESTIC_PASSWORD", PASSWORD)
            .env(variable, proxy)
            .envs(more.iter().copied())
            .args(["snapshots", "--repository", location])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let (connection, _) = listener.accept().await.unwrap();
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line).await.unwrap();
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_are_reached_through_the_proxy_of_the_environment() {
    let s3 = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "hush-hush")];
    let azure = [("AZURE_ACCOUNT_NAME", "vault"), ("AZURE_ACCOUNT_KEY", "aHVzaA==")];
    let gcs = [("GOOGLE_ACCESS_TOKEN", "hush-hush")];
    let emulator = [gcs[0], ("STORAGE_EMULATOR_HOST", "http://gcs.invalid")];
    for (location, variable, more, expected) in [
        ("s3:https://s3.invalid/bucket", "HTTPS_PROXY", &s3[..], "CONNECT s3.invalid:443 "),
        ("s3:http://s3.invalid/bucket", "HTTP_PROXY", &s3[..], "GET http://s3.invalid/bucket/"),
        ("azure:barrels:/", "HTTPS_PROXY", &azure[..], "CONNECT vault.blob.core.windows.net:443 "),
        ("gs:barrels:/", "HTTPS_PROXY", &gcs[..], "CONNECT storage.googleapis.com:443 "),
        ("gs:barrels:/", "http_proxy", &emulator[..], "GET http://gcs.invalid/"),
        ("rest:https://rest.invalid/x", "HTTPS_PROXY", &[][..], "CONNECT rest.invalid:443 "),
        ("rest:http://rest.invalid/x", "HTTP_PROXY", &[][..], "GET http://rest.invalid/x/"),
    ] {
        let line = first_request_to_a_proxy(location, variable, more).await;
        assert!(line.starts_with(expected), "{location}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_no_proxy_names_is_reached_directly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let location = format!("rest:http://{}/x", listener.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let read = connection.read(&mut request).await.unwrap();
        connection.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let environment = and(&[], &[("HTTP_PROXY", "http://127.0.0.1:9"), ("NO_PROXY", "127.0.0.1")]);
    tokio::task::spawn_blocking(move || stowaway(&environment, &["snapshots", "--repository", &location]))
        .await
        .unwrap();
    assert!(answering.await.unwrap().starts_with("GET /x/config "));
}
