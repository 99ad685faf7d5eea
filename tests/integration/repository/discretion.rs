//! Errors do not leak: they contain no part of a Secret, whatever its content, and nothing which a server that is no
//! store returned.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use stowaway::{
    model::{AzureConfig, Credential, Failure, GcsConfig, RestConfig, S3Config, Secret, SftpConfig},
    repository::{open, open_or_create},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

const CANARY: &str = "S3cr3tCanary";
/// No part of the canary of this length or longer may appear.
const SHORTEST_PART: usize = 5;

/// All credentials. The match fails to compile for a new credential, so that it is added to the list as well.
fn all_credentials() -> Vec<Credential> {
    use Credential as C;
    let known = |credential| match credential {
        C::S3AccessKeyId
        | C::S3SecretAccessKey
        | C::S3SessionToken
        | C::AzureAccountKey
        | C::AzureSasToken
        | C::GcsServiceAccount
        | C::GcsAccessToken
        | C::RestUser
        | C::RestPassword
        | C::SftpPrivateKey
        | C::SftpPassword
        | C::HostKeys
        | C::CertificateAuthorities
        | C::ClientCertificate
        | C::ClientKey => credential,
    };
    let all = [
        C::S3AccessKeyId,
        C::S3SecretAccessKey,
        C::S3SessionToken,
        C::AzureAccountKey,
        C::AzureSasToken,
        C::GcsServiceAccount,
        C::GcsAccessToken,
        C::RestUser,
        C::RestPassword,
        C::SftpPrivateKey,
        C::SftpPassword,
        C::HostKeys,
        C::CertificateAuthorities,
        C::ClientCertificate,
        C::ClientKey,
    ];
    all.map(known).to_vec()
}

/// The canary in forms which parsers might quote in their errors.
fn canaries() -> Vec<String> {
    let line = BASE64_STANDARD.encode(CANARY);
    vec![
        CANARY.to_owned(),
        format!("# comment\n{CANARY} {CANARY}\n@{CANARY}"),
        format!("@{CANARY}"),
        format!("ssh-ed25519 {CANARY}"),
        format!("\"{CANARY}\""),
        format!("{{\"type\": \"{CANARY}\"}}"),
        format!(
            "{{\"type\": \"service_account\", \"client_email\": \"{CANARY}\", \"private_key\": \"{CANARY}\", \"token_uri\": \"{CANARY}\"}}"
        ),
        format!("-----BEGIN {CANARY}-----\n{line}\n-----END {CANARY}-----"),
        format!("-----BEGIN CERTIFICATE-----\n{line}\n-----END CERTIFICATE-----"),
        format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----"),
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{line}\n-----END OPENSSH PRIVATE KEY-----"),
        format!("-----BEGIN {CANARY}"),
        format!("{CANARY}-{CANARY}!"),
    ]
}

fn backends(port: u16) -> Vec<BackendConfig> {
    let endpoint = format!("http://127.0.0.1:{port}");
    vec![
        BackendConfig::S3(S3Config {
            endpoint: endpoint.clone(),
            bucket: "bucket".into(),
            prefix: String::new(),
            region: "us-east-1".into(),
            path_style: true,
        }),
        BackendConfig::Azure(AzureConfig {
            endpoint: endpoint.clone(),
            account: "account".into(),
            container: "container".into(),
            prefix: String::new(),
        }),
        BackendConfig::Gcs(GcsConfig { endpoint: endpoint.clone(), bucket: "bucket".into(), prefix: String::new() }),
        BackendConfig::Rest(RestConfig { url: endpoint }),
        BackendConfig::Sftp(SftpConfig { host: "127.0.0.1".into(), port, user: "user".into(), path: "r".into() }),
    ]
}

fn access(backend: BackendConfig, credentials: &[(Credential, String)]) -> OpenOptions {
    let mut access = folder(std::path::Path::new("/nowhere"));
    access.backend = backend;
    access.timeouts = Timeouts { request: Duration::from_secs(2), retries: Duration::ZERO, outage: Duration::ZERO };
    for (credential, value) in credentials {
        access.connection.credentials.insert(*credential);
        access.credentials.insert(*credential, Secret::new(value.clone()));
    }
    access
}

/// Answers every request with `answer`, and counts the connections.
async fn server(answer: String) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let mut head = [0; 16 * 1024];
            let _size = stream.read(&mut head).await;
            let _written = stream.write_all(answer.as_bytes()).await;
            let _ended = stream.shutdown().await;
        }
    });
    (port, requests)
}

