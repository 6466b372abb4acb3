//! Traffic per port and per backend, read from the kernel for each scrape.
//!
//! Ten thousand ports with ten backends each have 850,000 series. So what is held are addresses and numbers,
//! in one piece; a series is text only while its line is written.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::Arc;

use super::text::{self, Kind};
use crate::kernel::ipvs::{DestinationCounters, ServiceCounters};
use crate::mesh::{Dataplane, Mesh};
use crate::objects::{DestinationKey, Mark, PortRange, VirtualKey};

/// The counters of one moment, and whose they are.
#[derive(Debug, Default)]
pub struct Traffic {
    ports: Vec<Port>,
    /// In the order of their ports.
    backends: Vec<Backend>,
    /// Entries in the table of IPVS connections, persistence templates among them.
    pub(super) connections: u64,
    /// Connections are all that is counted: what nftables has led to a backend passes by flow tables.
    connections_alone: bool,
}

#[derive(Debug)]
struct Port {
    service: Arc<str>,
    published: PortRange,
    /// Of both families: a dual-stack port has two services in the kernel.
    counters: DestinationCounters,
}

#[derive(Debug)]
struct Backend {
    /// Its place in `ports`.
    port: u32,
    key: DestinationKey,
    counters: DestinationCounters,
}

/// Whose series a family has.
#[derive(Clone, Copy)]
enum Subject {
    Port,
    Backend,
}

pub(super) struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    subject: Subject,
    series: &'static [Series],
}

/// One number of a port or a backend.
struct Series {
    direction: Option<&'static str>,
    value: fn(&DestinationCounters) -> u64,
}

impl Family {
    fn is_of_packets(&self) -> bool {
        self.series.iter().any(|series| series.direction.is_some())
    }
}

const fn one(value: fn(&DestinationCounters) -> u64) -> Series {
    Series { direction: None, value }
}

const fn directed(direction: &'static str, value: fn(&DestinationCounters) -> u64) -> Series {
    Series { direction: Some(direction), value }
}

const CONNECTIONS: &[Series] = &[one(|counters| counters.traffic.connections)];
const PACKETS: &[Series] =
    &[directed("in", |counters| counters.traffic.packets_in), directed("out", |counters| counters.traffic.packets_out)];
const BYTES: &[Series] =
    &[directed("in", |counters| counters.traffic.bytes_in), directed("out", |counters| counters.traffic.bytes_out)];

/// In the order in which they are shown.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "meshd_port_connections_total",
        kind: Kind::Counter,
        help: "Connections scheduled of a port.",
        subject: Subject::Port,
        series: CONNECTIONS,
    },
    Family {
        name: "meshd_port_packets_total",
        kind: Kind::Counter,
        help: "Packets, `in` from clients and `out` to them, of a port.",
        subject: Subject::Port,
        series: PACKETS,
    },
    Family {
        name: "meshd_port_bytes_total",
        kind: Kind::Counter,
        help: "Bytes, `in` from clients and `out` to them, of a port.",
        subject: Subject::Port,
        series: BYTES,
    },
    Family {
        name: "meshd_backend_connections_total",
        kind: Kind::Counter,
        help: "Connections scheduled of a backend.",
        subject: Subject::Backend,
        series: CONNECTIONS,
    },
    Family {
        name: "meshd_backend_packets_total",
        kind: Kind::Counter,
        help: "Packets, `in` from clients and `out` to them, of a backend.",
        subject: Subject::Backend,
        series: PACKETS,
    },
    Family {
        name: "meshd_backend_bytes_total",
        kind: Kind::Counter,
        help: "Bytes, `in` from clients and `out` to them, of a backend.",
        subject: Subject::Backend,
        series: BYTES,
    },
    Family {
        name: "meshd_backend_weight",
        kind: Kind::Gauge,
        help: "Weight of a backend in the kernel; with nftables the number of its slots.",
        subject: Subject::Backend,
        series: &[one(|counters| counters.weight as u64)],
    },
    Family {
        name: "meshd_backend_connections_active",
        kind: Kind::Gauge,
        help: "Established connections (ActiveConn); for UDP always 0. With nftables: those that are open, of UDP too.",
        subject: Subject::Backend,
        series: &[one(|counters| counters.active as u64)],
    },
    Family {
        name: "meshd_backend_connections_inactive",
        kind: Kind::Gauge,
        help: "Other connections that are remembered (InActConn).",
        subject: Subject::Backend,
        series: &[one(|counters| counters.inactive as u64)],
    },
];

