//! S3 services: versitygw on a folder, and gofakes3 in memory.

use std::process::Command;

use stowaway::model::{BackendConfig, Credential, S3Config};

use super::{Running, Server, access, free_port, owned, restic::find};

const REGION: &str = "somewhere-1";

pub fn start() -> Server {
    start_with(REGION, &["--nometa"])
}

/// A service which accepts only requests signed for this region.
pub fn start_in(region: &str) -> Server {
    start_with(region, &["--nometa"])
}

/// A service which supports multipart uploads, for which it needs extended attributes.
pub fn start_for_parts() -> Server {
    start_with(REGION, &[])
}

fn start_with(region: &str, arguments: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let port = free_port();
    let mut command = Command::new(find("STOWAWAY_VERSITYGW", "versitygw"));
    command
        .args(["--port", &format!("127.0.0.1:{port}"), "--access", "key", "--secret", "hush-hush", "--quiet"])
        .args(["--region", region, "posix"])
        .args(arguments)
        .arg(folder.path());
    Server { kept: vec![Box::new(folder)], ..serve(command, port, region) }
}

/// Another implementation, with its own XML and without verification of signatures.
pub fn start_other() -> Server {
    let port = free_port();
    let mut command = Command::new(find("STOWAWAY_GOFAKES3", "gofakes3"));
    command.args(["-host", &format!("127.0.0.1:{port}"), "-backend", "memory", "-initialbucket", "bucket", "-quiet"]);
    serve(command, port, REGION)
}

fn serve(command: Command, port: u16, region: &str) -> Server {
    let running = Running::start(command, port);
    let backend = BackendConfig::S3(S3Config {
        endpoint: format!("http://127.0.0.1:{port}"),
        bucket: "bucket".to_owned(),
        prefix: "pre/fix".to_owned(),
        region: region.to_owned(),
        path_style: true,
    });
    Server {
        access: access(backend, &[(Credential::S3AccessKeyId, "key"), (Credential::S3SecretAccessKey, "hush-hush")]),
        url: format!("s3:http://127.0.0.1:{port}/bucket/pre/fix"),
        environment: owned(&[
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "hush-hush"),
            ("AWS_DEFAULT_REGION", region),
        ]),
        options: Vec::new(),
        newest_options: Vec::new(),
        running: Some(running),
        kept: Vec::new(),
    }
}
