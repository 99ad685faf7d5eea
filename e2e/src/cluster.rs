//! The cluster under test: the built-in one, or the one that `KUBECONFIG` names.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};

use crate::process;

/// A connection to the cluster under test.
#[derive(Clone)]
pub struct Cluster {
    /// A client with the credentials of the kubeconfig.
    pub client: Client,
    /// The kubeconfig in use, for programs such as `kubectl`.
    pub kubeconfig: PathBuf,
    /// The registry of the test images, under the address that the nodes of the cluster use.
    pub registry: String,
}

impl Cluster {
    /// Connects to the cluster of `KUBECONFIG`, or else to the one that `e2e/cluster/up` started.
    pub async fn connect() -> Result<Self> {
        stowaway::repository::install_transport();
        let kubeconfig = env::var_os("KUBECONFIG").map_or_else(built_in_kubeconfig, PathBuf::from);
        let client = Client::try_from(config(&kubeconfig).await?)?;
        let registry = env::var("STOWAWAY_REGISTRY").unwrap_or_else(|_| "10.111.0.2:5000".to_owned());
        Ok(Self { client, kubeconfig, registry })
    }

    /// A connection that impersonates another user, so that only the rights of that user apply.
    pub async fn impersonate(&self, user: &str) -> Result<Client> {
        let mut config = config(&self.kubeconfig).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        Ok(Client::try_from(config)?)
    }

    /// A connection that authenticates with this bearer token alone.
    pub async fn with_token(&self, token: &str) -> Result<Client> {
        let mut config = config(&self.kubeconfig).await?;
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        Ok(Client::try_from(config)?)
    }

    /// Whether this is the cluster that `e2e/cluster/up` starts. The folders and processes of its node are those of
    /// this machine.
    pub fn is_built_in(&self) -> bool {
        self.kubeconfig == built_in_kubeconfig()
    }

    /// The reference of one of the test images.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry)
    }

    /// Host and port of the API server.
    pub async fn api_server(&self) -> Result<SocketAddr> {
        let url = self.server_url()?;
        let authority = url.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let authority = if authority.contains(':') { authority } else { format!("{authority}:443") };
        tokio::net::lookup_host(authority).await?.next().context("the API server's name has no address")
    }

    fn server_url(&self) -> Result<String> {
        let read = Kubeconfig::read_from(&self.kubeconfig)?;
        read.clusters
            .first()
            .and_then(|named| named.cluster.as_ref()?.server.clone())
            .context("no server in the kubeconfig")
    }

    /// A kubeconfig that reaches the API server through `proxy`, with the same credentials.
    pub fn kubeconfig_through(&self, proxy: SocketAddr, folder: &Path) -> Result<PathBuf> {
        let mut config = Kubeconfig::read_from(&self.kubeconfig)?;
        for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(format!("https://{proxy}"));
        }
        let path = folder.join("kubeconfig");
        std::fs::write(&path, yaml_serde::to_string(&config)?)?;
        Ok(path)
    }
}

async fn config(kubeconfig: &Path) -> Result<Config> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| {
        format!("{} cannot be read; `e2e/cluster/up` starts the test cluster", kubeconfig.display())
    })?;
    Ok(Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?)
}

fn built_in_kubeconfig() -> PathBuf {
    process::cache().join("cluster").join("kubeconfig")
}
