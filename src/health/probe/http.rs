//! A GET by HTTP/1.1, in the clear or by TLS.

mod capped;

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, reason, tcp, tls};
use crate::mesh::HttpProbe;
use capped::Capped;

const AGENT: &str = concat!("meshd/", env!("CARGO_PKG_VERSION"));
/// Of the head, and of what is searched of the body.
const LONGEST: usize = 64 << 10;
/// Of all that is read: the body in chunks of one byte is six times as long, and there may be answers before the answer
/// (1xx).
const LONGEST_IN_ALL: usize = 1 << 20;

pub(super) async fn probe(probe: &HttpProbe, to: SocketAddr) -> Result<(), Failure> {
    let request = request(probe, to)?;
    let stream = Capped::new(tcp::connect(to).await?, LONGEST_IN_ALL);
    match probe.tls {
        None => exchange(probe, request, stream).await?,
        Some(tls) => {
            let name = tls::server_name(probe.host.as_deref(), to.ip())?;
            exchange(probe, request, tls::handshake(stream, tls, name).await?).await?;
        }
    }
    Ok(())
}

fn request(probe: &HttpProbe, to: SocketAddr) -> Result<Request<Empty<Bytes>>, String> {
    let uri = Uri::builder().path_and_query(probe.path.as_str()).build();
    let uri = uri.map_err(|error| format!("path {:?}: {error}", probe.path))?;
    let host = probe.host.clone().unwrap_or_else(|| authority(to, if probe.tls.is_some() { 443 } else { 80 }));
    Request::get(uri)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("host {:?}: {error}", probe.host.as_deref().unwrap_or_default()))
}

/// As a URI of that address has it (RFC 3986), without a zone.
fn authority(to: SocketAddr, usual: u16) -> String {
    let host = match to.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    if to.port() == usual { host } else { format!("{host}:{}", to.port()) }
}

async fn exchange<S>(probe: &HttpProbe, request: Request<Empty<Bytes>>, stream: S) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = http1::Builder::new().max_buf_size(LONGEST).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error, "an answer"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error, "an answer"))?;
        let status = response.status().as_u16();
        if !probe.status.contains(&status) {
            return Err(format!("status {status}"));
        }
        match &probe.body {
            Some(text) if !contains(response.into_body(), text.as_bytes()).await? => {
                Err(format!("body without {text:?}"))
            }
            _ => Ok(()),
        }
    };
    // In this task, so that one goes with the other.
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What went wrong with it is what the answer fails with.
        _ = connection => answer.await,
    }
}

/// Whether `text` is in the first 64 KiB. Of what was searched, only as much is kept as could be its beginning.
async fn contains(mut body: Incoming, text: &[u8]) -> Result<bool, String> {
    let Some(overlap) = text.len().checked_sub(1) else { return Ok(true) };
    let mut left = LONGEST;
    let mut kept: Vec<u8> = Vec::new();
    while left > 0 {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.map_err(|error| broken(&error, "the whole body"))?.into_data() else { continue };
        let data = &data[..data.len().min(left)];
        left -= data.len();
        kept.extend_from_slice(data);
        if kept.windows(text.len()).any(|window| window == text) {
            return Ok(true);
        }
        kept.drain(..kept.len().saturating_sub(overlap));
    }
    Ok(false)
}

/// What became of a connection that should have brought `what`.
fn broken(error: &hyper::Error, what: &str) -> String {
    if error.is_parse_too_large() {
        return "head of the answer too long".to_owned();
    }
    if error.is_parse() {
        return "answer is not HTTP/1.1".to_owned();
    }
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) else {
        return format!("connection closed without {what}");
    };
    tls::reason(error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("connection closed without {what}"),
        // Of a chunk's head.
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => "answer is not HTTP/1.1".to_owned(),
        _ => reason(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_address_with_its_port_unless_that_is_the_usual_one() {
        let check = |to: &str, usual, expected: &str| assert_eq!(authority(to.parse().unwrap(), usual), expected);
        check("10.0.0.1:80", 80, "10.0.0.1");
        check("10.0.0.1:80", 443, "10.0.0.1:80");
        check("[fd00::1]:443", 443, "[fd00::1]");
        check("[fe80::1%3]:8080", 80, "[fe80::1]:8080");
    }
}
