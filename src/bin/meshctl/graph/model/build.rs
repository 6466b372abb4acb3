//! From what the daemon answers to what is drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use meshd::control::protocol::{self, Entry, Netns, PortName, Published, Service, Status};

use super::{Backend, Edge, Flow, Graph, Place, Port, State, sum};
use crate::meshctl::text::service::name;
use crate::meshctl::top::rates::{BackendRate, PortRate};

/// Where a backend is: an address has one place, the daemon sees to it.
struct Site {
    place: Place,
    netns: Option<String>,
}

/// An edge to a backend that has no number yet.
struct End {
    address: String,
    edge: Edge,
}

impl Graph {
    /// Where a port has no rates, nothing is known of the kernel: its backends are as they are wanted.
    pub fn new(status: &Status, services: &[&Entry], rates: &[PortRate]) -> Graph {
        let rates: BTreeMap<_, _> =
            rates.iter().map(|rate| ((rate.service.as_str(), rate.port.as_str()), rate)).collect();
        let (mut ports, mut ends, mut sites) = (Vec::new(), Vec::new(), BTreeMap::new());
        for service in services.iter().map(|entry| &entry.service) {
            for port in &service.port {
                let backends = port.backend.as_ref().unwrap_or(&service.backend);
                for backend in backends {
                    sites.entry(backend.address.clone()).or_insert_with(|| site(backend, &status.node));
                }
                let rate = rates.get(&(service.name.as_str(), name(port).as_str())).copied();
                ends.extend(edges(ports.len(), port, backends, rate, &status.dataplane));
                let flow = rate.and_then(|rate| rate.rate).map(|rate| Flow::new(&rate, &status.dataplane));
                ports.push(drawn(service, port, flow));
            }
        }
        for End { address, .. } in &ends {
            let unknown = || Site { place: Place::Unnamed, netns: None };
            sites.entry(address.clone()).or_insert_with(unknown);
        }
        let (places, backends, edges) = numbered(sites, ends);
        let flow = sum(ports.iter().map(|port| port.flow));
        Graph { node: status.node.clone(), dataplane: status.dataplane.clone(), flow, places, ports, backends, edges }
    }
}

fn site(backend: &protocol::Backend, this: &str) -> Site {
    let netns = backend.netns.as_ref().map(|netns| match netns {
        Netns::Name(name) => name.clone(),
        Netns::Pid(pid) => format!("pid {pid}"),
    });
    let place = match &backend.node {
        Some(node) if node != this => Place::Peer(node.clone()),
        None if netns.is_none() => Place::Unnamed,
        _ => Place::This,
    };
    Site { place, netns }
}

fn drawn(service: &Service, port: &protocol::Port, flow: Option<Flow>) -> Port {
    let scheduler = port.scheduling.scheduler.as_ref().or(service.scheduling.scheduler.as_ref());
    let mode = port.way.mode.as_ref().or(service.way.mode.as_ref());
    Port {
        service: service.name.clone(),
        name: name(port),
        mark: port.name().map(|PortName(range)| range.mark()),
        scheduler: scheduler.map_or("rr", String::as_str).to_owned(),
        target: port.target.filter(|target| port.published != Published::Port(*target)),
        host_mode: mode.is_some_and(|mode| mode == "host"),
        flow,
    }
}

/// To those that are wanted, and then to those that only the kernel has.
fn edges(
    number: usize,
    port: &protocol::Port,
    backends: &[protocol::Backend],
    rate: Option<&PortRate>,
    dataplane: &str,
) -> Vec<End> {
    let counted = rate.iter().flat_map(|rate| &rate.backends);
    let mut counted: BTreeMap<&str, &BackendRate> = counted.map(|one| (one.backend.as_str(), one)).collect();
    let edge = |weight, state, found: Option<&BackendRate>| Edge {
        port: number,
        backend: 0,
        weight,
        state,
        connections: found.map(|found| (found.active, found.inactive)),
        flow: found.and_then(|found| found.rate).map(|rate| Flow::new(&rate, dataplane)),
    };
    let mut ends = Vec::new();
    for backend in backends {
        let found = key(backend, port).and_then(|key| counted.remove(key.as_str()));
        let wanted = backend.weight.unwrap_or(1);
        // What nftables calls a weight is a number of slots.
        let weight = found.filter(|_| dataplane != "nftables").map_or(wanted, |found| found.weight);
        let state = match backend.state.as_deref() {
            Some("drain") => State::Drain,
            Some("disabled") => State::Disabled,
            _ if backend.backup == Some(true) => State::Backup,
            _ if rate.is_some() && found.is_none() && wanted > 0 => State::Out,
            _ => State::Enabled,
        };
        ends.push(End { address: backend.address.clone(), edge: edge(weight, state, found) });
    }
    ends.extend(counted.into_values().map(|found| {
        let address = found.backend.parse::<SocketAddr>().map(|place| place.ip().to_string());
        let address = address.unwrap_or_else(|_| found.backend.clone());
        End { address, edge: edge(found.weight, State::Leaving, Some(found)) }
    }));
    ends
}

