//! What holds after every single step of a plan.

use std::collections::BTreeSet;
use std::net::IpAddr;

use meshd::dataplane;
use meshd::kernel::fake;
use meshd::mesh::{Backend, BackendState, Mesh, Mode, OnEmpty, Port};
use meshd::objects::{
    Family, LinkId, MapKind, MapValue, Mark, Netns, Objects, PortRange, Protocol, SILENT, Scheduler, SetElement,
    Surroundings, VirtualKey,
};
use meshd::plan::{Plan, Step, diff};
use proptest::prelude::*;

use super::build::{backend, node, port, serving, tcp, with_v6};
use super::meshes::PORTS;
use super::mutations::{Related, related};
use super::tracer::{NODE, Origin, Packet, Story, Tracer, packet};
use super::traffic::{Admission, admission};

/// All states on the way, each with the steps that led to it.
fn on_the_way(seen: &Objects, plan: &Plan, mut look: impl FnMut(&Objects, &[Step])) {
    let mut reached = seen.clone();
    for (place, step) in plan.steps.iter().enumerate() {
        fake::apply(&mut reached, step).unwrap_or_else(|refusal| panic!("`{step}` is refused: {refusal}"));
        look(&reached, &plan.steps[..=place]);
    }
}

/// The published ports of the host that clients of a family can reach.
fn published(objects: &Objects, family: Family) -> BTreeSet<PortRange> {
    let maps = objects.tables.get(&Netns::Host).into_iter().flat_map(|table| table.maps.values());
    maps.filter(|map| map.kind == MapKind::Address(family)).flat_map(|map| map.elements.keys().copied()).collect()
}

/// What the sandbox's maps have, in the order in which they are looked up.
fn marked(objects: &Objects) -> Vec<(PortRange, Mark)> {
    let maps = objects.tables.get(&Netns::Sandbox).into_iter().flat_map(|table| table.maps.values());
    let elements = maps.flat_map(|map| &map.elements);
    elements
        .filter_map(|(port, value)| if let MapValue::Mark(mark) = value { Some((*port, *mark)) } else { None })
        .collect()
}

fn has_backend(objects: &Objects, mark: Mark, family: Family) -> bool {
    let key = VirtualKey { mark, family };
    objects.services.get(&key).is_some_and(|service| !service.destinations.is_empty())
        || objects.balances.get(&key).is_some_and(|balance| balance.way.is_some())
}

fn listed(so_far: &[Step]) -> String {
    so_far.iter().map(|step| format!("\n  {step}")).collect()
}

/// Ports whose clients have to ask again, while the scheduler changes: their mark is taken away and comes back.
fn held(objects: &Objects, so_far: &[Step], wanted: &Objects) -> Vec<PortRange> {
    let will_be = marked(wanted);
    let is_there = marked(objects);
    let missing = will_be.into_iter().filter(|led| !is_there.contains(led)).map(|(port, _)| port);
    let taken_away = |port: &PortRange| {
        let touches = |edits: &[(PortRange, MapValue)]| edits.iter().any(|(edited, _)| edited == port);
        let edits = so_far.iter().rev().find_map(|step| match step {
            Step::EditMap { netns: Netns::Sandbox, remove, add, .. } => {
                (touches(remove) || touches(add)).then(|| touches(remove) && add.is_empty())
            }
            _ => None,
        });
        edits == Some(true)
    };
    let silent = |port: &PortRange| {
        let set = objects.tables.get(&Netns::Sandbox).and_then(|table| table.sets.get(SILENT));
        set.is_some_and(|set| set.elements.contains(&SetElement::Ports(*port)))
    };
    missing.filter(taken_away).filter(silent).collect()
}

