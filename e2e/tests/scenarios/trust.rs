//! Two replicas of the webhook keep their CA bundles and certificates consistent, with no rights beyond those of the
//! webhook's account.

use std::{
    io::Cursor,
    sync::{Arc, Once},
};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::DeleteParams};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use stowaway::{
    resources::manifests::{AUTHORITY, NAMESPACE, WEBHOOK},
    webhook::{
        certificates::Certificates,
        trust::{self, Settings},
    },
};
use stowaway_e2e::{Cluster, Namespace};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

struct Replica {
    certificates: Arc<Certificates>,
    bundles: watch::Receiver<Vec<String>>,
}

impl Replica {
    async fn start(cluster: &Cluster, instance: &str, token: &CancellationToken) -> Result<Self> {
        let client = cluster.impersonate(&format!("system:serviceaccount:{NAMESPACE}:{WEBHOOK}")).await?;
        let settings =
            Settings { namespace: NAMESPACE.to_owned(), instance: instance.to_owned(), certificates_folder: None };
        let (sender, bundles) = watch::channel(Vec::new());
        let certificates = Certificates::new();
        tokio::spawn(trust::run(client, settings, certificates.clone(), sender, token.clone()));
        Ok(Self { certificates, bundles })
    }

    /// Whether a TLS handshake succeeds with each CA bundle of the cluster, as from the API server.
    fn is_trusted(&self) -> bool {
        let bundles = self.bundles.borrow().clone();
        !bundles.is_empty() && bundles.iter().all(|bundle| handshake(&self.certificates, bundle).is_ok())
    }
}

fn handshake(certificates: &Arc<Certificates>, bundle: &str) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates.clone());
    let host = ServerName::try_from(format!("{WEBHOOK}.{NAMESPACE}.svc"))?;
    let mut client = ClientConnection::new(Arc::new(client), host)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire)?;
        server.read_tls(&mut Cursor::new(&wire))?;
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire)?;
        client.read_tls(&mut Cursor::new(&wire))?;
        client.process_new_packets()?;
    }
    Ok(())
}

fn show_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use stowaway::telemetry::{LogFormat, LogOutput, start};
        start(LogFormat::Text, LogOutput::Stderr, "warn,stowaway::webhook=info");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_are_trusted_through_the_loss_of_their_secret() -> Result<()> {
    show_log();
    // The namespace of the installation, which is not deleted after the test.
    let namespace = Namespace { cluster: Cluster::connect().await?, name: NAMESPACE.to_owned() };
    let token = CancellationToken::new();
    let _guard = token.clone().drop_guard();
    let replicas = [
        Replica::start(&namespace.cluster, "trust-first", &token).await?,
        Replica::start(&namespace.cluster, "trust-second", &token).await?,
    ];
    let all = || replicas.iter().all(Replica::is_trusted);
    namespace.wait_until("both are trusted", async || Ok(all().then_some(()))).await?;

    let secrets: Api<Secret> = namespace.api();
    let data = async |key: &str| -> Result<Option<String>> {
        let secret = secrets.get_opt(AUTHORITY).await?;
        let value = secret.and_then(|secret| secret.data?.remove(key));
        Ok(value.and_then(|value| String::from_utf8(value.0).ok()))
    };
    let old = namespace.wait_until("there is an authority", async || data("ca.crt").await).await?;
    ensure!(
        replicas.iter().all(|replica| handshake(&replica.certificates, &old).is_ok()),
        "the replicas have certificates of different authorities"
    );
    secrets.delete(AUTHORITY, &DeleteParams::default()).await?;
    let new = namespace
        .wait_until("another authority signs", async || {
            ensure!(all(), "trust was lost");
            Ok(data("ca.crt").await?.filter(|found| *found != old))
        })
        .await?;
    let bundles = replicas[0].bundles.borrow().clone();
    ensure!(
        bundles.iter().all(|bundle| bundle.contains(&old) && bundle.contains(&new)),
        "not both authorities are trusted"
    );
    namespace
        .wait_until("both have certificates of the new authority", async || {
            ensure!(all(), "trust was lost");
            let follow = replicas.iter().all(|replica| handshake(&replica.certificates, &new).is_ok());
            Ok(follow.then_some(()))
        })
        .await
}
