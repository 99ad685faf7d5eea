//! The paths, and what happens to one request on its way to a decision: how much of it is read, for how long.
//!
//! It must not know sockets, TLS, or how anything is decided. Nothing of a request is logged, at any level.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    decision::{DecisionFacts, Question, decide},
    metrics::{Metrics, Unanswered},
    readiness::Readiness,
    repositories::Repositories,
    review::{self, ReviewError},
};
use crate::{
    annotations::{Injection, positive_duration},
    inject::MAXIMUM_BYTES,
};

/// The biggest review that is read: an object as big as the API server takes one, the same object as it was, and what
/// stands around them.
pub const MAXIMUM_REVIEW_BYTES: usize = 2 * MAXIMUM_BYTES + MAXIMUM_BYTES / 3;
/// Nobody waits longer for us, whatever the API server allows.
const LONGEST_ANSWER: Duration = Duration::from_secs(1);
/// The most parts that a review may have, by its commas. Each becomes a value in memory, many times as big as its text may
/// be; a review of the biggest object of the longest lists that people write has fewer.
const MAXIMUM_PARTS: usize = 250_000;
/// What each request may hold of memory without asking; most reviews are smaller.
const FREE_BYTES: usize = 16 * 1024;
/// What all requests together may hold beyond that, in KiB. Whoever finds nothing left is sent away at once.
const SHARED_KIB: usize = 32 * 1024;
const KIB: usize = 1024;

/// What all requests share.
#[derive(Debug)]
pub struct Admission {
    image: String,
    repositories: Arc<Repositories>,
    metrics: Arc<Metrics>,
    memory: Arc<Semaphore>,
    /// Of the big reviews one after the other is taken apart.
    turn: Semaphore,
}

impl Admission {
    /// `image` is the reference of ours that is put into pods.
    pub fn new(image: String, repositories: Arc<Repositories>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            image,
            repositories,
            metrics,
            memory: Arc::new(Semaphore::new(SHARED_KIB)),
            turn: Semaphore::new(1),
        })
    }
}

/// The paths of the API server. The path of a pod says what its namespace's label says, since a review does not.
pub fn admission(admission: Arc<Admission>) -> Router {
    let asked = |question: Question| {
        post(move |State(admission): State<Arc<Admission>>, request: Request| async move {
            answer(&admission, question, request).await
        })
    };
    Router::new()
        .route("/pods", asked(Question::Pods(None)))
        .route("/pods/helper", asked(Question::Pods(Some(Injection::Helper))))
        .route("/pods/sidecar", asked(Question::Pods(Some(Injection::Sidecar))))
        .route("/pods/none", asked(Question::Pods(Some(Injection::None))))
        .route("/workloads", asked(Question::Workloads))
        .route("/objects", asked(Question::Objects))
        .route("/annotations", asked(Question::Annotations))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "NotFound", "there is no such path") })
        .method_not_allowed_fallback(|| async {
            failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "reviews are sent by POST")
        })
        .with_state(admission)
}

