//! A bucket of an S3 service.

use std::collections::BTreeMap;

use opendal::services;
use reqwest::Client;

use super::{Objects, Parts, operator, root};
use crate::model::{Credential, S3Config, Secret};

impl Objects {
    /// With the keys that are given, or else whatever identity the machine or pod has.
    pub fn s3(config: &S3Config, credentials: &BTreeMap<Credential, Secret>, client: &Client) -> Result<Self, String> {
        // The server compares what arrived.
        let whole = builder(config, credentials).checksum_algorithm("md5");
        // The library knows no such checksum of a part, and services know no other one in common.
        let parts = Parts::Plain(operator(builder(config, credentials), client)?);
        Ok(Self { operator: operator(whole, client)?, parts })
    }
}

fn builder(config: &S3Config, credentials: &BTreeMap<Credential, Secret>) -> services::S3 {
    let given = |credential| credentials.get(&credential).map(Secret::expose);
    let mut builder = services::S3::default()
        .endpoint(&config.endpoint)
        .bucket(&config.bucket)
        .root(&root(&config.prefix))
        .region(&config.region);
    if !config.path_style {
        builder = builder.enable_virtual_host_style();
    }
    if let Some(id) = given(Credential::S3AccessKeyId) {
        builder = builder
            .access_key_id(id)
            .secret_access_key(given(Credential::S3SecretAccessKey).unwrap_or_default())
            // What was given counts; nothing from the environment, files or the cloud's metadata service.
            .disable_config_load()
            .disable_ec2_metadata();
    }
    if let Some(token) = given(Credential::S3SessionToken) {
        builder = builder.session_token(token);
    }
    builder
}
