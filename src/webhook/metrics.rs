//! The webhook's metrics for Prometheus. The values of every label are a closed list, without names or texts of users.

use std::{
    fmt::{self, Write},
    sync::Arc,
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use super::{
    certificates::Certificates,
    decision::{DecisionReason, Subject},
};
use crate::inject::Effect;

/// In seconds. The webhook's share of a call is some tens of microseconds, which the API server's own histogram cannot
/// resolve.
const LATENCY_BUCKETS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 1.0,
];

/// Why a request was not answered with a review.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
pub enum Unanswered {
    /// Larger than the largest review.
    TooLarge,
    /// Not sent within its deadline.
    Timeout,
    /// Too many large requests at the same time.
    Busy,
    /// Not a review that this webhook can answer.
    BadRequest,
    /// The content type is not JSON.
    MediaType,
}

/// Why the TLS handshake of a connection failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
pub enum HandshakeFailure {
    /// The handshake took too long.
    Timeout,
    /// Client and server did not agree.
    Refused,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct DecisionLabels {
    subject: ByName<Subject>,
    effect: ByName<Effect>,
    cause: ByName<DecisionReason>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct UnansweredLabels {
    reason: Unanswered,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct HandshakeLabels {
    reason: HandshakeFailure,
}

/// A label value that is the `Debug` form of an enum variant.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct ByName<T>(T);

impl<T: fmt::Debug> EncodeLabelValue for ByName<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(encoder, "{:?}", self.0)
    }
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    unanswered: Family<UnansweredLabels, Counter>,
    latency: Histogram,
    connections: Gauge,
    handshakes: Family<HandshakeLabels, Counter>,
}

impl Metrics {
    /// All metrics at zero. `certificates` provides the expiry.
    pub fn new(certificates: Arc<Certificates>) -> Self {
        let mut registry = Registry::with_prefix("stowaway_webhook");
        let metrics = (
            Family::<DecisionLabels, Counter>::default(),
            Family::<UnansweredLabels, Counter>::default(),
            Histogram::new(LATENCY_BUCKETS),
            Gauge::<i64>::default(),
            Family::<HandshakeLabels, Counter>::default(),
        );
        let (decisions, unanswered, latency, connections, handshakes) = metrics.clone();
        registry.register("decisions", "Decisions on objects, without those of dry runs", decisions);
        registry.register("unanswered", "Requests that were not answered with a review", unanswered);
        let help = "Time from a request's head to its answer";
        registry.register_with_unit("latency", help, Unit::Seconds, latency);
        registry.register("connections", "Connections that are open now", connections);
        registry.register("handshake_failures", "Connections whose TLS handshake failed", handshakes);
        registry.register_collector(Box::new(Expiry(certificates)));
        let (decisions, unanswered, latency, connections, handshakes) = metrics;
        Self { registry, decisions, unanswered, latency, connections, handshakes }
    }

    /// Counts one decision.
    pub fn decided(&self, subject: Subject, effect: Effect, cause: DecisionReason) {
        let labels = DecisionLabels { subject: ByName(subject), effect: ByName(effect), cause: ByName(cause) };
        self.decisions.get_or_create(&labels).inc();
    }

    /// Counts a request that was not answered with a review.
    pub fn unanswered(&self, reason: Unanswered) {
        self.unanswered.get_or_create(&UnansweredLabels { reason }).inc();
    }

    /// Records the duration of one answer.
    pub fn took(&self, time: Duration) {
        self.latency.observe(time.as_secs_f64());
    }

    /// Counts a connection that was opened.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// Counts a connection that was closed.
    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// Counts a failed TLS handshake.
    pub fn handshake_failed(&self, reason: HandshakeFailure) {
        self.handshakes.get_or_create(&HandshakeLabels { reason }).inc();
    }

    /// The metrics in the text format of `OpenMetrics`.
    ///
    /// # Errors
    /// Never in practice, because it writes to memory.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// When the serving certificate expires. It is looked up for each scrape.
#[derive(Debug)]
struct Expiry(Arc<Certificates>);

impl Collector for Expiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = ConstGauge::new(self.0.not_after());
        let help = "When the certificate that is served expires, since 1970; 0 without one";
        let name = "certificate_expiry_timestamp";
        let metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), gauge.metric_type())?;
        gauge.encode(metric)
    }
}
