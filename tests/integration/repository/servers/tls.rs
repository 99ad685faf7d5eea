//! A certificate authority of the tests, and a TLS server which can require a client certificate.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        Certificate { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A TLS server which forwards the decrypted connection. It requires a client certificate if it has an authority for
/// clients.
pub struct Front {
    pub port: u16,
    /// The number of accepted connections.
    pub begun: Arc<AtomicUsize>,
}

impl Front {
    /// Starts a server in front of an HTTP server at `to`.
    pub async fn start(authority: &Authority, of_clients: Option<&Authority>, to: String) -> Self {
        Self::start_as(&["127.0.0.1"], authority, of_clients, to).await
    }

    /// Starts a server with a certificate for these names.
    pub async fn start_as(names: &[&str], authority: &Authority, of_clients: Option<&Authority>, to: String) -> Self {
        stowaway::repository::install_transport();
        let own = authority.issue(names);
        let chain = CertificateDer::pem_slice_iter(own.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let config = match of_clients {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(of_clients) => {
                let mut roots = RootCertStore::empty();
                let certificate = CertificateDer::from_pem_slice(of_clients.certificate().as_bytes()).unwrap();
                roots.add(certificate).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let begun = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&begun);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (acceptor, to) = (acceptor.clone(), to.clone());
                tokio::spawn(async move {
                    let Ok(mut client) = acceptor.accept(connection).await else { return };
                    let mut server = TcpStream::connect(to).await.unwrap();
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { port, begun }
    }
}
