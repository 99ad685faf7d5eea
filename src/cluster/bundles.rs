//! Reads, writes and watches the `caBundle` of each entry of Stowaway's webhook configurations. The API server verifies
//! the webhooks' certificates by these bundles.

use std::fmt::Debug;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::{
    ByteString, NamespaceResourceScope,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{ClusterResourceScope, PartialObjectMeta},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::call::{CallError, code};

/// The field manager which owns the bundles. It differs from that of all other writes, so that applying the
/// installation's manifests, under whatever field manager, and writing the bundles do not remove each other's fields.
const FIELD_MANAGER: &str = "stowaway-trust";

/// The kind of a webhook configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Mutating,
    Validating,
}

/// A webhook configuration as it was read.
#[derive(Clone, Debug)]
pub struct Configuration {
    kind: Kind,
    name: String,
    uid: String,
    version: String,
    entries: Vec<Entry>,
}

/// One webhook of the configuration.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    bundle: String,
}

impl Configuration {
    /// The bundle of each entry in PEM; empty where there is none.
    pub fn bundles(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.bundle.as_str())
    }
}

/// The webhook configurations of this name that exist.
pub async fn configurations(client: &Client, name: &str) -> Result<Vec<Configuration>, CallError> {
    let mutating = read(client, name, Kind::Mutating, |found: MutatingWebhookConfiguration| {
        let webhooks = found.webhooks.into_iter().flatten();
        webhooks.map(|webhook| (webhook.name, webhook.client_config)).collect()
    });
    let validating = read(client, name, Kind::Validating, |found: ValidatingWebhookConfiguration| {
        let webhooks = found.webhooks.into_iter().flatten();
        webhooks.map(|webhook| (webhook.name, webhook.client_config)).collect()
    });
    let (mutating, validating) = futures::try_join!(mutating, validating)?;
    Ok(mutating.into_iter().chain(validating).collect())
}

async fn read<K>(
    client: &Client,
    name: &str,
    kind: Kind,
    webhooks: impl FnOnce(K) -> Vec<(String, WebhookClientConfig)>,
) -> Result<Option<Configuration>, CallError>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let found = api.get_opt(name).await.map_err(CallError::at(format!("read {} {name}", K::kind(&()))))?;
    Ok(found.map(|found| {
        let text = |bundle: Option<ByteString>| bundle.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        let (uid, version) = (found.uid().unwrap_or_default(), found.resource_version().unwrap_or_default());
        let entry = |(name, config): (String, WebhookClientConfig)| Entry {
            name,
            bundle: text(config.ca_bundle).unwrap_or_default(),
        };
        Configuration {
            kind,
            name: name.to_owned(),
            uid,
            version,
            entries: webhooks(found).into_iter().map(entry).collect(),
        }
    }))
}

/// Writes the bundle into every entry if the configuration is unchanged since it was read. Returns whether it was
/// unchanged.
///
/// Only the bundles are applied. The list of entries is a map keyed by name, so that all other fields of an entry are
/// kept. The patch names version and UID, so that it never creates a configuration.
pub async fn publish(client: &Client, configuration: &Configuration, bundle: &str) -> Result<bool, CallError> {
    match configuration.kind {
        Kind::Mutating => apply::<MutatingWebhookConfiguration>(client, configuration, bundle).await,
        Kind::Validating => apply::<ValidatingWebhookConfiguration>(client, configuration, bundle).await,
    }
}

async fn apply<K>(client: &Client, configuration: &Configuration, bundle: &str) -> Result<bool, CallError>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    let Configuration { name, uid, version, entries, .. } = configuration;
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let entry = |entry: &Entry| json!({ "name": entry.name, "clientConfig": { "caBundle": bundle } });
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "uid": uid, "resourceVersion": version },
        "webhooks": entries.iter().map(entry).collect::<Vec<Value>>(),
    });
    let api: Api<K> = Api::all(client.clone());
    match api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(false),
        Err(error) => Err(CallError::at(format!("write the certificates into {} {name}", K::kind(&())))(error)),
    }
}

/// Yields whenever one of the configurations of this name, or the object `beside` of kind `K` (namespace and name), may
/// have changed. The watch transfers metadata only. A broken watch is restarted with increasing delays.
pub fn changes<K>(client: &Client, name: &str, beside: Option<(&str, &str)>) -> impl Stream<Item = ()> + Send + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut all = vec![
        changes_of(Api::<PartialObjectMeta<MutatingWebhookConfiguration>>::all(client.clone()), name).boxed(),
        changes_of(Api::<PartialObjectMeta<ValidatingWebhookConfiguration>>::all(client.clone()), name).boxed(),
    ];
    if let Some((namespace, name)) = beside {
        all.push(changes_of(Api::<PartialObjectMeta<K>>::namespaced(client.clone(), namespace), name).boxed());
    }
    stream::select_all(all)
}

fn changes_of<K>(api: Api<PartialObjectMeta<K>>, name: &str) -> impl Stream<Item = ()> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let (kind, name) = (K::kind(&()), name.to_owned());
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, one).default_backoff().map(move |event| {
        if let Err(error) = event {
            tracing::warn!("the watch of {kind} {name} broke and is restarted: {error}");
        }
    })
}
