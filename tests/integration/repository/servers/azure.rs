//! Azurite, Microsoft's test server for Azure Blob Storage.
//!
//! restic connects to `https://<account>.blob.<suffix>` only, so it uses a proxy which leads every name to Azurite.

use std::process::Command;

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use stowaway::model::{AzureConfig, BackendConfig, Credential};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{Running, Server, access, free_port, owned, restic::find, tls::Authority};

const ACCOUNT: &str = "orchard";
const KEY: &[u8] = b"hush-hush hush-hush hush-hush";
/// The version of the protocol, which decides what is signed.
const VERSION: &str = "2020-08-04";

/// A server with HTTPS and the account's key.
pub async fn start() -> Server {
    start_with(&[]).await
}

/// A server which accepts tokens of identities as well. It answers a wrong key as it answers an invalid token.
pub async fn start_with_tokens() -> Server {
    start_with(&["--oauth", "basic"]).await
}

async fn start_with(arguments: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let authority = Authority::new();
    let names = ["127.0.0.1".to_owned(), format!("{ACCOUNT}.blob.core.windows.net")];
    let certificate = authority.issue(&names.each_ref().map(String::as_str));
    std::fs::write(at("ca.pem"), authority.certificate()).unwrap();
    std::fs::write(at("server.pem"), &certificate.certificate).unwrap();
    std::fs::write(at("server.key"), &certificate.key).unwrap();
    let port = free_port();
    let key = BASE64_STANDARD.encode(KEY);
    let mut command = azurite(port);
    command.args(["--location", &at("data"), "--cert", &at("server.pem"), "--key", &at("server.key")]);
    command.args(arguments);
    let running = Running::start(command, port);
    let backend = BackendConfig::Azure(AzureConfig {
        account: ACCOUNT.to_owned(),
        container: "barrels".to_owned(),
        prefix: "pre/fix".to_owned(),
        endpoint: format!("https://127.0.0.1:{port}/{ACCOUNT}"),
    });
    let mut access = access(backend, &[(Credential::AzureAccountKey, &key)]);
    access.connection.certificate_authorities = authority.certificate();
    stowaway::repository::install_transport();
    let trusted = reqwest::Certificate::from_pem(authority.certificate().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([trusted]).build().unwrap();
    make_container(&format!("https://127.0.0.1:{port}/{ACCOUNT}/barrels"), &client).await;
    let (proxy, proxying) = proxy_to(port).await;
    Server {
        access,
        url: "azure:barrels:/pre/fix".to_owned(),
        environment: owned(&[
            ("AZURE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_ACCOUNT_KEY", &key),
            ("HTTPS_PROXY", &proxy),
            ("RESTIC_CACERT", &at("ca.pem")),
        ]),
        options: vec!["--cacert".to_owned(), at("ca.pem")],
        // restic sends an empty access tier by default, which Azurite rejects. The oldest restic does not know the
        // option.
        newest_options: vec!["-o".to_owned(), "azure.access-tier=Hot".to_owned()],
        running: Some(running),
        kept: vec![Box::new(folder), Box::new(proxying)],
    }
}

/// A server with HTTP and a shared access signature, which restic cannot use.
pub async fn start_with_sas() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = azurite(port);
    command.args(["--location", folder.path().to_str().unwrap()]);
    let running = Running::start(command, port);
    let endpoint = format!("http://127.0.0.1:{port}/{ACCOUNT}");
    stowaway::repository::install_transport();
    make_container(&format!("{endpoint}/barrels"), &reqwest::Client::new()).await;
    let backend = BackendConfig::Azure(AzureConfig {
        account: ACCOUNT.to_owned(),
        container: "barrels".to_owned(),
        prefix: "pre/fix".to_owned(),
        endpoint,
    });
    Server {
        access: access(backend, &[(Credential::AzureSasToken, &format!("?{}", sas_token()))]),
        url: String::new(),
        environment: Vec::new(),
        options: Vec::new(),
        newest_options: Vec::new(),
        running: Some(running),
        kept: vec![Box::new(folder)],
    }
}

fn azurite(port: u16) -> Command {
    let mut command = Command::new(find("STOWAWAY_AZURITE", "azurite-blob"));
    command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", BASE64_STANDARD.encode(KEY))).args([
        "--blobPort",
        &port.to_string(),
        "--silent",
        "--disableTelemetry",
        "--skipApiVersionCheck",
    ]);
    command
}

async fn make_container(url: &str, client: &reqwest::Client) {
    let request = client.put(format!("{url}?restype=container&{}", sas_token())).header("x-ms-version", VERSION);
    let made = request.header("content-length", 0).send().await.unwrap();
    assert!(made.status().is_success(), "{:?}", made.text().await);
}

/// A shared access signature for the whole account (Microsoft's "Create an account SAS").
fn sas_token() -> String {
    let (start, end) = ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z");
    let signed = format!("{ACCOUNT}\nrwdlac\nb\nsco\n{start}\n{end}\n\nhttps,http\n{VERSION}\n");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), signed.as_bytes());
    let signature = BASE64_STANDARD.encode(signature).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let (start, end) = (start.replace(':', "%3A"), end.replace(':', "%3A"));
    format!("sv={VERSION}&ss=b&srt=sco&sp=rwdlac&st={start}&se={end}&spr=https,http&sig={signature}")
}

/// Starts an HTTP proxy which leads every CONNECT to this port. Returns its URL.
pub async fn proxy_to(port: u16) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let proxying = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                let mut line = String::new();
                while client.read_line(&mut line).await.is_ok_and(|length| length > 2) {
                    line.clear();
                }
                let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                let answered = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
                if answered.is_ok() {
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (url, proxying)
}
