//! What goes wrong: each with its exit code, and a reason that helps.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;

use serde_json::{Value, json};

use crate::fake::{Fake, Place, accepted, answer, good, problem, services};

#[track_caller]
fn check(place: &Place, line: &str, code: i32, reason: &str) {
    let ran = place.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!((ran.code, ran.err.as_str()), (Some(code), format!("meshctl: {reason}\n").as_str()), "{line}");
}

#[test]
fn a_service_that_is_not_there_is_answered_with_one_that_is() {
    let fake = Fake::new(|asked| match asked {
        "GET /v1/services" => good(services()),
        _ => problem(404, "no service kafak"),
    });
    let reason = "no service kafak; did you mean kafka?";
    for line in [
        "service get kafak",
        "service rm kafak",
        "service set kafak -s rr",
        "service set kafak --publish-rm 1",
        "port add kafak 80",
        "port rm kafak 80",
        "backend drain kafak 10.255.0.33",
    ] {
        check(&fake.place, line, 1, reason);
    }
    check(&fake.place, "service get postgres", 1, "no service postgres; there are: kafka");
    // Of one that is there, something else is not.
    check(&fake.place, "backend rm kafka 10.0.0.1", 1, "no service kafak");

    let ran = fake.run(&["service", "rm", "kafak", "-o", "json"]);
    let error: Value = serde_json::from_str(&ran.err).expect("one line of JSON");
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert_eq!((&error["code"], &error["detail"]), (&json!(1), &json!(reason)));
    assert_eq!(error["problem"]["status"], 404);
}

#[test]
fn the_daemons_refusals_have_their_codes() {
    let status = |status: u16, detail: &'static str| Fake::new(move |_| problem(status, detail));
    let refused = |fake: Fake, code: i32, reason: &str| check(&fake.place, "service rm kafka", code, reason);
    refused(status(403, "uid 1000 is not of the group"), 77, "uid 1000 is not of the group");
    refused(status(409, "kafka belongs to the file"), 1, "kafka belongs to the file");
    refused(status(503, "meshd is stopping"), 69, "meshd is stopping");
    refused(status(507, "cannot be kept: disk\u{1b}[2J full"), 1, "cannot be kept: disk\\u{1b}[2J full");
    refused(Fake::new(|_| answer(500, "text/plain", "oops")), 1, "HTTP status 500 Internal Server Error");
    let faults = json!({ "status": 422, "title": "not a good service", "detail": "a; b", "errors": [
        { "place": "backend[0].address", "detail": "\"x\" is no address" }, { "place": "", "detail": "no port" },
    ]});
    let fake = Fake::new(move |_| answer(422, "application/problem+json", faults.to_string()));
    refused(fake, 1, "not a good service:\n  backend[0].address: \"x\" is no address\n  no port");
}

#[test]
fn what_the_kernel_does_not_hold_has_codes_of_its_own() {
    let pending = Fake::new(|_| accepted(12, "pending"));
    let ran = pending.run(&["service", "rm", "kafka", "--timeout", "0"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(75), "service kafka: generation 12, pending\n"));
    assert!(ran.err.contains("`meshctl wait 12` goes on waiting"), "{ran:?}");

    let failed = Fake::new(|_| {
        let failures = ["add service tcp 20229 ipv4: no such scheduler"];
        good(json!({ "generation": 12, "changed": true, "result": "failed", "failures": failures }))
    });
    let ran = failed.run(&["wait", "12"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "generation 12, failed\n"));
    assert!(ran.err.ends_with("retried:\n  add service tcp 20229 ipv4: no such scheduler\n"), "{ran:?}");
}

#[test]
fn without_a_daemon_there_is_a_hint() {
    let place = Place::new();
    let socket = place.socket().display().to_string();
    let missing = format!(
        "no meshd at {socket}: there is no such socket; is it running? --socket or MESHCTL_SOCKET names another"
    );
    check(&place, "status", 69, &missing);
    drop(UnixListener::bind(place.socket()).expect("a socket"));
    check(&place, "status", 69, &format!("no meshd at {socket}: nobody listens there; is it running?"));
    let ran = place.run(&["status", "--socket", "/nonexistent/meshd.sock", "-o", "json"]);
    let error: Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!((ran.code, &error["code"]), (Some(69), &json!(69)));
}

/// Somebody who answers every connection with those bytes, or with nothing, and then hangs up or not.
fn somebody(place: &Place, bytes: &'static [u8], hangs_up: bool) {
    let listener = UnixListener::bind(place.socket()).expect("a socket");
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(bytes);
            if !hangs_up {
                open.push(stream);
            }
        }
    });
}

