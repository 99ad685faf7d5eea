//! The HTTP server for metrics and liveness: `/metrics` in the `OpenMetrics` format, and `/healthz`.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

/// The content type of the response.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens on all addresses of this machine.
///
/// # Errors
/// When the port is in use.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        // A kernel without IPv6.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        listener => listener,
    }
}

/// Serves requests until the task is dropped.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, registry: Registry) -> io::Result<()> {
    axum::serve(listener, router(registry)).await
}

fn router(registry: Registry) -> Router {
    let registry = Arc::new(registry);
    let metrics = move || {
        let registry = registry.clone();
        async move {
            let mut text = String::new();
            match encode(&mut text, &registry) {
                Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
            }
        }
    };
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok\n" }))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use prometheus_client::metrics::gauge::Gauge;
    use tower::ServiceExt;

    use super::*;

    async fn get_path(path: &str, registry: Registry) -> (StatusCode, String) {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let response = router(registry).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn metrics_and_health_are_served_and_nothing_else() {
        let registry = || {
            let mut registry = Registry::default();
            let gauge = Gauge::<i64>::default();
            gauge.set(7);
            registry.register("barrels", "How many", gauge);
            registry
        };
        let (status, text) = get_path("/metrics", registry()).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("\nbarrels 7\n") && text.ends_with("# EOF\n"), "{text}");
        assert_eq!(get_path("/healthz", registry()).await, (StatusCode::OK, "ok\n".to_owned()));
        assert_eq!(get_path("/", registry()).await.0, StatusCode::NOT_FOUND);
    }
}
