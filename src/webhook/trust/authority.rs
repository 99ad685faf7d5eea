//! Certificates of our own: the authority in its one Secret, led by the holder of the Lease, and this replica's leaf, which
//! lives in memory alone. What is due when, is decided by `webhook-certs`.
//!
//! It must not know when it is called.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Client;
use webhook_certs::{Leaf, LeafStep, State, Step, decide, decide_leaf};

use super::{Settings, TrustError, proposal};
use crate::{
    build::manifests::{AUTHORITY, LEASE, TRUST, WEBHOOK},
    cluster::{bundles::Configuration, lease::Tenure, observe, singleton},
    webhook::certificates::Certificates,
};

/// How often a replica looks that cannot serve yet, in case that it did not hear of a change.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// This replica's part in the authority.
pub(super) struct Authority {
    client: Client,
    namespace: String,
    /// The one DNS name by which the API server calls the Service.
    names: Vec<String>,
    tenure: Tenure,
    leaf: Option<Leaf>,
}

impl Authority {
    pub fn new(client: &Client, settings: &Settings) -> Self {
        let Settings { namespace, instance, .. } = settings;
        Self {
            client: client.clone(),
            namespace: namespace.clone(),
            names: vec![format!("{WEBHOOK}.{namespace}.svc")],
            tenure: Tenure::new(client.clone(), namespace, LEASE, instance),
            leaf: None,
        }
    }

    /// Takes part in the Lease. Without the Lease a replica still serves, it only does not lead.
    pub async fn renew_lease(&mut self, now: Timestamp) {
        if let Err(error) = self.tenure.renew(now).await {
            tracing::warn!("the lease was not renewed: {error}");
        }
    }

    /// Takes the step that is due, and tells how long nothing will be.
    pub async fn round(
        &mut self,
        configurations: &[Configuration],
        certificates: &Certificates,
        clock: &impl Fn() -> Timestamp,
    ) -> Result<Duration, TrustError> {
        let secret: Option<Secret> = observe::object(&self.client, &self.namespace, AUTHORITY).await?;
        let state = secret.as_ref().and_then(state_of);
        let published: Vec<String> =
            configurations.iter().flat_map(Configuration::bundles).map(str::to_owned).collect();
        if published.is_empty() {
            tracing::warn!("there is no webhook configuration {WEBHOOK}; apply the manifests of the installation");
            return Ok(self.tenure.period());
        }
        let step = match decide_leaf(self.leaf.as_ref(), state.as_ref(), &published, clock()) {
            LeafStep::Issue => {
                self.issue(state.as_ref(), certificates, clock())?;
                self.tenure.period()
            }
            LeafStep::Keep(until) => wait(until, clock()),
            LeafStep::NotYet(_) => IMPATIENCE,
        };
        if !self.tenure.is_held() {
            return Ok(step.min(self.tenure.period()));
        }
        let lead = match decide(WEBHOOK, state.as_ref(), &published, clock())? {
            Step::Store(state) => {
                self.store(secret, &state).await?;
                Duration::ZERO
            }
            Step::Publish(bundle) => {
                if proposal::write(&self.client, &self.namespace, &bundle).await? {
                    Duration::ZERO
                } else {
                    tracing::warn!(
                        "the webhook configurations {WEBHOOK} do not have the bundle of ConfigMap {TRUST} yet; the Deployment \
                         {TRUST} writes it: does it run?"
                    );
                    self.tenure.period()
                }
            }
            Step::Wait(until) => wait(until, clock()),
        };
        Ok(step.min(lead).min(self.tenure.period()))
    }

    /// Serves with a new leaf. The old one is served with until then.
    fn issue(&mut self, state: Option<&State>, certificates: &Certificates, now: Timestamp) -> Result<(), TrustError> {
        let Some(authority) = state.and_then(State::current) else { return Ok(()) };
        let leaf = authority.issue_leaf(&self.names, now)?;
        certificates.set(leaf.certificate(), leaf.key())?;
        tracing::info!("serving with a new certificate, valid until {}", leaf.validity().not_after);
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Writes the state, unless somebody else has written meanwhile.
    async fn store(&self, secret: Option<Secret>, state: &State) -> Result<(), TrustError> {
        let Some(secret) = secret else {
            // The state goes into it in the next round, by its version.
            singleton::ensure::<Secret>(&self.client, &self.namespace, AUTHORITY).await?;
            return Ok(());
        };
        let data = state.to_data()?.into_iter().map(|(key, value)| (key, ByteString(value))).collect();
        if singleton::replace(&self.client, &Secret { data: Some(data), ..secret }).await? {
            tracing::info!("the authorities in Secret {AUTHORITY} were written");
        }
        Ok(())
    }

    /// Gives the Lease back.
    pub async fn end(mut self) {
        if let Err(error) = self.tenure.release().await {
            tracing::warn!("the lease was not given back; the others wait for its end: {error}");
        }
    }
}

/// What the Secret holds. One that holds nothing yet, or nothing that can be used, is written anew.
fn state_of(secret: &Secret) -> Option<State> {
    let data = secret.data.as_ref().filter(|data| !data.is_empty())?;
    let data: BTreeMap<String, Vec<u8>> = data.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    State::from_data(&data)
        .inspect_err(|error| tracing::warn!("Secret {AUTHORITY} cannot be used, and is written anew: {error}"))
        .ok()
}

fn wait(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}
