//! Authentication of servers and clients: TLS certificates, SSH host keys, and the methods of an SSH server.

use std::{sync::atomic::Ordering, time::Duration};

use stowaway::{
    model::{Credential, RestConfig, Secret},
    repository::{RepositoryError, open_or_create},
};

use super::{
    servers::{
        Kind, Server,
        meddler::{Fault, MitmProxy},
        tls::{Authority, Front},
    },
    *,
};

/// A server behind HTTPS, and access to it without any settings for certificates.
async fn behind(authority: &Authority, of_clients: Option<&Authority>) -> (Server, Front, OpenOptions) {
    let mut server = Server::start(Kind::Rest).await;
    let endpoint = server.endpoint().unwrap().clone();
    let (host, path) = endpoint.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let front = Front::start(authority, of_clients, host.to_owned()).await;
    let mut access = server.access.clone();
    access.backend = BackendConfig::Rest(RestConfig { url: format!("https://127.0.0.1:{}/{path}", front.port) });
    (server, front, access)
}

fn give(access: &mut OpenOptions, credential: Credential, value: &str) {
    access.connection.credentials.insert(credential);
    access.credentials.insert(credential, Secret::new(value.to_owned()));
}

async fn works(access: &OpenOptions) {
    let repository = open_or_create(access.clone(), never()).await.unwrap();
    store(&repository, "/db.sql", b"data").await;
    repository.close().await;
}

#[tokio::test]
async fn server_of_an_unknown_authority_is_not_spoken_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_server, front, access) = behind(&authority, None).await;
    let mut with_another = access.clone();
    with_another.connection.certificate_authorities = other.certificate();
    for access in [access, with_another] {
        let before = front.begun.load(Ordering::Relaxed);
        let error = open_or_create(access, never()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::StoreUnavailable { .. }), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert_eq!(front.begun.load(Ordering::Relaxed) - before, 1, "the connection is not retried");
    }
}

#[tokio::test]
async fn server_of_an_authority_that_was_named_is_spoken_to() {
    let authority = Authority::new();
    let (_server, _front, access) = behind(&authority, None).await;
    let mut inline = access.clone();
    inline.connection.certificate_authorities = authority.certificate();
    works(&inline).await;
    let mut of_a_secret = access.clone();
    // A bundle in which the right certificate is not the first.
    let bundle = Authority::new().certificate() + &authority.certificate();
    give(&mut of_a_secret, Credential::CertificateAuthorities, &bundle);
    works(&of_a_secret).await;
    let mut unverified = access;
    unverified.connection.insecure_skip_verify = true;
    works(&unverified).await;
}

#[tokio::test]
async fn server_that_requires_a_client_certificate_receives_it() {
    let (authority, of_clients) = (Authority::new(), Authority::new());
    let (_server, _front, mut access) = behind(&authority, Some(&of_clients)).await;
    access.connection.certificate_authorities = authority.certificate();
    let error = open_or_create(access.clone(), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::StoreUnavailable { .. }), "{error}");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let own = of_clients.issue(&["runner"]);
    give(&mut access, Credential::ClientCertificate, &own.certificate);
    give(&mut access, Credential::ClientKey, &own.key);
    works(&access).await;
    // The key does not belong to the certificate.
    give(&mut access, Credential::ClientKey, &of_clients.issue(&["other"]).key);
    let error = open_or_create(access, never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::InvalidRequest(_)), "{error}");
}

#[tokio::test]
async fn invalid_certificate_is_reported_and_never_disables_verification() {
    let (_server, _front, access) = behind(&Authority::new(), None).await;
    for text in ["rubbish", "-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n", " "] {
        let mut inline = access.clone();
        inline.connection.certificate_authorities = text.to_owned();
        let mut of_a_secret = access.clone();
        give(&mut of_a_secret, Credential::CertificateAuthorities, text);
        for access in [inline, of_a_secret] {
            let error = open_or_create(access, never()).await.unwrap_err();
            assert!(matches!(error, RepositoryError::InvalidRequest(_)), "{text:?}: {error}");
            assert!(error.to_string().contains("PEM"), "{text:?}: {error}");
        }
    }
}

#[tokio::test]
async fn answer_without_a_body_is_reported_without_the_upload_url() {
    let mut server = Server::start(Kind::Gcs).await;
    server.access.timeouts.retries = Duration::ZERO;
    let proxy = MitmProxy::between(server.endpoint().unwrap()).await;
    for status in [400, 403, 500, 507] {
        proxy.fail("PUT", "upload_id=", Fault::Status(status), 1);
        let error = open_or_create(server.access.clone(), never()).await.unwrap_err();
        let message = format!("{error} {error:?}");
        assert!(message.contains(&format!("status {status}")), "{message}");
        assert!(!message.contains("upload"), "{message}");
    }
}

#[tokio::test]
async fn unknown_session_token_is_reported_as_denied_access() {
    let mut server = Server::start(Kind::S3).await;
    give(&mut server.access, Credential::S3SessionToken, "of-yesterday");
    let error = open_or_create(server.access.clone(), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::AccessDenied { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("of-yesterday"), "{error}");
}

#[tokio::test]
async fn ssh_server_that_shows_another_key_is_not_spoken_to() {
    let server = Server::start(Kind::Sftp).await;
    let other = Server::start(Kind::Sftp).await;
    let mut access = server.access.clone();
    access.credentials.insert(Credential::HostKeys, other.access.credentials[&Credential::HostKeys].clone());
    let error = open_or_create(access.clone(), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::StoreUnavailable { .. }), "{error}");
    assert!(error.to_string().contains("host keys"), "{error}");
    // Without a host key no server is trusted either.
    access.credentials.remove(&Credential::HostKeys);
    access.connection.credentials.remove(&Credential::HostKeys);
    let error = open_or_create(access.clone(), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::InvalidRequest(_)), "{error}");
    access.connection.host_keys =
        server.access.credentials[&Credential::HostKeys].expose().lines().map(str::to_owned).collect();
    works(&access).await;
    access.connection.host_keys.clear();
    access.connection.insecure_skip_verify = true;
    works(&access).await;
}

#[tokio::test]
async fn ssh_server_that_rejects_the_method_reports_what_it_accepts() {
    let by_key = Server::start(Kind::Sftp).await;
    let by_password = Server::start(Kind::SftpPassword).await;
    for (server, opens, value, expected) in [
        (by_key, Credential::SftpPassword, "hush-hush".to_owned(), "log in by password, but by: publickey"),
        (by_password, Credential::SftpPrivateKey, servers::new_ssh_key(), "log in by private key, but by: password"),
    ] {
        let mut access = server.access.clone();
        access.credentials.retain(|credential, _| *credential == Credential::HostKeys);
        access.connection.credentials = [Credential::HostKeys].into();
        give(&mut access, opens, &value);
        let error = open_or_create(access, never()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::AccessDenied { .. }), "{error}");
        assert!(error.to_string().contains(expected) && !error.to_string().contains(&value), "{error}");
    }
}

#[tokio::test]
async fn ssh_server_that_requires_a_further_method_reports_it() {
    for (server, expected) in
        servers::sftp_that_want_more().into_iter().zip(["than this private key: password", "for more than a password"])
    {
        let error = open_or_create(server.access.clone(), never()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::AccessDenied { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
