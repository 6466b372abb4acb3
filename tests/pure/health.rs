//! Backends that cannot serve now: nobody is sent to them, and where there is nobody else the sandbox says no.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meshd::dataplane;
use meshd::mesh::{Check, Dataplane, Mesh, OnDown, Port, Probe, Scheduler};
use meshd::objects::{Mark, Netns, Objects, Surroundings};
use meshd::plan::diff;
use proptest::prelude::*;

use super::build::{attached, backend, node, port, serving, tcp, udp, with_v6};
use super::meshes::{mesh, surroundings};
use super::mutations::unwell;

fn kafka() -> Mesh {
    let backends = [attached("10.255.0.33", "kafka-1"), backend("10.255.0.34"), attached("fd00:255::33", "kafka-1")];
    serving(with_v6(node()), "kafka", [port(tcp(20229, 20229), 9092, backends)])
}

fn lower(mesh: &Mesh) -> Objects {
    dataplane::objects(mesh, &Surroundings::default())
}

fn without(mut mesh: Mesh, out: &[&str]) -> Mesh {
    let mark = mesh.services[0].ports[0].mark();
    mesh.out = out.iter().map(|address| (mark, address.parse::<IpAddr>().unwrap())).collect();
    mesh
}

fn check() -> Check {
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    let on_down = OnDown::Reset;
    Check { probe: Probe::Tcp, port: None, interval, timeout, rise: 1, fall: 1, start_up: false, on_down }
}

fn steps(from: &Mesh, to: &Mesh) -> Vec<String> {
    diff(&lower(from), &lower(to)).steps.iter().map(ToString::to_string).collect()
}

#[test]
fn one_that_is_down_is_deleted_and_nothing_else_is_done() {
    let down = without(kafka(), &["10.255.0.33"]);
    assert_eq!(steps(&kafka(), &down), ["delete backend 10.255.0.33:9092 from tcp 20229 ipv4 (mark 0x14f05)"]);
    assert_eq!(steps(&down, &kafka()), ["add backend 10.255.0.33:9092 weight 1 to tcp 20229 ipv4 (mark 0x14f05)"]);
}

#[test]
fn one_that_is_down_and_keeps_its_clients_has_weight_0() {
    let mut resting = without(kafka(), &["10.255.0.33"]);
    resting.resting = std::mem::take(&mut resting.out);
    assert_eq!(steps(&kafka(), &resting), ["set backend 10.255.0.33:9092 weight 0 of tcp 20229 ipv4 (mark 0x14f05)"]);
    // Where there is nobody else new clients are refused by the sandbox, and those that it has stay.
    let mut alone = without(kafka(), &["10.255.0.34", "fd00:255::33"]);
    alone.resting = resting.resting.clone();
    let steps = steps(&resting, &alone);
    assert!(steps.contains(&"map marks in sandbox: remove tcp 20229".to_owned()), "{steps:?}");
    assert!(!steps.iter().any(|step| step.contains("10.255.0.33") || step.contains("service tcp 20229 ipv4")));
}

/// What backends answer to a check is led nowhere: the port that it was asked from may be a published one.
#[test]
fn who_is_asked_by_the_gateway_answers_the_sandbox() {
    let mut mesh = kafka();
    let answers = |mesh: &Mesh| {
        let chain = &lower(mesh).tables[&Netns::Sandbox].chains["prerouting"];
        chain.rules.iter().any(|rule| rule.to_string() == "ct direction reply accept")
    };
    let port = |mesh: &mut Mesh, change: &dyn Fn(&mut Port)| change(&mut Arc::make_mut(&mut mesh.services[0]).ports[0]);
    port(&mut mesh, &|port| port.check = Some(check()));
    assert!(!answers(&mesh), "they are on the overlay");
    port(&mut mesh, &|port| port.backends[0].address = [192, 168, 60, 2].into());
    assert!(answers(&mesh));
    port(&mut mesh, &|port| port.check = None);
    assert!(!answers(&mesh), "nobody is asked");
}

/// The mark goes before the service, and comes after it; the port stays published.
#[test]
fn when_nobody_is_left_the_sandbox_answers() {
    let one_family = without(kafka(), &["10.255.0.33", "10.255.0.34"]);
    assert_eq!(steps(&kafka(), &one_family), ["delete service tcp 20229 ipv4 (mark 0x14f05)"]);
    let nobody = without(kafka(), &["10.255.0.33", "10.255.0.34", "fd00:255::33"]);
    assert_eq!(
        steps(&kafka(), &nobody),
        [
            "map marks in sandbox: remove tcp 20229",
            "delete service tcp 20229 ipv4 (mark 0x14f05)",
            "delete service tcp 20229 ipv6 (mark 0x14f05)",
        ]
    );
    assert_eq!(
        steps(&nobody, &without(kafka(), &["10.255.0.33", "fd00:255::33"])),
        [
            "add service tcp 20229 ipv4 (mark 0x14f05): scheduler rr",
            "add backend 10.255.0.34:9092 weight 1 to tcp 20229 ipv4 (mark 0x14f05)",
            "map marks in sandbox: add tcp 20229 to 0x14f05",
        ]
    );
    let published = &lower(&nobody).tables[&Netns::Host].maps["published4"];
    assert_eq!(published.elements.len(), 1);
}

