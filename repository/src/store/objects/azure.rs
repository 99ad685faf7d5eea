//! A container of Azure Blob Storage.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use opendal::services;
use reqwest::Client;

use super::{
    Objects, Service,
    connection::{Parts, operator, root},
};
use stowaway_model::{AzureConfig, Credential, Secret};

impl Objects {
    /// Uses the given key or token, or else the identity of the machine or pod.
    pub fn azure(
        config: &AzureConfig,
        credentials: &BTreeMap<Credential, Secret>,
        client: &Client,
    ) -> Result<Self, String> {
        let mut builder = services::Azblob::default()
            .endpoint(&config.endpoint)
            .account_name(&config.account)
            .container(&config.container)
            .root(&root(&config.prefix));
        if let Some(key) = credentials.get(&Credential::AzureAccountKey) {
            // The library's own error contains a character of the key.
            if BASE64_STANDARD.decode(key.expose()).is_err() {
                return Err(format!("{} cannot be read as base64", Credential::AzureAccountKey.title()));
            }
            builder = builder.account_key(key.expose());
        }
        if let Some(token) = credentials.get(&Credential::AzureSasToken) {
            builder = builder.sas_token(token.expose().trim_start_matches('?'));
        }
        Ok(Self::of(Service { operator: operator(builder, client)?, parts: Parts::OnlyIfAbsent, bucket: None }))
    }
}
