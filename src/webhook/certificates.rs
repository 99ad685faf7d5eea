//! The serving certificate. It can be replaced at any time, and the next handshake uses the new one. Open connections
//! continue.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;
use webhook_certs::{CertificateError, Validity};

/// The bundle in PEM (`caBundle`) of each of Stowaway's webhook entries, as the cluster holds it now; empty until it is
/// known.
pub type Bundles = watch::Receiver<Vec<String>>;

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The key cannot be parsed. (Its content stays out of the message.)
    #[error("the key is neither PKCS #8 nor SEC 1 nor PKCS #1 in DER")]
    Key,
    /// Certificate and key do not match, or cannot be used.
    #[error("certificate and key cannot be served: {0}")]
    Pair(#[from] rustls::Error),
    /// The certificate cannot be parsed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The certificate that a server presents for every host name. A webhook that is called by its address gets no host
/// name at all.
#[derive(Default)]
pub struct Certificates {
    current: ArcSwapOption<CertifiedKey>,
    /// Seconds since 1970; 0 while there is none.
    not_after: AtomicI64,
}

impl Certificates {
    /// Without a certificate. Every handshake fails until one is set.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Serves this certificate from now on.
    ///
    /// # Errors
    /// When it cannot be used. The previous certificate then stays.
    pub fn set(&self, certificate_der: &[u8], key_pkcs8_der: &[u8]) -> Result<(), ServingError> {
        self.set_chain(&[certificate_der], key_pkcs8_der)
    }

    /// Like [`Self::set`], for a chain that others signed: the server's certificate first, then the intermediate ones.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_chain(&self, chain_der: &[&[u8]], key_der: &[u8]) -> Result<(), ServingError> {
        let key = PrivateKeyDer::try_from(key_der).map_err(|_| ServingError::Key)?.clone_key();
        let validity = Validity::of(chain_der.first().copied().unwrap_or_default())?;
        let chain = chain_der.iter().map(|certificate| CertificateDer::from(certificate.to_vec())).collect();
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
        self.current.store(Some(Arc::new(pair)));
        self.not_after.store(validity.not_after.as_second(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a certificate is set.
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }

    /// The end of the served certificate's validity, in seconds since 1970; 0 without one.
    pub fn not_after(&self) -> i64 {
        self.not_after.load(Ordering::Relaxed)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificates").field("is_set", &self.is_set()).finish_non_exhaustive()
    }
}