#[test]
fn who_is_no_meshd_is_found_out() {
    let strange = |bytes: &'static [u8], hangs_up: bool, word: &str| {
        let place = Place::new();
        somebody(&place, bytes, hangs_up);
        let patience = if bytes.is_empty() && !hangs_up { "300ms" } else { "60s" };
        for line in [&["service", "ls"][..], &["watch"], &["service", "rm", "kafka", "--no-wait"]] {
            let ran = place.run(&[line, &["--patience", patience]].concat());
            assert_eq!(ran.code, Some(69), "{ran:?}");
            assert!(ran.err.contains(word), "{ran:?}");
        }
    };
    strange(b"SSH-2.0-OpenSSH_9.2\r\n", true, "no good answer");
    strange(b"\0\0\0\0", false, "no good answer");
    strange(b"", true, "no good answer");
    strange(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1]", true, "no good answer");
    strange(b"", false, "no answer from");
}

#[test]
fn a_silent_daemon_leaves_a_change_in_doubt() {
    let place = Place::new();
    somebody(&place, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[", false);
    let socket = place.socket().display().to_string();
    check(
        &place,
        "service rm kafka --timeout 0.1s --patience 0.2s",
        69,
        &format!("no answer from {socket} in 0.3 s; whether it did what it was asked is not known"),
    );
}

#[test]
fn a_reader_who_has_enough_is_no_failure() {
    let many: Vec<Value> = (0..20_000).map(|_| services()["services"][0].clone()).collect();
    let body = json!({ "generation": 7, "services": many });
    let fake = Fake::new(move |_| good(body.clone()));
    let mut command = fake.place.command(&["service", "ls"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("meshctl starts");
    let mut first = [0; 4];
    child.stdout.take().expect("a pipe").read_exact(&mut first).expect("the first letters");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn what_cannot_be_printed_is_a_failure() {
    let fake = Fake::new(|_| good(services()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = fake.place.command(&["service", "ls"]).stdout(full).output().expect("meshctl starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
}

/// The daemon would not read it to its end.
#[test]
fn a_service_that_is_too_long_is_not_even_sent() {
    let fake = Fake::new(|_| accepted(12, "programmed"));
    let file = fake.place.file("long.json");
    let service = |length: usize| json!({ "name": "kafka", "more": "x".repeat(length) }).to_string();
    let line = format!("service add --no-wait -f {}", file.display());
    let frame = service(0).len();
    std::fs::write(&file, service((4 << 20) - frame)).expect("a file");
    assert_eq!(fake.run(&line.split_whitespace().collect::<Vec<_>>()).code, Some(0));
    std::fs::write(&file, service((4 << 20) - frame + 1)).expect("a file");
    check(&fake.place, &line, 1, "4194305 bytes are too many: meshd takes at most 4194304");
}

#[test]
fn mistakes_on_the_command_line_are_usage() {
    let place = Place::new();
    let file = place.file("bad.json");
    std::fs::write(&file, "{\n  x").expect("a file");
    let file = file.display().to_string();
    for (line, word) in [
        ("", "Usage: meshctl"),
        ("service", "Usage: meshctl service"),
        ("sevrice ls", "'service'"),
        ("service add kafka", "--publish"),
        ("service add kafka -p 0", "20229:9092"),
        ("service add kafka -p 1 -b x", "IPv4 or IPv6"),
        ("service add kafka -p 1 --scheduler rrr", "'rr'"),
        ("service add kafka -p 1 --file x", "cannot be used with"),
        ("service add -f /nonexistent", "/nonexistent"),
        (&format!("service add -f {file}"), "line 2"),
        ("service set kafka", "nothing to set"),
        ("service rm a b --generation 1", "several"),
        ("port set kafka tcp/1", "nothing to set"),
        ("service add kafka -p 1 --check tcp --check-path /", "--check-path is nothing for a check of type tcp"),
        ("service add kafka -p 1 --check-rise 3", "--check says of which type"),
        ("service add kafka -f x --check-rise 3", "cannot be used with"),
        ("port add kafka 1 --check none --check-rise 3", "--check-rise is nothing for a check of type none"),
        ("port set kafka tcp/1 --check ping", "invalid value 'ping'"),
        ("backend set kafka 10.0.0.1 -x many", "no threshold"),
        ("backend set kafka 10.0.0.1", "nothing to set"),
        ("backend rm kafka 10.0.0", "invalid IP address"),
        ("wait --timeout 301", "300"),
        ("top", "needs a terminal"),
        ("top -o json", "`meshctl top --once -o json`"),
        ("top --interval 0", "more than 0"),
        ("status --socket", "--socket"),
    ] {
        let ran = place.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((ran.code, ran.out.as_str()), (Some(64), ""), "{line}: {ran:?}");
        assert!(ran.err.contains(word), "{line}: {}", ran.err);
    }
}
