//! HTTP/1.1 over meshd's Unix socket: a connection for each request.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use meshd::control::protocol::{LONGEST_BODY, Message, Problem};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::events::Stream;
use super::failure::{Code, Failure};

/// No answer is longer.
const LONGEST: usize = 64 << 20;

#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// How long an answer may take, beyond what the daemon was asked to wait.
    patience: Duration,
}

impl Client {
    pub fn new(socket: &Path, patience: Duration) -> Client {
        Client { socket: socket.to_owned(), patience }
    }

    pub async fn get<T: Message>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None, Duration::ZERO).await
    }

    /// Asks, and gives the daemon `wait` longer than for an answer that it has at hand.
    pub async fn ask<T: Message>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<T, Failure> {
        let body = body.map(Value::to_string);
        if let Some(length) = body.as_ref().map(String::len).filter(|length| *length > LONGEST_BODY) {
            // The daemon would hang up before it has all, and its reason could get lost.
            return Err(Failure::refused(format!("{length} bytes are too many: meshd takes at most {LONGEST_BODY}")));
        }
        let patience = wait + self.patience;
        let changes = method != Method::GET;
        let answer = timeout(patience, self.answer(method, path, body)).await;
        let bytes = answer.unwrap_or_else(|_| Err(self.silent(patience, changes)))?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(error))
    }

    async fn answer(&self, method: Method, path: &str, body: Option<String>) -> Result<Bytes, Failure> {
        let response = self.send(method, path, body).await?;
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        Ok(body.map_err(|error| self.strange(error))?.to_bytes())
    }

    /// The stream of events; it may be silent for as long as it likes.
    pub async fn stream(&self, path: &str) -> Result<Stream<Incoming>, Failure> {
        let response = timeout(self.patience, self.send(Method::GET, path, None)).await;
        let response = response.unwrap_or_else(|_| Err(self.silent(self.patience, false)))?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(self.strange("it sends no events"));
        }
        Ok(Stream::new(response.into_body()))
    }

    /// An answer that is none of success becomes a failure.
    async fn send(&self, method: Method, path: &str, body: Option<String>) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let strange = |error| self.strange(error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(strange)?;
        // It ends with the last of the two sides; what goes wrong there, the sender tells.
        tokio::spawn(connection);
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(USER_AGENT, concat!("meshctl/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json, text/event-stream");
        let request = match body {
            Some(body) => request.header(CONTENT_TYPE, kind).body(Full::<Bytes>::from(body)),
            None => request.body(Full::default()),
        };
        let request = request.map_err(|error| Failure::usage(format!("{path} cannot be asked for: {error}")))?;
        let response = sender.send_request(request).await.map_err(strange)?;
        if response.status().is_success() { Ok(response) } else { Err(self.problem(response).await) }
    }

    async fn problem(&self, response: Response<Incoming>) -> Failure {
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let problem = body.ok().and_then(|body| serde_json::from_slice::<Problem>(&body.to_bytes()).ok());
        // The status line is what counts, whatever the body says.
        let problem = problem.map(|problem| Problem { status: status.as_u16(), ..problem });
        problem.unwrap_or_else(|| problem_without_body(status)).into()
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            ErrorKind::PermissionDenied => Failure::new(
                Code::NotAllowed,
                format!("{socket} is not for this user; root may, and members of the configuration's [control] group"),
            ),
            ErrorKind::NotFound => Failure::unavailable(format!(
                "no meshd at {socket}: there is no such socket; is it running? --socket or MESHCTL_SOCKET names another"
            )),
            ErrorKind::ConnectionRefused => {
                Failure::unavailable(format!("no meshd at {socket}: nobody listens there; is it running?"))
            }
            _ => Failure::unavailable(format!("no meshd at {socket}: {error}")),
        }
    }

    fn silent(&self, patience: Duration, changes: bool) -> Failure {
        let fate = if changes { "; whether it did what it was asked is not known" } else { "" };
        let seconds = patience.as_secs_f64();
        Failure::unavailable(format!("no answer from {} in {seconds} s{fate}", self.socket.display()))
    }

    fn strange(&self, error: impl Display) -> Failure {
        Failure::unavailable(format!("no good answer from {}: {error}", self.socket.display()))
    }
}

fn problem_without_body(status: hyper::StatusCode) -> Problem {
    let title = status.canonical_reason().unwrap_or_default().to_owned();
    Problem { status: status.as_u16(), detail: format!("HTTP status {status}"), title, errors: Vec::new() }
}

/// A part of a path, with everything but unreserved characters (RFC 3986) and colons encoded.
pub fn segment(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_name_stays_one_part_of_the_path() {
        assert_eq!(segment("kafka_1.a-b"), "kafka_1.a-b");
        assert_eq!(segment("fd00:255::33"), "fd00:255::33");
        assert_eq!(segment("../a?b=c#d e%"), "..%2Fa%3Fb%3Dc%23d%20e%25");
        assert_eq!(segment("ü"), "%C3%BC");
    }
}
