//! The certificates that the API server trusts our webhooks by: the `caBundle` of each entry of our webhook configurations.
//!
//! It must not know who issues them, nor what the webhooks do.

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

/// The name under which we own the bundles. A manager of its own, so that an apply of the installation, under whatever
/// name, and ours do not take each other's fields away.
const FIELD_MANAGER: &str = "stowaway-trust";

/// What a webhook configuration is.
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

/// One of its webhooks.
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

/// Writes the bundle into every entry, if the configuration is still as it was read; whether it was.
///
/// Nothing but the bundles is applied. The entries are a map keyed by their names, so what else stands in them stays; and
/// since version and UID are named, none is ever made anew.
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

/// Yields whenever one of the configurations of this name, or the object of kind `K` beside them (namespace and name), may have
/// changed. Only metadata come this way. A watch that broke is begun again, later and later.
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
            tracing::warn!("the watch of {kind} {name} broke, and is begun again: {error}");
        }
    })
}
