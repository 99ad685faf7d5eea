//! Certificates of somebody else: a folder with `tls.crt` and `tls.key`, such as a mounted Secret of cert-manager.
//!
//! It is read again and again, and compared by content: a mounted Secret changes by the swap of a link above the files, of
//! which a watch of the files hears nothing. It must not know who writes the folder.

use std::{fs, io, path::PathBuf, time::Duration};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::webhook::certificates::{Certificates, ServingError};

/// The certificate of the server and those between it and its authority, in PEM.
const CERTIFICATE: &str = "tls.crt";
/// Its key, in PEM.
const KEY: &str = "tls.key";
/// How often it is read: the kubelet itself takes up to a minute or two to bring a change.
const PERIOD: Duration = Duration::from_secs(20);

/// Why the folder was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// A file cannot be read.
    #[error("failed to read {}: {source}; is the Secret with the certificate there and mounted?", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    // Without the cause, which can quote a line of the file.
    #[error("{} holds no PEM of what it is named for", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key are no pair, which may be so for a moment while they change.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: ServingError,
    },
}

/// The folder, and what was taken from it last.
pub(super) struct Folder {
    path: PathBuf,
    taken: Option<[u8; 32]>,
}

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self { path, taken: None }
    }

    /// Serves with what is in the folder, if that is new; tells when to look again. What cannot be used changes nothing.
    pub fn take(&mut self, certificates: &Certificates) -> Result<Duration, FolderError> {
        let [(certificate_path, certificate), (key_path, key)] = [self.read(CERTIFICATE)?, self.read(KEY)?];
        let mut digest = Sha256::new();
        for part in [&certificate, &key] {
            digest.update(part.len().to_le_bytes());
            digest.update(part.as_slice());
        }
        let digest: [u8; 32] = digest.finalize().into();
        if self.taken == Some(digest) {
            return Ok(PERIOD);
        }
        let chain = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<Vec<_>, _>>()
            .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
            .map_err(|source| FolderError::Malformed { path: certificate_path, source })?;
        let key =
            PrivateKeyDer::from_pem_slice(&key).map_err(|source| FolderError::Malformed { path: key_path, source })?;
        let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        certificates
            .set_chain(&chain, key.secret_der())
            .map_err(|source| FolderError::Unusable { path: self.path.clone(), source })?;
        self.taken = Some(digest);
        tracing::info!("serving with a new certificate from {}", self.path.display());
        Ok(PERIOD)
    }

    fn read(&self, name: &str) -> Result<(PathBuf, Zeroizing<Vec<u8>>), FolderError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok((path, Zeroizing::new(bytes))),
            Err(source) => Err(FolderError::Read { path, source }),
        }
    }
}