impl Traffic {
    /// What the kernel counted, in the words of the mesh; of what is not in the mesh nothing. `backends`:
    /// whether each has series of its own.
    pub fn new(mesh: &Mesh, counters: BTreeMap<VirtualKey, ServiceCounters>, backends: bool) -> Traffic {
        let names = names(mesh);
        let connections_alone = mesh.dataplane == Dataplane::Nftables;
        let mut traffic = Traffic { connections_alone, ..Traffic::default() };
        for (key, counters) in counters {
            let destinations = counters.destinations.values();
            traffic.connections += destinations.map(entries_of).sum::<u64>();
            let Some((service, published)) = names.get(&key.mark) else { continue };
            // The kernel's services are in the order of their marks: a port's two follow one another.
            match traffic.ports.last_mut().filter(|port| port.published == *published) {
                Some(port) => port.counters.traffic.add(&counters.traffic),
                None => {
                    let total = DestinationCounters { traffic: counters.traffic, ..DestinationCounters::default() };
                    traffic.ports.push(Port { service: service.clone(), published: *published, counters: total });
                }
            }
            if backends {
                let port = (traffic.ports.len() - 1) as u32;
                let of_port = |(key, counters)| Backend { port, key, counters };
                traffic.backends.extend(counters.destinations.into_iter().map(of_port));
            }
        }
        traffic
    }

    fn rows(&self, subject: Subject) -> usize {
        match subject {
            Subject::Port => self.ports.len(),
            Subject::Backend => self.backends.len(),
        }
    }

    /// Writes the series of one port or backend, before the first the family's head; `false` behind the last.
    pub(super) fn write(&self, out: &mut Vec<u8>, family: &Family, row: usize) -> bool {
        if row >= self.rows(family.subject) || self.connections_alone && family.is_of_packets() {
            return false;
        }
        if row == 0 {
            text::head(out, family.name, family.kind, family.help);
        }
        let backend = matches!(family.subject, Subject::Backend).then(|| &self.backends[row]);
        let port = &self.ports[backend.map_or(row, |backend| backend.port as usize)];
        let counters = backend.map_or(&port.counters, |backend| &backend.counters);
        let published = Published(port.published);
        for Series { direction, value } in family.series {
            let mut labels: Vec<(&str, &dyn Display)> = Vec::with_capacity(5);
            labels.extend(backend.map(|backend| ("backend", &backend.key as &dyn Display)));
            labels.extend(direction.as_ref().map(|direction| ("direction", direction as &dyn Display)));
            labels.push(("port", &published));
            labels.push(("protocol", &port.published.protocol));
            labels.push(("service", &port.service));
            text::sample(out, family.name, &labels, value(counters));
        }
        true
    }
}

fn names(mesh: &Mesh) -> BTreeMap<Mark, (Arc<str>, PortRange)> {
    let mut names = BTreeMap::new();
    for service in &mesh.services {
        let name: Arc<str> = service.name.as_str().into();
        names.extend(service.ports.iter().map(|port| (port.mark(), (name.clone(), port.published))));
    }
    names
}

fn entries_of(DestinationCounters { active, inactive, persistent, .. }: &DestinationCounters) -> u64 {
    [active, inactive, persistent].into_iter().map(|count| u64::from(*count)).sum()
}

/// As the configuration writes it: a port, or a range with both ends.
pub(super) struct Published(pub PortRange);

impl Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortRange { first, last, .. } = self.0;
        write!(f, "{first}")?;
        if first == last { Ok(()) } else { write!(f, "-{last}") }
    }
}
