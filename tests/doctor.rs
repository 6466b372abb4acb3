//! What `doctor` makes of the condition of a host: each finding both ways, and all of a host that is well.

#[path = "doctor/host.rs"]
mod host;
#[path = "doctor/network.rs"]
mod network;

use std::net::IpAddr;

use meshd::config::Config;
use meshd::control::protocol::{Finding, Grade};
use meshd::dataplane;
use meshd::doctor::{diagnose, inquiry};
use meshd::mesh::{Mesh, PublicKey};
use meshd::objects::{
    Clock, Condition, Device, Family, Feature, Files, LinkId, Neighbours, Netns, Offloads, Surroundings,
};

const BASE: &str = "[node]\nname = 'node-1'\naddress = '192.168.50.1'\ndataplane = 'ipvs'\n\
    [ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\n";
const PEER: &str = "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.4'\n";
const KAFKA: &str = "[[service]]\nname = 'kafka'\nport = [{ published = 20229, target = 9092 }]\n\
    backend = [{ address = '10.255.0.33', netns = 'kafka-1' }, { address = '10.255.0.34', netns = 'kafka-2' }]\n";

fn peer() -> IpAddr {
    "192.168.50.2".parse().unwrap()
}

/// A mesh of two nodes, with `more` of `[ingress]`.
fn mesh(more: &str) -> Mesh {
    parse(&format!("{BASE}{more}{PEER}{KAFKA}"))
}

/// The same of one node.
fn alone(more: &str) -> Mesh {
    parse(&format!("{BASE}{more}{KAFKA}"))
}

fn parse(text: &str) -> Mesh {
    Config::parse(text, "services.toml").unwrap_or_else(|errors| panic!("{errors}")).mesh("node-1")
}

fn encrypted() -> Mesh {
    let keyed = PEER.trim_end().to_owned() + "\npublic_key = 'AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE='\n";
    let mut mesh = parse(&format!("{BASE}encryption = 'wireguard'\n{keyed}{KAFKA}"));
    mesh.key = Some(PublicKey([2; 32]));
    mesh
}

fn names<const N: usize>(names: [&str; N]) -> std::collections::BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// The host on which that mesh is well.
fn well(mesh: &Mesh) -> Condition {
    let surroundings = Surroundings { uplinks: names(["lan0"]), ..Surroundings::default() };
    let objects = dataplane::objects(mesh, &surroundings);
    let overlay = dataplane::overlay_mtu(mesh, &surroundings);
    let bytes = overlay + dataplane::encapsulation(mesh);
    let feature =
        |what: &str, outcome: &str| Feature { what: what.to_owned(), outcome: Ok(outcome.to_owned()), needed: true };
    let mut condition = Condition {
        release: "6.18.3".to_owned(),
        features: vec![feature("nf_tables", ""), feature("ip_vs", ""), feature("schedulers", "rr wrr lc")],
        namespaces: [Netns::Host, Netns::Sandbox, Netns::Overlay].into(),
        parameters: objects.sysctls,
        uplinks: [("lan0".to_owned(), 1)].into(),
        underlay: Some(Device {
            name: "lan0".to_owned(),
            driver: Some("virtio_net".to_owned()),
            mtu: 1500,
            offloads: Some(Offloads {
                can: names(["tx-udp_tnl-segmentation", "tx-checksum-ip-generic"]),
                on: names(["tx-udp_tnl-segmentation", "tx-checksum-ip-generic"]),
            }),
        }),
        links: [(LinkId::new(Netns::Overlay, "br0"), overlay), (LinkId::new(Netns::Overlay, "vxlan0"), overlay)].into(),
        addresses: ["192.168.50.1/24".parse().unwrap()].into(),
        routes: vec![("192.168.50.0/24".parse().unwrap(), "lan0".to_owned())],
        wireguard_port: mesh.ingress.encryption.map(|encryption| encryption.port),
        paths: mesh.other_nodes().map(|peer| (peer.address, (bytes, false))).collect(),
        obstacles: mesh.other_nodes().map(|peer| (peer.address, Vec::new())).collect(),
        neighbours: Family::ALL.map(|family| (family, Neighbours { entries: 10, overflows: 0 })).into(),
        files: Some(Files { open: 40, limit: 65536 }),
        memory: Some((16 << 20, 8 << 20)),
        clock: Clock { now: 1_800_000_000, kept: true, source: Some("tsc".to_owned()) },
        surroundings,
        ..Condition::default()
    };
    for (name, value) in [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/mesh_sbox/rp_filter", "2"),
        ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ("net/ipv4/ip_local_reserved_ports", ""),
        ("net/netfilter/nf_conntrack_count", "100"),
        ("net/netfilter/nf_conntrack_max", "262144"),
        ("net/netfilter/nf_conntrack_tcp_timeout_established", "432000"),
        ("net/ipv4/neigh/default/gc_thresh2", "512"),
        ("net/ipv4/neigh/default/gc_thresh3", "1024"),
        ("net/ipv4/tcp_keepalive_time", "600"),
        ("net/ipv4/tcp_keepalive_intvl", "75"),
        ("net/ipv4/tcp_keepalive_probes", "9"),
    ] {
        set(&mut condition, Netns::Host, name, value);
    }
    condition
}