/// No mark is without a service, and the mark that a published port gets has a service with a backend.
/// Ports of which someone gets nobody now may have nobody else: then they are closed in the sandbox.
fn check_sound(objects: &Objects, so_far: &[Step], wanted: &Objects, unwell: &[PortRange]) {
    let marked = marked(objects);
    for (port, mark) in &marked {
        let is_known = |family| {
            let key = VirtualKey { mark: *mark, family };
            objects.services.contains_key(&key) || objects.balances.contains_key(&key)
        };
        let known = Family::ALL.into_iter().any(is_known);
        assert!(known, "{port} has mark {mark} without a service, after{}", listed(so_far));
    }
    let held = held(objects, so_far, wanted);
    for family in Family::ALL {
        let wanted = published(wanted, family);
        let excused = |port: &PortRange| unwell.iter().chain(&held).any(|one| one.overlaps(port));
        for published in published(objects, family).into_iter().filter(|port| !excused(port)) {
            // Ranges that overlap are exchanged at once: what is left over of the old one, and going, may
            // find itself closed in the sandbox for the moment until the host closes it too.
            let kept = |number| wanted.iter().any(|wanted| wanted.contains(published.protocol, number));
            let left_over = |number| !published.is_single() && !kept(number);
            for number in (published.first..=published.last).filter(|number| !left_over(*number)) {
                // Two, while a single port and a range that has it change places.
                let marks: Vec<Mark> = marked
                    .iter()
                    .filter(|(port, _)| port.contains(published.protocol, number))
                    .map(|(_, mark)| *mark)
                    .collect();
                let served = marks.iter().any(|mark| has_backend(objects, *mark, family));
                let protocol = published.protocol;
                assert!(served, "{protocol} {number} ({marks:?}) has no backend for {family}, after{}", listed(so_far));
            }
        }
    }
}

/// Ports that have someone who cannot serve or gets no new clients, before or after.
fn unwell(related: &Related) -> Vec<PortRange> {
    let out = |mesh: &Mesh, port: &Port| mesh.out.iter().chain(&mesh.resting).any(|(mark, _)| *mark == port.mark());
    let rests = |port: &Port| port.backends.iter().any(|backend| backend.programmed_weight() == Some(0));
    let meshes = [&related.a, &related.b].into_iter().flatten();
    let some = meshes.flat_map(|mesh| mesh.ports().filter(move |port| out(mesh, port) || rests(port)));
    some.map(|port| port.published).collect()
}

/// Every port and family with a backend that takes new connections, one by one.
fn served(mesh: &Option<Mesh>) -> BTreeSet<(Protocol, u16, Family)> {
    let ports = mesh.iter().flat_map(|mesh| &mesh.services).flat_map(|service| &service.ports);
    let mut served = BTreeSet::new();
    for port in ports {
        let open = |family: Family, origin| {
            let node = NODE[usize::from(family == Family::V6)];
            let asked = packet(origin, node, port.published.protocol, port.published.first);
            admission(port, &asked) == Admission::Open
        };
        let here = |backend: &&Backend| port.mode == Mode::Ingress || backend.node.is_none();
        let working = |backend: &&Backend| backend.weight > 0 && backend.state == BackendState::Enabled;
        let well = |backend: &&Backend| {
            let key = (port.mark(), backend.address);
            mesh.iter().all(|mesh| !mesh.out.contains(&key) && !mesh.resting.contains(&key))
        };
        for backend in port.backends.iter().filter(here).filter(working).filter(well) {
            let family = Family::of(&backend.address);
            if ![Origin::Outside, Origin::Node].into_iter().all(|origin| open(family, origin)) {
                continue;
            }
            served.extend(
                (port.published.first..=port.published.last).map(|number| (port.published.protocol, number, family)),
            );
        }
    }
    served
}

/// The same change with the gateway's bridge as it was: a new bridge takes the sandbox from the old one, and
/// until it has its address nothing passes. All else may change under a running node.
fn on_the_same_bridge(mut related: Related) -> Related {
    if let (Some(a), Some(b)) = (&related.a, &mut related.b) {
        b.gateway.bridge.clone_from(&a.gateway.bridge);
    }
    related
}

