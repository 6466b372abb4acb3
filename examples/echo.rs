//! A backend for the demo: answers every request with its own name and with the address that it sees as its
//! client's. TCP answers HTTP, so that curl can ask; UDP answers a datagram with a datagram.
//!
//! `echo NAME tcp:PORT udp:PORT …`

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| usage());
    let servers: Vec<_> = arguments
        .map(|place| {
            let name = name.clone();
            let Some((protocol, port)) =
                place.split_once(':').and_then(|(p, port)| Some((p.to_owned(), port.parse().ok()?)))
            else {
                usage()
            };
            thread::spawn(move || {
                let outcome = match protocol.as_str() {
                    "tcp" => tcp(&name, port),
                    "udp" => udp(&name, port),
                    _ => usage(),
                };
                if let Err(error) = outcome {
                    eprintln!("echo {name}: cannot serve {protocol} {port}: {error}");
                }
            })
        })
        .collect();
    for server in servers {
        let _ = server.join();
    }
}

fn usage() -> ! {
    eprintln!("usage: echo NAME tcp:PORT|udp:PORT ...");
    std::process::exit(64)
}

/// Both families: an IPv6 socket takes IPv4 as well.
fn everywhere(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn answer(name: &str, peer: SocketAddr) -> String {
    format!("{name} saw {}\n", SocketAddr::new(peer.ip().to_canonical(), peer.port()))
}

fn tcp(name: &str, port: u16) -> io::Result<()> {
    for stream in TcpListener::bind(everywhere(port))?.incoming() {
        let name = name.to_owned();
        thread::spawn(move || stream.and_then(|stream| http(&name, stream)));
    }
    Ok(())
}

/// One request, one answer, and the connection is closed.
fn http(name: &str, mut stream: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = answer(name, stream.peer_addr()?);
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn udp(name: &str, port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(everywhere(port))?;
    let mut datagram = [0; 2048];
    loop {
        let (_, peer) = socket.recv_from(&mut datagram)?;
        socket.send_to(answer(name, peer).as_bytes(), peer)?;
    }
}
