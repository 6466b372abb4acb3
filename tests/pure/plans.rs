//! Where plans lead: from anywhere to what is wanted, whatever happens on the way.

use meshd::dataplane;
use meshd::kernel::fake;
use meshd::mesh::{Access, Bind, Port};
use meshd::objects::{Netns, Network, Objects};
use meshd::plan::{Plan, Step, diff};
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::Arc;

use super::build::{backend, node, port, serving, udp};
use super::meshes::{mesh, surroundings};
use super::mutations::{damaged, damages, related};

/// Does all steps; none may be refused.
fn carry_out(mut objects: Objects, plan: &Plan) -> Objects {
    for step in &plan.steps {
        if let Err(refusal) = fake::apply(&mut objects, step) {
            panic!("`{step}` is refused: {refusal}\nin the plan\n{plan}");
        }
    }
    objects
}

/// Our own namespaces' parameters are never restored: they go with the namespace.
fn without_leftovers(mut objects: Objects, wanted: &Objects) -> Objects {
    objects.sysctls.retain(|key, _| key.0 == Netns::Host || wanted.sysctls.contains_key(key));
    objects
}

#[track_caller]
fn check_leads_to(seen: &Objects, wanted: &Objects) {
    let plan = diff(seen, wanted);
    let end = carry_out(seen.clone(), &plan);
    pretty_equal(&without_leftovers(end.clone(), wanted), wanted, &plan);
    assert_eq!(diff(&end, wanted), Plan::default(), "nothing is left to do after\n{plan}");
}

/// Two `Objects` in full are too long to compare by eye: the plan from one to the other says it.
#[track_caller]
fn pretty_equal(end: &Objects, wanted: &Objects, plan: &Plan) {
    // How long IPVS would remember is left as it is where it is not IPVS that balances.
    let end = &Objects { timeouts: end.timeouts.filter(|_| wanted.timeouts.is_some()), ..end.clone() };
    assert!(end == wanted, "to be done still:\n{}after the plan\n{plan}", diff(end, wanted));
}

proptest! {
    #![proptest_config(super::cases(192))]

    #[test]
    fn between_the_same_there_is_nothing_to_do(mesh in mesh(), surroundings in surroundings()) {
        let objects = dataplane::objects(&mesh, &surroundings);
        prop_assert_eq!(diff(&objects, &objects), Plan::default());
    }

    #[test]
    fn the_order_of_services_means_nothing(mesh in mesh(), surroundings in surroundings()) {
        let mut reversed = mesh.clone();
        reversed.services.reverse();
        reversed.services.iter_mut().for_each(|service| Arc::make_mut(service).ports.reverse());
        prop_assert!(dataplane::objects(&mesh, &surroundings) == dataplane::objects(&reversed, &surroundings));
    }

    #[test]
    fn a_plan_leads_to_what_is_wanted(related in related()) {
        let (a, b) = related.objects();
        check_leads_to(&a, &b);
    }

    #[test]
    fn a_plan_mends_what_was_damaged(related in related(), damages in damages()) {
        let (a, b) = related.objects();
        check_leads_to(&damaged(a, &damages), &b);
    }

    #[test]
    fn after_a_crash_at_any_step_the_next_plan_gets_there(related in related()) {
        let (mut reached, b) = related.objects();
        for step in diff(&reached.clone(), &b).steps {
            fake::apply(&mut reached, &step).unwrap();
            check_leads_to(&reached, &b);
        }
    }

    #[test]
    fn what_a_failed_step_left_undone_the_next_plan_does(related in related(), damages in damages(), failing in any::<[Index; 3]>()) {
        let (a, b) = related.objects();
        let mut reached = damaged(a, &damages);
        let steps = diff(&reached, &b).steps;
        for (place, step) in steps.iter().enumerate() {
            if !failing.iter().any(|index| index.index(steps.len()) == place) {
                // What depended on the failed one is refused, and the rest is done all the same.
                let _ = fake::apply(&mut reached, step);
            }
        }
        check_leads_to(&reached, &b);
    }

    #[test]
    fn no_step_is_in_vain(related in related()) {
        let (mut reached, b) = related.objects();
        for step in diff(&reached.clone(), &b).steps {
            let before = reached.clone();
            fake::apply(&mut reached, &step).unwrap();
            let excused = match step {
                // Other people's flows are not seen here.
                Step::TakeOver { .. } => true,
                // May have gone with something else: the other end of a veth, a link, a route in its place.
                Step::DeleteLink(_) | Step::RestoreSysctl { .. } | Step::DeleteRoute(_) => true,
                _ => false,
            };
            prop_assert!(excused || before != reached, "{}", step);
        }
    }

    #[test]
    fn a_step_done_twice_ends_the_same(related in related()) {
        let (mut once, b) = related.objects();
        for step in diff(&once.clone(), &b).steps {
            let _ = fake::apply(&mut once, &step);
            let mut twice = once.clone();
            // It may be refused, as long as nothing changes.
            let _ = fake::apply(&mut twice, &step);
            prop_assert!(once == twice, "{}", step);
        }
    }
}

/// A port that is published at an address of the node's from now on, and guarded, is guarded when it is there.
#[test]
fn who_is_kept_out_is_asked_for_before_there_is_anyone_to_ask() {
    let published = |access: Access| {
        let port = Port { access, ..port(udp(30000, 30000), 53, [backend("10.255.0.33")]) };
        dataplane::objects(&serving(node(), "kafka", [port]), &Default::default())
    };
    let bound = |address: &str| [Bind::Address(address.parse().unwrap())].into();
    let all = Network("0.0.0.0/0".parse().unwrap());
    let before = published(Access { bind: bound("127.0.0.1"), ..Access::default() });
    let after = published(Access { bind: bound("192.168.50.1"), deny: [all].into(), ..Access::default() });
    let plan = diff(&before, &after).steps;
    let place = |is: fn(&Step) -> bool| plan.iter().position(is);
    let chain = place(|step| matches!(step, Step::SetChain { name, .. } if name == "access"));
    let sets = place(|step| matches!(step, Step::EditSets { .. }));
    assert!(chain.is_some() && chain < sets, "{plan:?}");
}
