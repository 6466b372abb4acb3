//! What an operator looks at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Place;

pub const SECOND: Duration = Duration::from_secs(1);
/// For what happens by itself, on a busy machine with an emulated kernel.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "not in {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The value of one series in Prometheus's text format: its name, with its labels as they are printed.
pub fn value_of(metrics: &str, series: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
}

impl Place {
    /// `ipvsadm -Sn`: services and destinations, a line each.
    pub fn ipvs(&self) -> String {
        self.run("ipvsadm -Sn")
    }

    /// Each destination's weight, as `ipvsadm -Sn` has it: by its service's mark, its address and its port.
    pub fn ipvs_weights(&self) -> BTreeMap<(u32, SocketAddr), u32> {
        let text = self.ipvs();
        let one = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| words.iter().position(|word| *word == name).and_then(|place| words.get(place + 1));
            let to: SocketAddr = after("-r")?.parse().unwrap_or_else(|_| panic!("{text}"));
            Some(((after("-f")?.parse().ok()?, to), after("-w")?.parse().ok()?))
        };
        text.lines().filter_map(one).collect()
    }

    /// Connections so far, by destination, of the services with that mark.
    pub fn ipvs_connections(&self, mark: u32) -> BTreeMap<String, u64> {
        let text = self.run("ipvsadm -Ln --stats --exact");
        let mut ours = false;
        let mut connections = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["FWM", service, ..] => ours = service.parse() == Ok(mark),
                ["->", destination, count, ..] if ours => {
                    let count = count.parse().unwrap_or_else(|_| panic!("{text}"));
                    connections.insert(destination.to_owned(), count);
                }
                _ => {}
            }
        }
        connections
    }
}

/// A number that whoever runs the tests may choose.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}
