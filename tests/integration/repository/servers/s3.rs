//! S3 services: versitygw on a folder, and gofakes3 in memory.

use std::process::Command;

use stowaway::model::{BackendConfig, Credential, S3Config};

use super::{Running, Server, access, free_port, owned, restic::find};

pub fn start() -> Server {
    start_with(&["--nometa"])
}

/// One that keeps what it needs for objects of several parts: in attributes of its files.
pub fn start_for_parts() -> Server {
    start_with(&[])
}

fn start_with(arguments: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let port = free_port();
    let mut command = Command::new(find("STOWAWAY_VERSITYGW", "versitygw"));
    command
        .args(["--port", &format!("127.0.0.1:{port}"), "--access", "key", "--secret", "hush-hush", "--quiet"])
        .args(["--region", "somewhere-1", "posix"])
        .args(arguments)
        .arg(folder.path());
    Server { kept: vec![Box::new(folder)], ..serve(command, port) }
}

/// One that looks at no signature, and has a reader and a writer of XML of its own.
pub fn start_other() -> Server {
    let port = free_port();
    let mut command = Command::new(find("STOWAWAY_GOFAKES3", "gofakes3"));
    command.args(["-host", &format!("127.0.0.1:{port}"), "-backend", "memory", "-initialbucket", "bucket", "-quiet"]);
    serve(command, port)
}

fn serve(command: Command, port: u16) -> Server {
    let running = Running::start(command, port);
    let backend = BackendConfig::S3(S3Config {
        endpoint: format!("http://127.0.0.1:{port}"),
        bucket: "bucket".to_owned(),
        prefix: "pre/fix".to_owned(),
        region: "somewhere-1".to_owned(),
        path_style: true,
    });
    Server {
        access: access(backend, &[(Credential::S3AccessKeyId, "key"), (Credential::S3SecretAccessKey, "hush-hush")]),
        url: format!("s3:http://127.0.0.1:{port}/bucket/pre/fix"),
        environment: owned(&[
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "hush-hush"),
            ("AWS_DEFAULT_REGION", "somewhere-1"),
        ]),
        options: Vec::new(),
        newest_options: Vec::new(),
        running: Some(running),
        kept: Vec::new(),
    }
}
