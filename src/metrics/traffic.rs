//! Traffic per port and per backend, read from the kernel for each scrape.

use std::collections::BTreeMap;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::kernel::ipvs::{self, ServiceCounters};
use crate::objects::{Mark, VirtualKey};

const PORT: [&str; 3] = ["service", "port", "protocol"];
const BACKEND: [&str; 4] = ["service", "port", "protocol", "backend"];

/// The counters of one moment, and whose they are.
#[derive(Debug, Default)]
pub struct Traffic {
    pub counters: BTreeMap<VirtualKey, ServiceCounters>,
    /// Service and port (as configured, a range with both ends) of each mark.
    pub names: BTreeMap<Mark, (String, String)>,
}

struct Families {
    port: Totals,
    backend: Totals,
    weight: IntGaugeVec,
    active: IntGaugeVec,
    inactive: IntGaugeVec,
}

/// Connections, packets and bytes since the service or the backend was added.
struct Totals {
    connections: IntCounterVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
}

impl Totals {
    fn new(what: &str, labels: &[&str]) -> Result<Totals, prometheus::Error> {
        let directed: Vec<&str> = labels.iter().copied().chain(["direction"]).collect();
        let family = |unit: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("meshd_{what}_{unit}_total"), format!("{help} of a {what}.")), labels)
        };
        Ok(Totals {
            connections: family("connections", "Connections scheduled", labels)?,
            packets: family("packets", "Packets, `in` from clients and `out` to them,", &directed)?,
            bytes: family("bytes", "Bytes, `in` from clients and `out` to them,", &directed)?,
        })
    }

    /// Adds: a dual-stack port has two services in the kernel.
    fn add(&self, labels: &[&str], traffic: &ipvs::Traffic) {
        let directed = |direction| labels.iter().copied().chain([direction]).collect::<Vec<_>>();
        self.connections.with_label_values(labels).inc_by(traffic.connections);
        self.packets.with_label_values(&directed("in")).inc_by(traffic.packets_in);
        self.packets.with_label_values(&directed("out")).inc_by(traffic.packets_out);
        self.bytes.with_label_values(&directed("in")).inc_by(traffic.bytes_in);
        self.bytes.with_label_values(&directed("out")).inc_by(traffic.bytes_out);
    }

    fn collect(&self) -> impl Iterator<Item = MetricFamily> {
        self.connections.collect().into_iter().chain(self.packets.collect()).chain(self.bytes.collect())
    }
}

impl Traffic {
    pub(super) fn collect(&self) -> Result<Vec<MetricFamily>, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &BACKEND);
        let families = Families {
            port: Totals::new("port", &PORT)?,
            backend: Totals::new("backend", &BACKEND)?,
            weight: gauge("meshd_backend_weight", "Weight of a backend in the kernel.")?,
            active: gauge(
                "meshd_backend_connections_active",
                "Established connections (ActiveConn); for UDP always 0.",
            )?,
            inactive: gauge(
                "meshd_backend_connections_inactive",
                "Other connections that are remembered (InActConn).",
            )?,
        };
        for (key, counters) in &self.counters {
            let (Some((service, port)), Some((protocol, _))) = (self.names.get(&key.mark), key.mark.meaning()) else {
                continue;
            };
            let protocol = protocol.to_string();
            families.port.add(&[service, port, &protocol], &counters.traffic);
            for (place, destination) in &counters.destinations {
                let backend = place.to_string();
                let labels = [service, port, &protocol, backend.as_str()];
                families.backend.add(&labels, &destination.traffic);
                families.weight.with_label_values(&labels).set(destination.weight.into());
                families.active.with_label_values(&labels).set(destination.active.into());
                families.inactive.with_label_values(&labels).set(destination.inactive.into());
            }
        }
        let gauges = [families.weight, families.active, families.inactive];
        let gauges = gauges.iter().flat_map(Collector::collect);
        let all = families.port.collect().chain(families.backend.collect()).chain(gauges);
        // A family without a series is not shown: the encoder refuses it.
        Ok(all.filter(|family| !family.get_metric().is_empty()).collect())
    }
}