/// By nftables a flow of datagrams stays where its first one was sent: to the sandbox, where there was nobody. The mark does not change with
/// one family alone.
#[test]
fn flows_that_found_nobody_of_their_family_are_led_to_who_returns() {
    let dns = [backend("10.255.0.33"), backend("fd00:255::33")];
    let mesh = serving(with_v6(node()), "dns", [port(udp(53, 53), 5353, dns)]);
    let mesh = Mesh { dataplane: Dataplane::Nftables, ..mesh };
    let without_v4 = without(mesh.clone(), &["10.255.0.33"]);
    assert_eq!(
        steps(&mesh, &without_v4),
        [
            "balance udp 53 ipv4 (mark 0x20035): remove slot 0 no more",
            "end connections of backend 10.255.0.33:5353 of udp 53 ipv4 (mark 0x20035)",
            "delete chain turn_ipv4_to_1_9 in sandbox",
        ]
    );
    assert_eq!(
        steps(&without_v4, &mesh),
        [
            "set chain turn_ipv4_to_1_9 in sandbox:\n    dnat ip to meta mark . numgen inc mod 1 map @slots4",
            "balance udp 53 ipv4 (mark 0x20035): backend 10.255.0.33:5353 slot 0 10.255.0.33:5353 by turn_ipv4_to_1_9",
            "take over older flows to udp 53 in sandbox",
        ]
    );
}

/// To sh and mh one of weight 0 keeps its share of the clients, who then would be refused: unless there is a flag. To dh, too, and
/// there is none.
#[test]
fn where_clients_are_hashed_nobody_is_sent_to_one_that_rests() {
    use meshd::mesh::BackendState;
    for (scheduler, there, fallback) in [
        (Scheduler::RoundRobin, 2, false),
        (Scheduler::SourceHash, 2, true),
        (Scheduler::Maglev, 2, true),
        (Scheduler::DestinationHash, 1, false),
    ] {
        let mut mesh = kafka();
        Arc::make_mut(&mut mesh.services[0]).ports[0].scheduling.scheduler = scheduler;
        let service = |mesh: &Mesh| lower(mesh).services.into_values().next().unwrap();
        assert!(service(&mesh).destinations.len() == 2 && !service(&mesh).flags.fallback);
        Arc::make_mut(&mut mesh.services[0]).ports[0].backends[0].state = BackendState::Drain;
        let service = service(&mesh);
        assert_eq!((service.destinations.len(), service.flags.fallback), (there, fallback), "{scheduler}");
    }
}

/// Whom to ask, and where.
#[test]
fn every_backend_that_may_serve_is_asked_where_it_serves_or_where_it_is_said() {
    let (check, mut mesh) = (check(), kafka());
    assert_eq!(meshd::health::targets(&mesh), []);
    Arc::make_mut(&mut mesh.services[0]).ports[0].check = Some(check.clone());
    let asked = |mesh: &Mesh| {
        meshd::health::targets(mesh).iter().map(|(_, checked)| checked.target.to.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(asked(&mesh), ["10.255.0.33:9092", "10.255.0.34:9092", "[fd00:255::33]:9092"]);
    Arc::make_mut(&mut mesh.services[0]).ports[0].backends[0].state = meshd::mesh::BackendState::Disabled;
    Arc::make_mut(&mut mesh.services[0]).ports[0].check = Some(Check { port: Some(81), ..check });
    assert_eq!(asked(&mesh), ["10.255.0.34:81", "[fd00:255::33]:81"]);
    // One that is drained may close its port, and those who are with it stay.
    Arc::make_mut(&mut mesh.services[0]).ports[0].backends[1].state = meshd::mesh::BackendState::Drain;
    assert_eq!(asked(&mesh), ["[fd00:255::33]:81"]);
}

proptest! {
    #[test]
    fn nobody_is_sent_to_who_is_out_and_everybody_else_serves(mesh in mesh(), surroundings in surroundings(), dice: u8) {
        let all = dataplane::objects(&mesh, &surroundings);
        let mesh = unwell(mesh, dice);
        let some = dataplane::objects(&mesh, &surroundings);
        let destinations = |objects: &Objects| -> BTreeSet<(Mark, IpAddr)> {
            let of = |(key, service): (&meshd::objects::VirtualKey, &meshd::objects::VirtualService)| {
                service.destinations.keys().map(|place| (key.mark, place.address)).collect::<Vec<_>>()
            };
            objects.services.iter().flat_map(of).collect()
        };
        let there = destinations(&some);
        prop_assert!(there.is_subset(&destinations(&all)) && there.is_disjoint(&mesh.out));
        // Who rests is there, without a weight; but not to the scheduler dh, see above.
        let hashed = |mark: &Mark| mesh.ports().any(|port| port.mark() == *mark && port.scheduling.scheduler == Scheduler::DestinationHash);
        let gone: BTreeSet<_> = destinations(&all).difference(&there).copied().collect();
        prop_assert!(gone.iter().all(|key| mesh.out.contains(key) || mesh.resting.contains(key) && hashed(&key.0)), "{gone:?}");
        for (key, service) in &some.services {
            for (place, destination) in &service.destinations {
                prop_assert!(destination.weight == 0 || !mesh.resting.contains(&(key.mark, place.address)));
            }
        }
        // No service is without a backend, and what is published is what the operator wants published.
        prop_assert!(some.services.values().all(|service| !service.destinations.is_empty()));
        prop_assert_eq!(&some.tables[&Netns::Host], &all.tables[&Netns::Host]);
        prop_assert_eq!((some.legs, some.forwarding), (all.legs, all.forwarding), "who is down stays attached: it is asked there");
    }
}
