//! A container of Azure Blob Storage.

use std::collections::BTreeMap;

use opendal::services;
use reqwest::Client;

use super::{Objects, Parts, Service, operator, root};
use crate::model::{AzureConfig, Credential, Secret};

impl Objects {
    /// With the key or token that is given, or else whatever identity the machine or pod has.
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
            builder = builder.account_key(key.expose());
        }
        if let Some(token) = credentials.get(&Credential::AzureSasToken) {
            builder = builder.sas_token(token.expose().trim_start_matches('?'));
        }
        Ok(Self::of(Service { operator: operator(builder, client)?, parts: Parts::OnlyIfAbsent, bucket: None }))
    }
}