proptest! {
    #![proptest_config(super::cases(192))]

    #[test]
    fn a_published_port_always_has_its_service_and_a_backend(related in related()) {
        let (a, b) = related.objects();
        on_the_way(&a, &diff(&a, &b), |reached, so_far| check_sound(reached, so_far, &b, &unwell(&related)));
    }

    #[test]
    fn what_is_served_before_and_after_is_served_all_the_while(related in related().prop_map(on_the_same_bridge)) {
        let (a, b) = related.objects();
        let both: Vec<_> = served(&related.a).intersection(&served(&related.b)).copied().collect();
        on_the_way(&a, &diff(&a, &b), |reached, so_far| {
            let drops = BTreeSet::new();
            let tracer = Tracer { objects: reached, drops: &drops };
            let held = held(reached, so_far, &b);
            let waits = |protocol, number| held.iter().any(|port| port.contains(protocol, number));
            for (protocol, number, family) in both.iter().filter(|(protocol, number, _)| !waits(*protocol, *number)) {
                let node = NODE[usize::from(*family == Family::V6)];
                for origin in [Origin::Outside, Origin::Node] {
                    let story = tracer.trace(packet(origin, node, *protocol, *number));
                    let served = matches!(&story, Story::Reaches(arrivals) if arrivals.iter().any(|arrival| arrival.weight > 0));
                    assert!(served, "{node} {protocol} {number} from {origin:?} {story}, after{}", listed(so_far));
                }
            }
        });
    }

    /// Another data plane balances: those who have connections by the one before keep them. And once they are over nothing is left of it.
    #[test]
    fn connections_of_the_data_plane_before_go_on(related in related()) {
        let (a, b) = related.objects();
        let Some(mesh) = &related.b else { return Ok(()) };
        let bare = dataplane::objects(mesh, &related.surroundings);
        let staying = dataplane::outgoing(mesh, &a, &bare);
        on_the_way(&a, &diff(&a, &b), |reached, so_far| {
            for (key, place) in &staying {
                let by_ipvs = reached.services.get(key).is_some_and(|service| service.destinations.contains_key(place));
                let by_nftables = reached.balances.get(key).is_some_and(|balance| balance.backends.contains(place));
                let stays = if a.services.contains_key(key) { by_ipvs } else { by_nftables };
                assert!(stays, "{place} of {key} is gone, after{}", listed(so_far));
            }
        });
        let mut reached = b.clone();
        for step in diff(&b, &bare).steps {
            fake::apply(&mut reached, &step).unwrap_or_else(|refusal| panic!("`{step}` is refused: {refusal}"));
        }
        prop_assert!(diff(&reached, &bare).is_empty());
    }

    /// Who may come neither before nor after does not come in between. (What is left over of a range that is cut anew has
    /// for a moment no list: elements that overlap are exchanged at once, and those of the ports follow.)
    #[test]
    fn who_is_kept_out_is_kept_out_all_the_while(related in related().prop_map(on_the_same_bridge)) {
        let (a, b) = related.objects();
        let open = |mesh: &Option<Mesh>, asked: &Packet| {
            let ports = mesh.iter().flat_map(|mesh| &mesh.services).flat_map(|service| &service.ports);
            let port = ports.into_iter().find(|port| port.published.contains(asked.protocol, asked.port));
            port.is_some_and(|port| admission(port, asked) == Admission::Open)
        };
        let asked = Protocol::ALL.into_iter().flat_map(|protocol| PORTS.map(move |number| (protocol, number))).flat_map(
            |(protocol, number)| {
                let ways = [(Origin::Outside, NODE[0]), (Origin::Outside, NODE[1]), (Origin::Node, NODE[0])];
                ways.map(|(origin, node)| packet(origin, node, protocol, number))
            },
        );
        let ranges = |mesh: &Option<Mesh>| -> Vec<PortRange> {
            let ports = mesh.iter().flat_map(|mesh| &mesh.services).flat_map(|service| &service.ports);
            ports.map(|port| port.published).collect()
        };
        let (before, after) = (ranges(&related.a), ranges(&related.b));
        let cut_anew = |asked: &Packet| {
            let old = before.iter().find(|range| range.contains(asked.protocol, asked.port));
            old.is_some_and(|old| after.iter().any(|new| new != old && new.overlaps(old)))
        };
        let kept_out: Vec<Packet> = asked
            .filter(|asked| !open(&related.a, asked) && !open(&related.b, asked) && !cut_anew(asked))
            .collect();
        on_the_way(&a, &diff(&a, &b), |reached, so_far| {
            let drops = BTreeSet::new();
            let tracer = Tracer { objects: reached, drops: &drops };
            for asked in &kept_out {
                let story = tracer.trace(*asked);
                assert!(!matches!(story, Story::Reaches(_)), "{asked:?} {story}, after{}", listed(so_far));
            }
        });
    }

    #[test]
    fn no_service_goes_while_its_mark_is_mapped(related in related()) {
        let (a, b) = related.objects();
        let mut before = a.clone();
        on_the_way(&a, &diff(&a, &b), |reached, so_far| {
            if let Some(Step::DeleteService(key)) = so_far.last() {
                let mapped = marked(&before).iter().any(|(port, mark)| {
                    *mark == key.mark && published(&before, key.family).iter().any(|published| published.overlaps(port))
                });
                // Others may serve there by now.
                let mapped = mapped && !has_backend(reached, key.mark, key.family);
                assert!(!mapped || unwell(&related).iter().any(|port| port.mark() == key.mark), "{key} is deleted while it is published");
            }
            before = reached.clone();
        });
    }

    #[test]
    fn only_what_is_ours_is_named(related in related()) {
        let (a, b) = related.objects();
        for step in &diff(&a, &b).steps {
            assert!(is_ours(step, &related), "{step}");
        }
    }
}

