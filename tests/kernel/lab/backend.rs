//! Backends: servers in a namespace that answer with their name and with whom they see.
//!
//! On a connection, a line is answered by a line (see [`Answer`](super::Answer)) for as long as the client
//! likes; a line that is an HTTP request is answered as one. A datagram is answered by a datagram.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::place::time_value;
use super::{Place, Protocol};

/// How soon a server that nobody asks anything finds out that its test is over.
const TICK: Duration = Duration::from_millis(500);

/// A place that answers. Its servers end when it is dropped.
pub struct Backend {
    place: Place,
    name: String,
    datagrams: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Backend {
    pub(super) fn new(name: &str, place: Place) -> Backend {
        Backend { place, name: name.to_owned(), datagrams: Arc::default(), over: Arc::default() }
    }

    pub fn tcp(self, port: u16) -> Backend {
        self.serve(Protocol::Tcp, port)
    }

    pub fn udp(self, port: u16) -> Backend {
        self.serve(Protocol::Udp, port)
    }

    pub fn sctp(self, port: u16) -> Backend {
        self.serve(Protocol::Sctp, port)
    }

    /// Datagrams that came in so far, whether or not their answers found the way back.
    pub fn datagrams_heard(&self) -> usize {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// Serves both families.
    pub fn serve(self, protocol: Protocol, port: u16) -> Backend {
        let socket = self.place.server(protocol, port);
        setsockopt(&socket, sockopt::ReceiveTimeout, &time_value(TICK)).expect("a time to receive");
        let server =
            Server { name: self.name.clone(), port, datagrams: self.datagrams.clone(), over: self.over.clone() };
        match protocol {
            Protocol::Udp => thread::spawn(move || server.datagrams(socket.into())),
            _ => thread::spawn(move || server.connections(socket.into())),
        };
        self
    }
}

impl Deref for Backend {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Server {
    name: String,
    port: u16,
    datagrams: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Server {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn answer(&self, peer: SocketAddr, heard: &str) -> String {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        format!("{} {peer} {} {heard}\n", self.name, self.port)
    }

    fn datagrams(&self, socket: UdpSocket) {
        let mut datagram = [0; 2048];
        while !self.is_over() {
            if let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                self.datagrams.fetch_add(1, Ordering::Relaxed);
                let heard = String::from_utf8_lossy(&datagram[..length]);
                // Who asked may be out of reach by now.
                let _ = socket.send_to(self.answer(peer, &heard).as_bytes(), peer);
            }
        }
    }

    fn connections(&self, listener: TcpListener) {
        while !self.is_over() {
            if let Ok((stream, peer)) = listener.accept() {
                let server = self.clone();
                // A client may leave in the middle of anything.
                thread::spawn(move || server.connection(stream, peer));
            }
        }
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_read_timeout(Some(TICK))?;
        let mut stream = BufReader::new(stream);
        while let Some(line) = self.line(&mut stream)? {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("GET" | "POST"), Some(path)) => self.http(&mut stream, peer, path)?,
                // In one piece: to SCTP that is one message.
                _ => stream.get_mut().write_all(self.answer(peer, &line).as_bytes())?,
            }
        }
        Ok(())
    }

    /// The next line without its end; nothing at the end of the connection or of the test.
    fn line(&self, stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        while !self.is_over() {
            match stream.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => {
                    return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
                }
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The answer as body; `/bytes/N`: a body of N bytes; and the length of the request's body in a header.
    fn http(&self, stream: &mut BufReader<TcpStream>, peer: SocketAddr, path: &str) -> io::Result<()> {
        let (mut expected, mut close) = (0, false);
        while let Some(header) = self.line(stream)?.filter(|header| !header.is_empty()) {
            let header = header.to_ascii_lowercase();
            if let Some(length) = header.strip_prefix("content-length:") {
                expected = length.trim().parse().map_err(io::Error::other)?;
            }
            close |= header.strip_prefix("connection:").is_some_and(|value| value.trim() == "close");
        }
        let received = self.skip(stream, expected)?;
        let body = match path.strip_prefix("/bytes/").and_then(|length| length.parse().ok()) {
            Some(length) => vec![b'x'; length],
            None => self.answer(peer, path).into_bytes(),
        };
        let length = body.len();
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Received: {received}\r\nConnection: {connection}\r\n\r\n"
        );
        stream.get_mut().write_all(&[head.into_bytes(), body].concat())?;
        if close { stream.get_mut().shutdown(std::net::Shutdown::Write) } else { Ok(()) }
    }

    fn skip(&self, stream: &mut BufReader<TcpStream>, length: usize) -> io::Result<usize> {
        let mut received = 0;
        let mut piece = [0; 65536];
        while received < length && !self.is_over() {
            let most = piece.len().min(length - received);
            match stream.read(&mut piece[..most]) {
                Ok(0) => break,
                Ok(count) => received += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(received)
    }
}
