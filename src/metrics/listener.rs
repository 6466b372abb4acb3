//! The HTTP listener: /metrics and nothing else.

use std::future::Future;
use std::io;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

/// Prometheus's text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers on `listener` until the process ends; `scrape` makes the text of one scrape, or says why not.
pub async fn serve<F, Answer>(listener: TcpListener, scrape: F) -> io::Result<()>
where
    F: Fn() -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Result<String, String>> + Send,
{
    let answer = move || async move { respond(scrape().await) };
    axum::serve(listener, Router::new().route("/metrics", get(answer))).await
}

fn respond(scraped: Result<String, String>) -> Response {
    match scraped {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}