/// The paths of kubelet and Prometheus.
pub fn health(readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> Router {
    let ready = move || {
        let readiness = readiness.clone();
        async move {
            match readiness.obstacle() {
                None => (StatusCode::OK, "ready\n".to_owned()),
                Some(obstacle) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {obstacle}\n")),
            }
        }
    };
    let render = move || {
        let metrics = metrics.clone();
        async move {
            let kind = (header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8");
            metrics.render().map(|text| ([kind], text)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
}

async fn answer(admission: &Admission, question: Question, request: Request) -> Response {
    let start = Instant::now();
    let response = match reviewed(admission, question, request).await {
        Ok(body) => json(StatusCode::OK, body),
        Err(reason) => {
            admission.metrics.unanswered(reason.kind);
            failure(reason.code, &format!("{:?}", reason.kind), &reason.message)
        }
    };
    admission.metrics.took(start.elapsed());
    response
}

/// Why there is no review as an answer.
struct Refused {
    kind: Unanswered,
    code: StatusCode,
    message: String,
}

impl Refused {
    fn new(kind: Unanswered, code: StatusCode, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into() }
    }

    fn too_large(message: impl Into<String>) -> Self {
        Self::new(Unanswered::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    fn too_long() -> Self {
        Self::too_large(format!("a review has at most {MAXIMUM_REVIEW_BYTES} bytes"))
    }
}

impl From<ReviewError> for Refused {
    fn from(error: ReviewError) -> Self {
        Self::new(Unanswered::BadRequest, StatusCode::BAD_REQUEST, error.to_string())
    }
}

async fn reviewed(admission: &Admission, question: Question, request: Request) -> Result<Vec<u8>, Refused> {
    let deadline = deadline(request.uri());
    if !is_json(request.headers()) {
        let message = "a review is sent as application/json";
        return Err(Refused::new(Unanswered::MediaType, StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let arrived = async {
        let (text, memory) = read(request, &admission.memory).await?;
        // It is never closed; without a turn it would be no more than bigger in memory.
        let turn = if memory.is_some() { admission.turn.acquire().await.ok() } else { None };
        Ok((text, memory, turn))
    };
    let (text, memory, turn) = timeout(deadline, arrived).await.unwrap_or_else(|_| {
        let message = format!("the review did not arrive within {} ms", deadline.as_millis());
        Err(Refused::new(Unanswered::Timeout, StatusCode::GATEWAY_TIMEOUT, message))
    })?;
    if memchr::memchr_iter(b',', &text).count() > MAXIMUM_PARTS {
        return Err(Refused::too_large(format!("a review has at most {MAXIMUM_PARTS} commas")));
    }
    let request = review::read(&text)?;
    drop(text);
    let repositories = admission.repositories.of(&request.namespace);
    let facts = DecisionFacts { image: &admission.image, repositories: &repositories };
    let decision = decide(question, &request, facts)?;
    if !request.dry_run {
        admission.metrics.decided(question.subject(), decision.effect, decision.ground);
    }
    let written = decision.answer.write(&request).map_err(|error| ReviewError::Malformed(error.to_string()))?;
    drop((memory, turn));
    Ok(written)
}

/// How long this request may take; the API server tells how long it waits itself.
fn deadline(uri: &Uri) -> Duration {
    let told =
        uri.query().into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("timeout="));
    told.and_then(|told| positive_duration(told).ok()).map_or(LONGEST_ANSWER, |told| told.min(LONGEST_ANSWER))
}

fn is_json(headers: &HeaderMap) -> bool {
    let told = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    told.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// The whole body, and the memory that it takes from what all share.
async fn read(request: Request, memory: &Arc<Semaphore>) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refused> {
    let told = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if told.and_then(|told| told.parse::<usize>().ok()).is_some_and(|length| length > MAXIMUM_REVIEW_BYTES) {
        return Err(Refused::too_long());
    }
    let mut body = request.into_body();
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    let mut permit: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let broken = |_| Refused::new(Unanswered::BadRequest, StatusCode::BAD_REQUEST, "the review broke off");
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        let length = first.len() + whole.len() + data.len();
        if length > MAXIMUM_REVIEW_BYTES {
            return Err(Refused::too_long());
        }
        take(memory, &mut permit, length)?;
        // Most reviews come in one piece, and need not be copied.
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    let text = if whole.is_empty() { first } else { whole.into() };
    Ok((text, permit))
}

/// Takes from the shared memory what a body of this length needs more than it has.
fn take(memory: &Arc<Semaphore>, permit: &mut Option<OwnedSemaphorePermit>, length: usize) -> Result<(), Refused> {
    let needed = length.saturating_sub(FREE_BYTES).div_ceil(KIB);
    let more = needed.saturating_sub(permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
    let Ok(more) = u32::try_from(more) else { return Err(Refused::too_long()) };
    if more == 0 {
        return Ok(());
    }
    let Ok(further) = memory.clone().try_acquire_many_owned(more) else {
        let message = "too many big reviews at once; try again";
        return Err(Refused::new(Unanswered::Busy, StatusCode::SERVICE_UNAVAILABLE, message));
    };
    match permit {
        Some(permit) => permit.merge(further),
        None => *permit = Some(further),
    }
    Ok(())
}

fn json(code: StatusCode, body: Vec<u8>) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (code, [(header::CONTENT_TYPE, kind)], Body::from(body)).into_response()
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response {
    match review::write_failure(code.as_u16(), reason, message) {
        Ok(body) => json(code, body),
        Err(_) => code.into_response(),
    }
}