/// Whether a step is about one of our own things, by its name; not by where the name came from.
fn is_ours(step: &Step, related: &Related) -> bool {
    let bridges: Vec<&str> = [&related.a, &related.b].into_iter().flatten().map(|mesh| mesh.gateway.link()).collect();
    let link =
        |id: &LinkId| id.netns != Netns::Host || id.name.starts_with("mesh") || bridges.contains(&id.name.as_str());
    let ours = |mark: Mark| mark.meaning().is_some();
    match step {
        Step::AddLink { id, .. } | Step::SetLink { id, .. } | Step::DeleteLink(id) => link(id),
        Step::AddAddress(address) | Step::DeleteAddress(address) => link(&address.link),
        Step::AddRoute(route) | Step::DeleteRoute(route) => link(&route.link) && route.link.netns != Netns::Host,
        Step::AddService { key, .. } | Step::SetService { key, .. } | Step::DeleteService(key) => ours(key.mark),
        Step::AddDestination { service, .. } | Step::SetDestination { service, .. } => ours(service.mark),
        Step::DeleteDestination { service, .. } => ours(service.mark),
        Step::EditBalance { key, .. } | Step::DropBackend { key, .. } => ours(key.mark),
        Step::EditMap { remove, add, .. } => remove.iter().chain(add).all(|(port, value)| match value {
            MapValue::Mark(mark) => *mark == port.mark(),
            MapValue::Address(IpAddr::V4(address)) => address.is_link_local(),
            MapValue::Address(address) => address.to_string().starts_with("fdce:77::"),
        }),
        Step::OpenForward(opening) | Step::CloseForward(opening) => {
            related.surroundings.forward_drops.contains(opening)
        }
        Step::SetSysctl { netns: Netns::Host, name, .. } | Step::RestoreSysctl { name } => {
            let ra = |link: &String| *name == format!("net/ipv6/conf/{link}/accept_ra");
            let localnet = |bridge: &&str| *name == format!("net/ipv4/conf/{bridge}/route_localnet");
            ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].contains(&name.as_str())
                || related.surroundings.accept_ra.iter().any(ra)
                || bridges.iter().any(localnet)
        }
        // The others carry a part of our namespaces or of our table, which cannot be anyone else's.
        _ => true,
    }
}

/// The steps about backends, in order.
#[track_caller]
fn check_order(before: &[(&str, u32)], after: &[(&str, u32)], expected: &[&str]) {
    let mesh = |backends: &[(&str, u32)]| {
        let backends: Vec<_> =
            backends.iter().map(|(address, weight)| Backend { weight: *weight, ..backend(address) }).collect();
        serving(node(), "web", [port(tcp(80, 80), 80, backends)])
    };
    let lower = |backends| dataplane::objects(&mesh(backends), &Surroundings::default());
    let plan = diff(&lower(before), &lower(after));
    let steps: Vec<String> = plan.steps.iter().map(|step| step.to_string()).collect();
    let service = "tcp 80 ipv4 (mark 0x10050)";
    let expected: Vec<String> = expected.iter().map(|step| format!("{step} {service}")).collect();
    assert_eq!(steps, expected);
}

#[test]
fn a_backend_rests_only_when_another_works() {
    check_order(
        &[("10.255.0.4", 1), ("10.255.0.5", 0)],
        &[("10.255.0.4", 0), ("10.255.0.5", 1)],
        &["set backend 10.255.0.5:80 weight 1 of", "set backend 10.255.0.4:80 weight 0 of"],
    );
}

#[test]
fn a_backend_goes_only_when_another_has_come() {
    check_order(
        &[("10.255.0.4", 1)],
        &[("10.255.0.5", 1)],
        &["add backend 10.255.0.5:80 weight 1 to", "delete backend 10.255.0.4:80 from"],
    );
}

