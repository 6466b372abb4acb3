//! A datagram, and what comes back.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time;

use super::{Failure, asks_itself, failure, no_socket};
use crate::mesh::UdpProbe;

/// In that time a host says that a port is closed, if it says so.
const SILENCE: Duration = Duration::from_millis(200);
/// What is told of an answer that was expected.
const LONGEST_EXPECTED: usize = 64;

pub(super) async fn probe(probe: &UdpProbe, to: SocketAddr, timeout: Duration) -> Result<(), Failure> {
    let socket = ask(to, &probe.send).await?;
    let Some(expect) = &probe.expect else {
        // With time to spare, or a short timeout would end what is good.
        let silence = SILENCE.min(timeout / 10 * 9);
        return match time::timeout(silence, receive(&socket, 1)).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Ok(()),
        };
    };
    let answer = receive(&socket, expect.len()).await?;
    if answer.starts_with(expect) {
        return Ok(());
    }
    let shown = expect[..expect.len().min(LONGEST_EXPECTED)].escape_ascii();
    let rest = if expect.len() > LONGEST_EXPECTED { "…" } else { "" };
    Err(format!("answer does not begin with \"{shown}{rest}\"").into())
}

/// A connected socket, which hears of ICMP errors and of nobody else, and has sent its question.
pub(super) async fn ask(to: SocketAddr, question: &[u8]) -> Result<UdpSocket, Failure> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await.map_err(no_socket)?;
    socket.connect(to).await.map_err(|error| failure(&error))?;
    if asks_itself(socket.local_addr(), to) {
        return Err(closed());
    }
    socket.send(question).await.map_err(|error| refused(&error))?;
    Ok(socket)
}

/// The beginning of the next datagram.
pub(super) async fn receive(socket: &UdpSocket, most: usize) -> Result<Vec<u8>, Failure> {
    let mut answer = vec![0; most];
    let length = socket.recv(&mut answer).await.map_err(|error| refused(&error))?;
    answer.truncate(length);
    Ok(answer)
}

fn refused(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::ConnectionRefused { closed() } else { failure(error) }
}

fn closed() -> Failure {
    Failure::Unwell("port unreachable".to_owned())
}
