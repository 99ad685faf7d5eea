//! The HTTP client of a store: its TLS certificates and its redirect policy.

use std::{collections::BTreeMap, sync::Once, time::Duration};

use reqwest::{Certificate, Client, Identity, redirect};

use stowaway_model::{Connection, Credential, Secret};

/// How many redirects of one request are followed.
const MAX_REDIRECTS: usize = 10;
/// The timeout of a connection attempt. It is shorter than that of a request, because outside of a cloud the address of
/// the metadata service does not answer: the missing identity must be reported before the request times out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which redirects of a server are followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Redirects {
    None,
    /// Redirects to the same scheme, host and port. Any other redirect would let the server choose what else is
    /// requested from the network in which the run is.
    WithinOrigin,
}

impl Redirects {
    fn policy(self) -> redirect::Policy {
        match self {
            Self::None => redirect::Policy::none(),
            Self::WithinOrigin => redirect::Policy::custom(|attempt| {
                let previous = attempt.previous();
                let is_within = previous.last().is_some_and(|from| from.origin() == attempt.url().origin());
                if is_within && previous.len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
            }),
        }
    }
}

/// Creates the client for a store. An error is a message for users; it states which credential is invalid, without its
/// content.
pub(super) fn client(
    connection: &Connection,
    credentials: &BTreeMap<Credential, Secret>,
    redirects: Redirects,
) -> Result<Client, String> {
    install();
    let mut builder = Client::builder().redirect(redirects.policy()).connect_timeout(CONNECT_TIMEOUT);
    let mut authorities = Vec::new();
    let given = credentials.get(&Credential::CertificateAuthorities).map(Secret::expose);
    for pem in [Some(connection.certificate_authorities.as_str()), given].into_iter().flatten() {
        authorities.extend(Certificate::from_pem_bundle(pem.as_bytes()).map_err(|_| not_pem("the CA's certificates"))?);
    }
    let wants_own = !connection.certificate_authorities.is_empty() || given.is_some();
    if wants_own && authorities.is_empty() {
        return Err(not_pem("the CA's certificates"));
    }
    if wants_own {
        builder = builder.tls_certs_only(authorities);
    }
    if let Some(certificate) = credentials.get(&Credential::ClientCertificate) {
        let key = credentials.get(&Credential::ClientKey).map_or("", Secret::expose);
        let both = Secret::new(format!("{}\n{key}\n", certificate.expose()));
        let identity = Identity::from_pem(both.expose().as_bytes());
        builder = builder.identity(identity.map_err(|_| not_pem("the client certificate or its key"))?);
    }
    builder.tls_danger_accept_invalid_certs(connection.insecure_skip_verify).build().map_err(|_| {
        "the certificates cannot be used; give them as PEM (-----BEGIN ...), and check that the certificate and the \
         key belong together"
            .to_owned()
    })
}

fn not_pem(what: &str) -> String {
    format!("{what} cannot be read; give it as PEM (-----BEGIN ...)")
}

/// See [`super::install_transport`].
pub(super) fn install() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // An error means that a provider is already installed, which is sufficient.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// Formats an error with all its causes in one line. The error itself states only that a request failed.
pub(super) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors include the message of their cause.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Whether the TLS handshake failed because one side does not trust the other. A retry would not help.
pub(super) fn is_distrust(text: &str) -> bool {
    text.contains("invalid peer certificate") || text.contains("received fatal alert")
}
