//! `meshctl top`, in a terminal of script(1)'s and without one.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::response::Response;
use serde_json::{Value, json};

use crate::fake::{Fake, Place, good, problem};
use crate::terminal::Terminal;

/// Ten connections more at each look, which are a second apart.
fn traffic(look: u64) -> Response {
    let counters = json!({
        "connections": look * 10, "packets_in": 0, "packets_out": 0, "bytes_in": look * 1000, "bytes_out": 0,
    });
    let with = |others: Value| {
        let mut all = counters.as_object().expect("an object").clone();
        all.extend(others.as_object().expect("an object").clone());
        Value::Object(all)
    };
    let backend = with(json!({ "backend": "10.255.0.33:9092", "weight": 1, "active": 3, "inactive": 4 }));
    let port = with(json!({ "service": "kafka", "port": "tcp/20229", "backends": [backend] }));
    good(json!({ "clock": look as f64, "ports": [port] }))
}

fn daemon(place: Place) -> Fake {
    let looks = AtomicU64::new(1);
    Fake::at(place, move |_| traffic(looks.fetch_add(1, Ordering::Relaxed)))
}

#[test]
fn one_table_needs_no_terminal() {
    let fake = daemon(Place::new());
    let ran = fake.run(&["top", "--once"]);
    let expected = "\
SERVICE, BACKEND     CONN/S   PKT/S IN   PKT/S OUT   B/S IN   B/S OUT   ACTIVE   INACTIVE   WEIGHT
kafka tcp/20229          10          0           0     1.0k         0        3          4        1
  10.255.0.33:9092       10          0           0     1.0k         0        3          4        1
";
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), expected, ""));
    let ran = fake.run(&["top", "--once", "-o", "json"]);
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(json["ports"][0]["rate"]["connections"], 10.0);
    let refused = Fake::new(|_| problem(500, "the kernel cannot be read"));
    assert_eq!(refused.run(&["top", "--once"]).code, Some(1));
}

#[test]
fn a_screen_is_shown_and_the_terminal_restored() {
    let fake = daemon(Place::new());
    let mut terminal = Terminal::new(&fake.place, "top --interval 100ms");
    terminal.shows("10.255.0.33:9092");
    terminal.shows("by connections, every 0.1 s");
    terminal.shows("kafka tcp/20229                        10    1.0k       0      3        4      1");
    terminal.press("s");
    terminal.shows("by bytes, every 0.1 s");
    terminal.press(" ");
    terminal.shows("paused, by bytes");
    terminal.press("q");
    terminal.ends(0);
}

#[test]
fn a_daemon_that_goes_and_comes_back_is_followed() {
    let fake = daemon(Place::new());
    let mut terminal = Terminal::new(&fake.place, "top --interval 100ms");
    terminal.shows("10.255.0.33:9092");
    let place = fake.stop();
    terminal.shows("lost, trying again: no meshd at");
    let fake = daemon(place);
    terminal.shows("1 port, 10 conn/s");
    assert!(!fake.asked().is_empty(), "it asks again");
    terminal.press("\u{3}");
    terminal.ends(0);
}

#[test]
fn signals_leave_a_good_terminal() {
    for signal in ["-INT", "-TERM"] {
        let fake = daemon(Place::new());
        let mut terminal = Terminal::new(&fake.place, "top");
        terminal.shows("10.255.0.33:9092");
        let pid = std::fs::read_to_string(fake.place.file("pid")).expect("its number");
        let killed = Command::new("kill").args([signal, pid.trim()]).status().expect("kill(1)");
        assert!(killed.success());
        terminal.ends(0);
    }
}
