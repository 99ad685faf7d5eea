//! Writes files into a store without Stowaway: by the store's protocol, or into its folder.

use std::{fs, path::Path};

use futures::{StreamExt, stream};
use opendal::{Builder, HttpTransporter, OperationContext, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::{Certificate, Client};
use ring::digest::{SHA256, digest};
use rustic_core::Id;
use stowaway::{
    model::{BackendConfig, Credential, RestConfig},
    repository::OpenOptions,
};

/// The number of files in one folder, for stores which have folders.
const IN_ONE_FOLDER: usize = 1_010;

/// Writes this many packs which no index contains, each named by the SHA-256 of its content.
pub async fn put_unknown_packs(access: &OpenOptions, count: usize) {
    let packs = (0..).map(|number: u64| {
        let content = number.to_le_bytes();
        let name: [u8; 32] = digest(&SHA256, &content).as_ref().try_into().unwrap();
        (name, content)
    });
    let in_one_folder = packs.clone().filter(|(name, _)| name[0] == 0xaa).take(IN_ONE_FOLDER);
    let elsewhere = packs.filter(|(name, _)| name[0] != 0xaa).take(count - IN_ONE_FOLDER);
    let target = Target::of(access);
    let puts = in_one_folder
        .chain(elsewhere)
        .map(|(name, content)| target.put(Id::new(name).to_hex().as_str().to_owned(), content));
    stream::iter(puts).for_each_concurrent(16, |put| put).await;
}

enum Target<'a> {
    Folder(&'a Path),
    Objects(Operator),
    Rest(&'a RestConfig, [&'a str; 2], Client),
}

impl<'a> Target<'a> {
    fn of(access: &'a OpenOptions) -> Self {
        let given = |credential| access.credentials[&credential].expose();
        match &access.backend {
            BackendConfig::Folder { path } => Self::Folder(Path::new(path)),
            BackendConfig::Sftp(config) => Self::Folder(Path::new(&config.path)),
            BackendConfig::Rest(config) => {
                Self::Rest(config, [given(Credential::RestUser), given(Credential::RestPassword)], client(access))
            }
            BackendConfig::S3(config) => Self::Objects(operator_of(
                services::S3::default()
                    .endpoint(&config.endpoint)
                    .bucket(&config.bucket)
                    .root(&config.prefix)
                    .region(&config.region)
                    .access_key_id(given(Credential::S3AccessKeyId))
                    .secret_access_key(given(Credential::S3SecretAccessKey)),
                access,
            )),
            BackendConfig::Azure(config) => Self::Objects(operator_of(
                services::Azblob::default()
                    .endpoint(&config.endpoint)
                    .container(&config.container)
                    .root(&config.prefix)
                    .account_name(&config.account)
                    .account_key(given(Credential::AzureAccountKey)),
                access,
            )),
            BackendConfig::Gcs(config) => Self::Objects(operator_of(
                services::Gcs::default()
                    .endpoint(&config.endpoint)
                    .bucket(&config.bucket)
                    .root(&config.prefix)
                    .token(given(Credential::GcsAccessToken).to_owned()),
                access,
            )),
        }
    }

    async fn put(&self, name: String, content: [u8; 8]) {
        let path = format!("data/{}/{name}", &name[..2]);
        match self {
            Self::Folder(folder) => {
                let path = folder.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Self::Objects(operator) => drop(operator.write(&path, content.to_vec()).await.unwrap()),
            Self::Rest(config, [user, password], client) => {
                let request = client.post(format!("{}/data/{name}", config.url)).basic_auth(user, Some(password));
                let answer = request.body(content.to_vec()).send().await.unwrap();
                assert!(answer.status().is_success(), "{}", answer.status());
            }
        }
    }
}

fn operator_of(builder: impl Builder, access: &OpenOptions) -> Operator {
    let transport = HttpTransporter::new(ReqwestTransport::new(client(access)));
    Operator::new(builder).unwrap().with_context(OperationContext::new().with_http_transport(transport))
}

fn client(access: &OpenOptions) -> Client {
    stowaway::repository::install_transport();
    match Certificate::from_pem_bundle(access.connection.certificate_authorities.as_bytes()).unwrap().as_slice() {
        [] => Client::new(),
        authorities => Client::builder().tls_certs_only(authorities.iter().cloned()).build().unwrap(),
    }
}
