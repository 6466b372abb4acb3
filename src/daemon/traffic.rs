//! Traffic for the control socket: the kernel's counters, under the names that operators gave.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;

use crate::control::protocol::{BackendTraffic, Counters, PortName, PortTraffic, Traffic};
use crate::kernel::ipvs::{self, ServiceCounters};
use crate::mesh::Mesh;
use crate::objects::{Family, VirtualKey};

/// A port of two families is two services to the kernel, and one here.
pub(super) fn traffic(mesh: &Mesh, counted: &BTreeMap<VirtualKey, ServiceCounters>) -> Traffic {
    static START: OnceLock<Instant> = OnceLock::new();
    let clock = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    let mut ports = Vec::new();
    for service in &mesh.services {
        for port in &service.ports {
            let keys = Family::ALL.map(|family| VirtualKey { mark: port.mark(), family });
            let mut line = PortTraffic {
                service: service.name.clone(),
                port: PortName(port.published).to_string(),
                counters: Counters::default(),
                backends: Vec::new(),
            };
            for counted in keys.iter().filter_map(|key| counted.get(key)) {
                add(&mut line.counters, &counted.traffic);
                line.backends.extend(counted.destinations.iter().map(|(place, one)| {
                    let mut counters = Counters::default();
                    add(&mut counters, &one.traffic);
                    let (backend, weight) = (place.to_string(), one.weight);
                    BackendTraffic { backend, weight, active: one.active, inactive: one.inactive, counters }
                }));
            }
            ports.push(line);
        }
    }
    Traffic { clock, ports }
}

fn add(sum: &mut Counters, traffic: &ipvs::Traffic) {
    sum.connections += traffic.connections;
    sum.packets_in += traffic.packets_in;
    sum.packets_out += traffic.packets_out;
    sum.bytes_in += traffic.bytes_in;
    sum.bytes_out += traffic.bytes_out;
}
