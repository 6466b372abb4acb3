//! The control socket and those who mean no good, or are just slow: none of them holds the daemon.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::lab::{Lab, SECOND, value_of};

/// For a request's head or body to arrive, as the server has it.
const TIME: Duration = Duration::from_secs(10);

fn connect(lab: &Lab) -> UnixStream {
    let stream = UnixStream::connect(lab.socket()).expect("it listens");
    stream.set_read_timeout(Some(TIME * 3)).unwrap();
    stream.set_write_timeout(Some(TIME * 3)).unwrap();
    stream
}

/// What the server says until it hangs up, and how long that took.
fn until_closed(mut stream: UnixStream) -> (String, Duration) {
    let began = Instant::now();
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset), "it neither answers nor hangs up: {error}");
    }
    (String::from_utf8_lossy(&said).into_owned(), began.elapsed())
}

fn answers(lab: &Lab) {
    let began = Instant::now();
    assert_eq!(lab.api().get("/v1/status")["node"], "node-1");
    assert!(began.elapsed() < SECOND * 3, "it took {:?}", began.elapsed());
}

#[test]
fn silent_and_slow_clients_are_sent_away_and_hold_no_one_up() {
    let Some(lab) = Lab::new() else { return };
    let _meshd = lab.start(&lab.config());
    let head = "PUT /v1/services/slow HTTP/1.1\r\nhost: meshd\r\n";
    let mut slow: Vec<(&str, UnixStream)> = vec![("silent", connect(&lab))];
    for (name, bytes) in [
        ("half a line", "PUT /v1/serv".to_owned()),
        ("half a head", head.to_owned()),
        ("no body", format!("{head}content-length: 100\r\n\r\n")),
        ("half a body", format!("{head}content-length: 100\r\n\r\n{{\"port\":")),
        ("half a chunk", format!("{head}transfer-encoding: chunked\r\n\r\n20\r\n{{\"port\":")),
        ("one answer, then silence", "GET /v1/status HTTP/1.1\r\nhost: meshd\r\n\r\n".to_owned()),
    ] {
        let mut stream = connect(&lab);
        stream.write_all(bytes.as_bytes()).unwrap();
        slow.push((name, stream));
    }
    // One more byte now and then is no way to stay.
    let mut trickle = connect(&lab);
    trickle.write_all(format!("{head}content-length: 100\r\n\r\n").as_bytes()).unwrap();
    let mut trickling = trickle.try_clone().unwrap();
    std::thread::spawn(move || {
        for _ in 0..20 {
            std::thread::sleep(SECOND * 2);
            if trickling.write_all(b" ").is_err() {
                return;
            }
        }
    });
    slow.push(("a byte now and then", trickle));
    answers(&lab);
    let waiting: Vec<_> =
        slow.into_iter().map(|(name, stream)| (name, std::thread::spawn(move || until_closed(stream)))).collect();
    for (name, waits) in waiting {
        let (said, took) = waits.join().unwrap();
        assert!(took < TIME * 2, "{name}: {took:?}");
        if name.contains("body") || name.contains("chunk") || name.contains("byte") {
            assert!(said.starts_with("HTTP/1.1 408") && said.contains("the body was not there"), "{name}: {said}");
        }
    }
    answers(&lab);
}

#[test]
fn huge_bodies_and_garbage_are_refused() {
    let Some(lab) = Lab::new() else { return };
    let mut meshd = lab.start(&lab.config());
    let head = "PUT /v1/services/huge HTTP/1.1\r\nhost: meshd\r\n";

    // 1 GiB, announced: not a byte of it is read.
    let mut stream = connect(&lab);
    stream.write_all(format!("{head}content-length: {}\r\n\r\n", 1u64 << 30).as_bytes()).unwrap();
    let (said, _) = until_closed(stream);
    assert!(said.starts_with("HTTP/1.1 413") && said.contains("at most 4194304 bytes would do"), "{said}");

    // And not announced: the server hangs up long before the end.
    let mut stream = connect(&lab);
    stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
    let sent = (0..1024).take_while(|_| stream.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 32, "{sent} MiB were taken");

    // Deep, long, strange.
    let socket = lab.socket().display().to_string();
    let status = |body: &str| {
        let file = lab.socket().with_file_name("body");
        std::fs::write(&file, body).unwrap();
        let line = format!(
            "curl -sS -m 60 -o /dev/null -w %{{http_code}} --unix-socket {socket} -X PUT --data-binary @{} http://m/v1/services/x",
            file.display()
        );
        lab.node.run(&line)
    };
    for body in [
        "[".repeat(100_000),
        "{\"port\":".repeat(1000),
        "{\"port\":[{\"published\":80}],".to_owned(),
        "\u{0}\u{1}\u{2}".to_owned(),
        "{\"port\":1e999}".to_owned(),
        "\"\\ud800\"".to_owned(),
        "nonsense".to_owned(),
    ] {
        assert_eq!(status(&body), "400", "{body:.40}");
    }
    for body in [
        "{\"port\":[{\"published\":18446744073709551616}],\"backend\":[{\"address\":\"10.255.0.33\"}]}",
        "{\"port\":[{\"published\":-1}]}",
        "{\"port\":{\"published\":1}}",
        "{\"port\":[[[[]]]],\"\\u0000\":{\"\":null}}",
        "{\"port\":[null]}",
    ] {
        assert_eq!(status(body), "422", "{body}");
    }

    let noise: Vec<u8> = (0..200_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for length in [1, 7, 100, 10_000, 200_000] {
        let mut stream = connect(&lab);
        // It may hang up in the middle.
        let _ = stream.write_all(&noise[..length]);
        drop(stream);
    }
    for head in [
        "\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /v1/status HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1_000_000)),
        format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000)),
        "PUT /v1/services/x HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(),
    ] {
        let mut stream = connect(&lab);
        let _ = stream.write_all(head.as_bytes());
        let (said, took) = until_closed(stream);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{head:.40}: {said}");
        assert!(took < TIME * 2);
    }
    answers(&lab);
    assert_eq!(lab.api().get("/v1/services")["services"], json!([]));
    meshd.reload(&lab.config());
    assert!(meshd.stop().success());
}