/// IPVS has no scheduler for a moment while that changes, and would refuse who comes: nobody is led to it meanwhile.
#[test]
fn clients_are_kept_waiting_while_the_scheduler_changes() {
    let lower = |scheduler, on_empty| {
        let mut port = port(tcp(80, 80), 80, [backend("10.255.0.4")]);
        port.scheduling.scheduler = scheduler;
        port.spread.on_empty = on_empty;
        dataplane::objects(&serving(node(), "web", [port]), &Surroundings::default())
    };
    let steps = |before: Option<OnEmpty>, after: Option<OnEmpty>| {
        diff(&lower(Scheduler::RoundRobin, before), &lower(Scheduler::Maglev, after)).to_string()
    };
    let (hush, speak) = ("sets in sandbox: silent add tcp 80\n", "sets in sandbox: silent remove tcp 80\n");
    let change = "map marks in sandbox: remove tcp 80\n\
                  set service tcp 80 ipv4 (mark 0x10050): scheduler mh\n\
                  map marks in sandbox: add tcp 80 to 0x10050\n";
    let (reset, drop) = (None, Some(OnEmpty::Drop));
    assert_eq!(steps(reset, reset), format!("{hush}{change}{speak}"));
    assert_eq!(steps(reset, drop), format!("{hush}{change}"));
    assert_eq!(steps(drop, drop), change);
    assert_eq!(steps(drop, reset), format!("{change}{speak}"));
}

/// The kernel may not have it: whoever comes is not to be kept waiting at every try.
#[test]
fn nobody_is_held_again_for_a_scheduler_that_cannot_be_set() {
    let lower = |scheduler, weight| {
        let mut port = port(tcp(80, 80), 80, [Backend { weight, ..backend("10.255.0.4") }]);
        port.scheduling.scheduler = scheduler;
        dataplane::objects(&serving(node(), "web", [port]), &Surroundings::default())
    };
    let mut plan = diff(&lower(Scheduler::RoundRobin, 1), &lower(Scheduler::Maglev, 1));
    let failed: Vec<Step> = plan.steps.iter().filter(|step| matches!(step, Step::SetService { .. })).cloned().collect();
    plan.hold_no_more(&[]);
    assert_eq!(plan.steps.len(), 5);
    plan.hold_no_more(&failed);
    assert_eq!(plan.steps, failed);
}

/// Many ports are held together, but not all at once; a port of both families once.
#[test]
fn ports_are_held_some_at_a_time() {
    let lower = |scheduler| {
        let mesh = (1..=20).fold(with_v6(node()), |mesh, number| {
            let mut port = port(tcp(number, number), 80, [backend("10.255.0.4"), backend("fd00:255::4")]);
            port.scheduling.scheduler = scheduler;
            serving(mesh, &format!("web-{number}"), [port])
        });
        dataplane::objects(&mesh, &Surroundings::default())
    };
    let (before, after) = (lower(Scheduler::RoundRobin), lower(Scheduler::Maglev));
    let plan = diff(&before, &after);
    let count = |words: &str| plan.steps.iter().filter(|step| step.to_string().contains(words)).count();
    assert_eq!((count("set service"), count("silent add"), count("silent remove")), (40, 3, 3));
    assert_eq!((count("marks in sandbox: remove"), count("marks in sandbox: add")), (20, 20));
    let reached = plan.steps.iter().fold(before, |mut reached, step| {
        fake::apply(&mut reached, step).unwrap();
        reached
    });
    assert!(reached == after);
}

/// A range that shrinks may keep its mark and the backend; the port that leaves it needs that backend until it has left.
#[test]
fn a_backend_rests_only_when_no_other_port_is_led_to_it() {
    let backend = |weight| vec![Backend { weight, ..backend("10.255.0.4") }];
    let before = serving(node(), "web", [port(tcp(30000, 30002), None, backend(1))]);
    let ports = [port(tcp(30000, 30001), None, backend(0)), port(tcp(30002, 30002), 9092, backend(1))];
    let lower = |mesh: &Mesh| dataplane::objects(mesh, &Surroundings::default());
    let plan = diff(&lower(&before), &lower(&serving(node(), "web", ports)));
    let steps: Vec<String> = plan.steps.iter().map(|step| step.to_string()).collect();
    let place =
        |words: &str| steps.iter().position(|step| step.contains(words)).unwrap_or_else(|| panic!("{steps:#?}"));
    assert!(place("weight 0 of tcp 30000") > place("map ranges in sandbox"), "{steps:#?}");
}