fn set(condition: &mut Condition, netns: Netns, name: &str, value: &str) {
    condition.parameters.insert((netns, name.to_owned()), value.to_owned());
}

/// What is found in a host that is well but for that.
fn after(mesh: &Mesh, damage: impl FnOnce(&mut Condition)) -> Vec<Finding> {
    let mut condition = well(mesh);
    damage(&mut condition);
    let diagnosis = diagnose(mesh, &condition);
    let good = diagnosis.findings.iter().all(|finding| finding.grade != Grade::Fault);
    assert_eq!(diagnosis.good, good);
    for finding in &diagnosis.findings {
        assert_eq!(finding.mend.is_some(), finding.grade != Grade::Good, "{finding:?}");
    }
    assert!(diagnosis.findings.is_sorted_by_key(|finding| (finding.area, std::cmp::Reverse(finding.grade))));
    diagnosis.findings
}

/// The one finding that is not good: its grade, what was looked at, what was found and what mends it.
#[track_caller]
fn check(mesh: &Mesh, damage: impl FnOnce(&mut Condition), grade: Grade, what: &str, found: &str, mend: &str) {
    let ill: Vec<Finding> = after(mesh, damage).into_iter().filter(|finding| finding.grade != Grade::Good).collect();
    let [finding] = &ill[..] else { panic!("one finding is expected: {ill:#?}") };
    let seen = (finding.grade, &*finding.what, &*finding.found, finding.mend.as_deref());
    assert_eq!(seen, (grade, what, found, Some(mend)));
}

/// Nothing is found but what is good, and among that this.
#[track_caller]
fn check_good(mesh: &Mesh, change: impl FnOnce(&mut Condition), what: &str, found: &str) {
    let all = after(mesh, change);
    let ill: Vec<&Finding> = all.iter().filter(|finding| finding.grade != Grade::Good).collect();
    assert!(ill.is_empty(), "{ill:#?}");
    assert!(all.iter().any(|finding| (&*finding.what, &*finding.found) == (what, found)), "{all:#?}");
}

#[test]
fn a_host_that_is_well_is_well() {
    for mesh in [mesh(""), alone(""), mesh("subnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::3'\n"), encrypted()] {
        let all = after(&mesh, |_| ());
        assert!(all.iter().all(|finding| finding.grade == Grade::Good), "{all:#?}");
        assert!(all.len() > 20, "all of it is told: {all:#?}");
    }
}

/// What cannot be read is no reason to be alarmed, and none to say that it is well.
#[test]
fn of_what_is_not_known_little_is_said() {
    let mesh = mesh("");
    let diagnosis = diagnose(&mesh, &Condition::default());
    let said: Vec<&str> = diagnosis.findings.iter().map(|finding| finding.what.as_str()).collect();
    assert!(!said.contains(&"memory") && !said.contains(&"open files") && !said.contains(&"clock source"), "{said:?}");
}

#[test]
fn it_is_asked_for_what_the_mesh_has() {
    let surroundings = Surroundings { uplinks: names(["lan0"]), ..Surroundings::default() };
    let asked = inquiry(&mesh(""), &surroundings, true);
    assert_eq!((asked.bytes, asked.port, asked.ipvs, asked.wireguard), (1500, 4789, true, false));
    assert_eq!((asked.peers.len(), asked.is_daemon), (1, true));
    for name in ["net/ipv4/ip_forward", "net/ipv4/neigh/default/gc_thresh3", "net/ipv4/tcp_keepalive_time"] {
        assert!(asked.parameters.contains(&(Netns::Host, name.to_owned())), "{name}");
    }
    assert!(asked.parameters.contains(&(Netns::Sandbox, "net/ipv4/vs/conntrack".to_owned())));
    // Nothing is sent to nobody.
    assert_eq!(inquiry(&alone(""), &surroundings, false).bytes, 0);
    let encrypted = inquiry(&encrypted(), &surroundings, false);
    assert_eq!((encrypted.bytes, encrypted.port, encrypted.wireguard), (1500, 51820, true));
}
