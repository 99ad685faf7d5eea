//! Access without credentials: the program uses the identity of its machine or pod. The stores are real. The service
//! which issues identities is a fake that checks requests as strictly as the clouds do.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{Timestamp, ToSpan};
use stowaway::model::BackendConfig;
use tokio::net::{TcpSocket, TcpStream};

use super::{
    command_line::{and, backs_up_and_restores, stowaway},
    servers::{
        self, Kind, Server,
        meddler::MitmProxy,
        proxy_to,
        tls::{Authority, Front},
        tokens::{FakeTokenService, TokenRequest},
    },
};

/// The token by which a pod proves its identity.
const TOKEN_OF_THE_POD: &str = "token-of-the-pod";
const NEVER: &str = "2099-01-01T00:00:00Z";

/// A file with this token, as the kubelet would write it.
fn token_file(folder: &Path) -> String {
    let file = folder.join("token");
    fs::write(&file, format!("{TOKEN_OF_THE_POD}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

/// An S3 store which accepts a role's key only with its session token, as AWS does, and the store's location. The
/// signature is not verified.
async fn s3_of_a_role() -> (Server, String) {
    let mut server = Server::start(Kind::OtherS3).await;
    let BackendConfig::S3(config) = &mut server.access.backend else { unreachable!() };
    let proxy = MitmProxy::between(&mut config.endpoint).await;
    proxy.require("credential=key/");
    proxy.require("x-amz-security-token: of-the-role");
    let location = format!("s3:{}/bucket/pre/fix", config.endpoint);
    (server, location)
}

fn keys_of_the_role(token: &str, expiration: &str) -> String {
    format!(
        r#"{{"Code":"Success","AccessKeyId":"key","SecretAccessKey":"hush-hush","Token":"{token}","Expiration":"{expiration}"}}"#
    )
}

/// The EKS Pod Identity agent on the pod's node.
async fn fake_agent(expiration: String) -> FakeTokenService {
    FakeTokenService::start(move |request| {
        let is_known = request.is("GET /v1/credentials", ("authorization", TOKEN_OF_THE_POD));
        is_known.then(|| keys_of_the_role("of-the-role", &expiration))
    })
    .await
}

fn by_agent(agent: &FakeTokenService, token_file: &str) -> Vec<(String, String)> {
    and(
        &[],
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("http://{}/v1/credentials", agent.address)),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file),
            ("AWS_DEFAULT_REGION", "somewhere-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_of_eks_appears_as_the_role_that_its_agent_gives_it() {
    let folder = tempfile::tempdir().unwrap();
    let (server, location) = s3_of_a_role().await;
    let agent = fake_agent(NEVER.to_owned()).await;
    backs_up_and_restores(&location, &by_agent(&agent, &token_file(folder.path())), &server);
    // The program runs three times, and each run has at most two clients of the store.
    assert!(agent.given() <= 6, "keys are fetched once, and not for each request: {}", agent.given());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_expire_soon_are_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let (server, location) = s3_of_a_role().await;
    let soon = Timestamp::now() + 60.seconds();
    let agent = fake_agent(soon.to_string()).await;
    backs_up_and_restores(&location, &by_agent(&agent, &token_file(folder.path())), &server);
    assert!(agent.given() > 6, "{}", agent.given());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_of_aws_appears_as_its_role() {
    let (server, location) = s3_of_a_role().await;
    let metadata = FakeTokenService::start(|request| {
        let session = ("x-aws-ec2-metadata-token", "session");
        let roles = "GET /latest/meta-data/iam/security-credentials/";
        if request.is("PUT /latest/api/token", ("x-aws-ec2-metadata-token-ttl-seconds", "21600")) {
            Some("session".to_owned())
        } else if request.is(roles, session) {
            Some("barrels".to_owned())
        } else {
            request.is(&format!("{roles}barrels"), session).then(|| keys_of_the_role("of-the-role", NEVER))
        }
    })
    .await;
    let endpoint = format!("http://{}", metadata.address);
    let identity = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str()), ("AWS_DEFAULT_REGION", "somewhere-1")];
    backs_up_and_restores(&location, &and(&[], &identity), &server);
}

/// The environment of a pod with a web identity, and a fake of AWS's security token service. The fake is reached by
/// HTTPS under the real name, to which a proxy leads.
async fn by_web_identity(
    folder: &Path,
    answers: impl Fn(&TokenRequest) -> Option<String> + Send + Sync + 'static,
) -> Vec<(String, String)> {
    let service = FakeTokenService::start(answers).await;
    let authority = Authority::new();
    let front = Front::start_as(&["sts.somewhere-1.amazonaws.com"], &authority, None, service.address).await;
    let (proxy, _ends_with_the_runtime) = proxy_to(front.port).await;
    let authorities = folder.join("ca.pem");
    fs::write(&authorities, authority.certificate()).unwrap();
    and(
        &[],
        &[
            // As EKS sets them in a pod.
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/barrels"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &token_file(folder)),
            ("AWS_REGION", "somewhere-1"),
            ("AWS_DEFAULT_REGION", "somewhere-1"),
            ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("HTTPS_PROXY", &proxy),
            ("RESTIC_CACERT", authorities.to_str().unwrap()),
        ],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_of_aws_appears_as_the_role_of_its_web_identity() {
    let folder = tempfile::tempdir().unwrap();
    let (server, location) = s3_of_a_role().await;
    let environment = by_web_identity(folder.path(), |request| {
        let fields = [
            "Action=AssumeRoleWithWebIdentity",
            "Version=2011-06-15",
            "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fbarrels",
            "WebIdentityToken=token-of-the-pod",
        ];
        (request.line == "POST /" && request.has_fields(&fields)).then(|| {
            format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>key</AccessKeyId>\
                 <SecretAccessKey>hush-hush</SecretAccessKey><SessionToken>of-the-role</SessionToken>\
                 <Expiration>{NEVER}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>"
            )
        })
    })
    .await;
    backs_up_and_restores(&location, &environment, &server);
}

/// A token as Microsoft Entra issues it for Azure Blob Storage. Azurite verifies everything but the signature.
fn token_of_azure() -> String {
    let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    let claims = r#"{"aud":"https://storage.azure.com","iss":"https://sts.windows.net/press/","iat":1577836800,"nbf":1577836800,"exp":4070908800}"#;
    format!("{}.{}.{}", part(r#"{"alg":"RS256","typ":"JWT"}"#), part(claims), part("unsigned"))
}

/// The server's environment without the variables which hold credentials.
fn without_key(server: &Server) -> Vec<(String, String)> {
    let keys = ["AZURE_ACCOUNT_KEY", "GOOGLE_ACCESS_TOKEN"];
    server.environment.iter().filter(|(name, _)| !keys.contains(&name.as_str())).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_of_azure_appears_as_its_managed_identity() {
    let server = servers::azure_with_tokens().await;
    let metadata = FakeTokenService::start(|request| {
        let line =
            "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F";
        let answer =
            format!(r#"{{"access_token":"{}","expires_on":"4070908800","token_type":"Bearer"}}"#, token_of_azure());
        request.is(line, ("metadata", "true")).then_some(answer)
    })
    .await;
    let endpoint = format!("http://{}/metadata/identity/oauth2/token", metadata.address);
    backs_up_and_restores(&server.url, &and(&without_key(&server), &[("AZURE_IMDS_ENDPOINT", &endpoint)]), &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_of_azure_appears_as_its_workload_identity() {
    let folder = tempfile::tempdir().unwrap();
    let server = servers::azure_with_tokens().await;
    let entra = FakeTokenService::start(|request| {
        let fields = [
            "grant_type=client_credentials",
            "scope=https%3A%2F%2Fstorage.azure.com%2F.default",
            "client_id=barrels",
            "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
            "client_assertion=token-of-the-pod",
        ];
        let answer = format!(r#"{{"access_token":"{}","expires_in":3599,"token_type":"Bearer"}}"#, token_of_azure());
        (request.line == "POST /press/oauth2/v2.0/token" && request.has_fields(&fields)).then_some(answer)
    })
    .await;
    let identity = [
        // As Azure's webhook sets them in a pod.
        ("AZURE_CLIENT_ID", "barrels"),
        ("AZURE_TENANT_ID", "press"),
        ("AZURE_FEDERATED_TOKEN_FILE", &token_file(folder.path())),
        ("AZURE_AUTHORITY_HOST", &format!("http://{}/", entra.address)),
    ];
    backs_up_and_restores(&server.url, &and(&without_key(&server), &identity), &server);
}

/// A Google store which accepts only this authorization header, and the environment which leads there.
async fn gcs_of(header: &'static str) -> (Server, Vec<(String, String)>) {
    let mut server = Server::start(Kind::Gcs).await;
    let mut endpoint = server.endpoint().unwrap().clone();
    MitmProxy::between(&mut endpoint).await.require(header);
    let mut environment = without_key(&server);
    environment.retain(|(name, _)| name != "STORAGE_EMULATOR_HOST");
    let host = endpoint.trim_start_matches("http://").to_owned();
    (server, and(&environment, &[("STORAGE_EMULATOR_HOST", &host)]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_of_google_appears_as_its_account() {
    let (server, environment) = gcs_of("authorization: bearer of-the-machine").await;
    // The metadata server answers pods of GKE with a workload identity likewise.
    let metadata = FakeTokenService::start(|request| {
        let line = "GET /computeMetadata/v1/instance/service-accounts/default/token?scopes=https://www.googleapis.com/auth/devstorage.read_write";
        let answer = r#"{"access_token":"of-the-machine","expires_in":3600,"token_type":"Bearer"}"#;
        request.is(line, ("metadata-flavor", "Google")).then(|| answer.to_owned())
    })
    .await;
    backs_up_and_restores(&server.url, &and(&environment, &[("GCE_METADATA_HOST", &metadata.address)]), &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_outside_of_google_appears_as_its_external_account() {
    let folder = tempfile::tempdir().unwrap();
    let (server, environment) = gcs_of("authorization: bearer of-the-pod").await;
    let service = FakeTokenService::start(|request| {
        let fields = [
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange",
            "audience=pool",
            "subject_token=token-of-the-pod",
            "subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt",
        ];
        let answer = r#"{"access_token":"of-the-pod","expires_in":3600,"token_type":"Bearer"}"#;
        (request.line == "POST /v1/token" && request.has_fields(&fields)).then(|| answer.to_owned())
    })
    .await;
    let account = serde_json::json!({
        "type": "external_account",
        "audience": "pool",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("http://{}/v1/token", service.address),
        "credential_source": { "file": token_file(folder.path()), "format": { "type": "text" } },
    });
    let file = folder.path().join("account.json");
    fs::write(&file, account.to_string()).unwrap();
    let identity = [("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())];
    backs_up_and_restores(&server.url, &and(&environment, &identity), &server);
}

/// Asserts that the error suggests to check the credentials, as it must for an identity which is missing or refused.
fn reports_missing_credentials(location: &str, environment: &[(String, String)]) {
    let refused = stowaway(environment, &["snapshots", "--repository", location]);
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("check the credentials"), "{stderr}");
    assert!(!stderr.contains(TOKEN_OF_THE_POD), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_without_an_identity_reports_missing_credentials() {
    let server = Server::start(Kind::S3).await;
    let environment = and(&[], &[("AWS_DEFAULT_REGION", "somewhere-1"), ("AWS_EC2_METADATA_DISABLED", "true")]);
    reports_missing_credentials(&server.url, &environment);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_without_a_metadata_service_reports_missing_credentials_and_no_unreachable_store() {
    let server = Server::start(Kind::S3).await;
    // No connection is accepted, and the backlog holds only one, so further connection attempts are not answered.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let metadata = socket.listen(0).unwrap();
    let address = metadata.local_addr().unwrap();
    let _waiting = TcpStream::connect(address).await.unwrap();
    let endpoint = format!("http://{address}");
    let identity = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str()), ("AWS_DEFAULT_REGION", "somewhere-1")];
    reports_missing_credentials(&server.url, &and(&[], &identity));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_whose_identity_is_refused_reports_missing_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Kind::S3).await;
    reports_missing_credentials(&server.url, &by_web_identity(folder.path(), |_| None).await);

    let refusing = FakeTokenService::start(|_| None).await;
    let url = format!("http://{}", refusing.address);
    reports_missing_credentials(&server.url, &by_agent(&refusing, &token_file(folder.path())));

    let server = servers::azure_with_tokens().await;
    let identity = [
        ("AZURE_CLIENT_ID", "barrels"),
        ("AZURE_TENANT_ID", "press"),
        ("AZURE_FEDERATED_TOKEN_FILE", &token_file(folder.path())),
        ("AZURE_AUTHORITY_HOST", &url),
        ("AZURE_IMDS_ENDPOINT", &url),
    ];
    reports_missing_credentials(&server.url, &and(&without_key(&server), &identity));

    let server = Server::start(Kind::Gcs).await;
    let environment = and(&without_key(&server), &[("GCE_METADATA_HOST", &refusing.address)]);
    reports_missing_credentials(&server.url, &environment);
}
