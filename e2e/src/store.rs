//! The S3 server of the tests, and the Repository objects that refer to it. All tests share one versitygw, where each
//! test has a prefix of its own.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client};
use serde_json::{Value, json};
use stowaway::model::{BackendConfig, S3Config};
use tokio::{net::TcpListener, sync::OnceCell, task::JoinHandle};

use crate::{Cluster, Namespace, process, restic::Restic};

/// The id of the access key of the shared S3 server.
pub const ACCESS_KEY_ID: &str = "stowaway-test";
/// The secret access key of the shared S3 server.
pub const SECRET_ACCESS_KEY: &str = "stowaway-test-secret";
/// The password of the repositories of tests.
pub const PASSWORD: &str = "correct horse battery staple";
/// The namespace of the shared server. It is kept between test runs.
const SHARED_NAMESPACE: &str = "stowaway-e2e-store";
/// The folder of the server's bucket in its container.
const BUCKETS: &str = "/data/backups";

static SHARED: OnceCell<String> = OnceCell::const_new();

/// The credentials of an S3 server and the password of the repositories on it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The id of the access key.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: String,
    /// The password of the repositories.
    pub password: String,
}

impl Default for Credentials {
    fn default() -> Self {
        let [access_key_id, secret_access_key, password] =
            [ACCESS_KEY_ID, SECRET_ACCESS_KEY, PASSWORD].map(str::to_owned);
        Self { access_key_id, secret_access_key, password }
    }
}

/// An S3 server with one bucket, `backups`, as one test uses it.
pub struct S3 {
    /// The address of its Service as `host:port`, for pods.
    pub address: String,
    /// The address for programs on this machine.
    pub from_here: SocketAddr,
    credentials: Credentials,
    prefix: String,
    forward: Option<JoinHandle<()>>,
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(forward) = &self.forward {
            forward.abort();
        }
    }
}

impl S3 {
    /// The server that all tests share; the first caller starts it. Each namespace has a prefix of its own.
    pub async fn shared(namespace: &Namespace) -> Result<Self> {
        let shared = Namespace { cluster: namespace.cluster.clone(), name: SHARED_NAMESPACE.to_owned() };
        let address = SHARED
            .get_or_try_init(|| async {
                shared.ensure().await?;
                start(&shared, &Credentials::default()).await
            })
            .await?;
        Self::reach(&shared, address.clone(), namespace, Credentials::default()).await
    }

    /// A server of this test's own, which the test may make unreachable.
    pub async fn own(namespace: &Namespace) -> Result<Self> {
        Self::opened_by(namespace, Credentials::default()).await
    }

    /// A server of this test's own, with these credentials.
    pub async fn opened_by(namespace: &Namespace, credentials: Credentials) -> Result<Self> {
        let address = start(namespace, &credentials).await?;
        Self::reach(namespace, address, namespace, credentials).await
    }

    async fn reach(server: &Namespace, address: String, user: &Namespace, credentials: Credentials) -> Result<Self> {
        let (from_here, forward) = if user.cluster.is_built_in() {
            (address.parse().context("the Service of S3 has no address")?, None)
        } else {
            forward(server.cluster.client.clone(), server.name.clone()).await.map(|(at, task)| (at, Some(task)))?
        };
        Ok(Self { address, from_here, credentials, prefix: user.name.clone(), forward })
    }

    /// Creates the Secrets and a Repository `main`, the namespace's default, and waits until it is Ready.
    pub async fn repository(&self, namespace: &Namespace) -> Result<Restic> {
        self.secrets(namespace).await?;
        namespace.apply_object(self.repository_object("main", "password", true)).await?;
        namespace.wait_until_repository_ready("main").await?;
        Ok(self.restic())
    }

    /// Creates the Secrets `store` (credentials) and `password`.
    pub async fn secrets(&self, namespace: &Namespace) -> Result<()> {
        let Credentials { access_key_id, secret_access_key, password } = &self.credentials;
        namespace.apply_object(secret("store", &json!({ "id": access_key_id, "key": secret_access_key }))).await?;
        namespace.apply_object(secret("password", &json!({ "password": password }))).await
    }

    /// A Repository on this server.
    pub fn repository_object(&self, name: &str, password_secret: &str, is_default: bool) -> Value {
        let reference = |key: &str| json!({ "name": "store", "key": key });
        json!({
            "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository",
            "metadata": { "name": name, "annotations": { "stowaway.dev/is-default": is_default.to_string() } },
            "spec": {
                "s3": {
                    "endpoint": format!("http://{}", self.address), "bucket": "backups", "prefix": self.prefix,
                    "credentials": { "accessKeyIdSecretRef": reference("id"), "secretAccessKeySecretRef": reference("key") },
                },
                "passwordSecretRef": { "name": password_secret },
            },
        })
    }

