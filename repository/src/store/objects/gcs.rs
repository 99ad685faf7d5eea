//! A bucket of Google Cloud Storage.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use opendal::services;
use reqwest::Client;

use super::{
    Objects, Service,
    connection::{Parts, operator, root},
};
use stowaway_model::{Credential, GcsConfig, Secret};

impl Objects {
    /// Uses the given service account or token, or else the identity of the machine or pod.
    pub fn gcs(
        config: &GcsConfig,
        credentials: &BTreeMap<Credential, Secret>,
        client: &Client,
    ) -> Result<Self, String> {
        let mut builder =
            services::Gcs::default().endpoint(&config.endpoint).bucket(&config.bucket).root(&root(&config.prefix));
        if let Some(account) = credentials.get(&Credential::GcsServiceAccount) {
            if serde_json::from_str::<serde_json::Value>(account.expose()).is_err() {
                return Err(format!("{} cannot be read as JSON", Credential::GcsServiceAccount.title()));
            }
            let encoded = Secret::new(BASE64_STANDARD.encode(account.expose()));
            // Only the given credential is used, and none from the environment, files or the metadata server.
            builder = builder.credential(encoded.expose()).disable_config_load().disable_vm_metadata();
        }
        if let Some(token) = credentials.get(&Credential::GcsAccessToken) {
            builder = builder.token(token.expose().to_owned()).disable_config_load().disable_vm_metadata();
        }
        Ok(Self::of(Service { operator: operator(builder, client)?, parts: Parts::Session, bucket: None }))
    }
}
