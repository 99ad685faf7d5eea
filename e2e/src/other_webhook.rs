//! A mutating webhook that does not belong to Stowaway, as most clusters have some. It is an HTTPS server in the test's
//! process, and changes only the pods of the test's namespace.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use axum::{Router, body::Bytes, http::header::CONTENT_TYPE, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Namespace as KubernetesNamespace,
};
use kube::{Api, ResourceExt, api::PostParams};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use webhook_certs::Authority;

use crate::Namespace;

/// The address under which the node of the built-in cluster reaches this machine.
const HOST: &str = "10.111.0.1";

/// A running server. Dropping this stops the server; its webhook configurations are deleted with the namespace, which
/// owns them.
pub struct OtherWebhook {
    address: SocketAddr,
    authority: String,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for OtherWebhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OtherWebhook {
    /// Starts a server that applies `change` to each pod, without registering it. The API server may call it twice for
    /// the same pod.
    pub async fn start(change: impl Fn(&mut Value) + Clone + Send + Sync + 'static) -> Result<Self> {
        let now = jiff::Timestamp::now();
        let authority = Authority::issue("other", now)?;
        let leaf = authority.issue_leaf(&[HOST.to_owned()], now)?;
        let key = PrivatePkcs8KeyDer::from(leaf.key().to_vec());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(leaf.certificate().to_vec())], key.into())?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let calls = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&calls);
        let router = Router::new().route(
            "/",
            post(async move |body: Bytes| {
                counting.fetch_add(1, Ordering::SeqCst);
                ([(CONTENT_TYPE, "application/json")], response(&body, &change).to_string())
            }),
        );
        let listener =
            TcpListener::bind((HOST, 0)).await.context("the network of the built-in cluster does not exist")?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    // A failed handshake fails the creation of the pod, and so the test.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper_util::service::TowerToHyperService::new(router);
                    let _ended = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { address, authority: authority.certificate().to_owned(), calls, task })
    }

    /// Registers the webhook for each pod with these labels that is created in the namespace. The name of the
    /// configuration consists of `prefix`, the namespace and `suffix`; the prefix sets the order, because the API
    /// server calls webhooks in the order of the names of their configurations.
    pub async fn register(
        &self,
        namespace: &Namespace,
        prefix: &str,
        suffix: &str,
        reinvocation_policy: &str,
        labels: &Value,
    ) -> Result<()> {
        let client = &namespace.cluster.client;
        let owner = Api::<KubernetesNamespace>::all(client.clone()).get(&namespace.name).await?;
        let configuration = serde_json::from_value(json!({
            "metadata": {
                "name": format!("{prefix}-{}-{suffix}", namespace.name),
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Namespace", "name": namespace.name, "uid": owner.uid().unwrap_or_default(),
                }],
            },
            "webhooks": [{
                "name": format!("{prefix}.example.com"),
                "clientConfig": { "url": format!("https://{}/", self.address), "caBundle": STANDARD.encode(&self.authority) },
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] }],
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace.name } },
                "objectSelector": { "matchLabels": labels },
                "reinvocationPolicy": reinvocation_policy,
                "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            }],
        }))?;
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        configurations.create(&PostParams::default(), &configuration).await?;
        Ok(())
    }

    /// The number of calls so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// The response to a review: a JSON patch with the effect of `change` on the object.
fn response(body: &[u8], change: &impl Fn(&mut Value)) -> Value {
    let review: Value = serde_json::from_slice(body).unwrap_or_default();
    let before = &review["request"]["object"];
    let mut after = before.clone();
    change(&mut after);
    let patch = serde_json::to_vec(&json_patch::diff(before, &after)).unwrap_or_default();
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {
            "uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch),
        },
    })
}

/// Adds an entry to the list of that name in an object, unless the list has an entry with the same name.
pub fn add(object: &mut Value, list: &str, entry: Value) {
    if object[list].is_null() {
        object[list] = json!([]);
    }
    if let Some(list) = object[list].as_array_mut()
        && list.iter().all(|found| found["name"] != entry["name"])
    {
        list.push(entry);
    }
}

/// All containers of a pod's spec, including init containers.
pub fn containers(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let Some(spec) = spec.as_object_mut() else { return Vec::new().into_iter() };
    let lists = spec.iter_mut().filter(|(name, _)| ["containers", "initContainers"].contains(&name.as_str()));
    lists.filter_map(|(_, list)| list.as_array_mut()).flatten().collect::<Vec<_>>().into_iter()
}
