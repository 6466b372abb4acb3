//! The listener among clients that take, and do not give. No test asserts how long something took.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use meshd::metrics::{Limits, serve};

use super::made_up::{counters, exposition, mesh};

const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_millis(300);

/// Everybody has time and room.
const PATIENT: Limits = Limits { connections: 10, scrapes: 2, request: LONG, turn: LONG, connection: LONG };

/// A listener that ends with the tests; a scrape of it is more than sockets hold.
fn start(limits: Limits) -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let ports: String = (1..2000).map(|port| format!("[[service.port]]\npublished = {port}\n")).collect();
            let mesh = mesh(&format!("[[service]]\nname = 'web'\n{ports}"));
            let counters = counters(&mesh, 10);
            let scrape = move || std::future::ready(Ok(exposition(&mesh, counters.clone(), true)));
            serve(listener, limits, scrape, || Ok(())).await;
        });
    });
    address.recv().unwrap()
}

fn send(to: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// All that comes until it hangs up.
fn answer(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("it does not hang up: {error}"),
        _ => String::from_utf8(bytes).unwrap(),
    }
}

fn get(to: SocketAddr) -> String {
    answer(send(to, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// A whole scrape: the last port's last backend is in it, and the end of a chunked body.
fn is_whole(answer: &str) -> bool {
    status(answer) == "200" && answer.contains("port=\"1999\"") && answer.ends_with("\r\n0\r\n\r\n")
}

#[test]
fn two_paths_and_two_methods() {
    let there = start(PATIENT);
    let whole = get(there);
    assert!(is_whole(&whole));
    assert!(whole.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{}", &whole[..300]);
    let ask = |request: &str| answer(send(there, &format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n")));
    let head = ask("HEAD /metrics");
    assert!(status(&head) == "200" && head.ends_with("\r\n\r\n") && head.len() < 1000, "{head}");
    assert_eq!(status(&ask("GET /")), "404");
    assert_eq!(status(&ask("DELETE /metrics")), "405");
    let healthy = ask("GET /healthz");
    assert!(status(&healthy) == "200" && healthy.ends_with("ok\n"), "{healthy}");
    assert_eq!(status(&ask("POST /healthz")), "405");
    assert!(is_whole(&get(there)));
}

#[test]
fn who_says_nothing_is_hung_up_on() {
    let there = start(Limits { request: SHORT, connections: 2, ..PATIENT });
    let silent = ["", "GET /metr"].map(|beginning| send(there, beginning));
    // Both places are taken: this one waits for them.
    assert!(is_whole(&get(there)));
    for stream in silent {
        assert_ne!(status(&answer(stream)), "200");
    }
}

#[test]
fn who_does_not_read_holds_a_scrape_for_its_time_only() {
    let there = start(Limits { scrapes: 1, connection: Duration::from_secs(5), ..PATIENT });
    let lazy = send(there, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    // Something came: its scrape has begun.
    lazy.peek(&mut [0]).unwrap();
    let mut others = (0..20).map(|_| get(there));
    assert!(others.any(|answer| is_whole(&answer)));
    assert!(!is_whole(&answer(lazy)));
}

#[test]
fn who_comes_too_many_is_told() {
    let there = start(Limits { scrapes: 1, turn: SHORT, ..PATIENT });
    let lazy = send(there, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    lazy.peek(&mut [0]).unwrap();
    let refused = get(there);
    assert_eq!(status(&refused), "503");
    assert!(refused.ends_with("1 scrapes are under way already\n"), "{refused}");
    // Whoever hangs up gives its turn back.
    drop(lazy);
    assert!((0..100).any(|_| is_whole(&get(there))));
}

#[test]
fn a_scrape_that_fails_says_why() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let failing = || std::future::ready(Err("cannot read the kernel".to_owned()));
        tokio::spawn(serve(listener, PATIENT, failing, || Err("nothing was looked at yet".to_owned())));
        let unwell = move || answer(send(there, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"));
        let unwell = tokio::task::spawn_blocking(unwell).await.unwrap();
        assert!(status(&unwell) == "503" && unwell.ends_with("nothing was looked at yet\n"), "{unwell}");
        tokio::task::spawn_blocking(move || get(there)).await.unwrap()
    });
    assert_eq!(status(&answer), "503");
    assert!(answer.ends_with("cannot read the kernel\n"), "{answer}");
}
