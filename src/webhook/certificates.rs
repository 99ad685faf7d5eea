//! The certificate that new connections are served with. (A stub beside `trust`: the server comes with another change.)

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Why a certificate is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The key cannot be read.
    #[error("the key is neither PKCS #8 nor SEC 1 nor PKCS #1 in DER")]
    Key,
    /// The two do not belong together, or cannot be used.
    #[error("certificate and key cannot be served: {0}")]
    Pair(#[from] rustls::Error),
}

/// What is served with.
#[derive(Debug, Default)]
pub struct Certificates {
    current: ArcSwapOption<CertifiedKey>,
}

impl Certificates {
    /// One without a certificate.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Serves this one from now on.
    ///
    /// # Errors
    /// When it cannot be used; what was served before is served further.
    pub fn set(&self, certificate_der: &[u8], key_pkcs8_der: &[u8]) -> Result<(), ServingError> {
        self.set_chain(&[certificate_der], key_pkcs8_der)
    }

    /// The same for a chain, the server's own certificate first.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_chain(&self, chain_der: &[&[u8]], key_der: &[u8]) -> Result<(), ServingError> {
        let key = PrivateKeyDer::try_from(key_der).map_err(|_| ServingError::Key)?.clone_key();
        let chain = chain_der.iter().map(|certificate| CertificateDer::from(certificate.to_vec())).collect();
        self.current.store(Some(Arc::new(CertifiedKey::from_der(chain, key, &ring::default_provider())?)));
        Ok(())
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}
