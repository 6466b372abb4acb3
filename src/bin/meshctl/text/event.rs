//! Events, a line each.

use meshd::control::protocol::Event;

use crate::meshctl::escape;
use crate::meshctl::table::{Paint, Tone};

pub fn line(event: &Event, paint: Paint) -> String {
    let (tone, text) = match event {
        Event::Accepted { generation, what, uid } => {
            let by = uid.map(|uid| format!(" (user {uid})")).unwrap_or_default();
            (Tone::Plain, format!("generation {generation} accepted: {what}{by}"))
        }
        Event::Programmed { generation, steps, seconds } => {
            let plural = if *steps == 1 { "" } else { "s" };
            (Tone::Good, format!("generation {generation} programmed: {steps} step{plural} in {seconds:.3} s"))
        }
        Event::Failed { generation, failures } => {
            (Tone::Bad, format!("generation {generation} failed: {}", failures.join("; ")))
        }
        Event::Health { service, port, backend, from, to, reason } => {
            let tone = if to == "up" { Tone::Good } else { Tone::Warning };
            (tone, format!("{service} {port}: backend {backend} is {to}, after {from}: {reason}"))
        }
        Event::Repaired { steps } => (Tone::Warning, format!("mended: {}", steps.join("; "))),
        Event::Reload { accepted: true, .. } => (Tone::Good, "reload accepted".to_owned()),
        Event::Reload { accepted: false, reason } => {
            (Tone::Bad, format!("reload refused: {}", reason.as_deref().unwrap_or("no reason given")))
        }
        Event::Lost { events } => (Tone::Warning, format!("{events} events were lost: this listener was too slow")),
    };
    // An error of several lines is one event all the same.
    let one = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    paint.on(tone, &escape::word(&one)) + "\n"
}

#[cfg(test)]
mod tests {
    use meshd::control::protocol::Event;
    use serde_json::{Value, json};

    use super::line;
    use crate::meshctl::table::Paint;

    #[track_caller]
    fn check(event: Value, expected: &str) {
        let event: Event = serde_json::from_value(event).expect("a good event");
        assert_eq!(line(&event, Paint(false)), format!("{expected}\n"));
    }

    #[test]
    fn each_event_is_one_line() {
        check(
            json!({ "event": "accepted", "generation": 12, "what": "add service kafka", "uid": 0 }),
            "generation 12 accepted: add service kafka (user 0)",
        );
        check(
            json!({ "event": "accepted", "generation": 12, "what": "x\u{1b}c", "uid": null }),
            "generation 12 accepted: x\\u{1b}c",
        );
        check(
            json!({ "event": "health", "service": "web", "port": "tcp/80", "backend": "10.255.0.41", "from": "failing", "to": "down", "reason": "connection refused" }),
            "web tcp/80: backend 10.255.0.41 is down, after failing: connection refused",
        );
        check(
            json!({ "event": "programmed", "generation": 12, "steps": 1, "seconds": 0.01234 }),
            "generation 12 programmed: 1 step in 0.012 s",
        );
        check(
            json!({ "event": "failed", "generation": 12, "failures": ["add a: no", "add b: no"] }),
            "generation 12 failed: add a: no; add b: no",
        );
        check(json!({ "event": "repaired", "steps": ["add a", "add b"] }), "mended: add a; add b");
        check(json!({ "event": "reload", "accepted": true, "reason": null }), "reload accepted");
        check(
            json!({ "event": "reload", "accepted": false, "reason": "a.toml:1:1: x\n  a.toml:2:1: y\n" }),
            "reload refused: a.toml:1:1: x; a.toml:2:1: y",
        );
        check(json!({ "event": "lost", "events": 5 }), "5 events were lost: this listener was too slow");
    }
}
