//! The bundle that the webhook proposes for the webhook configurations. It is in a `ConfigMap`, which the webhook
//! writes and the writer process reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;

use super::TrustError;
use crate::{
    cluster::{observe, singleton},
    resources::manifests::TRUST,
};

/// The key of the bundle, named as in `kube-root-ca.crt`.
const BUNDLE: &str = "ca.crt";

/// The proposed bundle, if any.
pub(super) async fn read(client: &Client, namespace: &str) -> Result<Option<String>, TrustError> {
    let found: Option<ConfigMap> = observe::object(client, namespace, TRUST).await?;
    Ok(found.and_then(|found| found.data?.remove(BUNDLE)))
}

/// Proposes a bundle. Returns false if it is already proposed.
pub(super) async fn write(client: &Client, namespace: &str, bundle: &str) -> Result<bool, TrustError> {
    let found = match observe::object::<ConfigMap>(client, namespace, TRUST).await? {
        Some(found) => found,
        None => singleton::ensure(client, namespace, TRUST).await?,
    };
    if found.data.as_ref().and_then(|data| data.get(BUNDLE)).is_some_and(|proposed| proposed == bundle) {
        return Ok(false);
    }
    let data = BTreeMap::from([(BUNDLE.to_owned(), bundle.to_owned())]);
    if singleton::replace(client, &ConfigMap { data: Some(data), ..found }).await? {
        tracing::info!("the bundle for the webhook configurations was written into ConfigMap {TRUST}");
    }
    Ok(true)
}
