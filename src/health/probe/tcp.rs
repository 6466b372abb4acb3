//! Whether a connection is taken.

use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use super::{Failure, asks_itself, failure, no_socket};

pub(super) async fn probe(to: SocketAddr) -> Result<(), Failure> {
    connect(to).await.map(drop)
}

/// A connection that ends by RST, as HAProxy's do: thousands of checks leave no port in TIME_WAIT.
pub(super) async fn connect(to: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(no_socket)?;
    socket.set_zero_linger().map_err(no_socket)?;
    let stream = socket.connect(to).await.map_err(|error| failure(&error))?;
    // Both ends of a simultaneous open (RFC 9293, 3.5) are the one socket.
    if asks_itself(stream.local_addr(), to) { Err("connection refused".to_owned().into()) } else { Ok(stream) }
}
