//! What comes through the control socket, behind HTTP: a path's parts and a body, up to the judgement on it.

use std::sync::LazyLock;

use meshd::config::{Config, judge};
use meshd::control::protocol::{PortName, Service};
use meshd::source::{Action, Edit};
use serde_json::{Value, json};

static FILE: LazyLock<Config> = LazyLock::new(|| {
    let text = "[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\n\
                [[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [{ address = '10.255.0.41', netns = 'web-1' }]";
    Config::parse(text, "services.toml").expect("it is good")
});

// A line `7 tcp/20229 10.255.0.33` that says what is done to what, and behind it the body.
pub fn feed(input: &[u8]) {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(line) = std::str::from_utf8(&input[..end]) else { return };
    let body = &input[end..];
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (choice, port, address) = (word().parse::<u8>().unwrap_or(0), word(), word());
    let port = port.parse::<PortName>().ok();
    let address = address.parse().unwrap_or([10, 255, 0, 33].into());
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    let action = match (choice % 9, port) {
        (0, _) => Action::Put(body),
        (1, _) => Action::Merge(body),
        (2, _) => Action::Delete,
        (3, _) => Action::AddPort(body),
        (4, Some(port)) => Action::MergePort(port, body),
        (5, Some(port)) => Action::DeletePort(port),
        (6, port) => Action::AddBackend(port, body),
        (7, port) => Action::MergeBackend(port, address, body),
        (_, port) => Action::DeleteBackend(port, address),
    };
    let before = json!({
        "name": "kafka",
        "port": [{ "published": 20229, "target": 9092 }, { "published": "9-10", "protocol": "udp", "backend": [] }],
        "backend": [{ "address": "10.255.0.33" }],
    });
    let edit = Edit { service: "kafka".to_owned(), action };
    let _ = edit.summary();
    let Ok(Some(after)) = edit.apply(Some(before)) else { return };
    if let Ok(good) = judge(&[&after], &FILE, &[]) {
        // What was found good can be kept, and is the same when it is read again.
        let service: Service = serde_json::from_value(after).expect("a good service is a service");
        let again = serde_json::to_value(&service).expect("it can be written");
        assert_eq!(judge(&[&again], &FILE, &[]), Ok(good));
    }
}
