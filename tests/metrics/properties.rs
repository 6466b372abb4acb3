//! Whatever is counted, and whatever services are called: what is read back is what was counted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use meshd::kernel::ipvs::{DestinationCounters, ServiceCounters, Traffic};
use meshd::mesh::{Mesh, Port, PortRange, Protocol, Service};
use meshd::objects::{DestinationKey, Family, VirtualKey};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::format::{Labels, parse};
use super::made_up::{Counters, exposition, mesh, text};

/// A number of this size is read back exactly.
const EXACT: u64 = 1 << 50;

fn name() -> impl Strategy<Value = String> {
    let special = r#"[\\"\n{}=, é]{0,12}"#;
    // The last is as long as to have a piece end in most lines, and in letters.
    prop_oneof![6 => "[a-z0-9-]{1,20}", 6 => special, 6 => any::<String>(), 1 => Just("é".repeat(20_000))]
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let number = || 0..EXACT;
    (number(), number(), number(), number(), number()).prop_map(
        |(connections, packets_in, packets_out, bytes_in, bytes_out)| Traffic {
            connections,
            packets_in,
            packets_out,
            bytes_in,
            bytes_out,
        },
    )
}

prop_compose! {
    fn service_counters(family: Family)(
        traffic in traffic(),
        destinations in btree_map((any::<[u8; 16]>(), any::<u16>()), (traffic(), any::<[u32; 4]>()), 0..4),
    ) -> ServiceCounters {
        let address = |bytes: [u8; 16]| match family {
            Family::V4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Family::V6 => IpAddr::from(bytes),
        };
        let destination = |((bytes, port), (traffic, numbers)): (([u8; 16], u16), (Traffic, [u32; 4]))| {
            let key = DestinationKey { address: address(bytes), port };
            let [weight, active, inactive, persistent] = numbers;
            (key, DestinationCounters { weight, active, inactive, persistent, traffic })
        };
        ServiceCounters { traffic, destinations: destinations.into_iter().map(destination).collect() }
    }
}

/// By port: the name of its service, its range, and what is counted for each family.
type Made = Vec<(String, PortRange, [Option<ServiceCounters>; 2])>;

fn made() -> impl Strategy<Value = Made> {
    let port = (select(Protocol::ALL.to_vec()), 1..60_000u16, 0..3u16);
    let families = (prop::option::of(service_counters(Family::V4)), prop::option::of(service_counters(Family::V6)));
    vec((name(), port, families), 0..5).prop_map(|ports| {
        let ports = ports.into_iter().enumerate().map(|(number, (name, (protocol, first, length), (v4, v6)))| {
            // Of each first port there is one, as the configuration sees to.
            let first = first - first % 5 + number as u16 + 1;
            (name, PortRange { protocol, first, last: first + length }, [v4, v6])
        });
        ports.collect()
    })
}

fn mesh_of(made: &Made) -> Mesh {
    let mut mesh = mesh("[[service]]\nname = 'web'\nport = [{ published = 1 }]");
    let model: Port = mesh.services[0].ports[0].clone();
    mesh.services = made
        .iter()
        .map(|(name, published, _)| {
            let ports = vec![Port { published: *published, ..model.clone() }];
            Arc::new(Service { name: name.clone(), ports })
        })
        .collect();
    mesh
}

fn counters_of(made: &Made) -> Counters {
    let of_port = |(_, published, families): &(String, PortRange, [Option<ServiceCounters>; 2])| {
        let mark = published.mark();
        let keys = Family::ALL.map(|family| VirtualKey { mark, family });
        keys.into_iter().zip(families.clone()).filter_map(|(key, counters)| Some((key, counters?))).collect::<Vec<_>>()
    };
    made.iter().flat_map(of_port).collect()
}

/// The series that there should be, each written down as simply as can be.
fn expected(made: &Made) -> BTreeMap<(String, Labels), f64> {
    let mut all = BTreeMap::new();
    for (name, published, families) in made {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let range = published.to_string().split_once(' ').unwrap().1.to_owned();
        let port: Labels =
            [label("service", name), label("port", &range), label("protocol", &published.protocol.to_string())].into();
        let mut put = |metric: &str, labels: &Labels, direction: Option<&str>, value: u64| {
            let mut labels = labels.clone();
            labels.extend(direction.map(|direction| label("direction", direction)));
            *all.entry((metric.to_owned(), labels)).or_insert(0.0) += value as f64;
        };
        let mut put_traffic = |what: &str, labels: &Labels, traffic: &Traffic| {
            put(&format!("meshd_{what}_connections_total"), labels, None, traffic.connections);
            put(&format!("meshd_{what}_packets_total"), labels, Some("in"), traffic.packets_in);
            put(&format!("meshd_{what}_packets_total"), labels, Some("out"), traffic.packets_out);
            put(&format!("meshd_{what}_bytes_total"), labels, Some("in"), traffic.bytes_in);
            put(&format!("meshd_{what}_bytes_total"), labels, Some("out"), traffic.bytes_out);
        };
        for service in families.iter().flatten() {
            put_traffic("port", &port, &service.traffic);
            for (key, counters) in &service.destinations {
                let mut backend = port.clone();
                backend.extend([label("backend", &key.to_string())]);
                put_traffic("backend", &backend, &counters.traffic);
            }
        }
        for service in families.iter().flatten() {
            for (key, counters) in &service.destinations {
                let mut backend = port.clone();
                backend.extend([label("backend", &key.to_string())]);
                put("meshd_backend_weight", &backend, None, counters.weight.into());
                put("meshd_backend_connections_active", &backend, None, counters.active.into());
                put("meshd_backend_connections_inactive", &backend, None, counters.inactive.into());
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_text_reads_back_to_the_same_numbers(made in made()) {
        let (mesh, counters) = (mesh_of(&made), counters_of(&made));
        let families = parse(&text(exposition(&mesh, counters.clone(), true)));
        let samples = families.iter().flat_map(|family| &family.samples);
        let traffic = samples.filter(|sample| sample.labels.contains_key("service"));
        let read: BTreeMap<_, _> =
            traffic.map(|sample| ((sample.name.clone(), sample.labels.clone()), sample.value)).collect();
        prop_assert_eq!(&read, &expected(&made));

        // Without the backends' series, the ports' are the same.
        let families = parse(&text(exposition(&mesh, counters, false)));
        let samples = families.iter().flat_map(|family| &family.samples);
        let ports: BTreeMap<_, _> = samples
            .filter(|sample| sample.labels.contains_key("service"))
            .map(|sample| ((sample.name.clone(), sample.labels.clone()), sample.value))
            .collect();
        let mut read = read;
        read.retain(|(_, labels), _| !labels.contains_key("backend"));
        prop_assert_eq!(ports, read);
    }
}
