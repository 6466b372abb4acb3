use std::sync::mpsc;
use std::time::{Duration, Instant};

use meshd::mesh::{HttpProbe, Probe};

use crate::{SHORT, TIME, ask, ask_for, failed, probe, servers};

/// Of the root.
pub fn plain() -> Probe {
    Probe::Http(HttpProbe { tls: None, path: "/".to_owned(), host: None, status: 200..=299, body: None })
}

fn get(body: Option<&str>) -> Probe {
    Probe::Http(HttpProbe {
        tls: None,
        path: "/health?full=1".to_owned(),
        host: Some("shop.example".to_owned()),
        status: 200..=399,
        body: body.map(str::to_owned),
    })
}

fn with_body(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn the_request_is_as_configured() {
    let (seen, heads) = mpsc::channel();
    let address = servers::tcp(move |mut stream| {
        seen.send(servers::head(&mut stream)).unwrap();
        let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    assert_eq!(ask(&get(None), address), Ok(()));
    let agent = concat!("meshd/", env!("CARGO_PKG_VERSION"));
    let rest = format!("user-agent: {agent}\r\naccept: */*\r\nconnection: close\r\n\r\n");
    assert_eq!(heads.recv().unwrap(), format!("GET /health?full=1 HTTP/1.1\r\nhost: shop.example\r\n{rest}"));
    assert_eq!(ask(&plain(), address), Ok(()));
    assert_eq!(heads.recv().unwrap(), format!("GET / HTTP/1.1\r\nhost: {address}\r\n{rest}"));
}

#[test]
fn a_status_is_good_or_not() {
    assert_eq!(ask(&get(None), servers::http(with_body("ok"))), Ok(()));
    assert_eq!(ask(&get(None), servers::http("HTTP/1.0 399 \r\n\r\n")), Ok(()));
    assert_eq!(ask(&get(None), servers::http("HTTP/1.1 503 Busy\r\n\r\n")), failed("status 503"));
    assert_eq!(ask(&get(None), servers::http("HTTP/1.1 101 Switching\r\n\r\n")), failed("status 101"));
    assert_eq!(ask(&get(None), servers::http("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")), Ok(()));
    assert_eq!(ask(&get(Some("ok")), servers::http("HTTP/1.1 400 ok\r\n\r\nok")), failed("status 400"));
}

#[test]
fn a_body_has_the_text_or_not() {
    let missing = failed("body without \"ok\\n\"");
    let check = |answer: String, expected: &Result<(), String>| {
        assert_eq!(ask(&get(Some("ok\n")), servers::http(answer)), *expected);
    };
    check(with_body("all ok\n."), &Ok(()));
    check(with_body("ok"), &missing);
    check(with_body(""), &missing);
    check("HTTP/1.1 200 OK\r\n\r\nok\n".to_owned(), &Ok(()));
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\no-o\r\n1\r\nk\r\n1\r\n\n\r\n0\r\n\r\n";
    check(chunks.to_owned(), &Ok(()));
    check(chunks.replace("k\r", "\0\r"), &missing);
    let before = "a".repeat((64 << 10) - 3);
    check(with_body(&format!("{before}ok\n")), &Ok(()));
    check(with_body(&format!("{before}aok\n")), &missing);
    assert_eq!(ask(&get(Some("")), servers::http(with_body(""))), Ok(()));
}

#[test]
fn a_body_of_chunks_of_one_byte_is_searched_to_its_end() {
    let chunks = "1\r\na\r\n".repeat((64 << 10) - 2);
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(ask(&get(Some("ok")), servers::http(format!("{head}{chunks}2\r\nok\r\n0\r\n\r\n"))), Ok(()));
}

#[test]
fn no_connection_and_no_answer() {
    let (_reserved, address) = servers::refused();
    assert_eq!(ask(&get(None), address), failed("connection refused"));
    assert_eq!(ask_for(SHORT, &get(None), servers::silent()), failed("no answer in 400ms"));
    let closing = servers::http("");
    assert_eq!(ask(&get(None), closing), failed("connection closed without an answer"));
    assert_eq!(ask(&get(None), servers::http("HTTP/1.1 200 ")), failed("connection closed without an answer"));
    let reset = servers::tcp(|stream| {
        std::thread::sleep(Duration::from_millis(100));
        // What came is not read: this side resets.
        drop(stream);
    });
    assert_eq!(ask(&get(None), reset), failed("connection reset by peer"));
}

#[test]
fn slow_answers_have_the_time_that_there_is() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n_ok__";
    let slow = servers::slow(answer, Duration::from_millis(5));
    assert_eq!(ask(&get(Some("ok")), slow), Ok(()));
    let slower = servers::slow(answer, Duration::from_millis(50));
    assert_eq!(ask_for(SHORT, &get(Some("ok")), slower), failed("no answer in 400ms"));
}

#[test]
fn a_body_that_is_torn_is_good_if_the_text_came() {
    let torn = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nok";
    assert_eq!(ask(&get(Some("ok")), servers::http(torn)), Ok(()));
    assert_eq!(ask(&get(Some("fine")), servers::http(torn)), failed("connection closed without the whole body"));
    let torn = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok";
    assert_eq!(ask(&get(Some("fine")), servers::http(torn)), failed("connection closed without the whole body"));
    let odd = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nok\r\n";
    assert_eq!(ask(&get(Some("ok")), servers::http(odd)), failed("answer is not HTTP/1.1"));
}

#[test]
fn garbage_is_not_http() {
    let garbage = failed("answer is not HTTP/1.1");
    for answer in
        ["SSH-2.0-OpenSSH_9.2\r\n", "\0\u{1}\u{2}\n\n", "HTTP/1.1 999999 no\r\n\r\n", "HTTP/1.1 200 OK\r\n: \r\n\r\n"]
    {
        assert_eq!(ask(&get(None), servers::http(answer)), garbage, "{answer:?}");
    }
    // The first frame of HTTP/2.
    assert_eq!(ask(&get(None), servers::http(b"\0\0\x12\x04\0\0\0\0\0\0\x03")), garbage);
    let doubled = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(ask(&get(None), servers::http(doubled)), garbage);
}

#[test]
fn what_has_no_end_is_given_up() {
    let began = Instant::now();
    let head = servers::endless("HTTP/1.1 200 OK\r\n", "X-Filler: abcdefghijklmnopqrstuvwxyz\r\n");
    assert_eq!(ask(&get(None), head), failed("head of the answer too long"));
    let line = servers::endless("HTTP/1.1 200 OK\r\nX-Filler: ", "abcdefghijklmnopqrstuvwxyz");
    assert_eq!(ask(&get(None), line), failed("head of the answer too long"));
    let hints = servers::endless("", "HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(ask(&get(None), hints), failed("answer too long"));
    let body = servers::endless("HTTP/1.1 200 OK\r\n\r\n", "abcdefghijklmnopqrstuvwxyz");
    assert_eq!(ask(&get(Some("ok")), body), failed("body without \"ok\""));
    assert_eq!(ask(&get(None), body), Ok(()));
    let chunks = servers::endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n");
    assert_eq!(ask(&get(Some("ok")), chunks), failed("body without \"ok\""));
    assert!(began.elapsed() < TIME / 2);
}

#[test]
fn a_head_may_be_long_and_not_too_long() {
    let head = |length: usize| format!("HTTP/1.1 204 No Content\r\nX-Filler: {}\r\n\r\n", "a".repeat(length));
    assert_eq!(ask(&get(None), servers::http(head(60_000))), Ok(()));
    // What comes at once may be a few times as long as the buffer.
    assert_eq!(ask(&get(None), servers::http(head(300_000))), failed("head of the answer too long"));
}

#[test]
fn what_cannot_be_asked_is_told() {
    let probe = |path: &str, host: &str| {
        let mut probe = HttpProbe { tls: None, path: path.to_owned(), host: None, status: 200..=299, body: None };
        probe.host = Some(host.to_owned());
        ask(&Probe::Http(probe), servers::silent()).unwrap_err()
    };
    assert!(probe("/a b", "a").starts_with("path \"/a b\": "), "{}", probe("/a b", "a"));
    assert!(probe("/", "a\nb").starts_with("host \"a\\nb\": "), "{}", probe("/", "a\nb"));
}

#[test]
fn hundreds_are_asked_side_by_side_in_one_thread() {
    let address = servers::slow("HTTP/1.1 200 OK\r\n\r\nok", Duration::ZERO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..300).map(|_| tokio::spawn(async move { probe(&get(Some("ok")), address, TIME).await })).collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
    });
}