fn answer(status: &str, header: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn is_silent_about(secret: &str, text: &str, what: &str) {
    let parts: Vec<&str> =
        (0..=secret.len() - SHORTEST_PART).map(|start| &secret[start..start + SHORTEST_PART]).collect();
    for part in parts {
        assert!(!text.contains(part), "{what}: {text}");
    }
    assert!(!text.contains(&BASE64_STANDARD.encode(secret)), "{what}: {text}");
}

/// Valid credentials for a store of this kind, where a certain form is required.
fn opening(backend: &BackendConfig) -> Vec<(Credential, String)> {
    use Credential as C;
    let given: &[(Credential, &str)] = match backend {
        BackendConfig::Folder { .. } => &[],
        BackendConfig::S3(_) => &[(C::S3AccessKeyId, "id"), (C::S3SecretAccessKey, "key")],
        BackendConfig::Azure(_) => &[(C::AzureAccountKey, "a2V5")],
        BackendConfig::Gcs(_) => &[(C::GcsAccessToken, "token")],
        BackendConfig::Rest(_) => &[(C::RestUser, "user"), (C::RestPassword, "password")],
        BackendConfig::Sftp(_) => &[(C::SftpPassword, "password"), (C::HostKeys, HOST_KEY)],
    };
    given.iter().map(|(credential, value)| (*credential, (*value).to_owned())).collect()
}

/// Whether a store of this kind uses the credential, and which other credentials must then be missing.
fn is_used(backend: &BackendConfig, credential: Credential) -> Option<&'static [Credential]> {
    use Credential as C;
    let is_http = !matches!(backend, BackendConfig::Sftp(_));
    match (credential, backend) {
        (C::S3AccessKeyId | C::S3SecretAccessKey | C::S3SessionToken, BackendConfig::S3(_))
        | (C::AzureAccountKey, BackendConfig::Azure(_))
        | (C::GcsAccessToken, BackendConfig::Gcs(_))
        | (C::RestUser | C::RestPassword, BackendConfig::Rest(_))
        | (C::SftpPassword | C::HostKeys, BackendConfig::Sftp(_)) => Some(&[]),
        (C::AzureSasToken, BackendConfig::Azure(_)) => Some(&[C::AzureAccountKey]),
        (C::GcsServiceAccount, BackendConfig::Gcs(_)) => Some(&[C::GcsAccessToken]),
        (C::SftpPrivateKey, BackendConfig::Sftp(_)) => Some(&[C::SftpPassword]),
        (C::CertificateAuthorities | C::ClientCertificate | C::ClientKey, _) if is_http => Some(&[]),
        _ => None,
    }
}

#[tokio::test]
async fn no_error_quotes_any_part_of_any_secret() {
    let (port, _) = server(answer("403 Forbidden", "", "")).await;
    let mut tried = Vec::new();
    for backend in backends(port) {
        for credential in all_credentials() {
            let Some(without) = is_used(&backend, credential) else { continue };
            tried.push(credential);
            for canary in canaries() {
                let mut given = opening(&backend);
                given.retain(|(other, _)| *other != credential && !without.contains(other));
                if credential == Credential::ClientKey {
                    given.push((Credential::ClientCertificate, canary.clone()));
                }
                given.push((credential, canary.clone()));
                let what = format!("{credential:?} = {canary:?} at {backend:?}");
                let Err(error) = open_or_create(access(backend.clone(), &given), never()).await else {
                    panic!("{what}: opened")
                };
                is_silent_about(CANARY, &format!("{error} {error:?}"), &what);
                is_silent_about(CANARY, &Failure::from(error).to_string(), &what);
            }
        }
    }
    for credential in all_credentials() {
        assert!(tried.contains(&credential), "{credential:?} was not tried");
    }
}

const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

#[tokio::test]
async fn answers_of_a_server_that_is_no_store_are_not_shown() {
    let secret = CANARY;
    let bodies = [
        secret.to_owned(),
        format!("{{\"token\": \"{secret}\"}}"),
        format!("<html>{secret}</html>"),
        format!("\"{secret}\""),
    ];
    for status in ["200 OK", "400 Bad Request", "403 Forbidden", "500 Internal Server Error"] {
        for body in &bodies {
            let (port, _) = server(answer(status, "", body)).await;
            for backend in backends(port).into_iter().filter(|backend| !matches!(backend, BackendConfig::Sftp(_))) {
                let what = format!("{status} {body} at {backend:?}");
                let Err(error) = open(access(backend.clone(), &opening(&backend)), never()).await else {
                    panic!("{what}: opened")
                };
                is_silent_about(secret, &format!("{error} {error:?}"), &what);
            }
        }
    }
}

#[tokio::test]
async fn redirections_to_another_host_are_not_followed() {
    let (target, requests) = server(answer("200 OK", "", "internal")).await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let header = format!("Location: http://127.0.0.1:{target}/latest/meta-data\r\n");
        let (port, received) = server(answer(status, &header, "")).await;
        for backend in backends(port).into_iter().filter(|backend| !matches!(backend, BackendConfig::Sftp(_))) {
            let before = received.load(Ordering::Relaxed);
            assert!(open(access(backend.clone(), &opening(&backend)), never()).await.is_err(), "{status}: {backend:?}");
            assert!(received.load(Ordering::Relaxed) > before, "{backend:?} was not requested at all");
        }
    }
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}
