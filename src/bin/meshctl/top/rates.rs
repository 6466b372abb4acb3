//! From counters to rates.

use std::collections::VecDeque;

use meshd::control::protocol::{BackendTraffic, Counters, PortTraffic, Traffic};

use crate::meshctl::arguments::Sort;

/// The kernel adds up its counters every two seconds: over two such times a steady stream has a steady rate.
const WINDOW: f64 = 4.0;
/// No clock ticks exactly.
const SLACK: f64 = 0.25;

/// Each second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub connections: f64,
    pub packets_in: f64,
    pub packets_out: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PortRate {
    pub service: String,
    pub port: String,
    /// `None`: it was seen once only.
    pub rate: Option<Rate>,
    pub backends: Vec<BackendRate>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BackendRate {
    pub backend: String,
    pub rate: Option<Rate>,
    pub active: u32,
    pub inactive: u32,
    pub weight: u32,
}

/// What was seen in the last few seconds, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    looks: VecDeque<Traffic>,
}

impl History {
    pub fn push(&mut self, look: Traffic) {
        // Another daemon's clock, and after a boot another kernel's counters.
        if self.looks.back().is_some_and(|last| last.clock >= look.clock) {
            self.looks.clear();
        }
        let oldest = look.clock - WINDOW - SLACK;
        self.looks.push_back(look);
        while self.looks.len() > 2 && self.looks.front().is_some_and(|first| first.clock < oldest) {
            self.looks.pop_front();
        }
    }

    pub fn rates(&self) -> Vec<PortRate> {
        let Some(now) = self.looks.back() else { return Vec::new() };
        now.ports.iter().map(|port| self.port(now, port)).collect()
    }

    fn port(&self, now: &Traffic, port: &PortTraffic) -> PortRate {
        let find = |then: &Traffic| -> Option<PortTraffic> {
            then.ports.iter().find(|other| other.port == port.port && other.service == port.service).cloned()
        };
        let backend = |backend: &BackendTraffic| {
            let before = |then: &Traffic| {
                let other = find(then)?.backends.into_iter().find(|other| other.backend == backend.backend)?;
                Some(other.counters)
            };
            let BackendTraffic { weight, active, inactive, counters, backend } = backend;
            let rate = self.rate(now, counters, before);
            BackendRate { backend: backend.clone(), rate, active: *active, inactive: *inactive, weight: *weight }
        };
        PortRate {
            service: port.service.clone(),
            port: port.port.clone(),
            rate: self.rate(now, &port.counters, |then| Some(find(then)?.counters)),
            backends: port.backends.iter().map(backend).collect(),
        }
    }

    /// Since the oldest look that had it.
    fn rate(&self, now: &Traffic, counters: &Counters, before: impl Fn(&Traffic) -> Option<Counters>) -> Option<Rate> {
        let earlier = self.looks.iter().take(self.looks.len().saturating_sub(1));
        let (then, old) = earlier.filter_map(|look| Some((look.clock, before(look)?))).next()?;
        let seconds = now.clock - then;
        // A counter that went back began anew in between.
        let each = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now) as f64 / seconds;
        (seconds > 0.0).then(|| Rate {
            connections: each(counters.connections, old.connections),
            packets_in: each(counters.packets_in, old.packets_in),
            packets_out: each(counters.packets_out, old.packets_out),
            bytes_in: each(counters.bytes_in, old.bytes_in),
            bytes_out: each(counters.bytes_out, old.bytes_out),
        })
    }
}

/// The busiest first, or by name. A port's backends stay in their order, so that the eye finds them again.
pub fn sort(rates: &mut [PortRate], by: Sort) {
    let busy = |port: &PortRate| {
        let rate = port.rate.unwrap_or_default();
        match by {
            Sort::Conn => rate.connections,
            Sort::Bytes => rate.bytes_in + rate.bytes_out,
            Sort::Name => 0.0,
        }
    };
    rates.sort_by(|a, b| {
        let names = || (&a.service, &a.port).cmp(&(&b.service, &b.port));
        busy(b).total_cmp(&busy(a)).then_with(names)
    });
}

