//! The certificate that is served: replaced at any time, seen by the next handshake. Open connections live on.
//!
//! It must not know where a certificate comes from, nor when it is due.

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

/// The bundle in PEM (`caBundle`) of each of our webhook entries, as the cluster has it now; empty while that is not known.
pub type Bundles = watch::Receiver<Vec<String>>;

/// Why a certificate is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The key cannot be read. (What it is stays out of the message.)
    #[error("the key is neither PKCS #8 nor SEC 1 nor PKCS #1 in DER")]
    Key,
    /// The two do not belong together, or cannot be used.
    #[error("certificate and key cannot be served: {0}")]
    Pair(#[from] rustls::Error),
    /// The certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// What a server shows to whoever connects, whichever name he asks for: a webhook that is called by its address is sent no
/// name at all.
#[derive(Default)]
pub struct Certificates {
    current: ArcSwapOption<CertifiedKey>,
    /// Seconds since 1970; 0 while there is none.
    not_after: AtomicI64,
}

impl Certificates {
    /// One without a certificate: every handshake fails until there is one.
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

    /// The same for a certificate that others have signed for: the server's own first, then those up to the authority.
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

    /// Whether there is one to serve.
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }

    /// The last second of the one that is served, since 1970; 0 while there is none.
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
