//! One connection: its current phase, and the deadline of that phase. The phases are detected in the stream of bytes,
//! because the HTTP library has only one deadline for both a client that waits between two requests and a client that
//! sends a head slowly.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, header},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Limits, is_leaving};
use crate::webhook::metrics::{HandshakeFailure, Metrics};

/// The largest head of a request; the API server's has some hundred bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The size of the read buffer.
const BUFFER_BYTES: usize = 32 * 1024;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Phase {
    Handshake,
    Idle,
    Head,
    Request,
    Answer,
}

/// The state of a connection that is visible to the server.
pub(super) struct Connection {
    phase: AtomicU8,
    /// Counts the changes of the phase.
    changes: AtomicU32,
    /// Whether it ever sent an answer.
    served: AtomicBool,
    since: Instant,
    shed: Notify,
    limits: Limits,
    leaving: Arc<AtomicBool>,
    metrics: Option<Arc<Metrics>>,
}

/// Closes the connection that is needed least: the oldest without a request in progress, and preferably one that never
/// had a request.
pub(super) fn shed<'a>(open: impl Iterator<Item = &'a Arc<Connection>>) {
    let spare = open
        .filter(|connection| matches!(connection.phase(), Phase::Handshake | Phase::Idle | Phase::Head))
        .min_by_key(|connection| (connection.served.load(Ordering::Relaxed), connection.since));
    if let Some(connection) = spare {
        connection.shed.notify_one();
    }
}

impl Connection {
    pub fn new(limits: Limits, leaving: Arc<AtomicBool>, metrics: Option<Arc<Metrics>>) -> Self {
        if let Some(metrics) = &metrics {
            metrics.connected();
        }
        Self {
            phase: AtomicU8::new(Phase::Handshake as u8),
            changes: AtomicU32::new(0),
            served: AtomicBool::new(false),
            since: Instant::now(),
            shed: Notify::new(),
            limits,
            leaving,
            metrics,
        }
    }

    /// Runs the connection from its first byte to its last.
    pub async fn run(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        router: Router,
        stop: CancellationToken,
    ) {
        // Without it an answer may wait for an acknowledgement. If it cannot be set, answers are only slower.
        let _slower = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.serve(stream, router, stop).await };
        let handshake = timeout(self.limits.handshake, tls.accept(stream));
        let result = tokio::select! {
            result = handshake => result,
            () = self.shed.notified() => return,
        };
        match result {
            Ok(Ok(stream)) => self.serve(stream, router, stop).await,
            Ok(Err(error)) => {
                tracing::debug!("a handshake failed: {error}");
                self.handshake_failed(HandshakeFailure::Refused);
            }
            Err(_) => self.handshake_failed(HandshakeFailure::Timeout),
        }
    }

    fn handshake_failed(&self, reason: HandshakeFailure) {
        if let Some(metrics) = &self.metrics {
            metrics.handshake_failed(reason);
        }
    }

    async fn serve<S>(self: Arc<Self>, stream: S, router: Router, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.enter(Phase::Idle);
        let service = service_fn(|request: Request<Incoming>| {
            self.enter(Phase::Request);
            let answer = router.clone().oneshot(request.map(Body::new));
            let this = self.clone();
            async move {
                let mut answer = answer.await?;
                if is_leaving(&this.leaving) {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                this.enter(Phase::Answer);
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(Watched { stream, connection: self.clone() }), service);
        let mut connection = pin!(connection);
        let (mut stopped, mut shed) = (pin!(stop.cancelled()), pin!(self.shed.notified()));
        let mut is_stopping = false;
        let mut seen = self.changes.load(Ordering::Relaxed);
        let mut deadline = Instant::now() + self.limit();
        let mut timer = pin!(sleep(self.limit()));
        poll_fn(|context| {
            if connection.as_mut().poll(context).is_ready() || shed.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            if !is_stopping && stopped.as_mut().poll(context).is_ready() {
                is_stopping = true;
                // A connection without any request yet was accepted before the stop, so its first request is still
                // answered.
                if self.phase() == Phase::Idle && self.served.load(Ordering::Relaxed) {
                    connection.as_mut().graceful_shutdown();
                    if connection.as_mut().poll(context).is_ready() {
                        return Poll::Ready(());
                    }
                }
            }
            let changes = self.changes.load(Ordering::Relaxed);
            if changes != seen {
                seen = changes;
                deadline = Instant::now() + self.limit();
            }
            // The timer is reset only if it would fire late, because nearly all requests are answered before this
            // point.
            if deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            while timer.as_mut().poll(context).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(());
                }
                timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await;
    }

    fn phase(&self) -> Phase {
        let phases = [Phase::Handshake, Phase::Idle, Phase::Head, Phase::Request, Phase::Answer];
        phases.get(usize::from(self.phase.load(Ordering::Relaxed))).copied().unwrap_or(Phase::Request)
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The maximum duration of the current phase.
    fn limit(&self) -> Duration {
        match self.phase() {
            Phase::Handshake => self.limits.handshake,
            Phase::Idle => self.limits.idle,
            Phase::Head => self.limits.head,
            Phase::Request => self.limits.request,
            Phase::Answer => self.limits.answer,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.disconnected();
        }
    }
}

/// A stream that detects the phase from its bytes: the first byte read begins a head, the last byte written ends an
/// answer.
struct Watched<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.connection.phase() == Phase::Idle {
            self.connection.enter(Phase::Head);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(result, Poll::Ready(Ok(()))) && self.connection.phase() == Phase::Answer {
            self.connection.served.store(true, Ordering::Relaxed);
            self.connection.enter(Phase::Idle);
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
