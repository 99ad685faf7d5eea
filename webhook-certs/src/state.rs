//! The content of the Secret: the current authority, the next one, and the previous ones whose leaves may still be
//! served.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Authority, CertificateError, LEAF_LIFETIME};

const CURRENT: [&str; 2] = ["ca.crt", "ca.key"];
const NEXT: [&str; 2] = ["next.crt", "next.key"];
const PLAN: &str = "plan.json";

/// Why a Secret's data cannot be parsed. The caller then creates a new state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A key is missing, or its value is not UTF-8.
    #[error("{0} is missing or is not text")]
    Missing(&'static str),
    /// A pair of certificate and key is unusable.
    #[error("{0}: {1}")]
    Pair(&'static str, #[source] CertificateError),
    /// `plan.json` cannot be parsed.
    #[error("plan.json: {0}")]
    Plan(#[from] serde_json::Error),
}

/// The state of all authorities.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// None before the first authority was published.
    pub(crate) current: Option<Authority>,
    pub(crate) next: Option<Next>,
    pub(crate) previous: Vec<Previous>,
}

/// The next authority.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Next {
    pub authority: Authority,
    /// When every bundle was seen to contain it.
    pub published: Option<Timestamp>,
}

/// An authority that no longer signs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Previous {
    pub certificate: String,
    /// When the last of its leaves expires.
    pub until: Timestamp,
}

/// The part of the state that is neither a certificate nor a key.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_published: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    previous: Vec<Previous>,
}

impl State {
    /// The first state, or a new one that replaces a lost Secret. The certificates which the API server has trusted so
    /// far stay trusted for the lifetime of a leaf.
    pub fn first(name: &str, trusted: &[String], now: Timestamp) -> Result<Self, CertificateError> {
        let mut previous: Vec<Previous> = Vec::new();
        for certificate in trusted {
            if previous.iter().all(|known| known.certificate != *certificate) {
                previous.push(Previous { certificate: certificate.clone(), until: after_leaves(now) });
            }
        }
        let next = Next { authority: Authority::issue(name, now)?, published: None };
        Ok(Self { current: None, next: Some(next), previous })
    }

    /// The authority that signs leaves now; none before the first one was published.
    pub fn current(&self) -> Option<&Authority> {
        self.current.as_ref()
    }

    /// The bundle for the API server, in PEM.
    pub fn bundle(&self) -> String {
        let authorities = self.current.iter().chain(self.next.iter().map(|next| &next.authority));
        let previous = self.previous.iter().map(|previous| previous.certificate.as_str());
        authorities.map(Authority::certificate).chain(previous).collect()
    }

    /// The state as the data of a Secret.
    ///
    /// # Errors
    /// Never in practice, because the data is plain text.
    pub fn to_data(&self) -> Result<BTreeMap<String, Vec<u8>>, StateError> {
        let mut data = BTreeMap::new();
        let mut put = |[certificate, key]: [&str; 2], authority: &Authority| {
            data.insert(certificate.to_owned(), authority.certificate().as_bytes().to_vec());
            data.insert(key.to_owned(), authority.key().as_bytes().to_vec());
        };
        if let Some(current) = &self.current {
            put(CURRENT, current);
        }
        if let Some(next) = &self.next {
            put(NEXT, &next.authority);
        }
        let next_published = self.next.as_ref().and_then(|next| next.published);
        let plan = Plan { next_published, previous: self.previous.clone() };
        data.insert(PLAN.to_owned(), serde_json::to_vec(&plan)?);
        Ok(data)
    }

    /// Parses the data of a Secret.
    pub fn from_data(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, StateError> {
        let text = |key: &'static str| {
            data.get(key).and_then(|value| std::str::from_utf8(value).ok()).ok_or(StateError::Missing(key))
        };
        let pair = |[certificate, key]: [&'static str; 2]| {
            let parsed = |()| {
                Authority::parse(text(certificate)?, text(key)?).map_err(|error| StateError::Pair(certificate, error))
            };
            data.contains_key(certificate).then_some(()).map(parsed).transpose()
        };
        let plan: Plan = serde_json::from_str(text(PLAN)?)?;
        let next = pair(NEXT)?.map(|authority| Next { authority, published: plan.next_published });
        let current = pair(CURRENT)?;
        if current.is_none() && next.is_none() {
            return Err(StateError::Missing(CURRENT[0]));
        }
        Ok(Self { current, next, previous: plan.previous })
    }
}

/// When all leaves that were signed before `now` have expired.
pub(crate) fn after_leaves(now: Timestamp) -> Timestamp {
    now.saturating_add(LEAF_LIFETIME).unwrap_or(Timestamp::MAX)
}