    /// The store settings of a runner that connects to `address`, which is the server itself or a proxy in front of it.
    pub fn backend(&self, address: SocketAddr) -> BackendConfig {
        BackendConfig::S3(S3Config {
            endpoint: format!("http://{address}"),
            bucket: "backups".into(),
            prefix: self.prefix.clone(),
            region: "us-east-1".into(),
            path_style: true,
        })
    }

    /// Another repository on the same server, below this one's prefix.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        let prefix = format!("{}/{name}", self.prefix);
        let credentials = self.credentials.clone();
        Self { address: self.address.clone(), from_here: self.from_here, credentials, prefix, forward: None }
    }

    /// Reads the object of that name below the prefix, with curl, independently of Stowaway.
    pub fn object(&self, name: &str) -> Result<Vec<u8>> {
        let Credentials { access_key_id, secret_access_key, .. } = &self.credentials;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3"])
            .args(["--user", &format!("{access_key_id}:{secret_access_key}")])
            .args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
            .arg(format!("http://{}/backups/{}/{name}", self.from_here, self.prefix));
        process::run(&mut curl)
    }

    /// Deletes all objects below the prefix.
    pub fn delete(&self, cluster: &Cluster) {
        clean_up(cluster, &self.prefix);
    }

    /// The settings with which restic opens the repository.
    pub fn restic(&self) -> Restic {
        let Credentials { access_key_id, secret_access_key, password } = self.credentials.clone();
        Restic {
            url: format!("s3:http://{}/backups/{}", self.from_here, self.prefix),
            password,
            credentials: vec![("AWS_ACCESS_KEY_ID", access_key_id), ("AWS_SECRET_ACCESS_KEY", secret_access_key)],
        }
    }
}

/// A Secret with this `stringData`.
pub fn secret(name: &str, texts: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": texts })
}

/// Deletes the objects of a test's namespace from the shared server.
pub fn clean_up(cluster: &Cluster, prefix: &str) {
    let shared = Namespace { cluster: cluster.clone(), name: SHARED_NAMESPACE.to_owned() };
    let folder = format!("{BUCKETS}/{prefix}");
    // Fails if no test has started the server yet, in which case there is nothing to delete.
    let _ignored =
        process::output(&mut shared.kubectl(&["exec", "s3", "--container=tools", "--", "rm", "-rf", &folder]));
}

async fn start(namespace: &Namespace, credentials: &Credentials) -> Result<String> {
    let image = |name: &str| namespace.cluster.image(name);
    let Credentials { access_key_id, secret_access_key, .. } = credentials;
    let environment = [("ROOT_ACCESS_KEY", access_key_id), ("ROOT_SECRET_KEY", secret_access_key)]
        .map(|(name, value)| json!({ "name": name, "value": value }));
    let data = json!([{ "name": "data", "mountPath": "/data" }]);
    namespace
        .apply_object(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "s3", "labels": { "app": "s3" } },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "initContainers": [{
                    "name": "bucket", "image": image("busybox"), "imagePullPolicy": "IfNotPresent",
                    "command": ["mkdir", "-p", BUCKETS], "volumeMounts": data,
                }],
                "containers": [
                    {
                        "name": "server", "image": image("versitygw"), "imagePullPolicy": "IfNotPresent",
                        "args": ["--port", ":9000", "posix", "/data"], "env": environment, "volumeMounts": data,
                        "readinessProbe": { "tcpSocket": { "port": 9000 }, "periodSeconds": 1 },
                    },
                    { "name": "tools", "image": image("busybox"), "imagePullPolicy": "IfNotPresent", "volumeMounts": data },
                ],
                "volumes": [{ "name": "data", "emptyDir": {} }],
            },
        }))
        .await?;
    namespace
        .apply_object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s3" },
            "spec": { "selector": { "app": "s3" }, "ports": [{ "port": 9000 }] },
        }))
        .await?;
    namespace.wait_until_ready("s3").await?;
    let service: Service = namespace.api::<Service>().get("s3").await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service of S3 has no address")?;
    Ok(format!("{address}:9000"))
}

/// Forwards a port of the loopback interface to the server's pod, for a cluster whose Services this machine cannot
/// reach.
async fn forward(client: Client, namespace: String) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let task = tokio::spawn(async move {
        while let Ok((mut local, _)) = listener.accept().await {
            let pods = pods.clone();
            tokio::spawn(async move {
                let Ok(mut forwarder) = pods.portforward("s3", &[9000]).await else { return };
                if let Some(mut remote) = forwarder.take_stream(9000) {
                    let _closed = tokio::io::copy_bidirectional(&mut local, &mut remote).await;
                }
            });
        }
    });
    Ok((address, task))
}
