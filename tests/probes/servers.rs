//! Servers that do what a test wants, each in a thread of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

/// Does that with every connection, one after the other, until the tests end.
pub fn tcp(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap())));
    address
}

/// Reads a request's head, and answers with that; whoever asks may be gone by then.
pub fn http(answer: impl AsRef<[u8]> + Send + 'static) -> SocketAddr {
    tcp(move |mut stream| {
        head(&mut stream);
        let _ = stream.write_all(answer.as_ref());
    })
}

/// A request's head, or what there is of it.
pub fn head(stream: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// Takes connections and says nothing, for as long as they are open.
pub fn silent() -> SocketAddr {
    tcp(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// Answers byte by byte.
pub fn slow(answer: &'static str, pause: Duration) -> SocketAddr {
    tcp(move |mut stream| {
        head(&mut stream);
        for byte in answer.bytes() {
            thread::sleep(pause);
            if stream.write_all(&[byte]).is_err() {
                return;
            }
        }
    })
}

/// Answers with that, and then with this over and over.
pub fn endless(first: &'static str, again: &'static str) -> SocketAddr {
    tcp(move |mut stream| {
        head(&mut stream);
        let again = again.repeat(1000);
        let mut sent = stream.write_all(first.as_bytes());
        while sent.is_ok() {
            sent = stream.write_all(again.as_bytes());
        }
    })
}

/// An address where connections are refused, and stay so while the value is there.
pub fn refused() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Answers each datagram with those.
pub fn udp(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut question = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut question).unwrap();
            for answer in answers(&question[..length]) {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
    address
}

/// An address where nobody takes datagrams but from elsewhere, while the value is there.
pub fn unreachable() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
    (socket, address)
}