#[cfg(test)]
mod tests {
    use meshd::control::protocol::Traffic;
    use serde_json::json;

    use super::{History, PortRate, sort};
    use crate::meshctl::arguments::Sort;

    /// One port and one backend, which have had so many connections and ten times the bytes.
    fn look(clock: f64, connections: u64) -> Traffic {
        let counters = json!({
            "connections": connections, "packets_in": 0, "packets_out": 0,
            "bytes_in": connections * 10, "bytes_out": 0,
        });
        let mut backend = counters.clone();
        backend["backend"] = "10.255.0.33:9092".into();
        backend["weight"] = 1.into();
        backend["active"] = 2.into();
        backend["inactive"] = 3.into();
        let mut port = counters;
        port["service"] = "kafka".into();
        port["port"] = "tcp/20229".into();
        port["backends"] = json!([backend]);
        serde_json::from_value(json!({ "clock": clock, "ports": [port] })).expect("good traffic")
    }

    /// The rate of connections after the last of these looks.
    #[track_caller]
    fn check(looks: &[(f64, u64)], expected: Option<f64>) {
        let mut history = History::default();
        looks.iter().for_each(|(clock, connections)| history.push(look(*clock, *connections)));
        let rates = history.rates();
        assert_eq!(rates[0].rate.map(|rate| rate.connections), expected, "{looks:?}");
        assert_eq!(rates[0].backends[0].rate.map(|rate| rate.bytes_in), expected.map(|rate| rate * 10.0));
    }

    #[test]
    fn a_rate_is_over_four_seconds() {
        check(&[(1.0, 7)], None);
        check(&[(1.0, 7), (3.0, 27)], Some(10.0));
        // The kernel adds up every two seconds: 20, each time.
        let steps = [(0.0, 0), (1.0, 20), (2.0, 20), (3.0, 40), (4.0, 40), (5.0, 60), (6.0, 60)];
        check(&steps[..5], Some(10.0));
        check(&steps[..6], Some(10.0));
        check(&steps, Some(10.0));
        // Looks that are far apart.
        check(&[(0.0, 0), (10.0, 50), (20.0, 150)], Some(10.0));
    }

    #[test]
    fn counters_may_begin_anew() {
        check(&[(1.0, 1000), (3.0, 20)], Some(10.0));
        check(&[(100.0, 1000), (1.0, 1010)], None);
        check(&[(1.0, 5), (1.0, 5)], None);
    }

    #[test]
    fn a_port_that_comes_later_has_its_rate_from_then_on() {
        let mut history = History::default();
        history.push(Traffic { clock: 0.0, ports: vec![] });
        history.push(look(1.0, 50));
        assert_eq!(history.rates()[0].rate, None);
        history.push(look(2.0, 60));
        assert_eq!(history.rates()[0].rate.map(|rate| rate.connections), Some(10.0));
        history.push(Traffic { clock: 3.0, ports: vec![] });
        assert!(history.rates().is_empty());
    }

    #[test]
    fn the_busiest_come_first() {
        let mut history = History::default();
        history.push(look(0.0, 0));
        history.push(look(2.0, 20));
        let kafka = history.rates().remove(0);
        let named = |service: &str, port: &str, factor: f64| {
            let mut other = kafka.clone();
            (other.service, other.port) = (service.to_owned(), port.to_owned());
            other.rate.iter_mut().for_each(|rate| rate.connections *= factor);
            other.rate.iter_mut().for_each(|rate| rate.bytes_out = 100.0 / factor);
            other
        };
        let check = |by: Sort, expected: [&str; 3]| {
            let mut rates = [named("web", "tcp/80", 2.0), named("dns", "udp/53", 1.0), named("dns", "tcp/53", 1.0)];
            sort(&mut rates, by);
            let names = rates.iter().map(|PortRate { port, .. }| port.as_str()).collect::<Vec<_>>();
            assert_eq!(names, expected, "{by:?}");
        };
        check(Sort::Conn, ["tcp/80", "tcp/53", "udp/53"]);
        check(Sort::Bytes, ["tcp/53", "udp/53", "tcp/80"]);
        check(Sort::Name, ["tcp/53", "udp/53", "tcp/80"]);
    }
}
