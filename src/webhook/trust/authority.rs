//! The webhook's own certificates: the authority in its Secret, which the holder of the Lease maintains, and the leaf
//! of this replica, which exists only in memory. `webhook-certs` decides which step is due.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Client;
use webhook_certs::{Leaf, LeafStep, State, Step, decide, decide_leaf};

use super::{Settings, TrustError, proposal};
use crate::{
    cluster::{bundles::Configuration, lease::LeaderLease, observe, singleton},
    resources::manifests::{AUTHORITY, LEASE, TRUST, WEBHOOK},
    webhook::certificates::Certificates,
};

/// The interval at which a replica that cannot serve yet retries, in case that it missed a change.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// This replica's participation in the authority.
pub(super) struct Authority {
    client: Client,
    namespace: String,
    /// The only DNS name with which the API server calls the Service.
    names: Vec<String>,
    lease: LeaderLease,
    leaf: Option<Leaf>,
}

impl Authority {
    pub fn new(client: &Client, settings: &Settings) -> Self {
        let Settings { namespace, instance, .. } = settings;
        Self {
            client: client.clone(),
            namespace: namespace.clone(),
            names: vec![format!("{WEBHOOK}.{namespace}.svc")],
            lease: LeaderLease::new(client.clone(), namespace, LEASE, instance),
            leaf: None,
        }
    }

    /// Renews or acquires the Lease. A replica without the Lease still serves, but does not maintain the authority.
    pub async fn renew_lease(&mut self, now: Timestamp) {
        if let Err(error) = self.lease.renew(now).await {
            tracing::warn!("the lease was not renewed: {error}");
        }
    }

    /// Takes the step that is due. Returns how long no step will be due.
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
            return Ok(self.lease.period());
        }
        let step = match decide_leaf(self.leaf.as_ref(), state.as_ref(), &published, clock()) {
            LeafStep::Issue => {
                self.issue(state.as_ref(), certificates, clock())?;
                self.lease.period()
            }
            LeafStep::Keep(until) => wait(until, clock()),
            LeafStep::NotYet(_) => RETRY_PERIOD,
        };
        if !self.lease.is_held() {
            return Ok(step.min(self.lease.period()));
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
                        "the webhook configurations {WEBHOOK} do not have the bundle of ConfigMap {TRUST} yet; check whether \
                         the Deployment {TRUST}, which writes it, is running"
                    );
                    self.lease.period()
                }
            }
            Step::Wait(until) => wait(until, clock()),
        };
        Ok(step.min(lead).min(self.lease.period()))
    }

    /// Issues a leaf and serves with it. Until then the replica serves with the old leaf.
    fn issue(&mut self, state: Option<&State>, certificates: &Certificates, now: Timestamp) -> Result<(), TrustError> {
        let Some(authority) = state.and_then(State::current) else { return Ok(()) };
        let leaf = authority.issue_leaf(&self.names, now)?;
        certificates.set(leaf.certificate(), leaf.key())?;
        tracing::info!("serving with a new certificate, valid until {}", leaf.validity().not_after);
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Writes the state, unless another client has written the Secret meanwhile.
    async fn store(&self, secret: Option<Secret>, state: &State) -> Result<(), TrustError> {
        let Some(secret) = secret else {
            // The next round writes the state into the new Secret, with its resourceVersion.
            singleton::ensure::<Secret>(&self.client, &self.namespace, AUTHORITY).await?;
            return Ok(());
        };
        let data = state.to_data()?.into_iter().map(|(key, value)| (key, ByteString(value))).collect();
        if singleton::replace(&self.client, &Secret { data: Some(data), ..secret }).await? {
            tracing::info!("the authorities in Secret {AUTHORITY} were written");
        }
        Ok(())
    }

    /// Releases the Lease.
    pub async fn end(mut self) {
        if let Err(error) = self.lease.release().await {
            tracing::warn!("the lease was not released; the other replicas wait until it expires: {error}");
        }
    }
}

/// The state in the Secret. None if the Secret is empty or unusable; it is then rewritten.
fn state_of(secret: &Secret) -> Option<State> {
    let data = secret.data.as_ref().filter(|data| !data.is_empty())?;
    let data: BTreeMap<String, Vec<u8>> = data.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    State::from_data(&data)
        .inspect_err(|error| tracing::warn!("Secret {AUTHORITY} cannot be used, and is rewritten: {error}"))
        .ok()
}

fn wait(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}
