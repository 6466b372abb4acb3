use std::fs;
use std::io::Read;
use std::net::{Ipv6Addr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use meshd::mesh::Probe;

use crate::{SHORT, TIME, ask, ask_for, failed, http, probe, servers};

#[test]
fn a_connection_that_is_taken_is_good() {
    assert_eq!(ask(&Probe::Tcp, servers::silent()), Ok(()));
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    assert_eq!(ask(&Probe::Tcp, listener.local_addr().unwrap()), Ok(()));
}

#[test]
fn one_that_is_refused_is_not() {
    let (_reserved, address) = servers::refused();
    assert_eq!(ask(&Probe::Tcp, address), failed("connection refused"));
}

/// A queue that is full drops what comes, and nothing is heard.
#[test]
fn one_that_is_not_answered_is_not() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(async { socket.listen(1).unwrap() });
    let address = listener.local_addr().unwrap();
    let _queue: Vec<_> = (0..4)
        .map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)))
        .take_while(Result::is_ok)
        .collect();
    assert_eq!(ask_for(SHORT, &Probe::Tcp, address), failed("no answer in 400ms"));
}

#[test]
fn no_port_is_left_in_time_wait() {
    let address = servers::silent();
    for _ in 0..50 {
        assert_eq!(ask(&Probe::Tcp, address), Ok(()));
    }
    let port = format!("0100007F:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let of_it: Vec<&str> = table.lines().filter(|line| line.contains(&port)).collect();
    assert!(!of_it.is_empty());
    assert!(!of_it.iter().any(|line| line.split_whitespace().nth(3) == Some("06")), "{of_it:#?}");
}

#[test]
fn a_probe_that_is_dropped_lets_go_of_its_connection() {
    let (ended, end) = mpsc::channel();
    let address = servers::tcp(move |mut stream| {
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read);
        ended.send(read).unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let what = http::plain();
        let asking = probe(&what, address, TIME);
        assert!(tokio::time::timeout(SHORT, asking).await.is_err());
        // The runtime lives on.
        assert!(end.recv_timeout(TIME).unwrap().starts_with(b"GET / HTTP/1.1\r\n"));
    });
}
