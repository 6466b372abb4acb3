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
            let (mut total, mut backends) = (ipvs::Traffic::default(), Vec::new());
            for counted in keys.iter().filter_map(|key| counted.get(key)) {
                total.add(&counted.traffic);
                backends.extend(counted.destinations.iter().map(|(place, one)| BackendTraffic {
                    backend: place.to_string(),
                    weight: one.weight,
                    active: one.active,
                    inactive: one.inactive,
                    counters: counters(one.traffic),
                }));
            }
            ports.push(PortTraffic {
                service: service.name.clone(),
                port: PortName(port.published).to_string(),
                counters: counters(total),
                backends,
            });
        }
    }
    Traffic { clock, ports }
}

fn counters(traffic: ipvs::Traffic) -> Counters {
    let ipvs::Traffic { connections, packets_in, packets_out, bytes_in, bytes_out } = traffic;
    Counters { connections, packets_in, packets_out, bytes_in, bytes_out }
}
