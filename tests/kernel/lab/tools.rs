//! What an operator looks at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Place;
use super::config::dataplane;

pub const SECOND: Duration = Duration::from_secs(1);
/// For what happens by itself, on a busy machine with an emulated kernel.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Whether it is nftables that balances in these tests, unless they say themselves who does.
pub fn by_nftables() -> bool {
    dataplane() == "nftables"
}

/// The step by which a port comes to be served, as it begins: `to_serve("tcp 80 ipv4")`.
pub fn to_serve(port: &str) -> String {
    format!("{} {port}", if by_nftables() { "balance" } else { "add service" })
}

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

    /// Each backend's weight, as someone else's tool has it: by its port's mark, its address and its own port. With nftables, as many
    /// slots as it has.
    pub fn weights(&self) -> BTreeMap<(u32, SocketAddr), u32> {
        if by_nftables() { self.slots() } else { self.ipvs_weights() }
    }

    /// Connections so far of that mark's port, by backend. With nftables, as its slots count them.
    pub fn connections(&self, mark: u32) -> BTreeMap<String, u64> {
        if !by_nftables() {
            return self.ipvs_connections(mark);
        }
        let mut connections = BTreeMap::new();
        for (_, to, element) in self.elements().into_iter().filter(|(of, ..)| *of == mark) {
            let count = element[0]["elem"]["counter"]["packets"].as_u64();
            *connections.entry(to.to_string()).or_default() += count.unwrap_or(0);
        }
        connections
    }

    fn slots(&self) -> BTreeMap<(u32, SocketAddr), u32> {
        let mut weights = BTreeMap::new();
        for (mark, to, element) in self.elements() {
            // It counts, so it is wrapped.
            *weights.entry((mark, to)).or_default() += u32::from(element[0].get("elem").is_some());
        }
        weights
    }

    /// Of the sets of backends and of the maps of slots: whose each element is, whom it names, and how nft(8) prints it.
    fn elements(&self) -> Vec<(u32, SocketAddr, Value)> {
        // All of it: a table that is not there yet is no error.
        let listed = self.run("nft -j list ruleset");
        let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
        let mut found = Vec::new();
        for (kind, name, counts) in [
            ("set", "backends4", false),
            ("set", "backends6", false),
            ("map", "slots4", true),
            ("map", "slots6", true),
            ("map", "hosts4", true),
            ("map", "hosts6", true),
        ] {
            let all = listed["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get(kind));
            let elements = all.filter(|item| item["name"] == name).filter_map(|item| item["elem"].as_array()).flatten();
            for element in elements {
                let (mark, place) = if counts {
                    let to = &element[1];
                    let place = to["concat"].as_array().cloned().unwrap_or_else(|| vec![to.clone()]);
                    (&element[0]["elem"]["val"]["concat"][0], place)
                } else {
                    let words = element["concat"].as_array().unwrap_or_else(|| panic!("{listed}"));
                    (&words[0], words[1..].to_vec())
                };
                let address = place[0].as_str().and_then(|address| address.parse().ok());
                let port = place.get(1).and_then(Value::as_u64).unwrap_or(0) as u16;
                let place = SocketAddr::new(address.unwrap_or_else(|| panic!("{element}")), port);
                let mark = mark.as_u64().unwrap_or_else(|| panic!("{element}")) as u32;
                found.push((mark, place, element.clone()));
            }
        }
        found
    }

    /// Each destination's weight, as `ipvsadm -Sn` has it.
    fn ipvs_weights(&self) -> BTreeMap<(u32, SocketAddr), u32> {
        let text = self.ipvs();
        let one = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| words.iter().position(|word| *word == name).and_then(|place| words.get(place + 1));
            let to: SocketAddr = after("-r")?.parse().unwrap_or_else(|_| panic!("{text}"));
            Some(((after("-f")?.parse().ok()?, to), after("-w")?.parse().ok()?))
        };
        text.lines().filter_map(one).collect()
    }

    fn ipvs_connections(&self, mark: u32) -> BTreeMap<String, u64> {
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
