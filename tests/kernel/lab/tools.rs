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

    fn slots(&self) -> BTreeMap<(u32, SocketAddr), u32> {
        let listed = self.run("nft -j list table inet meshd");
        let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
        let mut weights = BTreeMap::new();
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
                    // It counts, so it is wrapped.
                    (
                        &element[0]["elem"]["val"]["concat"][0],
                        to["concat"].as_array().cloned().unwrap_or_else(|| vec![to.clone()]),
                    )
                } else {
                    let words = element["concat"].as_array().unwrap_or_else(|| panic!("{listed}"));
                    (&words[0], words[1..].to_vec())
                };
                let address = place[0].as_str().and_then(|address| address.parse().ok());
                let port = place.get(1).and_then(Value::as_u64).unwrap_or(0) as u16;
                let place = SocketAddr::new(address.unwrap_or_else(|| panic!("{element}")), port);
                let mark = mark.as_u64().unwrap_or_else(|| panic!("{element}")) as u32;
                *weights.entry((mark, place)).or_default() += u32::from(counts);
            }
        }
        weights
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