/// As the kernel's counters name it; a range keeps the port, which is 0 there.
fn key(backend: &protocol::Backend, port: &protocol::Port) -> Option<String> {
    let PortName(range) = port.name()?;
    let target = if range.is_single() { port.target.unwrap_or(range.first) } else { 0 };
    Some(SocketAddr::new(backend.address.parse().ok()?, target).to_string())
}

/// Places and backends in their order, and edges that name them by it.
fn numbered(sites: BTreeMap<String, Site>, ends: Vec<End>) -> (Vec<Place>, Vec<Backend>, Vec<Edge>) {
    let places: BTreeSet<Place> = sites.values().map(|site| site.place.clone()).collect();
    let places: Vec<Place> = places.into_iter().collect();
    let mut backends: Vec<Backend> = sites
        .into_iter()
        .map(|(address, Site { place, netns })| {
            let place = places.binary_search(&place).unwrap_or_default();
            Backend { place, address, netns, idle: true, flow: None }
        })
        .collect();
    // What is no address comes first.
    backends.sort_by_cached_key(|backend| (backend.place, backend.address.parse::<IpAddr>().ok()));
    let numbers: BTreeMap<String, usize> =
        backends.iter().enumerate().map(|(number, backend)| (backend.address.clone(), number)).collect();
    let number = |End { address, edge }: End| Some(Edge { backend: *numbers.get(&address)?, ..edge });
    let edges: Vec<Edge> = ends.into_iter().filter_map(number).collect();
    for edge in &edges {
        let backend = &mut backends[edge.backend];
        backend.idle &= edge.is_idle();
        backend.flow = sum([backend.flow, edge.flow].into_iter());
    }
    (places, backends, edges)
}

#[cfg(test)]
mod tests {
    use super::super::examples::{counted, drawn, example, services};
    use super::super::{Graph, Place, State};

    #[track_caller]
    fn check(graph: &Graph, port: &str, expected: &[(&str, u32, State)]) {
        let found: Vec<_> = (graph.edges.iter())
            .filter(|edge| graph.ports[edge.port].name == port)
            .map(|edge| (graph.backends[edge.backend].address.as_str(), edge.weight, edge.state))
            .collect();
        assert_eq!(found, expected, "{port}");
    }

    #[test]
    fn edges_are_what_is_wanted_and_what_the_kernel_has() {
        let graph = example(&counted());
        let expected = [
            ("10.255.0.33", 2, State::Enabled),
            ("10.255.0.34", 1, State::Out),
            ("fd00:255::36", 0, State::Drain),
            ("10.255.0.99", 0, State::Leaving),
        ];
        check(&graph, "tcp/20229", &expected);
        // Of this one nothing is known.
        let expected =
            [("10.255.0.33", 2, State::Enabled), ("10.255.0.34", 1, State::Enabled), ("fd00:255::36", 1, State::Drain)];
        check(&graph, "tcp/20230", &expected);
        check(&graph, "udp/30000-30001", &[("10.255.0.35", 1, State::Enabled)]);
        check(&graph, "tcp/80", &[]);
        let idle: Vec<_> = graph.backends.iter().map(|one| (one.address.as_str(), one.idle)).collect();
        let expected = [
            ("10.255.0.33", false),
            ("10.255.0.34", false),
            ("fd00:255::36", true),
            ("10.255.0.35", false),
            ("10.255.0.99", true),
        ];
        assert_eq!(idle, expected);
    }

    #[test]
    fn backends_are_where_they_are_said_to_be() {
        let graph = example(&[]);
        assert_eq!(graph.places, [Place::This, Place::Peer("node-2".into()), Place::Unnamed]);
        assert_eq!(graph.backends.iter().map(|backend| backend.place).collect::<Vec<_>>(), [0, 1, 1, 2]);
        // The file may name this node, too.
        let graph = drawn("node-2", "ipvs", &services(), &[]);
        assert_eq!(graph.places, [Place::This, Place::Unnamed]);
    }

    #[test]
    fn slots_are_no_weights_and_bytes_that_nobody_counts_no_rates() {
        let mut counted = counted();
        counted[0].backends[0].weight = 40;
        let graph = drawn("node-1", "nftables", &services(), &counted);
        assert_eq!((graph.edges[0].weight, graph.flow.map(|flow| flow.bytes)), (2, Some(None)));
    }
}
