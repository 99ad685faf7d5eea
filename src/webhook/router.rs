//! The HTTP paths, and the limits of a request before its decision: how much is read, and for how long. Nothing of a
//! request is logged, at any level.

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
    decision::{AdmissionEndpoint, DecisionFacts, decide},
    metrics::{Metrics, Unanswered},
    readiness::Readiness,
    repositories::Repositories,
    review::{self, ReviewError},
};
use crate::{
    annotations::{Injection, positive_duration},
    inject::MAX_BYTES,
};

/// The largest review that is read: the largest object that the API server accepts, its old version, and the fields
/// around them.
pub const MAX_REVIEW_BYTES: usize = 2 * MAX_BYTES + MAX_BYTES / 3;
/// The longest deadline of an answer, whatever timeout the API server sends.
const MAX_ANSWER: Duration = Duration::from_secs(1);
/// The maximum number of parts of a review, counted by its commas. Each part becomes a value in memory, which may be
/// many times as large as its text. A review of the largest object with the longest lists that users write has fewer.
const MAX_PARTS: usize = 250_000;
/// Memory that each request may use without a permit. Most reviews are smaller.
const FREE_BYTES: usize = 16 * 1024;
/// Memory that all requests together may use beyond that, in KiB. If it is exhausted, a request is rejected at once.
const SHARED_KIB: usize = 32 * 1024;
const KIB: usize = 1024;

/// State that all requests share.
#[derive(Debug)]
pub struct Admission {
    image: String,
    repositories: Arc<Repositories>,
    metrics: Arc<Metrics>,
    memory: Arc<Semaphore>,
    /// Serializes parsing of large admission reviews, which bounds memory.
    parsing: Semaphore,
}

impl Admission {
    /// `image`: reference of the injected containers' image.
    pub fn new(image: String, repositories: Arc<Repositories>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            image,
            repositories,
            metrics,
            memory: Arc::new(Semaphore::new(SHARED_KIB)),
            parsing: Semaphore::new(1),
        })
    }
}

/// The routes for the API server. The path of a pod contains the label of its namespace, because a review does not.
pub fn admission(admission: Arc<Admission>) -> Router {
    let reviews = |endpoint: AdmissionEndpoint| {
        post(move |State(admission): State<Arc<Admission>>, request: Request| async move {
            answer(&admission, endpoint, request).await
        })
    };
    Router::new()
        .route("/pods", reviews(AdmissionEndpoint::Pods(None)))
        .route("/pods/helper", reviews(AdmissionEndpoint::Pods(Some(Injection::Helper))))
        .route("/pods/sidecar", reviews(AdmissionEndpoint::Pods(Some(Injection::Sidecar))))
        .route("/pods/none", reviews(AdmissionEndpoint::Pods(Some(Injection::None))))
        .route("/workloads", reviews(AdmissionEndpoint::Workloads))
        .route("/objects", reviews(AdmissionEndpoint::Objects))
        .route("/annotations", reviews(AdmissionEndpoint::Annotations))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "NotFound", "there is no such path") })
        .method_not_allowed_fallback(|| async {
            failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "reviews are sent by POST")
        })
        .with_state(admission)
}

/// The routes for the kubelet and Prometheus.
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

async fn answer(admission: &Admission, endpoint: AdmissionEndpoint, request: Request) -> Response {
    let start = Instant::now();
    let response = match reviewed(admission, endpoint, request).await {
        Ok(body) => json(StatusCode::OK, body),
        Err(reason) => {
            admission.metrics.unanswered(reason.kind);
            failure(reason.code, &format!("{:?}", reason.kind), &reason.message)
        }
    };
    admission.metrics.took(start.elapsed());
    response
}

/// Why a request is not answered with a review.
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
        Self::too_large(format!("a review has at most {MAX_REVIEW_BYTES} bytes"))
    }
}

impl From<ReviewError> for Refused {
    fn from(error: ReviewError) -> Self {
        Self::new(Unanswered::BadRequest, StatusCode::BAD_REQUEST, error.to_string())
    }
}

async fn reviewed(admission: &Admission, endpoint: AdmissionEndpoint, request: Request) -> Result<Vec<u8>, Refused> {
    let deadline = deadline(request.uri());
    if !is_json(request.headers()) {
        let message = "a review is sent as application/json";
        return Err(Refused::new(Unanswered::MediaType, StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let arrived = async {
        let (text, memory) = read(request, &admission.memory).await?;
        // The semaphore is never closed. Even without the permit, the request would only use more memory.
        let parsing = if memory.is_some() { admission.parsing.acquire().await.ok() } else { None };
        Ok((text, memory, parsing))
    };
    let (text, memory, parsing) = timeout(deadline, arrived).await.unwrap_or_else(|_| {
        let message = format!("the review did not arrive within {} ms", deadline.as_millis());
        Err(Refused::new(Unanswered::Timeout, StatusCode::GATEWAY_TIMEOUT, message))
    })?;
    if memchr::memchr_iter(b',', &text).count() > MAX_PARTS {
        return Err(Refused::too_large(format!("a review has at most {MAX_PARTS} commas")));
    }
    let request = review::read(&text)?;
    drop(text);
    let repositories = admission.repositories.of(&request.namespace);
    let facts = DecisionFacts { image: &admission.image, repositories: &repositories };
    let decision = decide(endpoint, &request, facts)?;
    if !request.dry_run {
        admission.metrics.decided(endpoint.subject(), decision.effect, decision.reason);
    }
    let written = decision.answer.write(&request).map_err(|error| ReviewError::Malformed(error.to_string()))?;
    drop((memory, parsing));
    Ok(written)
}

/// The deadline of this request. The API server sends its own timeout in the query.
fn deadline(uri: &Uri) -> Duration {
    let given =
        uri.query().into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("timeout="));
    given.and_then(|given| positive_duration(given).ok()).map_or(MAX_ANSWER, |given| given.min(MAX_ANSWER))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Reads the whole body. Returns it with its permit of the shared memory.
async fn read(request: Request, memory: &Arc<Semaphore>) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refused> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if length.and_then(|length| length.parse::<usize>().ok()).is_some_and(|length| length > MAX_REVIEW_BYTES) {
        return Err(Refused::too_long());
    }
    let mut body = request.into_body();
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    let mut permit: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let broken = |_| {
            Refused::new(
                Unanswered::BadRequest,
                StatusCode::BAD_REQUEST,
                "the connection ended before the review was complete",
            )
        };
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        let length = first.len() + whole.len() + data.len();
        if length > MAX_REVIEW_BYTES {
            return Err(Refused::too_long());
        }
        take(memory, &mut permit, length)?;
        // Most reviews arrive in one piece, and need not be copied.
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

/// Extends the permit so that it covers a body of this length.
fn take(memory: &Arc<Semaphore>, permit: &mut Option<OwnedSemaphorePermit>, length: usize) -> Result<(), Refused> {
    let needed = length.saturating_sub(FREE_BYTES).div_ceil(KIB);
    let more = needed.saturating_sub(permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
    let Ok(more) = u32::try_from(more) else { return Err(Refused::too_long()) };
    if more == 0 {
        return Ok(());
    }
    let Ok(further) = memory.clone().try_acquire_many_owned(more) else {
        let message = "too many large reviews at the same time; try again";
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
