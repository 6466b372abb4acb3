//! The difference between what is seen and what is wanted, as ordered steps.
//!
//! The order is make before break. What traffic will need is made first, from the inside out: namespaces,
//! links, backends' legs, the ways to other nodes and back, rules, IPVS services with their destinations, marks, and last
//! the published ports on the host. Then what is not wanted goes, from the outside in. So at every prefix of a plan a published
//! port leads to a mark that has its service, and no port loses its last backend before it is unpublished.

mod balances;
mod blocked;
mod links;
mod maps;
mod remote;
mod returns;
mod services;
mod step;
mod wireguard;

use std::fmt;

pub use balances::BalanceEdit;
pub use blocked::Blocked;
pub use maps::{take_over, take_overs};
pub use step::{SetEdit, Step};

use crate::objects::{Netns, Objects};

/// Steps in the order in which they are to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// What has to be done for `seen` to become `wanted`; teardown is the way to `Objects::default()`.
pub fn diff(seen: &Objects, wanted: &Objects) -> Plan {
    let mut steps = Vec::new();
    let difference = Difference { seen, wanted };

    let missing = wanted.namespaces.difference(&seen.namespaces);
    steps.extend(missing.map(|netns| Step::AddNamespace(*netns)));
    let remade = difference.make_links(&mut steps);
    difference.set_sysctls(&remade, &mut steps);
    difference.make_legs(&remade, &mut steps);
    difference.make_wireguard(&remade, &mut steps);
    difference.make_remote(&remade, &mut steps);
    difference.make_returns(&mut steps);
    difference.make_tables(&remade, &mut steps);
    difference.open_forward(&mut steps);
    difference.make_services(&mut steps);
    difference.make_balances(&mut steps);
    difference.publish(Netns::Sandbox, &mut steps);
    difference.publish(Netns::Host, &mut steps);

    difference.unpublish(Netns::Host, &mut steps);
    difference.break_tables(Netns::Host, &mut steps);
    difference.close_forward(&mut steps);
    difference.unpublish(Netns::Sandbox, &mut steps);
    difference.break_services(&mut steps);
    difference.break_balances(&mut steps);
    difference.break_tables(Netns::Sandbox, &mut steps);
    difference.break_returns(&mut steps);
    difference.break_remote(&remade, &mut steps);
    difference.break_wireguard(&remade, &mut steps);
    difference.break_links(&mut steps);
    steps.extend(difference.doomed().map(Step::DeleteNamespace));
    difference.restore_sysctls(&mut steps);
    Plan { steps }
}

/// The two sides, with the parts of the comparison as methods, each in its own file.
struct Difference<'a> {
    seen: &'a Objects,
    wanted: &'a Objects,
}

impl Difference<'_> {
    /// Namespaces that will be deleted. What is in them goes with them.
    fn doomed(&self) -> impl Iterator<Item = Netns> {
        self.seen.namespaces.difference(&self.wanted.namespaces).copied()
    }

    fn is_doomed(&self, netns: Netns) -> bool {
        self.doomed().any(|doomed| doomed == netns)
    }

    fn open_forward(&self, steps: &mut Vec<Step>) {
        let missing = self.wanted.openings.difference(&self.seen.openings);
        steps.extend(missing.cloned().map(Step::OpenForward));
    }

    fn close_forward(&self, steps: &mut Vec<Step>) {
        let extra = self.seen.openings.difference(&self.wanted.openings);
        steps.extend(extra.cloned().map(Step::CloseForward));
    }
}
