//! From one mesh to another without a look at the kernel.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshd::kernel::fake;
use meshd::mesh::{Backend, BackendState, Mesh, NetnsRef};
use meshd::objects::{Objects, Scheduler, Surroundings};
use meshd::plan::{Step, diff};
use meshd::{change, dataplane};
use proptest::prelude::*;

use super::build::{backend, node, port, serving, tcp, udp};
use super::mutations::related;

fn lower(mesh: &Mesh) -> Objects {
    dataplane::objects(mesh, &Surroundings::default())
}

/// The steps; `None`: it takes a look.
fn steps(old: &Mesh, new: &Mesh) -> Option<Vec<String>> {
    let plan = change::plan(old, new, &Surroundings::default(), &change::frame(lower(old)))?.plan;
    let all: Vec<String> = diff(&lower(old), &lower(new)).steps.iter().map(ToString::to_string).collect();
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    // What is there already is done once more, where that could be something else by now.
    let part = |step: &String| all.contains(step) || step.starts_with("attach ");
    assert!(steps.iter().all(part), "{steps:#?} of {all:#?}");
    Some(steps)
}

proptest! {
    #![proptest_config(super::cases(512))]

    /// Whatever is left is shared, and needed no more; the next look takes it away.
    #[test]
    fn where_no_look_is_needed_the_kernel_holds_what_is_wanted(related in related()) {
        let (Some(old), Some(new)) = (&related.a, &related.b) else { return Ok(()) };
        let (before, wanted) = related.objects();
        let plan = change::plan(old, new, &related.surroundings, &change::frame(before.clone()));
        if let Some(change::Change { plan, leaves }) = plan {
            let mut reached = before;
            for step in &plan.steps {
                fake::apply(&mut reached, step).unwrap_or_else(|refusal| panic!("`{step}` is refused: {refusal}"));
            }
            for step in diff(&reached, &wanted).steps {
                let is_left = matches!(
                    &step,
                    Step::DeleteMap { .. } | Step::DeleteSet { .. } | Step::DeleteChain { .. } | Step::SetChain { .. }
                );
                prop_assert!(is_left && leaves, "{step}\nafter\n{plan}");
            }
        }
    }
}

/// So many services with a port each, and two backends.
fn many() -> Mesh {
    (1..=20).fold(node(), |mesh, number| {
        let backends = [backend("10.255.0.33"), backend("10.255.0.34")];
        serving(mesh, &format!("service-{number}"), [port(tcp(number, number), 80, backends)])
    })
}

#[test]
fn one_change_among_many_is_one_change() {
    let old = many();
    let with = |change: &dyn Fn(&mut Mesh)| {
        let mut new = old.clone();
        change(&mut new);
        steps(&old, &new)
    };
    let one = |step: &str| Some(vec![step.to_owned()]);
    let weight = with(&|mesh| Arc::make_mut(&mut mesh.services[7]).ports[0].backends[1].weight = 5);
    assert_eq!(weight, one("set backend 10.255.0.34:80 weight 5 of tcp 8 ipv4 (mark 0x10008)"));
    let added = with(&|mesh| Arc::make_mut(&mut mesh.services[7]).ports[0].backends.push(backend("10.255.0.35")));
    assert_eq!(added, one("add backend 10.255.0.35:80 weight 1 to tcp 8 ipv4 (mark 0x10008)"));
    let dead = with(&|mesh| mesh.out = BTreeSet::from([(mesh.services[7].ports[0].mark(), [10, 255, 0, 34].into())]));
    assert_eq!(dead, one("delete backend 10.255.0.34:80 from tcp 8 ipv4 (mark 0x10008)"));
    let drained = with(&|mesh| Arc::make_mut(&mut mesh.services[7]).ports[0].backends[1].state = BackendState::Drain);
    assert_eq!(drained, one("set backend 10.255.0.34:80 weight 0 of tcp 8 ipv4 (mark 0x10008)"));
    let scheduler =
        with(&|mesh| Arc::make_mut(&mut mesh.services[7]).ports[0].scheduling.scheduler = Scheduler::Maglev);
    assert_eq!(scheduler.map(|steps| steps.len()), Some(5));
    assert_eq!(with(&|_| ()), Some(Vec::new()));
    // The same, in other words.
    assert_eq!(with(&|mesh| mesh.services[7] = Arc::new(mesh.services[7].as_ref().clone())), Some(Vec::new()));
}

/// Who was there and is, with another word of the operator's.
#[test]
fn what_the_operator_orders_is_told() {
    let mut old = many();
    let state = |mesh: &mut Mesh, service: usize, backend: usize, state| {
        Arc::make_mut(&mut mesh.services[service]).ports[0].backends[backend].state = state;
    };
    state(&mut old, 3, 0, BackendState::Disabled);
    let mut new = old.clone();
    state(&mut new, 3, 0, BackendState::Enabled);
    state(&mut new, 7, 1, BackendState::Drain);
    Arc::make_mut(&mut new.services[8]).ports[0].backends[1].weight = 9;
    let mut disabled = backend("10.255.0.35");
    disabled.state = BackendState::Disabled;
    Arc::make_mut(&mut new.services[8]).ports[0].backends.push(disabled);
    let orders = |old: &Mesh, new: &Mesh| -> Vec<String> {
        let differing = new.differing(old).unwrap();
        let line = |order: &meshd::mesh::Order<'_>| {
            let (before, now) = (order.before.name(), order.backend.state.name());
            format!("{} {} {before} {now}", order.service, order.backend.address)
        };
        differing.orders().iter().map(line).collect()
    };
    let name = |number: usize| old.services[number].name.clone();
    let expected =
        [format!("{} 10.255.0.33 disabled enabled", name(3)), format!("{} 10.255.0.34 enabled drain", name(7))];
    assert_eq!(orders(&old, &new), expected);
    assert!(orders(&new, &new.clone()).is_empty());
}

#[test]
fn services_come_and_go() {
    let old = many();
    let more = |port| serving(old.clone(), "new", [port]);
    let new = more(port(tcp(99, 99), 80, [backend("10.255.0.33")]));
    let come = steps(&old, &new).unwrap();
    assert_eq!(
        come,
        [
            "add service tcp 99 ipv4 (mark 0x10063): scheduler rr",
            "add backend 10.255.0.33:80 weight 1 to tcp 99 ipv4 (mark 0x10063)",
            "map marks in sandbox: add tcp 99 to 0x10063",
            "map published4 in host: add tcp 99 to 169.254.77.2",
        ]
    );
    let gone = steps(&new, &old).unwrap();
    assert_eq!(
        gone,
        [
            "map published4 in host: remove tcp 99",
            "map marks in sandbox: remove tcp 99",
            "delete service tcp 99 ipv4 (mark 0x10063)",
        ]
    );
    assert!(steps(&old, &more(port(udp(99, 99), 80, [backend("10.255.0.33")]))).is_some());
}

#[test]
fn what_others_may_share_takes_a_look() {
    let old = many();
    let attached = |address: &str| Backend { netns: Some(NetnsRef::Name("kafka-1".to_owned())), ..backend(address) };
    let new = serving(old.clone(), "new", [port(tcp(99, 99), 80, [attached("10.255.0.40")])]);
    assert_eq!(steps(&old, &new), None);
    assert_eq!(steps(&new, &old), None);
    // Where it is there, it is there.
    let more = serving(new.clone(), "more", [port(tcp(98, 98), 80, [attached("10.255.0.40")])]);
    assert!(steps(&new, &more).is_some());
    let mut mesh = old.clone();
    mesh.ingress.vni = 99;
    assert_eq!(steps(&old, &mesh), None);
}
