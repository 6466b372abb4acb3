//! The HTTP listener: /metrics and /healthz, and nothing else.
//!
//! Whoever reaches the address is let in, so nobody may keep much of it for long: connections and scrapes are
//! counted, and each has its time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::Exposition;

const METRICS: &str = "/metrics";
/// As Kubernetes has taught everybody.
const HEALTH: &str = "/healthz";
/// Prometheus's text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Bytes of a request's head.
const LONGEST_HEAD: usize = 16 << 10;
/// After a connection could not be accepted, for lack of descriptors or memory.
const BREATH: Duration = Duration::from_millis(100);

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At once; who comes later waits to be accepted.
    pub connections: usize,
    /// Scrapes at once. Each holds the counters of one moment until all of it is sent.
    pub scrapes: usize,
    /// Until a request has to be there.
    pub request: Duration,
    /// How long a scrape waits for those before it.
    pub turn: Duration,
    /// For all of a connection: one request and its answer.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 256,
            scrapes: 4,
            request: Duration::from_secs(10),
            turn: Duration::from_secs(10),
            connection: Duration::from_secs(60),
        }
    }
}

/// Answers on `listener` until the process ends; `scrape` reads what one scrape shows, or says why not, and `health` says whether the
/// kernel is kept as wanted, or why not.
pub async fn serve<F, Answer, H>(listener: TcpListener, limits: Limits, scrape: F, health: H)
where
    F: Fn() -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Result<Exposition, String>> + Send,
    H: Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
{
    let connections = Arc::new(Semaphore::new(limits.connections));
    let scrapes = Arc::new(Semaphore::new(limits.scrapes));
    // (No one closes the semaphores.)
    while let Ok(place) = connections.clone().acquire_owned().await {
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(_) => sleep(BREATH).await,
            }
        };
        let (scrape, scrapes, health) = (scrape.clone(), scrapes.clone(), health.clone());
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (scrape, scrapes, health) = (scrape.clone(), scrapes.clone(), health.clone());
            async move {
                Ok::<_, Infallible>(match refusal(&request) {
                    Some(refusal) => refusal,
                    None if request.uri().path() == HEALTH => healthy(health()),
                    None => exposed(scrapes, limits, scrape).await,
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request)
            .max_buf_size(LONGEST_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // However it ends, it is the client's affair.
            let _ = timeout(limits.connection, connection).await;
            drop(place);
        });
    }
}

fn refusal<In>(request: &Request<In>) -> Option<Response> {
    if ![METRICS, HEALTH].contains(&request.uri().path()) {
        return Some((StatusCode::NOT_FOUND, "only /metrics and /healthz are here\n").into_response());
    }
    let asks = matches!(*request.method(), Method::GET | Method::HEAD);
    (!asks).then(|| (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response())
}

fn healthy(health: Result<(), String>) -> Response {
    match health {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn exposed<F, Answer>(scrapes: Arc<Semaphore>, limits: Limits, scrape: F) -> Response
where
    F: Fn() -> Answer,
    Answer: Future<Output = Result<Exposition, String>>,
{
    let Ok(Ok(turn)) = timeout(limits.turn, scrapes.acquire_owned()).await else {
        let reason = format!("{} scrapes are under way already\n", limits.scrapes);
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    };
    match scrape().await {
        Ok(exposition) => {
            ([(header::CONTENT_TYPE, TEXT)], Body::new(Streamed { exposition, _turn: turn })).into_response()
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

/// A scrape on its way. The next piece is made when the last one is with the kernel.
struct Streamed {
    exposition: Exposition,
    _turn: OwnedSemaphorePermit,
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.exposition.next().map(|piece| Ok(Frame::data(Bytes::from(piece)))))
    }
}
