//! Certificates of another component: a directory with `tls.crt` and `tls.key`, such as a mounted Secret of
//! cert-manager.
//!
//! The files are read periodically and compared by content. The kubelet updates a mounted Secret by replacing a
//! symbolic link above the files, which a watch of the files would not notice.

use std::{fs, io, path::PathBuf, time::Duration};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::webhook::certificates::{Certificates, ServingError};

/// The server's certificate and the intermediate certificates, in PEM.
const CERTIFICATE: &str = "tls.crt";
/// The private key, in PEM.
const KEY: &str = "tls.key";
/// The interval at which the files are read. The kubelet itself takes up to two minutes to update them.
const PERIOD: Duration = Duration::from_secs(20);

/// Why the certificate in the directory was not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// A file cannot be read.
    #[error("failed to read {}: {source}; is the Secret with the certificate there and mounted?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file does not contain what its name indicates.
    // The message omits the cause, because the cause can quote a line of the file.
    #[error("{} contains no PEM of the expected kind", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not match, which may happen briefly during an update.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: ServingError,
    },
}

/// The directory, and the digest of the files that were used last.
pub(super) struct Folder {
    path: PathBuf,
    taken: Option<[u8; 32]>,
}

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self { path, taken: None }
    }

    /// Serves with the certificate in the directory, if it is new. Returns when to read again. An unusable certificate
    /// changes nothing.
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
