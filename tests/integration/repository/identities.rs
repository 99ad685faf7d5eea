//! Without credentials: the program appears as the machine or the pod that it runs on. Real stores; what gives out
//! identities is a fake, as strict about what it is asked as the clouds' own.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{Timestamp, ToSpan};
use stowaway::model::BackendConfig;
use tokio::net::{TcpSocket, TcpStream};

use super::{
    command_line::{and, goes_to_and_fro, stowaway},
    servers::{
        self, Kind, Server,
        meddler::Meddler,
        proxy_to,
        tls::{Authority, Front},
        tokens::{Asked, FakeTokenService},
    },
};

/// What a pod shows to prove who it is.
const TOKEN_OF_THE_POD: &str = "token-of-the-pod";
const NEVER: &str = "2099-01-01T00:00:00Z";

/// That token as a file, which the kubelet would write.
fn token_file(folder: &Path) -> String {
    let file = folder.join("token");
    fs::write(&file, format!("{TOKEN_OF_THE_POD}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

/// A store of S3 that takes the key of a role as AWS does, with its session's token alone; and its place. The signature is
/// looked at by nobody.
async fn s3_of_a_role() -> (Server, String) {
    let mut server = Server::start(Kind::OtherS3).await;
    let BackendConfig::S3(config) = &mut server.access.backend else { unreachable!() };
    let meddler = Meddler::between(&mut config.endpoint).await;
    meddler.require("credential=key/");
    meddler.require("x-amz-security-token: of-the-role");
    let place = format!("s3:{}/bucket/pre/fix", config.endpoint);
    (server, place)
}

fn keys_of_the_role(token: &str, expiration: &str) -> String {
    format!(
        r#"{{"Code":"Success","AccessKeyId":"key","SecretAccessKey":"hush-hush","Token":"{token}","Expiration":"{expiration}"}}"#
    )
}

/// The agent of EKS on a pod's node.
async fn fake_agent(expiration: String) -> FakeTokenService {
    FakeTokenService::start(move |asked| {
        let is_known = asked.is("GET /v1/credentials", ("authorization", TOKEN_OF_THE_POD));
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
    let (server, place) = s3_of_a_role().await;
    let agent = fake_agent(NEVER.to_owned()).await;
    goes_to_and_fro(&place, &by_agent(&agent, &token_file(folder.path())), &server);
    // Three runs of the program, each with two ways of writing.
    assert!(agent.given() <= 6, "keys are fetched once, and not for each request: {}", agent.given());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_end_soon_are_fetched_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (server, place) = s3_of_a_role().await;
    let soon = Timestamp::now() + 60.seconds();
    let agent = fake_agent(soon.to_string()).await;
    goes_to_and_fro(&place, &by_agent(&agent, &token_file(folder.path())), &server);
    assert!(agent.given() > 6, "{}", agent.given());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_of_aws_appears_as_its_role() {
    let (server, place) = s3_of_a_role().await;
    let metadata = FakeTokenService::start(|asked| {
        let session = ("x-aws-ec2-metadata-token", "session");
        let roles = "GET /latest/meta-data/iam/security-credentials/";
        if asked.is("PUT /latest/api/token", ("x-aws-ec2-metadata-token-ttl-seconds", "21600")) {
            Some("session".to_owned())
        } else if asked.is(roles, session) {
            Some("barrels".to_owned())
        } else {
            asked.is(&format!("{roles}barrels"), session).then(|| keys_of_the_role("of-the-role", NEVER))
        }
    })
    .await;
    let endpoint = format!("http://{}", metadata.address);
    let identity = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str()), ("AWS_DEFAULT_REGION", "somewhere-1")];
    goes_to_and_fro(&place, &and(&[], &identity), &server);
}

/// The security token service of AWS, as far as it is reached: by its name, which a proxy leads here, and by HTTPS. With
/// the variables by which a pod with a web identity gets there.
async fn by_web_identity(
    folder: &Path,
    answers: impl Fn(&Asked) -> Option<String> + Send + Sync + 'static,
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
            // As EKS writes them into a pod.
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
    let (server, place) = s3_of_a_role().await;
    let environment = by_web_identity(folder.path(), |asked| {
        let fields = [
            "Action=AssumeRoleWithWebIdentity",
            "Version=2011-06-15",
            "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fbarrels",
            "WebIdentityToken=token-of-the-pod",
        ];
        (asked.line == "POST /" && asked.has_fields(&fields)).then(|| {
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
    goes_to_and_fro(&place, &environment, &server);
}

/// A token as Microsoft Entra gives it for stores of blobs; Azurite looks at all of it but the signature.
fn token_of_azure() -> String {
    let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    let claims = r#"{"aud":"https://storage.azure.com","iss":"https://sts.windows.net/press/","iat":1577836800,"nbf":1577836800,"exp":4070908800}"#;
    format!("{}.{}.{}", part(r#"{"alg":"RS256","typ":"JWT"}"#), part(claims), part("nobody's"))
}

/// What leads to the server, without what opens it.
fn without_key(server: &Server) -> Vec<(String, String)> {
    let keys = ["AZURE_ACCOUNT_KEY", "GOOGLE_ACCESS_TOKEN"];
    server.environment.iter().filter(|(name, _)| !keys.contains(&name.as_str())).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_of_azure_appears_as_its_managed_identity() {
    let server = servers::azure_with_tokens().await;
    let metadata = FakeTokenService::start(|asked| {
        let line =
            "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F";
        let answer =
            format!(r#"{{"access_token":"{}","expires_on":"4070908800","token_type":"Bearer"}}"#, token_of_azure());
        asked.is(line, ("metadata", "true")).then_some(answer)
    })
    .await;
    let endpoint = format!("http://{}/metadata/identity/oauth2/token", metadata.address);
    goes_to_and_fro(&server.url, &and(&without_key(&server), &[("AZURE_IMDS_ENDPOINT", &endpoint)]), &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_of_azure_appears_as_its_workload_identity() {
    let folder = tempfile::tempdir().unwrap();
    let server = servers::azure_with_tokens().await;
    let entra = FakeTokenService::start(|asked| {
        let fields = [
            "grant_type=client_credentials",
            "scope=https%3A%2F%2Fstorage.azure.com%2F.default",
            "client_id=barrels",
            "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
            "client_assertion=token-of-the-pod",
        ];
        let answer = format!(r#"{{"access_token":"{}","expires_in":3599,"token_type":"Bearer"}}"#, token_of_azure());
        (asked.line == "POST /press/oauth2/v2.0/token" && asked.has_fields(&fields)).then_some(answer)
    })
    .await;
    let identity = [
        // As the webhook of Azure writes them into a pod.
        ("AZURE_CLIENT_ID", "barrels"),
        ("AZURE_TENANT_ID", "press"),
        ("AZURE_FEDERATED_TOKEN_FILE", &token_file(folder.path())),
        ("AZURE_AUTHORITY_HOST", &format!("http://{}/", entra.address)),
    ];
    goes_to_and_fro(&server.url, &and(&without_key(&server), &identity), &server);
}

/// A store of Google that takes one token alone; the variables that lead there.
async fn gcs_of(header: &'static str) -> (Server, Vec<(String, String)>) {
    let mut server = Server::start(Kind::Gcs).await;
    let mut endpoint = server.endpoint().unwrap().clone();
    Meddler::between(&mut endpoint).await.require(header);
    let mut environment = without_key(&server);
    environment.retain(|(name, _)| name != "STORAGE_EMULATOR_HOST");
    let host = endpoint.trim_start_matches("http://").to_owned();
    (server, and(&environment, &[("STORAGE_EMULATOR_HOST", &host)]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_of_google_appears_as_its_account() {
    let (server, environment) = gcs_of("authorization: bearer of-the-machine").await;
    // It answers pods of GKE with a workload identity, too.
    let metadata = FakeTokenService::start(|asked| {
        let line = "GET /computeMetadata/v1/instance/service-accounts/default/token?scopes=https://www.googleapis.com/auth/devstorage.read_write";
        let answer = r#"{"access_token":"of-the-machine","expires_in":3600,"token_type":"Bearer"}"#;
        asked.is(line, ("metadata-flavor", "Google")).then(|| answer.to_owned())
    })
    .await;
    goes_to_and_fro(&server.url, &and(&environment, &[("GCE_METADATA_HOST", &metadata.address)]), &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_outside_of_google_appears_as_its_external_account() {
    let folder = tempfile::tempdir().unwrap();
    let (server, environment) = gcs_of("authorization: bearer of-the-pod").await;
    let service = FakeTokenService::start(|asked| {
        let fields = [
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange",
            "audience=pool",
            "subject_token=token-of-the-pod",
            "subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt",
        ];
        let answer = r#"{"access_token":"of-the-pod","expires_in":3600,"token_type":"Bearer"}"#;
        (asked.line == "POST /v1/token" && asked.has_fields(&fields)).then(|| answer.to_owned())
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
    goes_to_and_fro(&server.url, &and(&environment, &identity), &server);
}

/// What is said of an identity that is there no more, or never was.
fn is_told_to_give_credentials(place: &str, environment: &[(String, String)]) {
    let refused = stowaway(environment, &["snapshots", "--repository", place]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("check the credentials"), "{said}");
    assert!(!said.contains(TOKEN_OF_THE_POD), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_without_an_identity_is_told_to_give_credentials() {
    let server = Server::start(Kind::S3).await;
    let environment = and(&[], &[("AWS_DEFAULT_REGION", "somewhere-1"), ("AWS_EC2_METADATA_DISABLED", "true")]);
    is_told_to_give_credentials(&server.url, &environment);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_outside_of_clouds_is_told_to_give_credentials_and_not_that_the_store_is_silent() {
    let server = Server::start(Kind::S3).await;
    // Nobody accepts, and no more than one may wait for that: further ones are not answered at all.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let metadata = socket.listen(0).unwrap();
    let address = metadata.local_addr().unwrap();
    let _waiting = TcpStream::connect(address).await.unwrap();
    let endpoint = format!("http://{address}");
    let identity = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str()), ("AWS_DEFAULT_REGION", "somewhere-1")];
    is_told_to_give_credentials(&server.url, &and(&[], &identity));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_whose_identity_is_refused_is_told_to_give_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Kind::S3).await;
    is_told_to_give_credentials(&server.url, &by_web_identity(folder.path(), |_| None).await);

    let nobody = FakeTokenService::start(|_| None).await;
    let url = format!("http://{}", nobody.address);
    is_told_to_give_credentials(&server.url, &by_agent(&nobody, &token_file(folder.path())));

    let server = servers::azure_with_tokens().await;
    let identity = [
        ("AZURE_CLIENT_ID", "barrels"),
        ("AZURE_TENANT_ID", "press"),
        ("AZURE_FEDERATED_TOKEN_FILE", &token_file(folder.path())),
        ("AZURE_AUTHORITY_HOST", &url),
        ("AZURE_IMDS_ENDPOINT", &url),
    ];
    is_told_to_give_credentials(&server.url, &and(&without_key(&server), &identity));

    let server = Server::start(Kind::Gcs).await;
    let environment = and(&without_key(&server), &[("GCE_METADATA_HOST", &nobody.address)]);
    is_told_to_give_credentials(&server.url, &environment);
}
