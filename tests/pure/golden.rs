//! Plans as text, beside the tests: what an operator reads in a dry run and in the log.
//!
//! `MESHD_BLESS=1` writes the files anew; look at what git then shows.

use std::path::PathBuf;
use std::sync::Arc;

use meshd::dataplane;
use meshd::mesh::{ClientAddress, Dataplane, Mesh, Scheduling, Thresholds};
use meshd::objects::{Objects, Opening, Scheduler, Surroundings};
use meshd::plan::diff;

use super::build::{attached, backend, encrypted, node, port, preserving, serving, tcp, udp, with_v6};
use super::peers::peer;

/// Compares with the file `tests/golden/<name>.txt`.
#[track_caller]
pub fn check_file(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("MESHD_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        return std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some(line) =
        (1..).zip(expected.lines().chain([""])).zip(found.lines().chain([""])).find(|((_, old), new)| old != new)
    {
        let ((number, old), new) = line;
        panic!("{}:{number}\n  has   {old}\n  found {new}\n(MESHD_BLESS=1 writes the file anew)", path.display());
    }
    assert_eq!(expected.lines().count(), found.lines().count(), "{} is as long as what was found", path.display());
}

/// A host like many: Docker's rules on it, addresses by router advertisement.
fn host() -> Surroundings {
    let forward = |family| Opening { family, table: "filter".into(), chain: "FORWARD".into() };
    Surroundings {
        forward_drops: [forward("ip"), forward("ip6")].into(),
        accept_ra: ["uplink0".to_owned()].into(),
        uplinks: ["docker0".to_owned(), "uplink0".to_owned()].into(),
        ..Surroundings::default()
    }
}

#[track_caller]
fn check(name: &str, before: Option<&Mesh>, after: Option<&Mesh>) {
    let lower = |mesh: Option<&Mesh>| mesh.map_or_else(Objects::default, |mesh| dataplane::objects(mesh, &host()));
    let (seen, mut wanted) = (lower(before), lower(after));
    if let Some(after) = after {
        let staying = dataplane::outgoing(after, &seen, &wanted);
        dataplane::keep(after, &seen, &staying, &mut wanted);
    }
    check_file(name, &diff(&seen, &wanted).to_string());
}

fn kafka() -> Mesh {
    serving(node(), "kafka", [port(tcp(20229, 20229), 9092, [backend("10.255.0.33"), backend("10.255.0.34")])])
}

fn changed(mut mesh: Mesh, change: impl FnOnce(&mut Mesh)) -> Mesh {
    change(&mut mesh);
    mesh
}

#[test]
fn one_service_with_one_port() {
    check("one-port", None, Some(&kafka()));
}

#[test]
fn a_dual_stack_service_whose_backends_are_attached() {
    let backends =
        [attached("10.255.0.34", "dns-1"), attached("fd00:255::34", "dns-1"), attached("10.255.0.35", "dns-2")];
    let mesh = serving(with_v6(node()), "dns", [port(udp(53, 53), 5353, backends)]);
    check("dual-stack-with-legs", None, Some(&mesh));
}

#[test]
fn a_mesh_that_is_encrypted_from_now_on() {
    let mut mesh = kafka();
    mesh.peers = vec![peer(2), peer(4)];
    let secret = encrypted(mesh.clone());
    check("encrypted", Some(&mesh), Some(&secret));
    check(
        "encrypted-peer-moved",
        Some(&secret),
        Some(&changed(secret.clone(), |mesh| {
            mesh.peers.pop();
            mesh.peers[0].address = [192, 168, 50, 99].into();
        })),
    );
}

#[test]
fn a_service_that_shows_its_clients() {
    let backends = [attached("10.255.0.34", "dns-1"), attached("fd00:255::34", "dns-1")];
    let mut mesh = serving(with_v6(node()), "dns", [preserving(port(udp(53, 53), 5353, backends))]);
    mesh.peers = vec![peer(2)];
    check("preserved", None, Some(&mesh));
    let snat = changed(mesh.clone(), |mesh| {
        Arc::make_mut(&mut mesh.services[0]).ports[0].client_address = ClientAddress::Snat
    });
    check("preserved-no-more", Some(&mesh), Some(&snat));
}

#[test]
fn a_range_of_ports_is_one_element_of_a_map() {
    let with_range = serving(kafka(), "media", [port(udp(30000, 30099), None, [backend("10.255.0.40")])]);
    check("range-added", Some(&kafka()), Some(&with_range));
}

#[test]
fn one_changed_backend_is_two_steps() {
    let after =
        changed(kafka(), |mesh| Arc::make_mut(&mut mesh.services[0]).ports[0].backends[1] = backend("10.255.0.35"));
    check("one-backend-changed", Some(&kafka()), Some(&after));
}

#[test]
fn a_changed_scheduler_keeps_clients_waiting_for_a_moment() {
    let after = changed(kafka(), |mesh| {
        Arc::make_mut(&mut mesh.services[0]).ports[0].scheduling.scheduler = Scheduler::WeightedLeastConnection
    });
    check("scheduler-changed", Some(&kafka()), Some(&after));
}

#[test]
fn a_removed_port_is_closed_on_the_host_first() {
    let two = serving(kafka(), "web", [port(tcp(80, 80), 8080, [backend("10.255.0.33")])]);
    check("port-removed", Some(&two), Some(&kafka()));
}

#[test]
fn nftables_balances_by_slots() {
    let by_nftables = |mesh: Mesh| Mesh { dataplane: Dataplane::Nftables, ..mesh };
    let media = port(udp(30000, 30099), None, [backend("10.255.0.40")]);
    let before = by_nftables(serving(kafka(), "media", [media]));
    check("nftables", None, Some(&before));
    let another = |mesh: &mut Mesh| Arc::make_mut(&mut mesh.services[0]).ports[0].backends[1] = backend("10.255.0.35");
    check("nftables-one-backend-changed", Some(&before), Some(&changed(before.clone(), another)));
    let fewer = |mesh: &mut Mesh| drop(Arc::make_mut(&mut mesh.services[0]).ports[0].backends.pop());
    check("nftables-one-backend-less", Some(&before), Some(&changed(before.clone(), fewer)));
    let again = |mesh: &mut Mesh| {
        let port = &mut Arc::make_mut(&mut mesh.services[0]).ports[0];
        port.scheduling =
            Scheduling { scheduler: Scheduler::Random, persistence: 300, persistence_mask: 24, ..port.scheduling };
    };
    let remembering = changed(before.clone(), again);
    check("nftables-persistence", Some(&before), Some(&remembering));
    check("nftables-persistence-one-backend-less", Some(&remembering), Some(&changed(remembering.clone(), fewer)));
    let cap = |mesh: &mut Mesh| {
        let port = &mut Arc::make_mut(&mut mesh.services[0]).ports[0];
        port.backends[1].thresholds = Thresholds { upper: 100, lower: 80 };
    };
    let capped = changed(before.clone(), cap);
    check("nftables-caps", Some(&before), Some(&capped));
    let full = |mesh: &mut Mesh| _ = mesh.full.insert((tcp(20229, 20229).mark(), [10, 255, 0, 34].into()));
    check("nftables-caps-one-is-full", Some(&capped), Some(&changed(capped.clone(), full)));
    check("nftables-in-place-of-ipvs", Some(&kafka()), Some(&by_nftables(kafka())));
    check("ipvs-in-place-of-nftables", Some(&by_nftables(kafka())), Some(&kafka()));
}

#[test]
fn teardown_goes_from_the_outside_in() {
    check("teardown", Some(&kafka()), None);
}
