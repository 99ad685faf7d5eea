//! What is counted, for Prometheus. Every label's values are a closed list: nobody's names, nobody's texts.
//!
//! It must not know how anything is decided or served.

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
    decision::{Ground, Subject},
};
use crate::inject::Effect;

/// Seconds: our own share of a call is some tens of microseconds, which the API server's own histogram cannot show.
const LATENCY_BUCKETS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 1.0,
];

/// Why a request got no review as an answer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
pub enum Unanswered {
    /// Bigger than any review.
    TooLarge,
    /// Not sent within its time.
    Timeout,
    /// Too many big ones at once.
    Busy,
    /// No review that we could answer.
    BadRequest,
    /// Not JSON by its own words.
    MediaType,
}

/// Why a connection came to nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelValue)]
pub enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// The two sides did not agree.
    Refused,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct DecisionLabels {
    subject: ByName<Subject>,
    effect: ByName<Effect>,
    cause: ByName<Ground>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct UnansweredLabels {
    reason: Unanswered,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct HandshakeLabels {
    reason: HandshakeFailure,
}

/// A value of a closed list that is told by its name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct ByName<T>(T);

impl<T: fmt::Debug> EncodeLabelValue for ByName<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(encoder, "{:?}", self.0)
    }
}

/// Everything that is counted.
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
    /// All at zero. `certificates` tells when it has to be renewed.
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
        registry.register("unanswered", "Requests that got no review as an answer", unanswered);
        let help = "Time from a request's head to its answer";
        registry.register_with_unit("latency", help, Unit::Seconds, latency);
        registry.register("connections", "Connections that are open now", connections);
        registry.register("handshake_failures", "Connections that came to nothing", handshakes);
        registry.register_collector(Box::new(Expiry(certificates)));
        let (decisions, unanswered, latency, connections, handshakes) = metrics;
        Self { registry, decisions, unanswered, latency, connections, handshakes }
    }

    /// Counts one decision.
    pub fn decided(&self, subject: Subject, effect: Effect, cause: Ground) {
        let labels = DecisionLabels { subject: ByName(subject), effect: ByName(effect), cause: ByName(cause) };
        self.decisions.get_or_create(&labels).inc();
    }

    /// Counts one request without a review as an answer.
    pub fn unanswered(&self, reason: Unanswered) {
        self.unanswered.get_or_create(&UnansweredLabels { reason }).inc();
    }

    /// Notes how long one answer took.
    pub fn took(&self, time: Duration) {
        self.latency.observe(time.as_secs_f64());
    }

    /// Notes that a connection was opened.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// Notes that a connection was closed.
    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// Counts one connection that came to nothing.
    pub fn handshake_failed(&self, reason: HandshakeFailure) {
        self.handshakes.get_or_create(&HandshakeLabels { reason }).inc();
    }

    /// All of it in the text form of `OpenMetrics`.
    ///
    /// # Errors
    /// Never in practice: it is written to memory.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// When the certificate that is served now is over; looked up whenever somebody asks.
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
