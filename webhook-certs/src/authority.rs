//! An authority and the leaves that it signs. All keys are P-256: small, fast, and supported by every API server.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, pem::parse_x509_pem};
use zeroize::Zeroizing;

/// The time for which an authority is valid.
const AUTHORITY_LIFETIME: Duration = Duration::from_hours(365 * 24);
/// The time for which a leaf is valid.
pub const LEAF_LIFETIME: Duration = Duration::from_hours(48);
/// The time by which the API server's clock may be behind the clock of this process.
const SKEW: Duration = Duration::from_mins(5);

/// Why a certificate could not be issued or parsed.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The library refused to issue a certificate.
    #[error("failed to issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The text or the bytes are not a certificate.
    #[error("the certificate cannot be parsed: {0}")]
    Unreadable(String),
    /// The key does not belong to the certificate, or the certificate is not that of an authority.
    #[error("{0}")]
    Mismatch(&'static str),
}

/// The validity period of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// The first second of the period.
    pub not_before: Timestamp,
    /// The last second of the period.
    pub not_after: Timestamp,
}

impl Validity {
    fn from_now(now: Timestamp, lifetime: Duration) -> Self {
        let seconds = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time);
        Self {
            not_before: seconds(now.saturating_sub(SKEW).unwrap_or(now)),
            not_after: seconds(now.saturating_add(lifetime).unwrap_or(now)),
        }
    }

    /// The validity of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Result<Self, CertificateError> {
        let parsed = x509_parser::parse_x509_certificate(certificate);
        let (_, parsed) = parsed.map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        Self::of_parsed(&parsed)
    }

    fn of_parsed(certificate: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        let moment = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|error| CertificateError::Unreadable(error.to_string()))
        };
        let validity = certificate.validity();
        Ok(Self { not_before: moment(validity.not_before)?, not_after: moment(validity.not_after)? })
    }

    /// Whether the period includes `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// When the successor is due: after two thirds of the period.
    pub fn renewal(&self) -> Timestamp {
        let seconds = self.not_after.as_second() - self.not_before.as_second();
        Timestamp::from_second(self.not_before.as_second() + seconds / 3 * 2).unwrap_or(self.not_after)
    }

    fn apply(&self, parameters: &mut CertificateParams) {
        let date = |time: Timestamp| {
            OffsetDateTime::from_unix_timestamp(time.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        parameters.not_before = date(self.not_before);
        parameters.not_after = date(self.not_after);
    }
}

/// A certificate that signs leaves, and its key.
#[derive(Clone, PartialEq)]
pub struct Authority {
    certificate: String,
    key: Zeroizing<String>,
    validity: Validity,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl Authority {
    /// Issues a new authority with this name.
    pub fn issue(name: &str, now: Timestamp) -> Result<Self, CertificateError> {
        let validity = Validity::from_now(now, AUTHORITY_LIFETIME);
        let mut parameters = CertificateParams::new(Vec::new())?;
        validity.apply(&mut parameters);
        // The name is unique, because a verifier first looks up an issuer by its name.
        parameters.distinguished_name.push(DnType::CommonName, format!("{name} {}", now.as_second()));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self { certificate, key: Zeroizing::new(key.serialize_pem()), validity })
    }

    /// Parses a stored authority from its certificate and key in PEM.
    pub fn parse(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let unreadable = |error: &dyn fmt::Display| CertificateError::Unreadable(error.to_string());
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|error| unreadable(&error))?;
        let parsed = pem.parse_x509().map_err(|error| unreadable(&error))?;
        if !parsed.is_ca() {
            return Err(CertificateError::Mismatch("the certificate is not that of an authority"));
        }
        if *parsed.public_key().subject_public_key.data != *KeyPair::from_pem(key)?.public_key_raw() {
            return Err(CertificateError::Mismatch("the key does not belong to the certificate"));
        }
        let validity = Validity::of_parsed(&parsed)?;
        Ok(Self { certificate: certificate.to_owned(), key: Zeroizing::new(key.to_owned()), validity })
    }

    /// The certificate in PEM, for the bundle.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The private key in PEM. It is written to the Secret only.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The validity of the certificate.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Issues a leaf for a server with exactly these DNS names. The leaf does not outlive its authority.
    pub fn issue_leaf(&self, names: &[String], now: Timestamp) -> Result<Leaf, CertificateError> {
        let mut validity = Validity::from_now(now, LEAF_LIFETIME);
        validity.not_after = validity.not_after.min(self.validity.not_after);
        let mut parameters = CertificateParams::new(names.to_vec())?;
        validity.apply(&mut parameters);
        parameters.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let certificate = parameters.signed_by(&key, &issuer)?.der().to_vec();
        Ok(Leaf {
            certificate,
            key: Zeroizing::new(key.serialize_der()),
            validity,
            authority: self.certificate.clone(),
        })
    }
}

/// The certificate and key with which one replica serves.
pub struct Leaf {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    validity: Validity,
    authority: String,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Leaf").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl Leaf {
    /// The certificate in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key as PKCS #8 in DER. It never leaves the memory of its replica.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The validity of the certificate.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The certificate, in PEM, of the authority that signed the leaf.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}
