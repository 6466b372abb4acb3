//! Counters and meshes that no kernel counted.

use std::collections::BTreeMap;

use meshd::config::Config;
use meshd::kernel::ipvs::{DestinationCounters, ServiceCounters, Traffic as Counted};
use meshd::kernel::occupancy::{Conntrack, Occupancy};
use meshd::mesh::Mesh;
use meshd::metrics::{Exposition, Metrics, Standing, Traffic};
use meshd::objects::{DestinationKey, Family, Netns, PortRange, Protocol, VirtualKey};
use meshd::plan::Step;

pub type Counters = BTreeMap<VirtualKey, ServiceCounters>;

/// A mesh of these services, in the configuration's words.
pub fn mesh(services: &str) -> Mesh {
    let ingress = "[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\n";
    Config::parse(&format!("{ingress}{services}"), "test").unwrap().mesh("node-1")
}

pub fn counted(connections: u64) -> Counted {
    let n = connections;
    Counted { connections: n, packets_in: 10 * n, packets_out: 9 * n, bytes_in: 1000 * n, bytes_out: 5000 * n }
}

/// As if each port had so many IPv4 backends, with the port's number in all of their counters.
pub fn counters(mesh: &Mesh, backends: u8) -> Counters {
    let of_port = |port: &meshd::mesh::Port| {
        let number = u64::from(port.published.first);
        let backend = |host: u8| {
            let key = DestinationKey { address: [10, 255, 1, host].into(), port: port.target.unwrap_or(0) };
            let traffic = counted(number);
            (key, DestinationCounters { weight: 1, active: 2, inactive: 3, persistent: 1, traffic })
        };
        let traffic = counted(number * u64::from(backends));
        let key = VirtualKey { mark: port.mark(), family: Family::V4 };
        (key, ServiceCounters { traffic, destinations: (0..backends).map(backend).collect() })
    };
    mesh.ports().map(of_port).collect()
}

/// One port, one backend, and everything that the daemon counts counted once.
pub fn everything() -> Exposition {
    let mesh = mesh("[[service]]\nname = 'kafka'\nport = [{ published = 20229, target = 9092 }]\n");
    let metrics = Metrics::new().unwrap();
    metrics.programming.observe(0.02);
    metrics.drift_found.with_label_values(&[Step::KINDS[0]]).inc();
    metrics.control_requests.with_label_values(&["GET", "/v1/services", "200"]).inc();
    metrics.control_durations.with_label_values(&["/v1/services"]).observe(0.002);
    let standing = Standing {
        service: "kafka".into(),
        port: PortRange::single(Protocol::Tcp, 20229),
        backend: "10.255.0.33".into(),
        serves: true,
    };
    metrics
        .exposition(
            Traffic::new(&mesh, counters(&mesh, 1), true),
            &occupancy(),
            &[("node-2".to_owned(), 1_700_000_000)],
            &[standing],
        )
        .unwrap()
}

pub fn occupancy() -> Occupancy {
    let conntrack = Conntrack { entries: Some(100), limit: Some(65536) };
    Occupancy {
        conntrack: BTreeMap::from([(Netns::Host, conntrack), (Netns::Sandbox, conntrack)]),
        ipvs_table: Some(4096),
        strangers: Some(7),
    }
}

/// Only the traffic and what every daemon has.
pub fn exposition(mesh: &Mesh, counters: Counters, backends: bool) -> Exposition {
    Metrics::new().unwrap().exposition(Traffic::new(mesh, counters, backends), &Occupancy::default(), &[], &[]).unwrap()
}

pub fn text(exposition: Exposition) -> String {
    String::from_utf8(exposition.flatten().collect()).unwrap()
}