#[test]
fn there_are_so_many_places_and_no_more() {
    let Some(lab) = Lab::new() else { return };
    let _meshd = lab.start(&lab.config());
    let silent: Vec<UnixStream> = (0..128).map(|_| connect(&lab)).collect();
    crate::lab::eventually("all places are taken", || value_of(&lab.metrics(), "meshd_control_connections") == 128.0);
    let (status, problem) = lab.api().call("GET", "/v1/status", None);
    assert_eq!((status, problem["title"].as_str()), (503, Some("too many connections")));
    assert!(value_of(&lab.metrics(), "meshd_control_connections_refused_total") >= 1.0);
    // They are sent away in time, though none of them leaves.
    std::thread::sleep(TIME + SECOND * 5);
    answers(&lab);
    drop(silent);
}

#[test]
fn only_root_and_the_group_may_connect() {
    let Some(lab) = Lab::new() else { return };
    // Every Debian has that group; its number is 1.
    let meshd = lab.start(&lab.config().set("control", "group", "'daemon'"));
    let socket = lab.socket().display().to_string();
    let mode = std::fs::metadata(lab.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    // The lab's directory is anyone's to enter.
    let curl = |ids: &str| {
        let line = format!(
            "setpriv {ids} curl -s -m 60 -o /dev/null -w %{{http_code}} --unix-socket {socket} http://m/v1/status"
        );
        String::from_utf8(lab.node.try_run(&line).stdout).unwrap()
    };
    let stranger = "--reuid 12345 --regid 12345 --clear-groups";
    assert_eq!(curl("--reuid 12345 --regid 1 --clear-groups"), "200");
    assert_eq!(curl("--reuid 12345 --regid 12345 --groups 4,1"), "200");
    assert_eq!(curl(stranger), "000", "the socket's mode keeps others out");
    // And if someone opens the mode, the daemon itself does.
    std::fs::set_permissions(lab.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(curl(stranger), "403");
    assert!(meshd.log().contains("uid=12345"), "{}", meshd.log());
    answers(&lab);

    // A change is logged with who made it.
    let body = json!({ "port": [{ "published": 80 }], "backend": [{ "address": "10.255.0.9" }] });
    let file = lab.socket().with_file_name("web.json");
    std::fs::write(&file, body.to_string()).unwrap();
    let put = format!(
        "setpriv --reuid 12345 --regid 1 --clear-groups curl -sS -m 60 -X PUT -d @{} --unix-socket {socket} http://m/v1/services/web",
        file.display()
    );
    lab.node.run(&put);
    let log = meshd.log();
    let line = log.lines().find(|line| line.contains("service web put")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("uid=12345") && line.contains("generation="), "{line}");
}

/// The name in the file system is the daemon's for as long as it lives, and no other program's.
#[test]
fn the_socket_is_taken_over_after_a_kill_and_never_from_the_living() {
    let Some(lab) = Lab::new() else { return };
    let meshd = lab.start(&lab.config());
    meshd.kill9();
    assert!(lab.socket().exists());
    let meshd = lab.start(&lab.config());
    answers(&lab);
    assert!(meshd.stop().success());

    let other = std::os::unix::net::UnixListener::bind(lab.socket()).unwrap();
    let said = lab.refuses(&lab.config());
    assert!(said.contains("cannot listen on [control] socket") && said.contains("another program listens"), "{said}");
    drop(other);
    std::fs::remove_file(lab.socket()).unwrap();
    std::fs::write(lab.socket(), "a file of someone's").unwrap();
    let said = lab.refuses(&lab.config());
    assert!(said.contains("there is a file that is no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(lab.socket()).unwrap(), "a file of someone's");
}
