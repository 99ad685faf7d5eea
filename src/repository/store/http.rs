//! The HTTP client of a store: whom it trusts, and as whom it appears.
//!
//! It must not know what is asked for.

use std::{collections::BTreeMap, sync::Once, time::Duration};

use reqwest::{Certificate, Client, Identity, redirect};

use crate::model::{Connection, Credential, Secret};

/// So many redirections of one request are followed.
const MOST_REDIRECTS: usize = 10;
/// How long it may take to be connected. Less than a request may take: outside of a cloud nobody answers at the address of
/// its metadata service, and that there is no identity is then still told as that.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);

/// Which redirections of a server are followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Redirects {
    /// None at all.
    None,
    /// Those within the scheme, host and port of the request. Any other one would let the named server choose what else
    /// is requested from the network position of the run.
    WithinOrigin,
}

impl Redirects {
    fn policy(self) -> redirect::Policy {
        match self {
            Self::None => redirect::Policy::none(),
            Self::WithinOrigin => redirect::Policy::custom(|attempt| {
                let previous = attempt.previous();
                let is_within = previous.last().is_some_and(|from| from.origin() == attempt.url().origin());
                if is_within && previous.len() <= MOST_REDIRECTS { attempt.follow() } else { attempt.stop() }
            }),
        }
    }
}

/// A client for one store. An error tells people what is wrong with what they gave, and shows nothing of it.
pub(super) fn client(
    connection: &Connection,
    credentials: &BTreeMap<Credential, Secret>,
    redirects: Redirects,
) -> Result<Client, String> {
    install();
    let mut builder = Client::builder().redirect(redirects.policy()).connect_timeout(LONGEST_CONNECT);
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
        "the certificates that were given cannot be used; give them as PEM (-----BEGIN ...), and check that certificate \
         and key belong together"
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
        // An error says that somebody else has chosen a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// An error with all its causes, in one line: by itself it says only that a request failed.
pub(super) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some repeat their cause.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Whether the two sides do not trust each other: trying again would not help.
pub(super) fn is_distrust(text: &str) -> bool {
    text.contains("invalid peer certificate") || text.contains("received fatal alert")
}
