//! Commands that only look.

use std::time::Duration;

use axum::body::Body;
use futures_util::stream;
use serde_json::{Value, json};

use crate::fake::{Fake, accepted, answer, good, kafka, services};

fn daemon() -> Fake {
    Fake::new(|asked| match asked {
        "GET /v1/services" => good(services()),
        "GET /v1/services/kafka" => good(kafka()),
        "GET /v1/plan" => good(json!({ "steps": [] })),
        "GET /v1/plan?reload=true" => good(json!({ "steps": ["add one", "delete \u{1b}[2Jtwo"] })),
        _ => accepted(12, "programmed"),
    })
}

#[track_caller]
fn check(fake: &Fake, line: &str, expected: &str) {
    let ran = fake.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), expected, ""), "{line}");
}

#[test]
fn tables_are_for_people_and_json_for_programs() {
    let fake = daemon();
    let table = "\
NAME    OWNER    PORTS                     BACKENDS   GENERATION
kafka   socket   tcp/20229->9092, udp/53          2            7
";
    check(&fake, "service ls", table);
    let json: Value = serde_json::from_str(&fake.run(&["service", "ls", "-o", "json"]).out).expect("JSON");
    assert_eq!(json, services());
    let json: Value = serde_json::from_str(&fake.run(&["-o", "json", "service", "get", "kafka"]).out).expect("JSON");
    assert_eq!(json, kafka());
}

#[test]
fn colours_are_for_terminals() {
    let fake = daemon();
    let colored = |arguments: &[&str], no_color: Option<&str>| {
        let mut command = fake.place.command(arguments);
        no_color.map(|value| command.env("NO_COLOR", value));
        command.output().expect("meshctl starts").stdout.contains(&0x1b)
    };
    assert!(!colored(&["service", "ls"], None));
    assert!(colored(&["service", "ls", "--color", "always"], None));
    assert!(colored(&["service", "ls", "--color", "always"], Some("1")));
    assert!(!colored(&["service", "ls", "--color", "never"], None));
}

#[test]
fn plans_reloads_and_waits() {
    let fake = daemon();
    check(&fake, "plan", "nothing to do\n");
    check(&fake, "plan --reload", "add one\ndelete \\u{1b}[2Jtwo\n");
    fake.asked();
    check(&fake, "reload", "configuration: generation 12, programmed\n");
    check(&fake, "reload --no-wait", "configuration: generation 12, programmed\n");
    check(&fake, "wait", "generation 12, programmed\n");
    check(&fake, "wait 11 --timeout 500ms", "generation 12, programmed\n");
    assert_eq!(
        fake.asked(),
        [
            "POST /v1/reload?wait=30",
            "POST /v1/reload",
            "GET /v1/wait?timeout=30",
            "GET /v1/wait?generation=11&timeout=0.5",
        ]
    );
}

#[test]
fn events_come_a_line_each_until_the_daemon_stops() {
    let events = [
        ": hello\n\n",
        "data: {\"event\":\"accepted\",\"generation\":12,\"what\":\"service kafka put\",\"uid\":0}\n\nda",
        "ta: {\"event\":\"programmed\",\"generation\":12,\"steps\":3,\"seconds\":0.25}\n\n",
    ];
    let fake = Fake::new(move |_| {
        let pieces = stream::unfold(events.into_iter(), |mut events| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            events.next().map(|piece| (Ok::<_, std::io::Error>(piece), events))
        });
        answer(200, "text/event-stream", Body::from_stream(pieces))
    });
    let ran = fake.run(&["watch"]);
    assert_eq!(
        ran.out,
        "generation 12 accepted: service kafka put (user 0)\ngeneration 12 programmed: 3 steps in 0.250 s\n"
    );
    assert_eq!((ran.code, ran.err.as_str()), (Some(69), "meshctl: meshd has ended the stream\n"));

    let ran = fake.run(&["watch", "-o", "json"]);
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(lines[1], json!({ "event": "programmed", "generation": 12, "steps": 3, "seconds": 0.25 }));
}
