//! fake-gcs-server, a test server for Google Cloud Storage. It accepts any token.

use std::process::Command;

use stowaway::model::{BackendConfig, Credential, GcsConfig};

use super::{Running, Server, access, free_port, owned, restic::find};

pub fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("barrels")).unwrap();
    let port = free_port();
    let host = format!("127.0.0.1:{port}");
    let mut command = Command::new(find("STOWAWAY_FAKE_GCS_SERVER", "fake-gcs-server"));
    command.args(["-backend", "filesystem", "-filesystem-root", folder.path().to_str().unwrap()]).args([
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        &port.to_string(),
        "-public-host",
        &host,
    ]);
    let running = Running::start(command, port);
    let backend = BackendConfig::Gcs(GcsConfig {
        bucket: "barrels".to_owned(),
        prefix: "pre/fix".to_owned(),
        endpoint: format!("http://{host}"),
    });
    Server {
        access: access(backend, &[(Credential::GcsAccessToken, "hush-hush")]),
        url: "gs:barrels:/pre/fix".to_owned(),
        environment: owned(&[
            ("STORAGE_EMULATOR_HOST", &host),
            ("GOOGLE_ACCESS_TOKEN", "hush-hush"),
            ("GOOGLE_PROJECT_ID", "orchard"),
        ]),
        options: Vec::new(),
        newest_options: Vec::new(),
        running: Some(running),
        kept: vec![Box::new(folder)],
    }
}
